//! Triplet margin loss over the triplets of a batch: all, or the semi-hard ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::{Against, Anchor, Formula, Table};
use super::measure::Measure;
use crate::math::real::Real;

/// Triplet margin loss.
///
/// ```text
/// L = mean over triplets (a, p, n) with a positive term of [|e_a - e_p| - |e_a - e_n| + margin]_+
/// ```
///
/// `e` unit embeddings; `p` shares the class of `a`, `n` does not. With `triplets: semi_hard` only those triplets count whose
/// negative is farther than the positive, by at most the margin: `0 < |e_a - e_n| - |e_a - e_p| <= margin`; with a margin of 0
/// or below there are none.
///
/// A mean over no terms is 0, so the loss of batches of one class, or of one sample per class, is 0. A term at its kink is 0 and has
/// gradient 0, as has a distance of 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to a distance: (active triplets where it is the positive one - those where it is the negative one) / active
/// triplets; the selection of triplets is treated as constant.
///
/// # Cost
/// O(B^2 D + triplets) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Weinberger and Saul, JMLR 2009; Schroff, Kalenichenko and Philbin, *FaceNet*, CVPR 2015, who use squared distances and select
/// one semi-hard negative per pair. All triplets, all semi-hard ones and the average over non-zero terms are as in
/// pytorch-metric-learning, which stores an index for each triplet, unlike this implementation.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Triplet {
    /// Margin: negatives must be farther than positives by this distance (Proxy-Anchor code: 0.1).
    #[default = 0.05]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
    /// Which triplets take part (Proxy-Anchor code: semi_hard).
    pub triplets: Triplets,
}

/// Which triplets are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Triplets {
    /// All.
    #[default]
    All,
    /// Those whose negative is farther than the positive, by at most the margin.
    SemiHard,
}

impl Formula for Triplet {
    fn against(&self) -> Against {
        Against::Samples(Measure::Euclidean)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let margin = T::from_f64(self.margin);
        let row = |Anchor { cells, positives, negatives, .. }: Anchor<'_, T>| {
            let near: Vec<T> = positives.iter().map(|&p| cells[p]).collect();
            let mut pulls = vec![T::ZERO; near.len()];
            let (mut sum, mut terms) = (0.0, 0.0);
            for &n in &negatives {
                let far = cells[n];
                let mut active = T::ZERO;
                for (&near, pull) in near.iter().zip(&mut pulls) {
                    let term = near - far + margin;
                    if term > T::ZERO && (self.triplets == Triplets::All || near < far) {
                        sum += term.to_f64();
                        active += T::ONE;
                        *pull += T::ONE;
                    }
                }
                cells[n] = -active;
                terms += active.to_f64();
            }
            positives.iter().zip(pulls).for_each(|(&p, pull)| cells[p] = pull);
            (sum, terms)
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
        testing::equals_reference("triplet", 3);
        testing::equals_more_reference("triplet", 4);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&Triplet { margin: 0.3, triplets: Triplets::All });
        testing::slopes(&Triplet { margin: 0.5, triplets: Triplets::SemiHard });
    }

    #[test]
    fn one_triplet_of_each_anchor_gives_the_value_on_paper() {
        let value = |triplets, x: f64, y: f64| {
            let batch = Batch { embeddings: &[1.0, 0.0, 0.0, 1.0, x, y], labels: &[0, 0, 1], dim: 2 };
            let loss = Triplet { margin: 0.5, triplets };
            loss.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap()
        };
        let root = 2f64.sqrt();
        // Negative at (-1, 0). Anchor 0: sqrt 2 - 2 + 0.5 < 0, not counted. Anchor 1: sqrt 2 - sqrt 2 + 0.5, not semi-hard.
        let all: f64 = value(Triplets::All, -1.0, 0.0);
        assert!((all - 0.5).abs() <= 1e-15, "{all}");
        assert_eq!(value(Triplets::SemiHard, -1.0, 0.0), 0.0);
        // Negative at (-0.6, 0.8): anchor 0 at distance sqrt 3.2, 0.37 farther than the positive; anchor 1 at sqrt 0.4, nearer.
        let semi = value(Triplets::SemiHard, -0.6, 0.8);
        assert!((semi - (root - 3.2f64.sqrt() + 0.5)).abs() <= 1e-15, "{semi}");
    }
}
