//! Center loss: softmax, plus the attraction of each sample to a learned centre of its class.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::geometry::{embeddings, matrices, zeros};
use super::softmax::cross_entropy;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::product::{Onto, View, product};
use crate::math::real::Real;

/// Center loss, together with its softmax.
///
/// ```text
/// L = mean_i cross-entropy over c of (x_i . w_c), target y_i  +  weight / 2 mean_i |x_i - z_{y_i}|^2
/// ```
///
/// `x` embeddings, `w` class vectors and `z` centres, all raw, as in the paper: nothing is normalised. Without the softmax the
/// optimum would be a single point. Vectors so long that the value overflows are an error.
///
/// # Shapes
/// Embeddings `B x D`; `class_vectors` `C x D` and `centres` `C x D`, which start at 0.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to a product `x_i . w_c`: `(probability - [c = y_i]) / B`; with respect to `x_i` also
/// `weight (x_i - z_{y_i}) / B`, and the negative of that, summed over its samples, for a centre.
///
/// # Cost
/// O(B C D) time, O(B C + C D) memory.
///
/// # Source
/// Wen et al., *A Discriminative Feature Learning Approach for Deep Face Recognition*, ECCV 2016, which sums over the batch instead
/// of averaging, has a bias in the softmax, and updates centres by a separate rule, half way to the mean of their samples; here
/// they follow their gradient. Not in pytorch-metric-learning.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Center {
    /// Weight of the center loss in the sum (paper: 0.003).
    #[default = 0.003]
    #[schemars(range(min = 0, max = 1000000))]
    pub weight: f64,
}

impl<T: Real> Loss<T> for Center {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        [("class_vectors", Init::Normal), ("centres", Init::Constant(0.0))]
            .map(|(name, init)| Parameter { name, rows: classes, cols: dim, init })
            .into()
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        embeddings(batch, classes)?;
        matrices(&Loss::<T>::parameters(self, classes, batch.dim), parameters)?;
        let (vectors, centres) = (parameters[0], parameters[1]);
        let (count, dim) = (batch.labels.len(), batch.dim);
        let (x, w) = (View::new(batch.embeddings, count, dim), View::new(vectors, classes, dim));
        let mut scores = vec![T::ZERO; count * classes];
        product(x, w.transposed(), Onto::Replace, &mut scores);
        let softmax = cross_entropy(&mut scores, batch.labels, classes, 1.0, |q| (q, T::ONE));

        let out = zeros(&mut gradients.embeddings, batch.embeddings.len());
        let scores = View::new(&scores, count, classes);
        product(scores, w, Onto::Replace, out);
        gradients.parameters.resize_with(2, Vec::new);
        product(scores.transposed(), x, Onto::Replace, zeros(&mut gradients.parameters[0], vectors.len()));
        let moved = zeros(&mut gradients.parameters[1], centres.len());

        let each = T::from_f64(self.weight / count as f64);
        let squares: Vec<f64> = out
            .par_chunks_mut(dim)
            .zip(batch.embeddings.par_chunks(dim))
            .zip(batch.labels)
            .map(|((out, x), &label)| {
                let mut square = 0.0;
                for ((out, &x), &z) in out.iter_mut().zip(x).zip(&centres[label as usize * dim..]) {
                    *out += each * (x - z);
                    square += (x - z).to_f64() * (x - z).to_f64();
                }
                square
            })
            .collect();
        for (x, &label) in batch.embeddings.chunks(dim).zip(batch.labels) {
            let place = label as usize * dim;
            for ((moved, &x), &z) in moved[place..].iter_mut().zip(x).zip(&centres[place..]) {
                *moved -= each * (x - z);
            }
        }
        let value = T::from_f64(softmax + 0.5 * self.weight / count as f64 * squares.iter().sum::<f64>());
        let slopes = gradients.embeddings.iter().chain(gradients.parameters.iter().flatten());
        if value.is_finite() && slopes.into_iter().all(|g| g.is_finite()) {
            Ok(value)
        } else {
            Err(LossError::Overflow)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_more_reference("center", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&Center { weight: 0.7 });
        testing::slopes(&Center { weight: 0.0 });
    }

    #[test]
    fn both_parts_cost_what_they_do_on_paper() {
        let batch = Batch { embeddings: &[3.0, 4.0], labels: &[1], dim: 2 };
        let mut gradients = Gradients::default();
        let parameters: [&[f64]; 2] = [&[0.1, 0.0, 0.0, 0.2], &[9.0, 9.0, 1.0, 1.0]];
        let value = Center { weight: 0.5 }.evaluate(batch, 2, &parameters, &mut gradients).unwrap();
        // Products 0.3 and 0.8; the centre of class 1 at squared distance 13.
        let expected = (1.0 + (0.3 - 0.8f64).exp()).ln() + 0.25 * 13.0;
        assert!((value - expected).abs() <= 1e-14, "{value}");
        assert_eq!(gradients.parameters[1], [0.0, 0.0, -1.0, -1.5]);
    }
}
