//! FastAP: average precision over a soft histogram of distances.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::{Against, Anchor, Formula, Table};
use super::measure::Measure;
use crate::math::real::Real;

/// FastAP loss.
///
/// ```text
/// bins      num_bins + 1 centres, evenly over the squared distances [0, 4]; a distance is split between its two neighbours
/// H+_k, H_k soft counts in bin k of the query's own class, and of all other samples; C+_k, C_k their cumulative sums
/// L         = mean over queries with a positive of 1 - 1/|P| sum_k H+_k C+_k / C_k
/// ```
///
/// The loss of a batch without positive pairs is 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// Through `H` and `C` to the shares, which are linear in the squared distance between two centres. At a centre the
/// derivative is that of the bin above.
///
/// # Cost
/// O(B^2 (D + num_bins)) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Cakir et al., *Deep Metric Learning to Rank*, CVPR 2019. Equal to pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FastAp {
    /// Number of histogram bins over the squared distances (MLRC found 16 to 86).
    #[default = 10]
    #[schemars(range(min = 1, max = 10000))]
    pub num_bins: u64,
}

impl Formula for FastAp {
    fn against(&self) -> Against {
        Against::Samples(Measure::Euclidean)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let row = |anchor: Anchor<'_, T>| {
            if anchor.positives.is_empty() {
                anchor.cells.fill(T::ZERO);
                return (0.0, 0.0);
            }
            (self.query(anchor), 1.0)
        };
        table.mean(row).value
    }
}

impl FastAp {
    /// `1 - AP` of one query.
    fn query<T: Real>(&self, Anchor { cells, positives, negatives, .. }: Anchor<'_, T>) -> f64 {
        let bins = self.num_bins as usize;
        let width = T::from_f64(4.0 / bins as f64);
        let others = || positives.iter().map(|j| (*j, true)).chain(negatives.iter().map(|j| (*j, false)));
        // The two bin centres around a squared distance, the share of the upper one, and whether the share depends on the distance.
        let place = |distance: T| {
            let at = distance * distance / width;
            let low = (at.to_f64() as usize).min(bins - 1);
            let upper = at - T::from_f64(low as f64);
            if upper > T::ONE { (low, T::ONE, false) } else { (low, upper, true) }
        };
        let (mut own, mut all) = (vec![T::ZERO; bins + 1], vec![T::ZERO; bins + 1]);
        for (j, positive) in others() {
            let (low, upper, _) = place(cells[j]);
            for (bin, share) in [(low, T::ONE - upper), (low + 1, upper)] {
                all[bin] += share;
                if positive {
                    own[bin] += share;
                }
            }
        }
        let (mut own_sum, mut all_sum) = (T::ZERO, T::ZERO);
        let sums: Vec<(T, T)> = own
            .iter()
            .zip(&all)
            .map(|(&own, &all)| {
                own_sum += own;
                all_sum += all;
                (own_sum, all_sum)
            })
            .collect();

        // d AP / d own[k] = direct[k] + later[k] from its own sums, and d AP / d all[k] = -loss[k].
        let number = T::from_f64(positives.len() as f64);
        let mut average = 0.0;
        let (mut of_own, mut of_all) = (vec![T::ZERO; bins + 1], vec![T::ZERO; bins + 1]);
        let (mut later, mut loss) = (T::ZERO, T::ZERO);
        for bin in (0..=bins).rev() {
            let (own_sum, all_sum) = sums[bin];
            if all_sum > T::ZERO {
                let precision = own_sum / all_sum;
                average += (own[bin] * precision / number).to_f64();
                later += own[bin] / all_sum / number;
                loss += own[bin] * precision / all_sum / number;
                of_own[bin] = precision / number + later;
                of_all[bin] = -loss;
            } else {
                (of_own[bin], of_all[bin]) = (later, -loss);
            }
        }
        for (j, positive) in others() {
            let (low, _, moves) = place(cells[j]);
            let slope = |of: &[T]| of[low + 1] - of[low];
            let rise = slope(&of_all) + if positive { slope(&of_own) } else { T::ZERO };
            cells[j] = if moves { -rise * T::from_f64(2.0) * cells[j] / width } else { T::ZERO };
        }
        1.0 - average
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("fast_ap", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&FastAp { num_bins: 10 });
        testing::slopes(&FastAp { num_bins: 3 });
    }

    #[test]
    fn a_positive_nearer_than_all_negatives_costs_nothing_and_a_farther_one_half() {
        let value = |x: f64| {
            let batch = Batch { embeddings: &[1.0, 0.0, x, 1.0 - x.abs(), 0.0, 1.0], labels: &[0, 0, 1], dim: 2 };
            FastAp { num_bins: 2 }.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap()
        };
        // Query 0: positive at 0, negative at 2. Query 1 is its twin.
        let near: f64 = value(1.0);
        assert!(near.abs() <= 1e-12, "{near}");
        // Query 0: positive at 4, negative at 2. Query 1: positive at 4, negative at 2.
        let far: f64 = value(-1.0);
        assert!((far - 0.5).abs() <= 1e-12, "{far}");
    }
}
