//! From the cost of a pair to two losses: the sum over pairs, and its mean-field form.
//!
//! A [`PairTerm`] is written once. [`PairBased`] sums it over the pairs of a batch; [`MeanField`] replaces one sample of
//! each pair by a learned vector of its class. `docs/losses.md` derives the second from the first.

use rayon::prelude::*;

use super::geometry::{
    ClassVectors, Groups, UnitGradient, class_vectors, embeddings, from_cosines, from_scores, no_parameters,
};
use super::penalty::closeness;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::real::Real;

/// The cost of two unit vectors as a function of their cosine `s`.
///
/// ```
/// use meanfield::loss::pairwise::{MeanField, PairTerm};
///
/// /// Squared distance pulls, a cosine above 0 pushes.
/// #[derive(Clone)]
/// struct Square;
///
/// impl PairTerm<f64> for Square {
///     fn positive(&self, s: f64) -> (f64, f64) {
///         (2.0 - 2.0 * s, -2.0)
///     }
///     fn negative(&self, s: f64) -> (f64, f64) {
///         let x = s.max(0.0);
///         (x * x, 2.0 * x)
///     }
/// }
///
/// // A loss like any other: embeddings compared with one learned vector per class.
/// let _loss = MeanField::new(Square);
/// ```
pub trait PairTerm<T>: Clone + Send + Sync + 'static {
    /// The cost of two vectors of one class, and its derivative with respect to `s`.
    fn positive(&self, s: T) -> (T, T);

    /// The cost of two vectors of different classes, at least 0 and non-decreasing, and its derivative with respect to `s`.
    fn negative(&self, s: T) -> (T, T);
}

/// The loss over all pairs of a batch, with equal weight for all classes and all pairs of classes.
///
/// ```text
/// L = 1/(2K) sum_c { 1/n_c^2 sum_{i,j in c} positive(s_ij) + sum_{d != c} 1/(n_c n_d) sum_{i in c, j in d} negative(s_ij) }
/// ```
///
/// `s` cosines of embeddings, `c` and `d` the `K` classes present, `n_c` the samples of class `c`; `i = j` is included.
///
/// # Shapes
/// Embeddings `B x D`; no parameters.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBased<P>(pub P);

impl<T: Real, P: PairTerm<T>> Loss<T> for PairBased<P> {
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
        let term = &self.0;
        class_wise(batch, classes, parameters, gradients, 0.5, |s, i, groups| {
            let mut total = 0.0;
            for (d, members) in groups.members.iter().enumerate() {
                let own = d == groups.of[i];
                let mut sum = 0.0;
                for &j in members {
                    let (cost, slope) = if own { term.positive(s[j]) } else { term.negative(s[j]) };
                    sum += cost.to_f64();
                    s[j] = slope * T::from_f64(1.0 / members.len() as f64);
                }
                total += sum / members.len() as f64;
            }
            total
        })
    }
}

/// The samples of a batch grouped by class, and the index of each sample's class among those present.
pub(super) struct Members {
    pub members: Vec<Vec<usize>>,
    pub of: Vec<usize>,
}

/// A loss of the cosines between all samples, averaged over the samples of a class and then over the `K` classes:
/// `factor / K sum_c 1/n_c sum_{i in c} anchor_i`.
///
/// `anchor` is given the `B` cosines of sample `i`; it returns its cost and overwrites them by the derivatives.
pub(super) fn class_wise<T: Real>(
    batch: Batch<'_, T>,
    classes: usize,
    parameters: &[&[T]],
    gradients: &mut Gradients<T>,
    factor: f64,
    anchor: impl Fn(&mut [T], usize, &Members) -> f64 + Sync,
) -> Result<T, LossError> {
    no_parameters(parameters)?;
    let units = embeddings(batch, classes)?;
    let groups = Groups::new(batch.labels);
    let mut of = vec![0; units.count];
    for (place, members) in groups.members.iter().enumerate() {
        members.iter().for_each(|&i| of[i] = place);
    }
    let groups = Members { members: groups.members, of };
    // Overwrites the cosines by the gradient with respect to them.
    let mut cosines = units.cosines(&units);
    let costs: Vec<f64> = cosines
        .par_chunks_mut(units.count)
        .enumerate()
        .map(|(i, row)| {
            let weight = factor / (groups.members.len() * groups.members[groups.of[i]].len()) as f64;
            let cost = anchor(row, i, &groups);
            row.iter_mut().for_each(|slope| *slope *= T::from_f64(weight));
            weight * cost
        })
        .collect();
    from_cosines(&units, &cosines, gradients);
    Ok(T::from_f64(costs.iter().sum()))
}

