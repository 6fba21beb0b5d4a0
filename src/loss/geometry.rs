//! Checked batches, unit vectors, their cosines, and the way back from gradients of cosines to gradients of raw vectors.

use rayon::prelude::*;

use super::real::{Onto, Real, View, dot, product};
use super::{Batch, Gradients, Init, LossError, Parameter};

/// Norms below this divide as if they were this, as in the reference implementations.
const SMALLEST_NORM: f64 = 1e-12;

/// Rows divided by their L2 norms.
///
/// A row shorter than 1e-12 is divided by 1e-12 instead: a zero row stays zero, its cosine with everything is 0, and
/// its gradient is the incoming one times 1e12.
#[derive(Debug, Clone)]
pub struct Units<T> {
    /// `count x dim`, row-major.
    pub rows: Vec<T>,
    /// Number of rows.
    pub count: usize,
    /// Length of a row.
    pub dim: usize,
    norms: Vec<Norm<T>>,
}

/// A norm as a product of two factors, since the square of one element, or the norm itself, may overflow.
#[derive(Debug, Clone, Copy)]
struct Norm<T> {
    largest: T,
    relative: T,
    floored: bool,
}

impl<T: Real> Units<T> {
    /// Normalises the rows of `raw`, `count x dim`.
    pub fn new(raw: &[T], dim: usize) -> Self {
        let mut rows = raw.to_vec();
        let norms = rows
            .par_chunks_mut(dim)
            .map(|row| {
                let mut norm = Norm { largest: T::of(SMALLEST_NORM), relative: T::ONE, floored: true };
                let largest = row.iter().fold(T::ZERO, |m, x| m.max(x.abs()));
                if largest > T::ZERO {
                    let squares: T = row.iter().fold(T::ZERO, |s, &x| s + (x / largest) * (x / largest));
                    let relative = squares.sqrt();
                    if largest.to_f64() * relative.to_f64() >= SMALLEST_NORM {
                        norm = Norm { largest, relative, floored: false };
                    }
                }
                row.iter_mut().for_each(|x| *x = *x / norm.largest / norm.relative);
                norm
            })
            .collect();
        Self { count: raw.len() / dim, rows, dim, norms }
    }

    /// All rows as a matrix.
    pub fn view(&self) -> View<'_, T> {
        View::new(&self.rows, self.count, self.dim)
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[T] {
        &self.rows[i * self.dim..(i + 1) * self.dim]
    }

    /// Turns the gradient of the unit rows into that of the raw rows, in place: `(g - (g . u) u) / norm`.
    pub fn pull_back(&self, gradient: &mut [T]) {
        gradient.par_chunks_mut(self.dim).zip(self.rows.par_chunks(self.dim)).zip(&self.norms).for_each(
            |((g, u), norm)| {
                let radial = if norm.floored { T::ZERO } else { dot(g, u) };
                for (g, &u) in g.iter_mut().zip(u) {
                    *g = (*g - radial * u) / norm.relative / norm.largest;
                }
            },
        );
    }

    /// Cosines of each row with each of `others`: `count x others.count`.
    pub fn cosines(&self, others: &Self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.count * others.count];
        product(self.view(), others.view().transposed(), Onto::Replace, &mut out);
        out
    }
}

/// Checks a batch and returns its unit embeddings.
pub fn embeddings<T: Real>(batch: Batch<'_, T>, classes: usize) -> Result<Units<T>, LossError> {
    if batch.labels.is_empty() || batch.dim == 0 {
        return Err(LossError::Empty { labels: batch.labels.len(), dim: batch.dim });
    }
    checked("embeddings", batch.embeddings, batch.labels.len(), batch.dim)?;
    match batch.labels.iter().position(|&label| label as usize >= classes) {
        Some(position) => Err(LossError::Label { label: batch.labels[position], position, classes }),
        None => Ok(Units::new(batch.embeddings, batch.dim)),
    }
}

/// Checks that a loss without parameters was given none.
pub fn no_parameters<T: Real>(parameters: &[&[T]]) -> Result<(), LossError> {
    matrices(&[], parameters)
}

/// Checks the one parameter matrix of a loss, `rows x dim`, and returns its unit rows.
pub fn class_vectors<T: Real>(
    name: &'static str,
    parameters: &[&[T]],
    rows: usize,
    dim: usize,
) -> Result<Units<T>, LossError> {
    matrices(&[Parameter { name, rows, cols: dim, init: Init::Normal }], parameters)?;
    Ok(Units::new(parameters[0], dim))
}

/// Checks that `given` are the matrices that a loss learns.
pub fn matrices<T: Real>(expected: &[Parameter], given: &[&[T]]) -> Result<(), LossError> {
    if expected.len() != given.len() {
        let (found, expected) = (given.len(), expected.len());
        return Err(LossError::Shape { what: "the list of parameters".into(), found, expected });
    }
    expected.iter().zip(given).try_for_each(|(matrix, values)| checked(matrix.name, values, matrix.rows, matrix.cols))
}

