//! Contrastive loss on signal-to-noise ratios.

use serde::{Deserialize, Serialize};

use super::contrastive::hinges;
use super::fields::{Field, MARGIN, WEIGHT};
use super::geometry::{embeddings, no_parameters, zeros};
use super::real::{Real, dot};
use super::{Batch, Gradients, Loss, LossError, Parameter};

/// Squared norms of centred unit embeddings below this divide as if they were this.
const SMALLEST_VARIANCE: f64 = 1e-6;

/// Contrastive loss of the ratio of variances.
///
/// ```text
/// r_ij = Var(e_i - e_j) / Var(e_i)                       (over the D components; not symmetric)
/// L    = mean over ordered positive pairs with a positive term of [r_ij - pos_margin]_+
///      + mean over ordered negative pairs with a positive term of [neg_margin - r_ij]_+
///      + zero_mean_reg mean_i |sum_k e_ik|
/// ```
///
/// `e` unit embeddings. A variance times `D - 1` below 1e-6 divides as if it were 1e-6, where other codes give NaN: an
/// embedding of equal components, or of one, has no signal. A mean over no terms is 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// See [`SnrContrastive::FIELDS`].
///
/// # Gradient
/// With respect to `e_i`: `2 (e_i - e_j) / V_i - 2 r_ij e_i / V_i` with centred embeddings and `V_i` their squared norm; with
/// respect to `e_j`: `-2 (e_i - e_j) / V_i`.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory.
///
/// # Source
/// Yuan et al., *Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning*, CVPR 2019. Equal to
/// pytorch-metric-learning 2, whose separate zero-mean regulariser is the last term.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnrContrastive {
    /// Same-class pairs with a smaller ratio cost nothing.
    pub pos_margin: f64,
    /// Pairs of different classes with a larger ratio cost nothing.
    pub neg_margin: f64,
    /// Weight of the zero-mean term.
    pub zero_mean_reg: f64,
}

impl SnrContrastive {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[
        Field::number(
            "pos_margin",
            0.0,
            MARGIN,
            "ratio below which a same-class pair costs nothing (MLRC found 0.118 to 0.376)",
        ),
        Field::number(
            "neg_margin",
            1.0,
            MARGIN,
            "ratio above which other pairs cost nothing (MLRC found 0.68 to 1.08)",
        ),
        Field::number("zero_mean_reg", 0.0, WEIGHT, "weight of the zero-mean term (MLRC found 0 to 0.474)"),
    ];
}

impl Default for SnrContrastive {
    fn default() -> Self {
        Self { pos_margin: 0.0, neg_margin: 1.0, zero_mean_reg: 0.0 }
    }
}

impl<T: Real> Loss<T> for SnrContrastive {
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
        let (count, dim) = (units.count, T::of(units.dim as f64));
        let mut centred = units.rows.clone();
        let variances: Vec<T> = centred
            .chunks_mut(units.dim)
            .map(|row| {
                let mean = row.iter().fold(T::ZERO, |s, &x| s + x) / dim;
                row.iter_mut().for_each(|x| *x -= mean);
                dot(row, row)
            })
            .collect();
        let row = |i: usize| &centred[i * units.dim..(i + 1) * units.dim];
        let mut difference = vec![T::ZERO; units.dim];
        let mut ratio = |i: usize, j: usize| {
            difference.iter_mut().zip(row(i)).zip(row(j)).for_each(|((d, &a), &b)| *d = a - b);
            dot(&difference, &difference) / variances[i].max(T::of(SMALLEST_VARIANCE))
        };
        let ratios: Vec<T> = (0..count * count).map(|at| ratio(at / count, at % count)).collect();
        let (value, gradient) = hinges(&ratios, batch.labels, self.pos_margin, self.neg_margin);

        gradients.parameters.clear();
        let out = zeros(&mut gradients.embeddings, units.rows.len());
        for i in 0..count {
            let floored = variances[i] <= T::of(SMALLEST_VARIANCE);
            let inverse = T::ONE / variances[i].max(T::of(SMALLEST_VARIANCE));
            for j in (0..count).filter(|&j| j != i) {
                let g = T::of(2.0) * gradient[i * count + j] * inverse;
                if g == T::ZERO {
                    continue;
                }
                let own = if floored { T::ZERO } else { g * ratios[i * count + j] };
                for (k, (&a, &b)) in row(i).iter().zip(row(j)).enumerate() {
                    out[i * units.dim + k] += g * (a - b) - own * a;
                    out[j * units.dim + k] -= g * (a - b);
                }
            }
        }
        let sums: Vec<T> = (0..count).map(|i| units.row(i).iter().fold(T::ZERO, |s, &x| s + x)).collect();
        let weight = self.zero_mean_reg / count as f64;
        for (out, &sum) in out.chunks_mut(units.dim).zip(&sums) {
            let sign = if sum > T::ZERO {
                T::ONE
            } else if sum < T::ZERO {
                -T::ONE
            } else {
                T::ZERO
            };
            out.iter_mut().for_each(|g| *g += T::of(weight) * sign);
        }
        units.pull_back(out);
        Ok(value + T::of(weight * sums.iter().map(|sum| sum.to_f64().abs()).sum::<f64>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("snr_contrastive", 3);
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
