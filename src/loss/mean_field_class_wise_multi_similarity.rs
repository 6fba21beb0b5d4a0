//! Mean-field class-wise multi-similarity loss: classes of a batch compared with one learned mean field per class.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::class_wise_multi_similarity::ClassWiseMultiSimilarity;
use super::geometry::{Groups, UnitGradient, class_vectors, embeddings, from_scores};
use super::penalty::closeness;
use super::smooth::{log_1p_sum_exp, log_sum_exp, sigmoid, softplus};
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::real::Real;
use crate::math::rows;
use crate::math::simd::vectorise;

/// Mean-field class-wise multi-similarity loss.
///
/// ```text
/// p_a  = 1/n_a sum_{i in a} exp(-alpha (q_ia - base))                            (a in the batch)
/// A_ac = 1/n_a sum_{i in a} exp( beta  (q_ic - base)),  0 if a is absent from the batch
/// L    = 1/(alpha K) sum_{a in batch} log(1 + p_a) + 1/(2 beta K) sum_c sum_{d != c} log(1 + A_cd + A_dc)
///      + mf_reg / C sum_c sum_{d != c} (1/beta log(1 + exp(beta (m_c . m_d - base))))^mf_power
/// ```
///
/// `q_ic = e_i . m_c`, `e` unit embeddings, `m` unit mean fields, `n_a` the samples of class `a`, `K` the classes present.
///
/// # Shapes
/// Embeddings `B x D`; `mean_fields` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `q_ic`, `a = y_i`: own class `-exp(-alpha (q - base)) / (K n_a (1 + p_a))`, another
/// `exp(beta (q - base)) / (K n_a (1 + A_ac + A_ca))`.
///
/// # Cost
/// O(B C D) time, O(B C) memory: only the `K x C` rows of `A` that are not 0 exist. With `mf_reg > 0` also O(C^2 D) time in
/// tiles of 256 classes.
///
/// # Source
/// Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024. Its code builds `C x C` matrices and plain
/// exponentials, and replaces the softplus of the penalty by its argument above 20 (a change below 1e-9 / beta).
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MeanFieldClassWiseMultiSimilarity {
    /// Scale (inverse temperature) for the own class (released commands: 0.01).
    #[default = 0.01]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub alpha: f64,
    /// Scale (inverse temperature) for other classes (released commands: 80).
    #[default = 80.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub beta: f64,
    /// Cosine at which a sample and a mean field are neutral (released commands: 0.8).
    #[default = 0.8]
    #[schemars(range(min = -2, max = 4))]
    pub base: f64,
    /// Weight of the penalty on mean fields that are close to each other (released commands: 0).
    #[schemars(range(min = 0, max = 1000000))]
    pub mf_reg: f64,
    /// Exponent of that penalty (official code: 2).
    #[default = 2.0]
    #[schemars(range(min = 1, max = 16))]
    pub mf_power: f64,
}

impl<T: Real> Loss<T> for MeanFieldClassWiseMultiSimilarity {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "mean_fields", rows: classes, cols: dim, init: Init::Normal }]
    }

    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        Some(Box::new(ClassWiseMultiSimilarity { alpha: self.alpha, beta: self.beta, base: self.base }))
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let units = embeddings(batch, classes)?;
        let fields = class_vectors("mean_fields", parameters, classes, batch.dim)?;
        let mut scores = units.scores(&fields);
        let mut value = self.turn(&mut scores, batch.labels, classes);

        let mut unit_gradient = UnitGradient::none(gradients);
        if self.mf_reg > 0.0 {
            let (beta, base) = (T::from_f64(self.beta), T::from_f64(self.base));
            value += closeness(
                &fields,
                self.mf_reg,
                self.mf_power,
                #[inline(always)]
                |cosine| {
                    let x = beta * (cosine - base);
                    (softplus(x) / beta, sigmoid(x))
                },
                &mut unit_gradient,
            );
        }
        from_scores(&units, &fields, &scores, unit_gradient, gradients);
        Ok(T::from_f64(value))
    }
}

/// Number of columns that one thread sums at once.
const COLUMNS: usize = 256;

