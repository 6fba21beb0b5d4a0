//! Mean-field triplet loss: an anchor compared with its own mean field and all others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::class_wise_triplet::ClassWiseTriplet;
use super::pairwise::{repulsion, sample_wise};
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::real::Real;

/// Mean-field triplet loss.
///
/// ```text
/// L = 1/B sum_i sum_{c != y_i} [q_ic - q_{i,y_i} + margin]_+
///   + mf_reg / C sum_c sum_{d != c} ([margin - (1 - m_c . m_d)]_+)^mf_power
/// ```
///
/// `q_ic = e_i . m_c`, `e` unit embeddings, `m` unit mean fields. The sum runs over all `C` classes, present in the batch or
/// not. A term at its kink has gradient 0.
///
/// # Shapes
/// Embeddings `B x D`; `mean_fields` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// Each positive term adds `1/B` to that of `q_ic` and subtracts it from that of `q_{i,y_i}`.
///
/// # Cost
/// O(B C D) time, O(B C) memory; with `mf_reg > 0` also O(C^2 D) time in tiles of 256 classes.
///
/// # Source
/// The mean-field step of Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024, applied to
/// [`ClassWiseTriplet`]; the paper has no such loss. The penalty is the loss of a sample located at its mean field.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MeanFieldTriplet {
    /// Margin: the cosine with the own mean field must exceed those with others by this much.
    #[default = 0.1]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
    /// Weight of the penalty on mean fields that are close to each other.
    #[schemars(range(min = 0, max = 1000000))]
    pub mf_reg: f64,
    /// Exponent of that penalty.
    #[default = 2.0]
    #[schemars(range(min = 1, max = 16))]
    pub mf_power: f64,
}

impl<T: Real> Loss<T> for MeanFieldTriplet {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "mean_fields", rows: classes, cols: dim, init: Init::Normal }]
    }

    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        Some(Box::new(ClassWiseTriplet { margin: self.margin }))
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let margin = T::from_f64(self.margin);
        let row = |scores: &mut [T], label: usize| {
            let own = scores[label];
            let (mut sum, mut active) = (0.0, 0.0);
            for (class, score) in scores.iter_mut().enumerate() {
                let term = *score - own + margin;
                *score = T::ZERO;
                if class != label && term > T::ZERO {
                    sum += term.to_f64();
                    active += 1.0;
                    *score = T::ONE;
                }
            }
            scores[label] = T::from_f64(-active);
            sum
        };
        let near = |s: T| {
            let cost = margin - (T::ONE - s);
            if cost > T::ZERO { (cost, T::ONE) } else { (T::ZERO, T::ZERO) }
        };
        let value = sample_wise(batch, classes, parameters, gradients, row, |fields, gradient| {
            repulsion(fields, &[(self.mf_reg, self.mf_power)], near, gradient)
        })?;
        Ok(T::from_f64(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::slopes;

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        slopes(&MeanFieldTriplet { margin: 0.3, ..Default::default() });
        slopes(&MeanFieldTriplet { margin: 0.9, mf_reg: 0.7, mf_power: 3.0 });
    }

    #[test]
    fn one_sample_and_three_fields_give_the_value_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let fields: [f64; 6] = [3.0, 4.0, 4.0, 3.0, 0.0, 1.0];
        let loss = MeanFieldTriplet { margin: 0.3, mf_reg: 1.0, mf_power: 2.0 };
        let value: f64 = loss.evaluate(batch, 3, &[&fields], &mut Gradients::default()).unwrap();
        // Cosines 0.6 with the own field, 0.8 and 0 with others; between fields 0.96, 0.8 and 0.6.
        let expected = 0.5 + 2.0 / 3.0 * (0.26f64.powi(2) + 0.1f64.powi(2));
        assert!((value - expected).abs() <= 1e-14, "{value} {expected}");
    }

    #[test]
    fn samples_on_their_mean_fields_cost_what_their_triplets_cost() {
        let fields = [1.0, 0.0, 0.0, 0.8, 0.6, 0.0, 0.0, 0.8, 0.6];
        let labels = [0, 1, 2, 1, 0, 2];
        let embeddings: Vec<f64> = labels.iter().flat_map(|&c| fields[c as usize * 3..][..3].to_vec()).collect();
        let batch = Batch { embeddings: &embeddings, labels: &labels, dim: 3 };
        let loss = MeanFieldTriplet { margin: 0.7, ..Default::default() };
        let value: f64 = loss.evaluate(batch, 3, &[&fields], &mut Gradients::default()).unwrap();
        let pairs: f64 =
            Loss::<f64>::parent(&loss).unwrap().evaluate(batch, 3, &[], &mut Gradients::default()).unwrap();
        assert!(value > 0.1 && (value - pairs).abs() <= 1e-14, "{value} {pairs}");
    }
}
