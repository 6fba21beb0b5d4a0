//! N-pair loss: one anchor and one positive per class, each anchor compared with all positives.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::geometry::{Groups, embeddings, no_parameters, zeros};
use super::softmax::cross_entropy;
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::product::{Onto, View, product};
use crate::math::real::Real;

/// N-pair loss (multi-class).
///
/// ```text
/// L = 1/K sum_c cross-entropy over d of (x_c . p_d), target c
/// ```
///
/// `x_c` and `p_c` are the first and the second sample of class `c` in the batch, `K` the classes with two samples; other
/// samples are ignored. With fewer than two such classes it is 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to a product: `(probability - [c = d]) / K`.
///
/// # Cost
/// O(K^2 D) time, O(K^2 + K D) memory; free of `C`.
///
/// # Source
/// Sohn, *Improved Deep Metric Learning with Multi-class N-pair Loss Objective*, NIPS 2016, which also penalises the embeddings'
/// length; this does not, and neither does the Proxy-Anchor code, whose embeddings are raw as in the paper. The selection of
/// pairs, and `embeddings: unit`, are those of pytorch-metric-learning. Raw embeddings whose products overflow are an error.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NPair {
    /// Raw or unit-length embeddings (paper: raw, with a penalty on their length).
    pub embeddings: Length,
}

/// The length of embeddings in a product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// The output of the network.
    #[default]
    Raw,
    /// One.
    Unit,
}

impl<T: Real> Loss<T> for NPair {
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
        let rows = if self.embeddings == Length::Raw { batch.embeddings } else { &units.rows };
        let dim = batch.dim;
        gradients.parameters.clear();
        let out = zeros(&mut gradients.embeddings, rows.len());

        let pairs: Vec<[usize; 2]> =
            Groups::new(batch.labels).members.iter().filter_map(|members| members.first_chunk().copied()).collect();
        let count = pairs.len();
        if count < 2 {
            return Ok(T::ZERO);
        }
        let side =
            |of: usize| -> Vec<T> { pairs.iter().flat_map(|pair| &rows[pair[of] * dim..][..dim]).copied().collect() };
        let (anchors, positives) = (side(0), side(1));
        let (anchors, positives) = (View::new(&anchors, count, dim), View::new(&positives, count, dim));
        let mut products = vec![T::ZERO; count * count];
        product(anchors, positives.transposed(), Onto::Replace, &mut products);
        let targets: Vec<u32> = (0..count as u32).collect();
        let value = T::from_f64(cross_entropy(&mut products, &targets, count, 1.0, |x| (x, T::ONE)));
        if !value.is_finite() {
            return Err(LossError::Overflow);
        }

        let slopes = View::new(&products, count, count);
        let mut gradient = vec![T::ZERO; count * dim];
        for (of, slopes, others) in [(0, slopes, positives), (1, slopes.transposed(), anchors)] {
            product(slopes, others, Onto::Replace, &mut gradient);
            for (pair, gradient) in pairs.iter().zip(gradient.chunks(dim)) {
                out[pair[of] * dim..][..dim].copy_from_slice(gradient);
            }
        }
        if self.embeddings == Length::Unit {
            units.pull_back(out);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_more_reference("n_pair", 4);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&NPair { embeddings: Length::Raw });
        testing::slopes(&NPair { embeddings: Length::Unit });
    }

    #[test]
    fn two_classes_give_the_value_on_paper_and_a_third_sample_takes_no_part() {
        let embeddings = [1.0, 0.0, 0.0, 2.0, 0.5, 0.0, 9.0, 9.0, 0.0, 1.0];
        let batch = Batch { embeddings: &embeddings, labels: &[3, 1, 3, 3, 1], dim: 2 };
        let mut gradients = Gradients::default();
        let value: f64 = NPair::default().evaluate(batch, 4, &[], &mut gradients).unwrap();
        // Class 1: products 2 with its own positive, 0 with the other; class 3: 0.5 and 0.
        let expected = ((1.0 + (-2f64).exp()).ln() + (1.0 + (-0.5f64).exp()).ln()) / 2.0;
        assert!((value - expected).abs() <= 1e-15, "{value}");
        assert_eq!(gradients.embeddings[6..8], [0.0, 0.0]);
    }

    #[test]
    fn raw_embeddings_that_overflow_are_an_error_in_words() {
        let batch = Batch { embeddings: &[-1e30f32, 1e30, 1e30, 1e30], labels: &[0, 1, 0, 1], dim: 1 };
        let error = NPair::default().evaluate(batch, 2, &[], &mut Gradients::default()).unwrap_err().to_string();
        assert_eq!(error, "the loss of raw vectors this long is not a finite number");
    }
}
