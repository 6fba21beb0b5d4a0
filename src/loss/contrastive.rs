//! Contrastive loss: same-class pairs closer than one margin, other pairs farther than another.

use serde::{Deserialize, Serialize};

use super::fields::{Field, MARGIN, Range, Value};
use super::geometry::{embeddings, from_cosines, from_distances, no_parameters};
use super::real::Real;
use super::{Batch, Gradients, Loss, LossError, Parameter};

/// Contrastive loss over all pairs of a batch.
///
/// ```text
/// L = mean over positive pairs with a positive term of [d_ij - pos_margin]_+
///   + mean over negative pairs with a positive term of [neg_margin - d_ij]_+
/// ```
///
/// `d` is `|e_i - e_j|` or `1 - e_i . e_j`, `e` being unit embeddings. A mean over no terms is 0, so a batch of one
/// class, or of one sample a class, has only one of the two parts. A term at its kink is 0 and has gradient 0, as has a
/// Euclidean distance of 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// See [`Contrastive::FIELDS`].
///
/// # Gradient
/// `+-1 / (number of positive terms)` with respect to each active distance, then through the distance and the norm.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory.
///
/// # Source
/// Hadsell, Chopra and LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR 2006 (there the hinges are
/// squared); the average over non-zero terms is that of pytorch-metric-learning, whose defaults these are. With its
/// cosine *similarity* that library states margins as similarities, here they are distances: `1 - margin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrastive {
    /// Same-class pairs closer than this cost nothing.
    pub pos_margin: f64,
    /// Pairs of different classes farther than this cost nothing.
    pub neg_margin: f64,
    /// The distance.
    pub distance: Distance,
}

/// The distance between two unit vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// `|a - b|`, in [0, 2].
    Euclidean,
    /// `1 - a . b`, in [0, 2].
    Cosine,
}

impl Contrastive {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[
        Field::number(
            "pos_margin",
            0.0,
            MARGIN,
            "distance below which a same-class pair costs nothing (MLRC found -0.2 to 0.285)",
        ),
        Field::number(
            "neg_margin",
            1.0,
            MARGIN,
            "distance above which other pairs cost nothing (Proxy-Anchor code: 0.5)",
        ),
        Field {
            name: "distance",
            default: Value::Word("euclidean"),
            range: Range::Words(&["euclidean", "cosine"]),
            about: "|a - b| or 1 - a . b of unit vectors",
        },
    ];
}

impl Default for Contrastive {
    fn default() -> Self {
        Self { pos_margin: 0.0, neg_margin: 1.0, distance: Distance::Euclidean }
    }
}

impl<T: Real> Loss<T> for Contrastive {
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
        let mut distances = match self.distance {
            Distance::Euclidean => units.distances(),
            Distance::Cosine => units.cosines(&units),
        };
        if self.distance == Distance::Cosine {
            distances.iter_mut().for_each(|d| *d = T::ONE - *d);
        }
        let (value, mut gradient) = hinges(&distances, batch.labels, self.pos_margin, self.neg_margin);
        match self.distance {
            Distance::Euclidean => from_distances(&units, &distances, &gradient, gradients),
            Distance::Cosine => {
                gradient.iter_mut().for_each(|g| *g = -*g);
                from_cosines(&units, &gradient, gradients);
            }
        }
        Ok(value)
    }
}

/// The contrastive hinges of a `B x B` matrix of ordered distances, its diagonal left out, each kind averaged over its
/// positive terms; with the gradient with respect to that matrix.
pub(super) fn hinges<T: Real>(distances: &[T], labels: &[u32], pos_margin: f64, neg_margin: f64) -> (T, Vec<T>) {
    let count = labels.len();
    let (pos_margin, neg_margin) = (T::of(pos_margin), T::of(neg_margin));
    let mut gradient = vec![T::ZERO; distances.len()];
    // Sum and number of the active terms: same class, then different classes.
    let mut active = [(0.0f64, 0.0f64); 2];
    for i in 0..count {
        for j in (0..count).filter(|&j| j != i) {
            let d = distances[i * count + j];
            let same = labels[i] == labels[j];
            let (term, sign) = if same { (d - pos_margin, T::ONE) } else { (neg_margin - d, -T::ONE) };
            if term > T::ZERO {
                let (sum, terms) = &mut active[usize::from(!same)];
                *sum += term.to_f64();
                *terms += 1.0;
                gradient[i * count + j] = sign;
            }
        }
    }
    let weights = active.map(|(_, terms)| 1.0 / terms.max(1.0));
    for i in 0..count {
        for j in 0..count {
            gradient[i * count + j] *= T::of(weights[usize::from(labels[i] != labels[j])]);
        }
    }
    (T::of(active[0].0 * weights[0] + active[1].0 * weights[1]), gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

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
        // Positive: d = 1. Negative: d = 2 costs nothing, d = 1 costs 0.5.
        assert!((value - 1.5).abs() <= 1e-15, "{value}");
    }
}
