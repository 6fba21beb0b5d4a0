//! Class-wise contrastive loss: the pair-based parent of its mean-field form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::pairwise::{PairBased, PairTerm};
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::real::Real;

/// Class-wise contrastive loss.
///
/// ```text
/// L = 1/(2K) sum_c { 1/n_c^2 sum_{i,j in c} [d_ij - pos_margin]_+
///                    + sum_{d != c} 1/(n_c n_d) sum_{i in c, j in d} [neg_margin - d_ij]_+ }
/// ```
///
/// `d_ij = 1 - e_i . e_j` of unit embeddings, `n_c` the samples of class `c`, `K` the classes present; `i = j` is included
/// and contributes nothing unless `pos_margin` is negative. A term at its kink has gradient 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `d_ij` as independent entries, where the term is positive: `1/(2 K n_c^2)` within a class,
/// `-1/(2 K n_c n_d)` between two classes.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024, its starting point: classes have equal weight, whereas
/// [`contrastive`](super::contrastive) averages over the pairs with a positive term. The official code has no such loss.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassWiseContrastive {
    /// Positive margin: same-class pairs closer than this cosine distance incur no loss (official code of the
    /// mean-field form: 0.02).
    #[default = 0.02]
    #[schemars(range(min = -2, max = 4))]
    pub pos_margin: f64,
    /// Negative margin: pairs of different classes farther apart than this cosine distance incur no loss (official code
    /// of the mean-field form: 0.3).
    #[default = 0.3]
    #[schemars(range(min = -2, max = 4))]
    pub neg_margin: f64,
}

impl<T: Real> PairTerm<T> for ClassWiseContrastive {
    fn positive(&self, s: T) -> (T, T) {
        let cost = (T::ONE - s) - T::from_f64(self.pos_margin);
        if cost > T::ZERO { (cost, -T::ONE) } else { (T::ZERO, T::ZERO) }
    }

    fn negative(&self, s: T) -> (T, T) {
        let cost = T::from_f64(self.neg_margin) - (T::ONE - s);
        if cost > T::ZERO { (cost, T::ONE) } else { (T::ZERO, T::ZERO) }
    }
}

impl<T: Real> Loss<T> for ClassWiseContrastive {
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
        PairBased(self.clone()).evaluate(batch, classes, parameters, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::mean_field_contrastive::MeanFieldContrastive;
    use crate::loss::pairwise::MeanField;
    use crate::loss::testing::{Sample, slopes};

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        slopes(&ClassWiseContrastive { pos_margin: 0.2, neg_margin: 0.9 });
    }

    #[test]
    fn classes_of_two_and_one_samples_give_the_value_on_paper() {
        // Two samples of class 0 at a right angle, one of class 1 at 60 degrees from the first and 30 from the second.
        let batch = Batch { embeddings: &[2.0, 0.0, 0.0, 1.0, 0.5, 0.75f64.sqrt()], labels: &[0, 0, 1], dim: 2 };
        let loss = ClassWiseContrastive { pos_margin: 0.1, neg_margin: 0.4 };
        let value: f64 = loss.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Class 0: two of four pairs at distance 1. Between: distances 0.5, too far, and 1 - sqrt 0.75, both ways.
        let expected = (2.0 * 0.9 / 4.0 + 2.0 * (0.4 - (1.0 - 0.75f64.sqrt())) / 2.0) / 4.0;
        assert!((value - expected).abs() <= 1e-15, "{value} {expected}");
    }

    #[test]
    fn its_terms_in_the_wrapper_are_the_mean_field_contrastive_loss() {
        for (mf_reg, mf_power) in [(0.0, 2.0), (0.7, 2.0), (0.7, 3.0)] {
            let term = ClassWiseContrastive { pos_margin: 0.02, neg_margin: 0.8 };
            let wrapped = MeanField { mf_reg, mf_power, ..MeanField::new(term) };
            let written = MeanFieldContrastive { pos_margin: 0.02, neg_margin: 0.8, mf_reg, mf_power };
            for (seed, (count, dim, classes)) in [(7, 5, 3), (40, 8, 300), (1, 2, 1)].into_iter().enumerate() {
                let sample = Sample::new(&wrapped, count, dim, classes, seed as u64);
                let (value, gradients) = sample.evaluate::<f64>(&wrapped).unwrap();
                let (expected, slopes) = sample.evaluate::<f64>(&written).unwrap();
                assert!((value - expected).abs() <= 1e-14 * expected.abs(), "{value} {expected}");
                let found = gradients.embeddings.iter().chain(&gradients.parameters[0]);
                for (found, expected) in found.zip(slopes.embeddings.iter().chain(&slopes.parameters[0])) {
                    assert!((found - expected).abs() <= 1e-14, "{found} {expected}");
                }
            }
        }
    }
}
