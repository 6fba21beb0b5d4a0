//! SoftTriple: softmax over classes with several centres each.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::geometry::{ClassVectors, UnitGradient, class_vectors, embeddings, from_scores};
use super::softmax::cross_entropy;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::real::Real;
use crate::math::rows::dot;
use crate::math::simd::vectorise;

/// SoftTriple loss.
///
/// ```text
/// S_ic = sum_k softmax_k(e_i . w_ck / gamma) e_i . w_ck
/// L    = mean_i cross-entropy over c of la (S_ic - margin [c = y_i]), target y_i
///      + tau / (C K (K - 1)) sum_c sum_{k < l} sqrt(2 + 1e-5 - 2 w_ck . w_cl)
/// ```
///
/// `e` unit embeddings, `w` unit centres, `K` centres a class.
///
/// # Shapes
/// Embeddings `B x D`; `centres` `C K x D`, the centres of a class in consecutive rows.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `e_i . w_ck`: that of `S_ic` times `softmax_k (1 + (e_i . w_ck - S_ic) / gamma)`.
///
/// # Cost
/// O(B C K D) time, O(B C K) memory; with `tau > 0` also O(C K^2 D) time.
///
/// # Source
/// Qian et al., *SoftTriple Loss: Deep Metric Learning Without Triplet Sampling*, ICCV 2019. Equal to pytorch-metric-learning,
/// where the attraction between centres is part of the loss up to version 0.9.88 and since 2 a separate regulariser, divided by the
/// same number, with the smallest number of the type instead of the 1e-5 of the paper's code. The centres are initialised Kaiming-uniform
/// as there, of length 0.24 for 750 of 128 dimensions: their length does not affect the loss, but it divides every step that rotates
/// them. `tau` is 0 as in version 2; the paper has 0.2.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTriple {
    /// Number of centres of each class (paper: 10, SOP 2).
    #[default = 10]
    #[schemars(range(min = 1, max = 1000))]
    pub centers_per_class: u64,
    /// Scale of the scores (paper: 20; MLRC found 17.7 to 100).
    #[default = 20.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub la: f64,
    /// Temperature of the softmax over the centres of a class (paper: 0.1; MLRC states 1 / gamma).
    #[default = 0.1]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub gamma: f64,
    /// Additive margin subtracted from the target score (paper: 0.01; MLRC found 0.31 to 0.70).
    #[default = 0.01]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
    /// Weight of the regulariser that draws the centres of a class together (paper: 0.2).
    #[schemars(range(min = 0, max = 1000000))]
    pub tau: f64,
}

impl<T: Real> Loss<T> for SoftTriple {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "centres", rows: classes * self.centres(), cols: dim, init: Init::KaimingUniform }]
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let units = embeddings(batch, classes)?;
        let each = self.centres();
        let centres = class_vectors("centres", parameters, classes * each, batch.dim)?;
        let mut cosines = units.scores(&centres);
        let mut similarities = vec![T::ZERO; units.count * classes];
        let room = || vec![T::ZERO; BLOCK * each];
        cosines.par_chunks(BLOCK * each).zip(similarities.par_chunks_mut(BLOCK)).for_each_init(
            room,
            |shares, (cosines, out)| {
                self.shares(cosines, shares);
                for ((out, q), shares) in out.iter_mut().zip(cosines.chunks(each)).zip(shares.chunks(each)) {
                    *out = dot(q, shares);
                }
            },
        );
        let (scale, margin) = (T::from_f64(self.la), T::from_f64(self.margin));
        let mut slopes = similarities.clone();
        let mut value =
            cross_entropy(&mut slopes, batch.labels, classes, self.la, |score| (scale * (score - margin), scale));

        // From the scores to the cosines: the softmax over the centres depends on them too.
        let sharpness = T::from_f64(1.0 / self.gamma);
        let scores = similarities.par_chunks(BLOCK).zip(slopes.par_chunks(BLOCK));
        cosines.par_chunks_mut(BLOCK * each).zip(scores).for_each_init(room, |shares, (cosines, (scores, slopes))| {
            self.shares(cosines, shares);
            let rows = cosines.chunks_mut(each).zip(shares.chunks(each)).zip(scores.iter().zip(slopes));
            for ((q, shares), (&score, &slope)) in rows {
                for (q, &share) in q.iter_mut().zip(shares) {
                    *q = slope * share * (T::ONE + sharpness * (*q - score));
                }
            }
        });

        let mut unit_gradient = UnitGradient::none(gradients);
        if self.tau > 0.0 && each > 1 {
            value += self.spread(&centres, classes, unit_gradient.begin(centres.count * centres.dim));
        }
        from_scores(&units, &centres, &cosines, unit_gradient, gradients);
        Ok(T::from_f64(value))
    }
}

