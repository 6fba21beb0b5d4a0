//! Mean-field class-wise multi-similarity loss: classes of a batch against one learned mean field a class.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::class_wise_multi_similarity::ClassWiseMultiSimilarity;
use super::fields::{Field, MARGIN, Range, SCALE, WEIGHT};
use super::geometry::{Groups, class_vectors, embeddings, from_scores};
use super::penalty::closeness;
use super::real::Real;
use super::smooth::{log_1p_sum_exp, log_sum_exp, sigmoid, softplus};
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};

/// Mean-field class-wise multi-similarity loss.
///
/// ```text
/// p_a  = 1/n_a sum_{i in a} exp(-alpha (q_ia - base))                            (a in the batch)
/// A_ac = 1/n_a sum_{i in a} exp( beta  (q_ic - base)),  0 if a is absent from the batch
/// L    = 1/(alpha K) sum_{a in batch} log(1 + p_a) + 1/(2 beta K) sum_c sum_{d != c} log(1 + A_cd + A_dc)
///      + mf_reg / C sum_c sum_{d != c} (1/beta log(1 + exp(beta (m_c . m_d - base))))^mf_power
/// ```
///
/// `q_ic = e_i . m_c`, `e` unit embeddings, `m` unit mean fields, `n_a` the samples of class `a`, `K` the classes present.
///
/// # Shapes
/// Embeddings `B x D`; `mean_fields` `C x D`.
///
/// # Parameters
/// See [`MeanFieldClassWiseMultiSimilarity::FIELDS`].
///
/// # Gradient
/// With respect to `q_ic`, `a = y_i`: own class `-exp(-alpha (q - base)) / (K n_a (1 + p_a))`, another
/// `exp(beta (q - base)) / (K n_a (1 + A_ac + A_ca))`.
///
/// # Cost
/// O(B C D) time, O(B C) memory: only the `K x C` rows of `A` that are not 0 exist. With `mf_reg > 0` also O(C^2 D) time in
/// tiles of 256 classes.
///
/// # Source
/// Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024. Its code builds `C x C` matrices and plain
/// exponentials, and cuts the softplus of the penalty to its argument above 20 (a change below 1e-9 / beta).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeanFieldClassWiseMultiSimilarity {
    /// Sharpness on the own class.
    pub alpha: f64,
    /// Sharpness on other classes.
    pub beta: f64,
    /// Cosine at which a sample and a mean field are neutral.
    pub base: f64,
    /// Weight of the penalty on near mean fields.
    pub mf_reg: f64,
    /// Power of that penalty.
    pub mf_power: f64,
}

impl MeanFieldClassWiseMultiSimilarity {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[
        Field::number("alpha", 0.01, SCALE, "sharpness on the own class (released commands: 0.01)"),
        Field::number("beta", 80.0, SCALE, "sharpness on other classes (released commands: 80)"),
        Field::number(
            "base",
            0.8,
            MARGIN,
            "cosine at which sample and mean field are neutral (released commands: 0.8)",
        ),
        Field::number("mf_reg", 0.0, WEIGHT, "weight of the penalty on near mean fields (released commands: 0)"),
        Field::number("mf_power", 2.0, Range::Between(1.0, 16.0), "power of that penalty (official code: 2)"),
    ];
}

impl Default for MeanFieldClassWiseMultiSimilarity {
    fn default() -> Self {
        Self { alpha: 0.01, beta: 80.0, base: 0.8, mf_reg: 0.0, mf_power: 2.0 }
    }
}

impl<T: Real> Loss<T> for MeanFieldClassWiseMultiSimilarity {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "mean_fields", rows: classes, cols: dim, init: Init::Normal }]
    }

    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        Some(Box::new(ClassWiseMultiSimilarity { alpha: self.alpha, beta: self.beta, base: self.base }))
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let units = embeddings(batch, classes)?;
        let fields = class_vectors("mean_fields", parameters, classes, batch.dim)?;
        let scores = units.cosines(&fields);
        let groups = Groups::new(batch.labels);
        let (mut value, gradient) = self.scores(&scores, batch.labels, classes, &groups);

        let mut unit_gradient = None;
        if self.mf_reg > 0.0 {
            let (beta, base) = (T::of(self.beta), T::of(self.base));
            let excess = |cosine: T| {
                let x = beta * (cosine - base);
                (softplus(x) / beta, sigmoid(x))
            };
            let start = unit_gradient.insert(vec![T::ZERO; fields.rows.len()]);
            value += closeness(&fields, self.mf_reg, self.mf_power, excess, start);
        }
        from_scores(&units, &fields, &gradient, unit_gradient.as_deref(), gradients);
        Ok(T::of(value))
    }
}

