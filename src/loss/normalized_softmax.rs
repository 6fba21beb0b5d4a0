//! Normalised softmax: cross-entropy of cosines with class vectors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Init;
use super::formula::{Against, Formula, Table};
use super::softmax::cross_entropy;
use crate::math::real::Real;

/// Normalised softmax loss.
///
/// ```text
/// L = mean_i cross-entropy over c of (e_i . w_c / temperature), target y_i
/// ```
///
/// `e` unit embeddings, `w` unit class vectors. With one class it is 0.
///
/// # Shapes
/// Embeddings `B x D`; `class_vectors` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to a logit: `(probability - [c = y_i]) / B`.
///
/// # Cost
/// O(B C D) time, O(B C + C D) memory.
///
/// # Source
/// Zhai and Wu, *Classification is a Strong Baseline for Deep Metric Learning*, BMVC 2019. Equal to pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NormalizedSoftmax {
    /// Temperature: cosines are divided by it (MLRC found 0.063 to 0.109).
    #[default = 0.05]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub temperature: f64,
}

impl Formula for NormalizedSoftmax {
    fn against(&self) -> Against {
        Against::ClassVectors("class_vectors", Init::Normal)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let scale = 1.0 / self.temperature;
        cross_entropy(table.cells, table.labels, table.width, scale, |q| (T::from_f64(scale) * q, T::from_f64(scale)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("normalized_softmax", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&NormalizedSoftmax { temperature: 0.3 });
    }

    #[test]
    fn two_classes_give_the_logistic_loss() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[1], dim: 2 };
        let loss = NormalizedSoftmax { temperature: 0.5 };
        let value: f64 = loss.evaluate(batch, 2, &[&[3.0, 4.0, 1.0, 0.0]], &mut Gradients::default()).unwrap();
        // Cosines 0.6 and 1.
        assert!((value - (1.0 + (-0.8f64).exp()).ln()).abs() <= 1e-15, "{value}");
    }
}
