//! The frame shared by most losses: compare the embeddings of a batch with references, apply a formula to the matrix of
//! comparisons, and propagate the gradient of that matrix back to the raw vectors.

use rayon::prelude::*;

use super::geometry::{UnitGradient, Units, class_vectors, embeddings, from_scores, matrices, zeros};
use super::measure::Measure;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::real::Real;

/// The references that unit embeddings are compared with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Against {
    /// The other samples of the batch (and, under cross-batch memory, those of past batches).
    Samples(Measure),
    /// One learned vector per class, by cosine: the name of that matrix, and its initialisation.
    ClassVectors(&'static str, Init),
}

/// A loss that is a function of a matrix of comparisons; implementing this is enough to be a [`Loss`].
pub trait Formula: Send + Sync {
    /// What is compared.
    fn against(&self) -> Against;

    /// The value. Overwrites the comparisons by the gradient with respect to them.
    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64;

    /// A further matrix that a loss of samples learns; its values and gradient are in the [`Table`].
    fn learned(&self, _classes: usize) -> Option<Parameter> {
        None
    }

    /// The cost of the unit embeddings themselves; adds its gradient with respect to them.
    fn regulariser<T: Real>(&self, _units: &Units<T>, _gradient: &mut [T]) -> f64 {
        0.0
    }
}

impl<T: Real, L: Formula> Loss<T> for L {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        match self.against() {
            Against::Samples(_) => self.learned(classes).into_iter().collect(),
            Against::ClassVectors(name, init) => vec![Parameter { name, rows: classes, cols: dim, init }],
        }
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let units = embeddings(batch, classes)?;
        match self.against() {
            Against::Samples(_) => {
                let references = References { rows: &units.rows, labels: batch.labels, first: 0, constant: false };
                self.with_references(&units, batch.labels, references, classes, parameters, gradients)
            }
            Against::ClassVectors(name, _) => {
                let vectors = class_vectors(name, parameters, classes, batch.dim)?;
                let mut scores = units.scores(&vectors);
                let mut table = Table::new(&mut scores, batch.labels, classes);
                let value = self.value(&mut table);
                let unit_gradient = UnitGradient::none(gradients);
                from_scores(&units, &vectors, &scores, unit_gradient, gradients);
                Ok(T::from_f64(value))
            }
        }
    }
}

/// The samples that the batch is compared with.
#[derive(Debug, Clone, Copy)]
pub struct References<'a, T> {
    /// `R x D` unit vectors.
    pub rows: &'a [T],
    /// Their classes.
    pub labels: &'a [u32],
    /// Sample `i` of the batch is reference `(first + i) % R`, with which it is not compared.
    pub first: usize,
    /// Whether the references are constants; if not, they are the batch.
    pub constant: bool,
}

/// A loss of samples whose references may differ from the batch.
pub trait OfSamples<T>: Loss<T> {
    /// The value for a batch with unit embeddings `units`; else as [`Loss::evaluate`].
    fn with_references(
        &self,
        units: &Units<T>,
        labels: &[u32],
        references: References<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError>;
}

impl<T: Real, L: Formula> OfSamples<T> for L {
    fn with_references(
        &self,
        units: &Units<T>,
        labels: &[u32],
        references: References<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        matrices(&Loss::<T>::parameters(self, classes, units.dim), parameters)?;
        let Against::Samples(measure) = self.against() else { return Err(LossError::NotOfSamples) };
        let matrix = measure.matrix(units, references.rows);
        let mut cells = matrix.clone();
        let mut table = Table::new(&mut cells, labels, references.labels.len());
        (table.references, table.first) = (references.labels, references.first);
        table.learned = parameters.first().copied().unwrap_or_default();
        table.learned_gradient = vec![T::ZERO; table.learned.len()];
        let value = self.value(&mut table);
        gradients.parameters.clear();
        gradients.parameters.extend(parameters.first().map(|_| table.learned_gradient));

        let out = zeros(&mut gradients.embeddings, units.rows.len());
        measure.pull_back(units, references.rows, &matrix, &cells, !references.constant, out);
        let value = value + self.regulariser(units, out);
        units.pull_back(out);
        Ok(T::from_f64(value))
    }
}

/// A matrix of comparisons with one row per sample.
#[derive(Debug)]
pub struct Table<'a, T> {
    /// Row-major; comparisons first, then the gradient with respect to them.
    pub cells: &'a mut [T],
    /// The class of each row.
    pub labels: &'a [u32],
    /// Entries per row: the number of classes or references.
    pub width: usize,
    /// The matrix of [`Formula::learned`]; empty without one.
    pub learned: &'a [T],
    /// The gradient with respect to it, zero at first.
    pub learned_gradient: Vec<T>,
    references: &'a [u32],
    first: usize,
}

/// One row of a [`Table`] of samples.
#[derive(Debug)]
pub struct Anchor<'a, T> {
    /// The class of the anchor.
    pub label: usize,
    /// Its comparisons with the references.
    pub cells: &'a mut [T],
    /// Indices of the other references of its class, ascending.
    pub positives: Vec<usize>,
    /// Indices of the references of other classes, ascending.
    pub negatives: Vec<usize>,
}

impl<'a, T: Real> Table<'a, T> {
    fn new(cells: &'a mut [T], labels: &'a [u32], width: usize) -> Self {
        Self { cells, labels, width, learned: &[], learned_gradient: Vec::new(), references: &[], first: 0 }
    }

    /// What `row` returns for each anchor after changing its entries. The anchor's comparison with itself becomes 0.
    pub fn anchors<R: Send>(&mut self, row: impl Fn(Anchor<'_, T>) -> R + Sync) -> Vec<R> {
        let (labels, references, first) = (self.labels, self.references, self.first);
        let run = |(i, cells): (usize, &mut [T])| {
            let own = (first + i) % references.len();
            cells[own] = T::ZERO;
            let (positives, negatives) =
                (0..references.len()).filter(|&j| j != own).partition(|&j| references[j] == labels[i]);
            row(Anchor { label: labels[i] as usize, cells, positives, negatives })
        };
        self.cells.par_chunks_mut(self.width).enumerate().map(run).collect()
    }

    /// The mean over the terms of all anchors, 0 for no terms.
    ///
    /// `row` returns the sum of an anchor's terms and their number, and writes the derivatives of that sum to the entries of
    /// its positives and negatives.
    pub fn mean(&mut self, row: impl Fn(Anchor<'_, T>) -> (f64, f64) + Sync) -> Mean {
        let all = self.anchors(row);
        let (sum, terms) = all.iter().fold((0.0, 0.0), |(sum, terms), row| (sum + row.0, terms + row.1));
        let each = 1.0 / f64::max(terms, 1.0);
        self.cells.iter_mut().for_each(|g| *g *= T::from_f64(each));
        Mean { value: sum * each, terms }
    }
}

/// A mean over terms.
#[derive(Debug, Clone, Copy)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// The number of terms.
    pub terms: f64,
}
