//! NT-Xent: each positive pair compared with all negatives of its anchor.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::{Against, Anchor, Formula, Table};
use super::measure::Measure;
use super::smooth::{log_sum_exp, sigmoid, softplus};
use crate::math::real::Real;

/// NT-Xent loss (normalised temperature-scaled cross-entropy) with labels.
///
/// ```text
/// L = mean over ordered positive pairs (a, p) of log(1 + sum_{n in N_a} exp((s_an - s_ap) / temperature))
/// ```
///
/// `s` cosines of embeddings, `N_a` the samples of other classes. Other positives of the anchor are not in its
/// denominator. Without positive pairs, or without negatives, it is 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With `r` the share of the negatives in a pair's softmax: `-r / (temperature pairs)` for `s_ap`, and `+r / (temperature pairs)`,
/// distributed over the negatives by their softmax, for `s_an`.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Sohn, NIPS 2016; Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML 2020. Equal to
/// pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NtXent {
    /// Temperature: cosines are divided by it (MLRC found 0.0002 to 0.0415).
    #[default = 0.07]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub temperature: f64,
}

impl Formula for NtXent {
    fn against(&self) -> Against {
        Against::Samples(Measure::Cosine)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let inverse = T::from_f64(1.0 / self.temperature);
        let row = |Anchor { cells, positives, negatives, .. }: Anchor<'_, T>| {
            if negatives.is_empty() {
                positives.iter().for_each(|&p| cells[p] = T::ZERO);
                return (0.0, positives.len() as f64);
            }
            let all = log_sum_exp(negatives.iter().map(|&n| cells[n] * inverse));
            let (mut sum, mut pushed) = (0.0, T::ZERO);
            for &p in &positives {
                let logit = all - cells[p] * inverse;
                sum += softplus(logit).to_f64();
                let share = sigmoid(logit);
                pushed += share;
                cells[p] = -share * inverse;
            }
            for &n in &negatives {
                cells[n] = pushed * (cells[n] * inverse - all).exp() * inverse;
            }
            (sum, positives.len() as f64)
        };
        table.mean(row).value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("nt_xent", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&NtXent { temperature: 0.4 });
    }

    #[test]
    fn two_pairs_and_one_negative_give_the_value_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0], labels: &[0, 0, 1], dim: 2 };
        let value: f64 = NtXent { temperature: 0.5 }.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Anchor 0: negative at -1; anchor 1: negative at 0; the positive pair at 0.
        assert!((value - ((1.0 + (-2f64).exp()).ln() + 2f64.ln()) / 2.0).abs() <= 1e-15, "{value}");
    }
}
