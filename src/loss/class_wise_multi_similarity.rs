//! Class-wise multi-similarity loss: the pair-based parent of its mean-field form.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::geometry::{Groups, embeddings, from_cosines, no_parameters};
use super::smooth::{log_sum_exp, softplus};
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::real::Real;
use crate::math::simd::vectorise;

/// Class-wise multi-similarity loss over the classes of a batch.
///
/// ```text
/// P_c  = 1/(2 n_c^2)   sum_{i,j in c}         exp(-alpha (s_ij - base))          (i = j included)
/// N_cd = 1/(n_c n_d)   sum_{i in c, j in d}   exp( beta  (s_ij - base))
/// L    = 1/(alpha K) sum_c log(1 + P_c) + 1/(2 beta K) sum_c sum_{d != c} log(1 + N_cd)
/// ```
///
/// `s_ij = e_i . e_j` of unit embeddings, `n_c` the samples of class `c`, `K` the classes present. A batch of one class
/// has only the first part; a class of one sample has the constant `P_c` of `s_ii = 1`.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `s_ij` as independent entries: same class `-exp(-alpha (s_ij - base)) / (2 K n_c^2 (1 + P_c))`,
/// different classes `exp(beta (s_ij - base)) / (2 K n_c n_d (1 + N_cd))`.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024, and its code, which uses dense one-hot products
/// instead of groups, and plain exponentials instead of log-sum-exp.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassWiseMultiSimilarity {
    /// Scale (inverse temperature) for positive pairs (official code: 0.01).
    #[default = 0.01]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub alpha: f64,
    /// Scale (inverse temperature) for negative pairs (official code: 80).
    #[default = 80.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub beta: f64,
    /// Cosine at which a pair is neutral (official code: 0.8).
    #[default = 0.8]
    #[schemars(range(min = -2, max = 4))]
    pub base: f64,
}

impl<T: Real> Loss<T> for ClassWiseMultiSimilarity {
    fn parameters(&self, _classes: usize, _dim: usize) -> Vec<Parameter> {
        Vec::new()
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        no_parameters(parameters)?;
        let units = embeddings(batch, classes)?;
        // Overwrites the cosines by the gradient with respect to them.
        let mut cosines = units.cosines(&units);
        let count = units.count;
        let groups = Groups::new(batch.labels);
        let present = groups.classes.len();
        let (base, other) = (T::from_f64(self.base), 0.5 / present as f64);

        // Sharpness, normalising factor and weight of the block of classes (c, d).
        let block = |c: usize, d: usize| {
            let pairs = groups.members[c].len() as f64 * groups.members[d].len() as f64;
            if c == d { (-self.alpha, 2.0 * pairs, 2.0 * other) } else { (self.beta, pairs, other) }
        };
        let logs: Vec<T> = (0..present * present)
            .into_par_iter()
            .map(|at| {
                let (c, d) = (at / present, at % present);
                let (sharpness, pairs, _) = block(c, d);
                let terms =
                    groups.members[c].iter().flat_map(|&i| groups.members[d].iter().map(move |&j| i * count + j));
                softplus(
                    log_sum_exp(terms.map(|at| T::from_f64(sharpness) * (cosines[at] - base)))
                        - T::from_f64(pairs.ln()),
                )
            })
            .collect();

        let mut total = 0.0;
        let mut of = vec![0; count];
        for c in 0..present {
            groups.members[c].iter().for_each(|&i| of[i] = c);
            for d in 0..present {
                let (sharpness, _, weight) = block(c, d);
                total += weight * logs[c * present + d].to_f64() / sharpness.abs();
            }
        }
        cosines.par_chunks_mut(count).zip(&of).for_each(|(row, &c)| {
            for (d, members) in groups.members.iter().enumerate() {
                let (sharpness, pairs, _) = block(c, d);
                let (sharpness, shift) = (T::from_f64(sharpness), T::from_f64(pairs.ln()) + logs[c * present + d]);
                members.iter().for_each(|&j| row[j] = sharpness * (row[j] - base) - shift);
            }
            vectorise(
                #[inline(always)]
                || row.iter_mut().for_each(|x| *x = T::from_f64(other) * x.exp()),
            );
            // The own class has twice the weight, and attracts.
            groups.members[c].iter().for_each(|&j| row[j] *= T::from_f64(-2.0));
        });
        from_cosines(&units, &cosines, gradients);
        Ok(T::from_f64(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("class_wise_multi_similarity", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&ClassWiseMultiSimilarity { alpha: 2.0, beta: 10.0, base: 0.3 });
    }

    #[test]
    fn a_lone_sample_has_the_constant_of_its_cosine_with_itself() {
        let loss = ClassWiseMultiSimilarity { alpha: 2.0, beta: 10.0, base: 0.5 };
        let mut gradients = Gradients::default();
        let value: f64 =
            loss.evaluate(Batch { embeddings: &[3.0, 4.0], labels: &[0], dim: 2 }, 1, &[], &mut gradients).unwrap();
        assert!((value - (1.0 + 0.5 * (-1f64).exp()).ln() / 2.0).abs() <= 1e-15, "{value}");
        assert!(gradients.embeddings.iter().all(|g| g.abs() <= 1e-15), "{gradients:?}");
    }
}
