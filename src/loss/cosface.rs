//! CosFace: softmax with a margin on the own cosine.

use serde::{Deserialize, Serialize};

use super::fields::{Field, MARGIN, SCALE};
use super::geometry::{class_vectors, embeddings, from_scores};
use super::real::Real;
use super::softmax::cross_entropy;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};

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
/// See [`CosFace::FIELDS`].
///
/// # Gradient
/// With respect to a logit: `(probability - [c = y_i]) / B`.
///
/// # Cost
/// O(B C D) time, O(B C) memory.
///
/// # Source
/// Wang et al., *CosFace: Large Margin Cosine Loss for Deep Face Recognition*, CVPR 2018. Equal to pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosFace {
    /// Taken from the own cosine.
    pub margin: f64,
    /// Multiplies the cosines.
    pub scale: f64,
}

impl CosFace {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[
        Field::number("margin", 0.35, MARGIN, "taken from the own cosine (MLRC found 0.34 to 0.62)"),
        Field::number("scale", 64.0, SCALE, "multiplies the cosines (MLRC found 88 to 161)"),
    ];
}

impl Default for CosFace {
    fn default() -> Self {
        Self { margin: 0.35, scale: 64.0 }
    }
}

impl<T: Real> Loss<T> for CosFace {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "class_vectors", rows: classes, cols: dim, init: Init::Normal }]
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let units = embeddings(batch, classes)?;
        let vectors = class_vectors("class_vectors", parameters, classes, batch.dim)?;
        let mut scores = units.cosines(&vectors);
        let (scale, margin) = (T::of(self.scale), T::of(self.margin));
        let value = cross_entropy(&mut scores, batch.labels, classes, self.scale, |q| (scale * (q - margin), scale));
        from_scores(&units, &vectors, &scores, None, gradients);
        Ok(T::of(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

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