/// The mean-field form of a pair-based loss.
///
/// ```text
/// L = 1/B sum_i { positive(q_{i,y_i}) + sum_{c != y_i} negative(q_ic) }
///   + mf_reg / C sum_c sum_{d != c} negative(m_c . m_d)^mf_power
///   - mf_dropped { positive(1) / 2 + 1/(2C) sum_c sum_{d != c} negative(m_c . m_d) }
/// ```
///
/// `q_ic = e_i . m_c`, `e` unit embeddings, `m` unit mean fields. The sums over classes run over all `C`, present in the
/// batch or not. The second line keeps mean fields apart; the third contains the terms of the first-order expansion of the pairs that
/// the paper's mean-field losses drop: it pulls mean fields together.
///
/// # Shapes
/// Embeddings `B x D`; `mean_fields` `C x D`.
///
/// # Cost
/// O(B C D) time, O(B C) memory; with `mf_reg` or `mf_dropped` above 0 also O(C^2 D) time for each, in tiles of 256
/// classes.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanField<P> {
    /// The cost of a pair.
    pub term: P,
    /// Weight of the penalty on close mean fields, at least 0.
    pub mf_reg: f64,
    /// Exponent of that penalty, at least 1.
    pub mf_power: f64,
    /// Weight of the dropped terms, in [0, 1].
    pub mf_dropped: f64,
}

impl<P> MeanField<P> {
    /// Without penalty and dropped terms.
    pub fn new(term: P) -> Self {
        Self { term, mf_reg: 0.0, mf_power: 2.0, mf_dropped: 0.0 }
    }
}

impl<T: Real, P: PairTerm<T>> Loss<T> for MeanField<P> {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "mean_fields", rows: classes, cols: dim, init: Init::Normal }]
    }

    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        Some(Box::new(PairBased(self.term.clone())))
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let term = &self.term;
        let row = |scores: &mut [T], label: usize| {
            let mut sum = 0.0;
            for (class, score) in scores.iter_mut().enumerate() {
                let (cost, slope) = if class == label { term.positive(*score) } else { term.negative(*score) };
                sum += cost.to_f64();
                *score = slope;
            }
            sum
        };
        let between = [(self.mf_reg, self.mf_power), (-0.5 * self.mf_dropped, 1.0)];
        let value = sample_wise(batch, classes, parameters, gradients, row, |fields, gradient| {
            repulsion(fields, &between, |s| term.negative(s), gradient)
        })?;
        let constant = 0.5 * self.mf_dropped * term.positive(T::ONE).0.to_f64();
        Ok(T::from_f64(value - constant))
    }
}

/// A loss of the cosines between samples and mean fields, averaged over the samples, plus one of the mean fields alone.
///
/// `row` is given the `C` cosines of a sample and its label; it returns its cost and overwrites them by the
/// derivatives. `alone` adds its gradient to its second argument, if it has any.
pub(super) fn sample_wise<T: Real>(
    batch: Batch<'_, T>,
    classes: usize,
    parameters: &[&[T]],
    gradients: &mut Gradients<T>,
    row: impl Fn(&mut [T], usize) -> f64 + Sync,
    alone: impl FnOnce(&ClassVectors<'_, T>, &mut UnitGradient<T>) -> f64,
) -> Result<f64, LossError> {
    let units = embeddings(batch, classes)?;
    let fields = class_vectors("mean_fields", parameters, classes, batch.dim)?;
    let each = T::from_f64(1.0 / units.count as f64);
    let mut scores = units.scores(&fields);
    let costs: Vec<f64> = scores
        .par_chunks_mut(classes)
        .zip(batch.labels)
        .map(|(scores, &label)| {
            let cost = row(scores, label as usize);
            scores.iter_mut().for_each(|slope| *slope *= each);
            cost
        })
        .collect();
    let mut unit_gradient = UnitGradient::none(gradients);
    let value = costs.iter().sum::<f64>() / units.count as f64 + alone(&fields, &mut unit_gradient);
    from_scores(&units, &fields, &scores, unit_gradient, gradients);
    Ok(value)
}

/// `sum over (weight, power) of weight / C sum_c sum_{d != c} cost(m_c . m_d)^power`, skipped if the weight is 0.
pub(super) fn repulsion<T: Real>(
    fields: &ClassVectors<'_, T>,
    weights: &[(f64, f64)],
    cost: impl Fn(T) -> (T, T) + Sync,
    gradient: &mut UnitGradient<T>,
) -> f64 {
    let mut value = 0.0;
    for &(weight, power) in weights.iter().filter(|(weight, _)| *weight != 0.0) {
        value += closeness(fields, weight, power, &cost, gradient);
    }
    value
}
