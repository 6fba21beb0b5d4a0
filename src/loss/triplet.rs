//! Triplet margin loss over all triplets of a batch.

use serde::{Deserialize, Serialize};

use super::fields::{Field, MARGIN};
use super::geometry::{embeddings, from_distances, no_parameters, pairs};
use super::real::Real;
use super::{Batch, Gradients, Loss, LossError, Parameter};

/// Triplet margin loss.
///
/// ```text
/// L = mean over triplets (a, p, n) with a positive term of [|e_a - e_p| - |e_a - e_n| + margin]_+
/// ```
///
/// `e` unit embeddings; `p` shares the class of `a`, `n` does not. A mean over no terms is 0, so batches of one class, or of
/// one sample a class, cost nothing. A term at its kink is 0 and has gradient 0, as has a distance of 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// See [`Triplet::FIELDS`].
///
/// # Gradient
/// With respect to a distance: (active triplets where it is the positive one - those where it is the negative one) / active
/// triplets.
///
/// # Cost
/// O(B^2 D + triplets) time, O(B^2) memory.
///
/// # Source
/// Weinberger and Saul, JMLR 2009; Schroff, Kalenichenko and Philbin, *FaceNet*, CVPR 2015. All triplets and the average over
/// non-zero terms are those of pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Triplet {
    /// By how much negatives must be farther than positives.
    pub margin: f64,
}

impl Triplet {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[Field::number(
        "margin",
        0.05,
        MARGIN,
        "by how much negatives must be farther than positives (Proxy-Anchor code: 0.1)",
    )];
}

impl Default for Triplet {
    fn default() -> Self {
        Self { margin: 0.05 }
    }
}

impl<T: Real> Loss<T> for Triplet {
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
        let distances = units.distances();
        let (count, margin) = (units.count, T::of(self.margin));
        let mut gradient = vec![T::ZERO; count * count];
        let (mut sum, mut terms) = (0.0, 0.0);
        for (i, (d, gradient)) in distances.chunks(count).zip(gradient.chunks_mut(count)).enumerate() {
            let (positives, negatives) = pairs(i, batch.labels);
            for &p in &positives {
                for &n in &negatives {
                    let term = d[p] - d[n] + margin;
                    if term > T::ZERO {
                        sum += term.to_f64();
                        terms += 1.0;
                        gradient[p] += T::ONE;
                        gradient[n] -= T::ONE;
                    }
                }
            }
        }
        let each = 1.0 / f64::max(terms, 1.0);
        gradient.iter_mut().for_each(|g| *g *= T::of(each));
        from_distances(&units, &distances, &gradient, gradients);
        Ok(T::of(sum * each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("triplet", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&Triplet { margin: 0.3 });
    }

    #[test]
    fn one_triplet_of_each_anchor_gives_the_value_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0], labels: &[0, 0, 1], dim: 2 };
        let value: f64 = Triplet { margin: 0.5 }.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Anchor 0: sqrt 2 - 2 + 0.5 < 0, not counted. Anchor 1: sqrt 2 - sqrt 2 + 0.5.
        assert!((value - 0.5).abs() <= 1e-15, "{value}");
    }
}