impl MeanFieldClassWiseMultiSimilarity {
    /// The part that depends on the `B x C` scores, which are overwritten by the gradient with respect to them.
    fn turn<T: Real>(&self, scores: &mut [T], labels: &[u32], classes: usize) -> f64 {
        let groups = Groups::new(labels);
        let present = groups.classes.len();
        let (alpha, beta, base) = (T::from_f64(self.alpha), T::from_f64(self.beta), T::from_f64(self.base));
        let each = T::from_f64(1.0 / present as f64);

        // The score of each sample with each present class: these terms contain two sums, and are computed separately.
        let own: Vec<T> = scores.chunks(classes).flat_map(|row| groups.classes.iter().map(|&c| row[c])).collect();
        let log_size = |a: usize| T::from_f64((groups.members[a].len() as f64).ln());
        // Exponents of the terms of p_a and A_ab, including their factor 1/n_a.
        let pull = |a: usize, i: usize| alpha * (base - own[i * present + a]) - log_size(a);
        let push = |a: usize, i: usize, b: usize| beta * (own[i * present + b] - base) - log_size(a);
        // log A_ab
        let logs: Vec<T> = (0..present * present)
            .map(|at| (at / present, at % present))
            .map(|(a, b)| log_sum_exp(groups.members[a].iter().map(|&i| push(a, i, b))))
            .collect();

        let mut members: Vec<Vec<(usize, &mut [T])>> = Vec::new();
        members.resize_with(present, Vec::new);
        let mut position = vec![0; classes];
        groups.classes.iter().enumerate().for_each(|(a, &c)| position[c] = a);
        for ((i, row), &label) in scores.chunks_mut(classes).enumerate().zip(labels) {
            groups.classes.iter().for_each(|&c| row[c] = T::from_f64(f64::NEG_INFINITY));
            members[position[label as usize]].push((i, row));
        }
        let sums: Vec<(f64, f64)> = members
            .into_par_iter()
            .enumerate()
            .map(|(a, mut members)| {
                let mut negative = 0.0;
                for first in (0..classes).step_by(COLUMNS) {
                    let columns = first..classes.min(first + COLUMNS);
                    let rows = members.iter_mut().map(|(_, row)| &mut row[columns.clone()]);
                    // An absent class counts as (a, c) and (c, a).
                    negative += soft_maxima(rows.collect(), beta, base, log_size(a), each);
                }
                let both = |b: usize| log_1p_sum_exp([logs[a * present + b], logs[b * present + a]].into_iter());
                let positive = log_1p_sum_exp(members.iter().map(|(i, _)| pull(a, *i)));
                for (b, &c) in groups.classes.iter().enumerate() {
                    let log = both(b);
                    negative += if b == a { 0.0 } else { 0.5 * log.to_f64() };
                    for (i, row) in &mut members {
                        row[c] = match b == a {
                            true => -each * (pull(a, *i) - positive).exp(),
                            false => each * (push(a, *i, b) - log).exp(),
                        };
                    }
                }
                (positive.to_f64(), negative)
            })
            .collect();
        let (positive, negative) = sums.iter().fold((0.0, 0.0), |sum, term| (sum.0 + term.0, sum.1 + term.1));
        positive / (self.alpha * present as f64) + negative / (self.beta * present as f64)
    }
}

/// The sum over columns of `log(1 + sum over rows of exp(beta (q - base) - log_size))`. Each `q` is overwritten by `each` times the
/// derivative with respect to its exponent.
fn soft_maxima<T: Real>(mut rows: Vec<&mut [T]>, beta: T, base: T, log_size: T, each: T) -> f64 {
    let mut total = 0.0;
    let (mut tops, mut sums) = ([T::ZERO; COLUMNS], [T::ZERO; COLUMNS]);
    vectorise(
        #[inline(always)]
        || {
            for row in &mut rows {
                for (q, top) in row.iter_mut().zip(&mut tops) {
                    *q = beta * (*q - base) - log_size;
                    *top = q.max(*top);
                }
            }
            for row in &mut rows {
                for ((q, &top), sum) in row.iter_mut().zip(&tops).zip(&mut sums) {
                    *q = (*q - top).exp();
                    *sum += *q;
                }
            }
            for (top, sum) in tops.iter_mut().zip(&mut sums) {
                let one = (-*top).exp();
                let log = *top + (*sum + (one - T::ONE)).ln_1p();
                *sum = each / (one + *sum);
                *top = log;
            }
            for row in &mut rows {
                row.iter_mut().zip(&sums).for_each(|(q, &share)| *q *= share);
            }
            // Columns beyond the last have no term.
            total = rows::sum(
                &tops,
                #[inline(always)]
                |log| log.to_f64(),
            );
        },
    );
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference_with_and_without_the_penalty() {
        testing::equals_reference("mean_field_class_wise_multi_similarity", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        let loss = MeanFieldClassWiseMultiSimilarity { alpha: 2.0, beta: 10.0, base: 0.3, mf_reg: 0.0, mf_power: 2.0 };
        testing::slopes(&loss);
        testing::slopes(&MeanFieldClassWiseMultiSimilarity { mf_reg: 0.7, mf_power: 3.0, ..loss });
    }

    #[test]
    fn one_sample_and_one_absent_class_give_the_value_on_paper() {
        let loss = MeanFieldClassWiseMultiSimilarity { alpha: 1.0, beta: 2.0, base: 0.5, mf_reg: 0.0, mf_power: 2.0 };
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let value: f64 = loss.evaluate(batch, 2, &[&[3.0, 0.0, 3.0, 4.0]], &mut Gradients::default()).unwrap();
        // p = exp(0.5 - 1); A = exp(2 (0.6 - 0.5)), counted twice over 2 beta.
        let expected = (1.0 + (-0.5f64).exp()).ln() + (1.0 + 0.2f64.exp()).ln() / 2.0;
        assert!((value - expected).abs() <= 1e-15, "{value} {expected}");
    }
}
