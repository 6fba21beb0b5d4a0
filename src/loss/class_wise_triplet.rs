//! Class-wise triplet loss on cosines: the pair-based parent of its mean-field form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::pairwise::class_wise;
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::real::Real;

/// Class-wise triplet loss.
///
/// ```text
/// L = 1/K sum_c 1/n_c^2 sum_{a,p in c} sum_{d != c} 1/n_d sum_{n in d} [s_an - s_ap + margin]_+
/// ```
///
/// `s` cosines of unit embeddings, `c` and `d` the `K` classes present, `n_c` the samples of class `c`; `p = a` is included.
/// A term at its kink has gradient 0. The loss of a batch of one class is 0.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// Each positive term adds `1/(K n_c^2 n_d)` to that of `s_an` and subtracts it from that of `s_ap`.
///
/// # Cost
/// O(B^2 D + triplets) time, O(B^2) memory; free of `C`.
///
/// # Source
/// FaceNet's loss (Schroff, Kalenichenko and Philbin, CVPR 2015) in cosines, `|a - b|^2 = 2 - 2 s`, over all triplets and
/// with the class-wise weights of the mean-field paper. [`triplet`](super::triplet) uses distances that are not squared, and
/// averages over the triplets with a positive term.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassWiseTriplet {
    /// Margin: cosines within the class must exceed those with other classes by this much (FaceNet: 0.1).
    #[default = 0.1]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
}

impl<T: Real> Loss<T> for ClassWiseTriplet {
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
        let margin = T::from_f64(self.margin);
        class_wise(batch, classes, parameters, gradients, 1.0, |s, i, groups| {
            let cosines = s.to_vec();
            s.fill(T::ZERO);
            let own = &groups.members[groups.of[i]];
            let mut sum = 0.0;
            for others in groups.members.iter().enumerate().filter(|(d, _)| *d != groups.of[i]).map(|(_, d)| d) {
                let each = 1.0 / (own.len() * others.len()) as f64;
                for &p in own {
                    for &n in others {
                        let term = cosines[n] - cosines[p] + margin;
                        if term > T::ZERO {
                            sum += each * term.to_f64();
                            s[n] += T::from_f64(each);
                            s[p] -= T::from_f64(each);
                        }
                    }
                }
            }
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::slopes;

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        slopes(&ClassWiseTriplet { margin: 0.3 });
    }

    #[test]
    fn classes_of_two_and_one_samples_give_the_value_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0, 0.6, 0.8, 0.0, 1.0], labels: &[0, 0, 1], dim: 2 };
        let value: f64 = ClassWiseTriplet { margin: 0.5 }.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Cosines: 0.6 in class 0; 0 and 0.8 between. Anchor 0 has no positive term; anchor 1 has 0.8 - 0.6 + 0.5 and,
        // paired with itself, 0.8 - 1 + 0.5; anchor 2, paired with itself, has the latter against sample 1.
        let expected = ((0.7 + 0.3) / 4.0 + 0.3 / 2.0) / 2.0;
        assert!((value - expected).abs() <= 1e-15, "{value} {expected}");
    }
}
