//! ArcFace: softmax with an additive margin on the target angle.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Init;
use super::formula::{Against, Formula, Table};
use super::softmax::cross_entropy;
use crate::math::real::Real;

/// ArcFace loss (additive angular margin).
///
/// ```text
/// L      = mean_i cross-entropy over c of (target_i if c = y_i, else scale cos theta_ic), target y_i
/// target = scale cos(theta + m)              if theta <= pi - m, or with large_angle: plain
///          scale (cos theta - m sin m)       beyond, with large_angle: monotone
/// ```
///
/// `theta_ic` is the angle between embedding and class vector, `m` the margin in radians. Beyond `pi - m` the plain target grows
/// with the angle: a sample opposite to its class vector is pushed away. The derivative of `theta` is infinite where the cosine is
/// 1 or -1: `monotone` holds `sin theta` at 4.5e-4 or more, `plain` the cosine within 1 - 1e-7, with slope 0 outside. With one
/// class the loss is 0.
///
/// # Shapes
/// Embeddings `B x D`; `class_vectors` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to a logit: `(probability - [c = y_i]) / B`; with respect to the target cosine that times
/// `scale sin(theta + m) / sin theta`, or times `scale` beyond `pi - m`.
///
/// # Cost
/// O(B C D) time, O(B C + C D) memory.
///
/// # Source
/// Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, CVPR 2019. `monotone` is the convention of
/// pytorch-metric-learning 2, `plain` that of its version 0.9.88, behind MLRC.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArcFace {
    /// Additive angular margin of the target, in degrees (MLRC found 18.6 to 23.2).
    #[default = 28.6]
    #[schemars(range(min = 0, max = 90))]
    pub margin_degrees: f64,
    /// Scale of the cosines (MLRC found 49.5 to 220).
    #[default = 64.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub scale: f64,
    /// The target logit where angle and margin exceed 180 degrees (MLRC: plain).
    pub large_angle: LargeAngle,
}

/// The target where angle and margin exceed 180 degrees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LargeAngle {
    /// Falls with the angle, as it does elsewhere.
    #[default]
    Monotone,
    /// The cosine of their sum.
    Plain,
}

impl Formula for ArcFace {
    fn against(&self) -> Against {
        Against::ClassVectors("class_vectors", Init::Normal)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let margin = self.margin_degrees.to_radians();
        let (scale, sin, cos) = (T::from_f64(self.scale), T::from_f64(margin.sin()), T::from_f64(margin.cos()));
        let beyond = T::from_f64(margin * margin.sin());
        let (floor, end) = (T::from_f64(2e-7), T::from_f64(1.0 - 1e-7));
        let target = |q: T| match self.large_angle {
            LargeAngle::Monotone if q < -cos => (scale * (q - beyond), scale),
            LargeAngle::Plain if q.abs() > end => {
                let q = if q > T::ZERO { end } else { -end };
                (scale * (q * cos - (T::ONE - q * q).sqrt() * sin), T::ZERO)
            }
            _ => {
                let squared = T::ONE - q * q;
                let sine = squared.max(floor).sqrt();
                let slope = if squared > floor { cos + sin * q / sine } else { cos };
                (scale * (q * cos - sine * sin), scale * slope)
            }
        };
        cross_entropy(table.cells, table.labels, table.width, self.scale, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("arcface", 3);
        testing::equals_more_reference("arcface", 4);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        for large_angle in [LargeAngle::Monotone, LargeAngle::Plain] {
            testing::slopes(&ArcFace { margin_degrees: 28.6, scale: 4.0, large_angle });
            testing::slopes(&ArcFace { margin_degrees: 80.0, scale: 4.0, large_angle });
        }
    }

    #[test]
    fn the_margin_is_added_to_the_own_angle() {
        let value = |large_angle, x: f64, y: f64| {
            let batch = Batch { embeddings: &[x, y], labels: &[1], dim: 2 };
            let loss = ArcFace { margin_degrees: 30.0, scale: 2.0, large_angle };
            loss.evaluate(batch, 2, &[&[0.0, 1.0, 1.0, 0.0]], &mut Gradients::default()).unwrap()
        };
        let m = std::f64::consts::FRAC_PI_6;
        let close = |found: f64, target: f64, tolerance: f64| {
            let expected = (1.0 + (-2.0 * target).exp()).ln();
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        };
        // 90 degrees from its own vector; the other at 180 degrees, and a target of cos 120.
        let right =
            |found: f64| assert!((found - (1.0 + (2.0 * (-1.0 + 0.5f64)).exp()).ln()).abs() <= 1e-12, "{found}");
        right(value(LargeAngle::Monotone, 0.0, -1.0));
        right(value(LargeAngle::Plain, 0.0, -1.0));
        // 180 degrees from its own vector, 90 from the other.
        close(value(LargeAngle::Monotone, -1.0, 0.0), -1.0 - m * 0.5, 1e-12);
        close(value(LargeAngle::Plain, -1.0, 0.0), -(0.75f64.sqrt()), 1e-3);
    }
}
