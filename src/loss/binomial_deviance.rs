//! Binomial deviance over pairs: a smooth contrastive loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::pairwise::{PairBased, PairTerm};
use super::smooth::{sigmoid, softplus};
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::real::Real;

/// Binomial deviance loss.
///
/// ```text
/// L = 1/(2K) sum_c { 1/n_c^2 sum_{i,j in c} log(1 + exp(-alpha (s_ij - base)))
///                    + sum_{d != c} 1/(n_c n_d) sum_{i in c, j in d} log(1 + exp(beta (s_ij - base))) }
/// ```
///
/// `s_ij = e_i . e_j` of unit embeddings, `n_c` the samples of class `c`, `K` the classes present; `i = j` is included.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With `g` the logistic function: `-alpha g(-alpha (s - base)) / (2 K n_c^2)` for a pair of one class,
/// `beta g(beta (s - base)) / (2 K n_c n_d)` for one of two.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory; free of `C`.
///
/// # Source
/// Yi, Lei and Li, *Deep Metric Learning for Practical Person Re-Identification*, 2014, where `beta = alpha C` with the
/// cost `C` of a negative pair, and positive and negative pairs are each averaged as a whole: here all classes and pairs of
/// classes have equal weight, as the mean-field form requires.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BinomialDeviance {
    /// Scale (inverse temperature) for positive pairs (usual: 2).
    #[default = 2.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub alpha: f64,
    /// Scale (inverse temperature) for negative pairs (usual: 50, a cost of 25).
    #[default = 50.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub beta: f64,
    /// Cosine at which a pair is neutral (usual: 0.5).
    #[default = 0.5]
    #[schemars(range(min = -2, max = 4))]
    pub base: f64,
}

impl<T: Real> PairTerm<T> for BinomialDeviance {
    fn positive(&self, s: T) -> (T, T) {
        deviance(T::from_f64(-self.alpha), s - T::from_f64(self.base))
    }

    fn negative(&self, s: T) -> (T, T) {
        deviance(T::from_f64(self.beta), s - T::from_f64(self.base))
    }
}

/// `log(1 + exp(sharpness x))` and its derivative with respect to `x`.
fn deviance<T: Real>(sharpness: T, x: T) -> (T, T) {
    (softplus(sharpness * x), sharpness * sigmoid(sharpness * x))
}

impl<T: Real> Loss<T> for BinomialDeviance {
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
        PairBased(self.clone()).evaluate(batch, classes, parameters, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::slopes;

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        slopes(&BinomialDeviance { alpha: 2.0, beta: 6.0, base: 0.3 });
    }

    #[test]
    fn one_pair_of_each_kind_gives_the_value_on_paper() {
        // Two samples of class 0 with cosine 0.6, one of class 1 with cosines 0 and 0.8.
        let batch = Batch { embeddings: &[1.0, 0.0, 0.6, 0.8, 0.0, 1.0], labels: &[0, 0, 1], dim: 2 };
        let loss = BinomialDeviance { alpha: 2.0, beta: 10.0, base: 0.5 };
        let value: f64 = loss.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        let cost = |x: f64| (1.0 + x.exp()).ln();
        let positive = (2.0 * cost(-1.0) + 2.0 * cost(-0.2)) / 4.0 + cost(-1.0);
        let expected = (positive + 2.0 * (cost(-5.0) + cost(3.0)) / 2.0) / 4.0;
        assert!((value - expected).abs() <= 1e-15, "{value} {expected}");
    }
}
