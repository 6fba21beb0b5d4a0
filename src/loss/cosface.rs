//! CosFace: softmax with a margin on the target cosine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Init;
use super::formula::{Against, Formula, Table};
use super::softmax::cross_entropy;
use crate::math::real::Real;

/// CosFace loss (large margin cosine loss).
///
/// ```text
/// L = mean_i cross-entropy over c of scale (e_i . w_c - margin [c = y_i]), target y_i
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
/// Wang et al., *CosFace: Large Margin Cosine Loss for Deep Face Recognition*, CVPR 2018. Equal to pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CosFace {
    /// Additive margin subtracted from the target cosine (MLRC found 0.34 to 0.62).
    #[default = 0.35]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
    /// Scale of the cosines (MLRC found 88 to 161).
    #[default = 64.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub scale: f64,
}

impl Formula for CosFace {
    fn against(&self) -> Against {
        Against::ClassVectors("class_vectors", Init::Normal)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let (scale, margin) = (T::from_f64(self.scale), T::from_f64(self.margin));
        cross_entropy(table.cells, table.labels, table.width, self.scale, |q| (scale * (q - margin), scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("cosface", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&CosFace { margin: 0.35, scale: 4.0 });
    }

    #[test]
    fn the_margin_is_taken_from_the_own_cosine_alone() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[1], dim: 2 };
        let loss = CosFace { margin: 0.3, scale: 2.0 };
        let value: f64 = loss.evaluate(batch, 2, &[&[3.0, 4.0, 1.0, 0.0]], &mut Gradients::default()).unwrap();
        assert!((value - (1.0 + (2.0 * (0.6 - 0.7f64)).exp()).ln()).abs() <= 1e-15, "{value}");
    }
}
