//! Margin loss over all triplets of a batch, with a fixed boundary.

use serde::{Deserialize, Serialize};

use super::fields::{Field, MARGIN};
use super::geometry::{embeddings, from_distances, no_parameters, pairs};
use super::real::Real;
use super::{Batch, Gradients, Loss, LossError, Parameter};

/// Margin loss.
///
/// ```text
/// L = sum over triplets (a, p, n) of [|e_a - e_p| - beta + margin]_+ + [beta - |e_a - e_n| + margin]_+
///     / number of those terms that are positive
/// ```
///
/// `e` unit embeddings; `p` shares the class of `a`, `n` does not. With no positive term it is 0, as for batches of one class
/// or of one sample a class. A term at its kink is 0 and has gradient 0, as has a distance of 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// See [`Margin::FIELDS`].
///
/// # Gradient
/// With respect to an active distance: `+-` the number of triplets that it occurs in / number of positive terms.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory: terms depend on pairs, and are weighted by the triplets they occur in.
///
/// # Source
/// Wu et al., *Sampling Matters in Deep Embedding Learning*, ICCV 2017, which samples by distance and learns `beta`. Here, as in
/// pytorch-metric-learning's default, `beta` is fixed and all triplets take part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Margin {
    /// Half the width of the band around the boundary.
    pub margin: f64,
    /// The boundary between near and far.
    pub beta: f64,
}

impl Margin {
    /// Names, defaults and ranges.
    pub const FIELDS: &'static [Field] = &[
        Field::number("margin", 0.2, MARGIN, "half the width of the band around the boundary (paper: 0.2)"),
        Field::number("beta", 1.2, MARGIN, "distance between near and far (paper: 1.2)"),
    ];
}

impl Default for Margin {
    fn default() -> Self {
        Self { margin: 0.2, beta: 1.2 }
    }
}

impl<T: Real> Loss<T> for Margin {
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
        let count = units.count;
        let (near, far) = (T::of(self.beta - self.margin), T::of(self.beta + self.margin));
        let mut gradient = vec![T::ZERO; count * count];
        let (mut sum, mut terms) = (0.0, 0.0);
        for (i, (d, gradient)) in distances.chunks(count).zip(gradient.chunks_mut(count)).enumerate() {
            let (positives, negatives) = pairs(i, batch.labels);
            // A pair occurs in as many triplets as its anchor has pairs of the other kind.
            for (own, others, bound, sign) in
                [(&positives, &negatives, near, T::ONE), (&negatives, &positives, far, -T::ONE)]
            {
                for &j in own {
                    let term = sign * (d[j] - bound);
                    if term > T::ZERO {
                        let triplets = others.len() as f64;
                        sum += triplets * term.to_f64();
                        terms += triplets;
                        gradient[j] = sign * T::of(triplets);
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
        testing::equals_reference("margin", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&Margin { margin: 0.3, beta: 1.1 });
    }

    #[test]
    fn each_side_of_the_boundary_costs_what_it_does_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0], labels: &[0, 0, 1], dim: 2 };
        let value: f64 = Margin { margin: 0.5, beta: 1.0 }.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Both anchors: sqrt 2 - 0.5. Anchor 0: 1.5 - 2 < 0. Anchor 1: 1.5 - sqrt 2.
        let root = 2f64.sqrt();
        assert!((value - (2.0 * (root - 0.5) + 1.5 - root) / 3.0).abs() <= 1e-15, "{value}");
    }
}
