//! Multi-similarity loss: soft maxima of the similarities of each anchor, with an optional pair miner.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::{Against, Anchor, Formula, Table};
use super::measure::Measure;
use super::smooth::log_1p_sum_exp;
use crate::math::real::Real;

/// Multi-similarity loss over the anchors of a batch.
///
/// ```text
/// L = 1/B sum_i { 1/alpha log(1 + sum_{j in P_i} exp(-alpha (s_ij - base)))
///               + 1/beta  log(1 + sum_{j in N_i} exp( beta  (s_ij - base))) }
/// ```
///
/// `s_ij = e_i . e_j` of unit embeddings; `P_i`, `N_i` are the other samples of the same and of different classes. With
/// `miner: multi_similarity` only positives with `s_ij - miner_epsilon < max over N_i` and negatives with
/// `s_ij + miner_epsilon > min over P_i` are kept, so that an anchor without pairs of one kind keeps none of the other. An empty
/// sum is 0: an anchor without pairs counts in `B` and contributes nothing.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `s_ij`: `-exp(-alpha (s_ij - base)) / (1 + sum) / B` for a positive, and likewise with `+beta` for a
/// negative; the miner's selection is treated as constant.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Wang et al., *Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning*, CVPR 2019. Equal to
/// pytorch-metric-learning, but in log-sum-exp form, so that no exponent overflows.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MultiSimilarity {
    /// Scale (inverse temperature) for positive pairs (MLRC found 0.01 to 14.35).
    #[default = 2.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub alpha: f64,
    /// Scale (inverse temperature) for negative pairs (MLRC found 46.9 to 75.8).
    #[default = 50.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub beta: f64,
    /// Cosine at which a pair is neutral (original paper: 1).
    #[default = 0.5]
    #[schemars(range(min = -2, max = 4))]
    pub base: f64,
    /// Which pairs take part (Proxy-Anchor code: multi_similarity).
    pub miner: Miner,
    /// Slack of the miner (MLRC found 0.34 to 0.72).
    #[default = 0.1]
    #[schemars(range(min = -2, max = 4))]
    pub miner_epsilon: f64,
}

/// Which pairs are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Miner {
    /// All.
    #[default]
    None,
    /// Pairs about as hard as the hardest of the other kind.
    MultiSimilarity,
}

impl Formula for MultiSimilarity {
    fn against(&self) -> Against {
        Against::Samples(Measure::Cosine)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let row = |mut anchor: Anchor<'_, T>| {
            self.mine(&mut anchor);
            let Anchor { cells, positives, negatives, .. } = anchor;
            let cosines = cells.to_vec();
            cells.fill(T::ZERO);
            let mut sum = 0.0;
            for (kept, sharpness) in [(positives, -self.alpha), (negatives, self.beta)] {
                let exponent = |j: usize| T::from_f64(sharpness) * (cosines[j] - T::from_f64(self.base));
                let log = log_1p_sum_exp(kept.iter().map(|&j| exponent(j)));
                sum += log.to_f64() / sharpness.abs();
                for &j in &kept {
                    cells[j] = T::from_f64(sharpness.signum()) * (exponent(j) - log).exp();
                }
            }
            (sum, 1.0)
        };
        table.mean(row).value
    }
}

impl MultiSimilarity {
    /// Keeps the positives and negatives that are used.
    fn mine<T: Real>(&self, Anchor { cells, positives, negatives, .. }: &mut Anchor<'_, T>) {
        if self.miner == Miner::MultiSimilarity {
            let epsilon = T::from_f64(self.miner_epsilon);
            let hardest_negative = negatives.iter().fold(T::from_f64(f64::NEG_INFINITY), |m, &j| m.max(cells[j]));
            let hardest_positive = positives.iter().fold(T::from_f64(f64::INFINITY), |m, &j| -(-m).max(-cells[j]));
            positives.retain(|&j| cells[j] - epsilon < hardest_negative);
            negatives.retain(|&j| cells[j] + epsilon > hardest_positive);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference_with_and_without_the_miner() {
        testing::equals_reference("multi_similarity", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&MultiSimilarity { beta: 10.0, ..Default::default() });
        testing::slopes(&MultiSimilarity { beta: 10.0, miner: Miner::MultiSimilarity, ..Default::default() });
    }

    #[test]
    fn an_anchor_without_negatives_keeps_no_positives_under_the_miner() {
        let loss = MultiSimilarity { miner: Miner::MultiSimilarity, ..Default::default() };
        let batch = Batch { embeddings: &[1.0, 0.0, 0.0, 1.0], labels: &[3, 3], dim: 2 };
        let value: f64 = loss.evaluate(batch, 4, &[], &mut Gradients::default()).unwrap();
        assert_eq!(value, 0.0);
        let all: f64 = MultiSimilarity::default().evaluate(batch, 4, &[], &mut Gradients::default()).unwrap();
        // log(1 + exp(2 * 0.5)) / 2 for each of the two anchors.
        assert!((all - (1.0 + 1f64.exp()).ln() / 2.0).abs() <= 1e-15, "{all}");
    }
}
