//! ArcFace: softmax with a margin on the own angle.

use serde::{Deserialize, Serialize};

use super::fields::{Field, Range, SCALE};
use super::geometry::{class_vectors, embeddings, from_scores};
use super::real::Real;
use super::softmax::cross_entropy;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};

/// ArcFace loss (additive angular margin).
///
/// ```text
/// L      = mean_i cross-entropy over c of (target_i if c = y_i, else scale cos theta_ic), target y_i
/// target = scale cos(theta + m)              if theta <= pi - m
///          scale (cos theta - m sin m)       beyond, so that it stays monotone
/// ```
///
/// `theta_ic` is the angle between embedding and class vector, `m` the margin in radians. `sin theta` is held at
/// 4.5e-4 or more, where the derivative of `theta` would be infinite. With one class the loss is 0.
///
/// # Shapes
/// Embeddings `B x D`; `class_vectors` `C x D`.
///
/// # Parameters
/// See [`ArcFace::FIELDS`].
///
/// # Gradient
/// With respect to a logit: `(probability - [c = y_i]) / B`.
///
/// # Cost
/// O(B C D) time, O(B C) memory.
///
/// # Source
/// Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, CVPR 2019. The branch beyond `pi - m` is that
/// of pytorch-metric-learning 2; its version 0.9.88, behind MLRC, has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArcFace {
    /// Added to the own angle, in degrees.
    pub margin_degrees: f64,
    /// Multiplies the cosines.
    pub scale: f64,
}

impl ArcFace {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[
        Field::number(
            "margin_degrees",
            28.6,
            Range::Between(0.0, 90.0),
            "added to the own angle, in degrees (MLRC found 18.6 to 23.2)",
        ),
        Field::number("scale", 64.0, SCALE, "multiplies the cosines (MLRC found 49.5 to 220)"),
    ];
}

impl Default for ArcFace {
    fn default() -> Self {
        Self { margin_degrees: 28.6, scale: 64.0 }
    }
}

impl<T: Real> Loss<T> for ArcFace {
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
        let margin = self.margin_degrees.to_radians();
        let (scale, sin, cos) = (T::of(self.scale), T::of(margin.sin()), T::of(margin.cos()));
        let (turn, shift) = (-cos, T::of(margin * margin.sin()));
        let floor = T::of(2e-7);
        let target = |q: T| {
            if q < turn {
                return (scale * (q - shift), scale);
            }
            let squared = T::ONE - q * q;
            let sine = squared.max(floor).sqrt();
            let slope = if squared > floor { cos + sin * q / sine } else { cos };
            (scale * (q * cos - sine * sin), scale * slope)
        };
        let value = cross_entropy(&mut scores, batch.labels, classes, self.scale, target);
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
        testing::equals_reference("arcface", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&ArcFace { margin_degrees: 28.6, scale: 4.0 });
        testing::slopes(&ArcFace { margin_degrees: 80.0, scale: 4.0 });
    }

    #[test]
    fn the_margin_is_added_to_the_own_angle() {
        let loss = ArcFace { margin_degrees: 30.0, scale: 2.0 };
        let value = |x: f64, y: f64| {
            let batch = Batch { embeddings: &[x, y], labels: &[1], dim: 2 };
            loss.evaluate(batch, 2, &[&[0.0, 1.0, 1.0, 0.0]], &mut Gradients::default()).unwrap()
        };
        // 60 degrees from its own vector, 30 from the other.
        let expected = (1.0 + (2.0 * (0.75f64.sqrt() - 0.0)).exp()).ln();
        assert!((value(0.5, 0.75f64.sqrt()) - expected).abs() <= 1e-12);
        // 180 degrees, beyond pi - m: cos theta - m sin m.
        let m = std::f64::consts::FRAC_PI_6;
        let expected = (1.0 + (-2.0 * (-1.0 - m * 0.5)).exp()).ln();
        assert!((value(-1.0, 0.0) - expected).abs() <= 1e-12);
    }
}
