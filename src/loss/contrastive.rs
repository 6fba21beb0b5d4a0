//! Contrastive loss: same-class pairs closer than one margin, other pairs farther than another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::{Against, Anchor, Formula, Table};
use super::measure::Measure;
use crate::math::real::Real;

/// Contrastive loss over all pairs of a batch.
///
/// ```text
/// L = mean over positive pairs with a positive term of [d_ij - pos_margin]_+
///   + mean over negative pairs with a positive term of [neg_margin - d_ij]_+
/// ```
///
/// `d` is `|e_i - e_j|` or `1 - e_i . e_j`, `e` being unit embeddings. A mean over no terms is 0, so a batch of one
/// class, or of one sample per class, has only one of the two parts. A term at its kink is 0 and has gradient 0, as has a
/// Euclidean distance of 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// `+-1 / (number of positive terms)` with respect to each active distance, then through the distance and the norm.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Hadsell, Chopra and LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR 2006 (there the hinges are
/// squared); the average over non-zero terms is that of pytorch-metric-learning, whose defaults are used here. For its
/// cosine *similarity* that library gives margins as similarities, here they are distances: `1 - margin`.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Contrastive {
    /// Positive margin: same-class pairs closer than this incur no loss (MLRC found -0.2 to 0.285).
    #[schemars(range(min = -2, max = 4))]
    pub pos_margin: f64,
    /// Negative margin: pairs of different classes farther apart than this incur no loss (Proxy-Anchor code: 0.5).
    #[default = 1.0]
    #[schemars(range(min = -2, max = 4))]
    pub neg_margin: f64,
    /// Distance between unit vectors: euclidean, |a - b|, or cosine, 1 - a . b.
    pub distance: Distance,
}

/// The distance between two unit vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// `|a - b|`, in [0, 2].
    #[default]
    Euclidean,
    /// `1 - a . b`, in [0, 2].
    Cosine,
}

impl Formula for Contrastive {
    fn against(&self) -> Against {
        Against::Samples(match self.distance {
            Distance::Euclidean => Measure::Euclidean,
            Distance::Cosine => Measure::Cosine,
        })
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        if self.distance == Distance::Euclidean {
            return hinges(table, self.pos_margin, self.neg_margin);
        }
        table.cells.iter_mut().for_each(|cell| *cell = T::ONE - *cell);
        let value = hinges(table, self.pos_margin, self.neg_margin);
        table.cells.iter_mut().for_each(|cell| *cell = -*cell);
        value
    }
}

/// The contrastive hinges of a matrix of distances, each kind averaged over its positive terms.
pub(super) fn hinges<T: Real>(table: &mut Table<'_, T>, pos_margin: f64, neg_margin: f64) -> f64 {
    let (pos_margin, neg_margin) = (T::from_f64(pos_margin), T::from_f64(neg_margin));
    // Sum and number of the active terms of one kind, whose entries become 1 or 0.
    let kind = |cells: &mut [T], places: &[usize], term: &dyn Fn(T) -> T| {
        let (mut sum, mut terms) = (0.0, 0.0);
        for &j in places {
            let term = term(cells[j]);
            let active = term > T::ZERO;
            cells[j] = if active { T::ONE } else { T::ZERO };
            sum += if active { term.to_f64() } else { 0.0 };
            terms += cells[j].to_f64();
        }
        (sum, terms)
    };
    let active = table.anchors(|Anchor { cells, positives, negatives, .. }| {
        [kind(cells, &positives, &|d| d - pos_margin), kind(cells, &negatives, &|d| neg_margin - d)]
    });
    let mean = |of: usize| {
        let (sum, terms) = active.iter().fold((0.0, 0.0), |(sum, terms), row| (sum + row[of].0, terms + row[of].1));
        let each = 1.0 / f64::max(terms, 1.0);
        (sum * each, T::from_f64(each))
    };
    let ((pulled, pull), (pushed, push)) = (mean(0), mean(1));
    table.anchors(|Anchor { cells, positives, negatives, .. }| {
        positives.iter().for_each(|&p| cells[p] *= pull);
        negatives.iter().for_each(|&n| cells[n] *= -push);
    });
    pulled + pushed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("contrastive", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        for distance in [Distance::Euclidean, Distance::Cosine] {
            testing::slopes(&Contrastive { pos_margin: 0.2, neg_margin: 1.1, distance });
        }
    }

    #[test]
    fn one_pair_of_each_kind_gives_the_values_on_paper() {
        // Two samples of class 0 at a right angle, one of class 1 opposite to the first.
        let batch = Batch { embeddings: &[2.0, 0.0, 0.0, 1.0, -3.0, 0.0], labels: &[0, 0, 1], dim: 2 };
        let loss = Contrastive { pos_margin: 0.0, neg_margin: 1.5, distance: Distance::Cosine };
        let value: f64 = loss.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Positive: d = 1. Negative: d = 2 contributes 0, d = 1 contributes 0.5.
        assert!((value - 1.5).abs() <= 1e-15, "{value}");
    }
}