/// Number of classes of a sample whose centres are compared at once.
const BLOCK: usize = 128;

impl SoftTriple {
    fn centres(&self) -> usize {
        self.centers_per_class as usize
    }

    /// The softmax over each class's centres, given the cosines with the centres of some classes; `out` may be longer.
    fn shares<T: Real>(&self, cosines: &[T], out: &mut [T]) {
        let (each, sharpness) = (self.centres(), T::from_f64(1.0 / self.gamma));
        let out = &mut out[..cosines.len()];
        vectorise(
            #[inline(always)]
            || {
                for (out, q) in out.chunks_mut(each).zip(cosines.chunks(each)) {
                    let top = q.iter().fold(q[0], |m, &q| q.max(m));
                    out.iter_mut().zip(q).for_each(|(out, &q)| *out = sharpness * (q - top));
                }
                out.iter_mut().for_each(|x| *x = x.exp());
                for out in out.chunks_mut(each) {
                    let sum = out.iter().fold(T::ZERO, |sum, &x| sum + x);
                    out.iter_mut().for_each(|x| *x /= sum);
                }
            },
        );
    }

    /// The regulariser, and its gradient with respect to the unit centres.
    fn spread<T: Real>(&self, centres: &ClassVectors<'_, T>, classes: usize, gradient: &mut [T]) -> f64 {
        let (each, dim) = (self.centres(), centres.dim);
        let weight = self.tau / (classes * each * (each - 1)) as f64;
        let sums: Vec<f64> = gradient
            .par_chunks_mut(each * dim)
            .enumerate()
            .map(|(class, out)| {
                let mut units = vec![T::ZERO; each * dim];
                centres.write_units(class * each, &mut units);
                let row = |k: usize| &units[k * dim..(k + 1) * dim];
                let mut sum = 0.0;
                for k in 0..each {
                    for l in k + 1..each {
                        let distance = (T::from_f64(2.0 + 1e-5) - T::from_f64(2.0) * dot(row(k), row(l)))
                            .max(T::from_f64(1e-6))
                            .sqrt();
                        sum += distance.to_f64();
                        let slope = -T::from_f64(weight) / distance;
                        for d in 0..dim {
                            out[k * dim + d] += slope * row(l)[d];
                            out[l * dim + d] += slope * row(k)[d];
                        }
                    }
                }
                sum
            })
            .collect();
        weight * sums.iter().sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("soft_triple", 3);
        testing::equals_more_reference("soft_triple", 2);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&SoftTriple { centers_per_class: 2, la: 3.0, gamma: 0.5, margin: 0.1, tau: 0.0 });
        testing::slopes(&SoftTriple { centers_per_class: 3, la: 3.0, gamma: 0.5, margin: 0.1, tau: 0.4 });
    }

    #[test]
    fn one_centre_a_class_is_a_softmax_with_a_margin() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[1], dim: 2 };
        let loss = SoftTriple { centers_per_class: 1, la: 2.0, margin: 0.3, ..Default::default() };
        let value: f64 = loss.evaluate(batch, 2, &[&[3.0, 4.0, 1.0, 0.0]], &mut Gradients::default()).unwrap();
        assert!((value - (1.0 + (2.0 * (0.6 - 0.7f64)).exp()).ln()).abs() <= 1e-15, "{value}");
    }
}