impl MeanFieldClassWiseMultiSimilarity {
    /// The part that depends on the `B x C` scores, and its gradient with respect to them.
    fn scores<T: Real>(&self, scores: &[T], labels: &[u32], classes: usize, groups: &Groups) -> (f64, Vec<T>) {
        let present = groups.classes.len();
        let (alpha, beta, base) = (T::of(self.alpha), T::of(self.beta), T::of(self.base));
        let log_size = |a: usize| T::of((groups.members[a].len() as f64).ln());
        // Exponents of the terms of p_a and A_ac, their factor 1/n_a included.
        let pull = |a: usize, i: usize| alpha * (base - scores[i * classes + groups.classes[a]]) - log_size(a);
        let push = |a: usize, i: usize, c: usize| beta * (scores[i * classes + c] - base) - log_size(a);

        // log(1 + p_a), and for each present class a the row of log(1 + A_ac + A_ca) over all classes c.
        let pulls: Vec<T> =
            (0..present).map(|a| log_1p_sum_exp(groups.members[a].iter().map(|&i| pull(a, i)))).collect();
        let mut pushes = vec![T::ZERO; present * classes];
        pushes.par_chunks_mut(classes).enumerate().for_each(|(a, row)| {
            for (c, log) in row.iter_mut().enumerate() {
                *log = log_sum_exp(groups.members[a].iter().map(|&i| push(a, i, c)));
            }
        });
        let own: Vec<T> = (0..present)
            .flat_map(|a| groups.classes.iter().map(move |&c| (a, c)))
            .map(|(a, c)| pushes[a * classes + c])
            .collect();
        pushes.par_iter_mut().for_each(|log| *log = softplus(*log));
        for a in 0..present {
            for b in 0..present {
                let both = [own[a * present + b], own[b * present + a]];
                pushes[a * classes + groups.classes[b]] = log_1p_sum_exp(both.into_iter());
            }
        }

        let positive: f64 = pulls.iter().map(|log| log.to_f64()).sum();
        let negative: f64 = (0..present)
            .map(|a| {
                let row = &pushes[a * classes..(a + 1) * classes];
                // An absent class counts as (a, c) and (c, a); a present pair has a row for each.
                let all: f64 = row.iter().map(|log| log.to_f64()).sum();
                let (mut halves, mut diagonal) = (0.0, 0.0);
                for (b, &c) in groups.classes.iter().enumerate() {
                    *(if a == b { &mut diagonal } else { &mut halves }) += row[c].to_f64();
                }
                all - diagonal - 0.5 * halves
            })
            .sum();
        let value = positive / (self.alpha * present as f64) + negative / (self.beta * present as f64);

        let each = T::of(1.0 / present as f64);
        let mut position = vec![0; classes];
        groups.classes.iter().enumerate().for_each(|(a, &c)| position[c] = a);
        let mut gradient = vec![T::ZERO; scores.len()];
        gradient.par_chunks_mut(classes).enumerate().for_each(|(i, row)| {
            let label = labels[i] as usize;
            let a = position[label];
            let logs = &pushes[a * classes..(a + 1) * classes];
            for (c, (out, &log)) in row.iter_mut().zip(logs).enumerate() {
                *out = each * (push(a, i, c) - log).exp();
            }
            row[label] = -each * (pull(a, i) - pulls[a]).exp();
        });
        (value, gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference_with_and_without_the_penalty() {
        testing::equals_reference("mean_field_class_wise_multi_similarity", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        let loss = MeanFieldClassWiseMultiSimilarity { alpha: 2.0, beta: 10.0, base: 0.3, mf_reg: 0.0, mf_power: 2.0 };
        testing::slopes(&loss);
        testing::slopes(&MeanFieldClassWiseMultiSimilarity { mf_reg: 0.7, mf_power: 3.0, ..loss });
    }

    #[test]
    fn one_sample_and_one_absent_class_give_the_value_on_paper() {
        let loss = MeanFieldClassWiseMultiSimilarity { alpha: 1.0, beta: 2.0, base: 0.5, mf_reg: 0.0, mf_power: 2.0 };
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let value: f64 = loss.evaluate(batch, 2, &[&[3.0, 0.0, 3.0, 4.0]], &mut Gradients::default()).unwrap();
        // p = exp(0.5 - 1); A = exp(2 (0.6 - 0.5)), counted twice over 2 beta.
        let expected = (1.0 + (-0.5f64).exp()).ln() + (1.0 + 0.2f64.exp()).ln() / 2.0;
        assert!((value - expected).abs() <= 1e-15, "{value} {expected}");
    }
}