fn checked<T: Real>(what: &str, values: &[T], rows: usize, dim: usize) -> Result<(), LossError> {
    let expected = rows.saturating_mul(dim);
    if values.len() != expected {
        return Err(LossError::Shape { what: format!("{what}, {rows} x {dim},"), found: values.len(), expected });
    }
    match values.iter().position(|x| !x.is_finite()) {
        Some(position) => Err(LossError::NotFinite { what: what.into(), position }),
        None => Ok(()),
    }
}

/// `buffer` as `length` zeros, reusing its memory.
pub fn zeros<T: Real>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    buffer.clear();
    buffer.resize(length, T::ZERO);
    buffer
}

/// Writes the gradients of a loss of the cosines of all pairs, given its gradient with respect to those `B x B`
/// cosines as independent entries.
pub fn from_cosines<T: Real>(units: &Units<T>, gradient: &[T], gradients: &mut Gradients<T>) {
    gradients.parameters.clear();
    let out = zeros(&mut gradients.embeddings, units.rows.len());
    cosine_gradient(units, units.view(), gradient, true, out);
    units.pull_back(out);
}

/// Adds the gradient with respect to the unit rows of a loss of their cosines with `references`, given its gradient with
/// respect to those cosines. With `both` the references are the rows, and move too.
pub fn cosine_gradient<T: Real>(units: &Units<T>, references: View<'_, T>, gradient: &[T], both: bool, out: &mut [T]) {
    let gradient = View::new(gradient, units.count, gradient.len() / units.count);
    product(gradient, references, Onto::Add, out);
    if both {
        product(gradient.transposed(), units.view(), Onto::Add, out);
    }
}

/// Writes the gradients of a loss of the cosines between embeddings and class vectors, given its gradient with respect
/// to those `B x rows` cosines. The parameter's gradient starts as `unit_gradient`, with respect to the unit rows.
pub fn from_scores<T: Real>(
    embeddings: &Units<T>,
    vectors: &Units<T>,
    gradient: &[T],
    unit_gradient: Option<&[T]>,
    gradients: &mut Gradients<T>,
) {
    let gradient = View::new(gradient, embeddings.count, vectors.count);
    let out = zeros(&mut gradients.embeddings, embeddings.rows.len());
    product(gradient, vectors.view(), Onto::Replace, out);
    embeddings.pull_back(out);

    gradients.parameters.resize_with(1, Vec::new);
    let out = zeros(&mut gradients.parameters[0], vectors.rows.len());
    if let Some(start) = unit_gradient {
        out.copy_from_slice(start);
    }
    product(gradient.transposed(), embeddings.view(), Onto::Add, out);
    vectors.pull_back(out);
}

/// The samples of a batch, class by class.
#[derive(Debug, Clone)]
pub struct Groups {
    /// The classes present, ascending.
    pub classes: Vec<usize>,
    /// For each of them, its positions in the batch, ascending.
    pub members: Vec<Vec<usize>>,
}

impl Groups {
    /// Groups the positions of `labels`.
    pub fn new(labels: &[u32]) -> Self {
        let mut groups = std::collections::BTreeMap::<usize, Vec<usize>>::new();
        for (position, &label) in labels.iter().enumerate() {
            groups.entry(label as usize).or_default().push(position);
        }
        let (classes, members) = groups.into_iter().unzip();
        Self { classes, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_scale_become_unit_and_only_shorter_ones_than_the_floor_do_not() {
        for scale in [3e38f32, 1e30, 1.0, 1e-11] {
            let u = Units::new(&[0.6 * scale, -0.8 * scale], 2);
            assert!((u.rows[0] - 0.6).abs() <= 1e-6 && (u.rows[1] + 0.8).abs() <= 1e-6, "{scale}: {:?}", u.rows);
        }
        assert_eq!(Units::new(&[0.0f64, 0.0], 2).rows, [0.0, 0.0]);
        assert!((Units::new(&[6e-14f64, 8e-14], 2).rows[1] - 0.08).abs() <= 1e-12);
    }

    #[test]
    fn the_pull_back_is_orthogonal_to_the_row_and_shrinks_with_its_norm() {
        let u = Units::new(&[3.0f64, 4.0], 2);
        let mut g = [1.0, 0.0];
        u.pull_back(&mut g);
        // (I - u u^T) (1, 0) / 5 with u = (0.6, 0.8)
        assert!((g[0] - 0.64 / 5.0).abs() <= 1e-15 && (g[1] + 0.48 / 5.0).abs() <= 1e-15, "{g:?}");
    }

    #[test]
    fn groups_are_ascending_in_class_and_position() {
        let g = Groups::new(&[7, 2, 7, 0]);
        assert_eq!(g.classes, [0, 2, 7]);
        assert_eq!(g.members, [vec![3], vec![1], vec![0, 2]]);
    }
}
