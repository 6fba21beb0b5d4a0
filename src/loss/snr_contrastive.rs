//! Contrastive loss on signal-to-noise ratios.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::contrastive::hinges;
use super::formula::{Against, Formula, Table};
use super::geometry::Units;
use super::measure::Measure;
use crate::math::real::Real;

/// Contrastive loss of the ratio of variances.
///
/// ```text
/// r_ij = Var(e_i - e_j) / Var(e_i)                       (over the D components; not symmetric)
/// L    = mean over ordered positive pairs with a positive term of [r_ij - pos_margin]_+
///      + mean over ordered negative pairs with a positive term of [neg_margin - r_ij]_+
///      + zero_mean_reg mean_i |sum_k e_ik|
/// ```
///
/// `e` unit embeddings. A variance times `D - 1` below 1e-6 is replaced by 1e-6 as a divisor, where other implementations give NaN: an
/// embedding with equal components, or a single one, has no signal. A mean over no terms is 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `e_i`: `2 (e_i - e_j) / V_i - 2 r_ij e_i / V_i` with centred embeddings and `V_i` their squared norm; with
/// respect to `e_j`: `-2 (e_i - e_j) / V_i`.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Yuan et al., *Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning*, CVPR 2019. Equal to
/// pytorch-metric-learning 0.9.88, behind MLRC. In its version 2 the last term is a separate regulariser, of the raw embeddings.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnrContrastive {
    /// Positive margin: same-class pairs with a smaller noise-to-signal ratio incur no loss (MLRC found 0.118 to
    /// 0.376).
    #[schemars(range(min = -2, max = 4))]
    pub pos_margin: f64,
    /// Negative margin: pairs of different classes with a larger noise-to-signal ratio incur no loss (MLRC found 0.68
    /// to 1.08).
    #[default = 1.0]
    #[schemars(range(min = -2, max = 4))]
    pub neg_margin: f64,
    /// Weight of the zero-mean regulariser (MLRC found 0 to 0.474).
    #[schemars(range(min = 0, max = 1000000))]
    pub zero_mean_reg: f64,
}

impl Formula for SnrContrastive {
    fn against(&self) -> Against {
        Against::Samples(Measure::NoiseToSignal)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        hinges(table, self.pos_margin, self.neg_margin)
    }

    fn regulariser<T: Real>(&self, units: &Units<T>, gradient: &mut [T]) -> f64 {
        let weight = self.zero_mean_reg / units.count as f64;
        let mut total = 0.0;
        for (i, out) in gradient.chunks_mut(units.dim).enumerate() {
            let sum = units.row(i).iter().fold(0.0, |s, x| s + x.to_f64());
            total += sum.abs();
            let slope = if sum == 0.0 { 0.0 } else { weight * sum.signum() };
            out.iter_mut().for_each(|g| *g += T::from_f64(slope));
        }
        weight * total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("snr_contrastive", 3);
        testing::equals_more_reference("snr_contrastive", 2);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&SnrContrastive { pos_margin: 0.1, neg_margin: 1.5, zero_mean_reg: 0.3 });
    }

    #[test]
    fn ratios_are_those_of_the_anchor() {
        let batch = Batch { embeddings: &[1.0, 0.0, 0.0, -2.0], labels: &[0, 0], dim: 2 };
        let loss = SnrContrastive { pos_margin: -1.0, zero_mean_reg: 0.5, ..Default::default() };
        let value: f64 = loss.evaluate(batch, 1, &[], &mut Gradients::default()).unwrap();
        // The difference (1, 1) has no variance: both terms are 0 + 1; both sums have absolute value 1.
        assert!((value - 1.5).abs() <= 1e-15, "{value}");
    }
}
