//! Checked batches, unit vectors, their cosines, and the backward pass from gradients of cosines to gradients of raw vectors.

use rayon::prelude::*;

use super::{Batch, Gradients, LossError, Parameter};
use crate::math::product::{Onto, View, product, serial_product};
use crate::math::real::Real;
use crate::math::rows::dot;
use crate::math::rows::{add_scaled, largest, sum};
use crate::math::simd::vectorise;

/// Smaller norms are replaced by this as divisors, as in the reference implementations.
const SMALLEST_NORM: f64 = 1e-12;

/// A row and the factors that normalise it.
///
/// A row shorter than 1e-12 is divided by 1e-12 instead: a zero row stays zero, its cosine with any vector is 0, and
/// its gradient is the incoming one times 1e12.
///
/// The inverse is a product of two factors, since the square of one element, or the norm itself, may overflow.
#[derive(Debug, Clone, Copy)]
struct Norm<T> {
    /// A power of two that brings the largest element next to 1.
    power: T,
    inverse: T,
    floored: bool,
    /// No element is NaN or infinite.
    finite: bool,
}

impl<T: Real> Norm<T> {
    #[inline(always)]
    fn of(row: &[T]) -> Self {
        let largest = largest(
            row,
            T::ZERO,
            #[inline(always)]
            |x| x.abs(),
        );
        // 0 unless an element is NaN or infinite.
        let zeros: T = sum(
            row,
            #[inline(always)]
            |x| x * T::ZERO,
        );
        let finite = zeros == T::ZERO;
        let floored = Self { power: T::from_f64(1.0 / SMALLEST_NORM), inverse: T::ONE, floored: true, finite };
        if !finite || largest.to_f64() * (row.len() as f64).sqrt() < SMALLEST_NORM {
            return floored;
        }
        // The exponent negated; the largest exponent has no counterpart, so the next smaller one is used.
        let exponent = (largest.to_f64().to_bits() >> 52).min(2045);
        let power = T::from_f64(f64::from_bits((2046 - exponent) << 52));
        let squares: T = sum(
            row,
            #[inline(always)]
            |x| (x * power) * (x * power),
        );
        let length = squares.sqrt();
        match length.to_f64() < SMALLEST_NORM * power.to_f64() {
            true => floored,
            false => Self { power, inverse: T::ONE / length, floored: false, finite },
        }
    }

    /// Writes the unit row to `out`.
    #[inline(always)]
    fn divide(self, row: &[T], out: &mut [T]) {
        out.iter_mut().zip(row).for_each(|(out, &x)| *out = x * self.power * self.inverse);
    }

    /// Converts the gradient of the unit row `u` to that of the raw row: `(g - (g . u) u) / norm`.
    #[inline(always)]
    fn pull_back(self, gradient: &mut [T], u: &[T]) {
        let radial = if self.floored { T::ZERO } else { dot(gradient, u) };
        gradient.iter_mut().zip(u).for_each(|(g, &u)| *g = (*g - radial * u) * self.inverse * self.power);
    }
}

/// The norm of each row of a matrix.
fn norms<T: Real>(raw: &[T], dim: usize) -> Vec<Norm<T>> {
    let mut norms = vec![Norm { power: T::ONE, inverse: T::ONE, floored: true, finite: true }; raw.len() / dim];
    norms.par_chunks_mut(TILE).zip(raw.par_chunks(TILE * dim)).for_each(|(norms, raw)| {
        vectorise(
            #[inline(always)]
            || norms.iter_mut().zip(raw.chunks(dim)).for_each(|(norm, row)| *norm = Norm::of(row)),
        );
    });
    norms
}

/// The L2-normalised embeddings of a batch.
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

impl<T: Real> Units<T> {
    /// Normalises the rows of `raw`, `count x dim`.
    pub fn new(raw: &[T], dim: usize) -> Self {
        Self::with(raw, dim, norms(raw, dim))
    }

    fn with(raw: &[T], dim: usize, norms: Vec<Norm<T>>) -> Self {
        let vectors = ClassVectors { raw, count: norms.len(), dim, norms };
        Self { rows: vectors.units(), count: vectors.count, dim, norms: vectors.norms }
    }

    /// All rows as a matrix.
    pub fn view(&self) -> View<'_, T> {
        View::new(&self.rows, self.count, self.dim)
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[T] {
        &self.rows[i * self.dim..(i + 1) * self.dim]
    }

    /// Converts the gradient of the unit rows to that of the raw rows, in place.
    pub fn pull_back(&self, gradient: &mut [T]) {
        let rows = gradient.par_chunks_mut(self.dim).zip(self.rows.par_chunks(self.dim)).zip(&self.norms);
        rows.for_each(|((gradient, u), norm)| {
            vectorise(
                #[inline(always)]
                || norm.pull_back(gradient, u),
            );
        });
    }

    /// Cosines of each row with each of `others`: `count x others.count`.
    pub fn cosines(&self, others: &Self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.count * others.count];
        product(self.view(), View::new(&others.turned(), self.dim, others.count), Onto::Replace, &mut out);
        out
    }

    /// Cosines of each row with each class vector: `count x vectors.count`.
    pub fn scores(&self, vectors: &ClassVectors<'_, T>) -> Vec<T> {
        let (count, dim) = (self.count, self.dim);
        let turned = self.turned();
        let turned = View::new(&turned, dim, count);
        let tile = vectors.tile();
        let mut out = vec![T::ZERO; count * vectors.count];
        // Each tile's part of every row.
        let mut parts: Vec<Vec<&mut [T]>> = Vec::new();
        parts.resize_with(vectors.count.div_ceil(tile), || Vec::with_capacity(count));
        for row in out.chunks_mut(vectors.count) {
            parts.iter_mut().zip(row.chunks_mut(tile)).for_each(|(parts, part)| parts.push(part));
        }
        parts.into_par_iter().enumerate().for_each_init(
            || (vec![T::ZERO; tile * dim], vec![T::ZERO; tile * count]),
            |(units, cosines), (index, mut parts)| {
                let first = index * tile;
                let width = tile.min(vectors.count - first);
                let units = &mut units[..width * dim];
                let cosines = &mut cosines[..width * count];
                vectors.write_units(first, units);
                // With the class vectors as left operand no operand is read across its rows, which would halve gemm's rate.
                serial_product(View::new(units, width, dim), turned, Onto::Replace, cosines);
                turn(cosines, count, &mut parts);
            },
        );
        out
    }

    /// The transpose, row-major.
    fn turned(&self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.rows.len()];
        let mut parts: Vec<&mut [T]> = out.chunks_mut(self.count).collect();
        turn(&self.rows, self.dim, &mut parts);
        out
    }
}

/// Writes column `i` of `from`, a matrix of rows of length `cols`, to `out[i]`.
pub fn turn<T: Real>(from: &[T], cols: usize, out: &mut [&mut [T]]) {
    // Few columns at a time, so that their cache lines fill together.
    const COLUMNS: usize = 16;
    for (block, out) in out.chunks_mut(COLUMNS).enumerate() {
        for (at, row) in from.chunks(cols).enumerate() {
            for (out, &x) in out.iter_mut().zip(&row[block * COLUMNS..]) {
                out[at] = x;
            }
        }
    }
}

/// The vectors that a loss learns, and their norms.
///
/// Unit rows exist only tile by tile, in cache: a matrix of them would have to be written to memory and read back twice.
#[derive(Debug, Clone)]
pub struct ClassVectors<'a, T> {
    /// `count x dim`, row-major, as the loss learns them.
    raw: &'a [T],
    /// Number of rows.
    pub count: usize,
    /// Length of a row.
    pub dim: usize,
    norms: Vec<Norm<T>>,
}

/// Largest number of class vectors whose unit rows exist at once.
const TILE: usize = 128;
/// Largest number of partial sums of the gradient of the embeddings. Tiles of one partial sum run in order on one thread.
const PARTS: usize = 16;

impl<T: Real> ClassVectors<'_, T> {
    /// Rows of a tile, which depends on nothing but the shape: few enough that a small matrix has one tile per thread.
    fn tile(&self) -> usize {
        self.count.div_ceil(4).next_multiple_of(TILE / 4).min(TILE)
    }

    /// Writes unit rows from `first` on, as many as `out` holds.
    pub fn write_units(&self, first: usize, out: &mut [T]) {
        vectorise(
            #[inline(always)]
            || {
                let raw = self.raw[first * self.dim..].chunks(self.dim);
                for ((out, raw), norm) in out.chunks_mut(self.dim).zip(raw).zip(&self.norms[first..]) {
                    norm.divide(raw, out);
                }
            },
        );
    }

    /// All unit rows.
    pub fn units(&self) -> Vec<T> {
        let mut out = vec![T::ZERO; self.raw.len()];
        out.par_chunks_mut(TILE * self.dim).enumerate().for_each(|(tile, out)| self.write_units(tile * TILE, out));
        out
    }
}

/// Checks a batch and returns its unit embeddings.
pub fn embeddings<T: Real>(batch: Batch<'_, T>, classes: usize) -> Result<Units<T>, LossError> {
    if batch.labels.is_empty() || batch.dim == 0 {
        return Err(LossError::Empty { labels: batch.labels.len(), dim: batch.dim });
    }
    let norms = checked("embeddings", batch.embeddings, batch.labels.len(), batch.dim)?;
    match batch.labels.iter().position(|&label| label as usize >= classes) {
        Some(position) => Err(LossError::Label { label: batch.labels[position], position, classes }),
        None => Ok(Units::with(batch.embeddings, batch.dim, norms)),
    }
}

/// Checks that a loss without parameters was given none.
pub fn no_parameters<T: Real>(parameters: &[&[T]]) -> Result<(), LossError> {
    matrices(&[], parameters)
}

/// Checks the one parameter matrix of a loss, `rows x dim`.
pub fn class_vectors<'a, T: Real>(
    name: &'static str,
    parameters: &[&'a [T]],
    rows: usize,
    dim: usize,
) -> Result<ClassVectors<'a, T>, LossError> {
    match parameters {
        &[raw] => Ok(ClassVectors { norms: checked(name, raw, rows, dim)?, raw, count: rows, dim }),
        other => Err(wrong_number(other.len(), 1)),
    }
}

/// Checks that `given` are the matrices that a loss learns.
pub fn matrices<T: Real>(expected: &[Parameter], given: &[&[T]]) -> Result<(), LossError> {
    if expected.len() != given.len() {
        return Err(wrong_number(given.len(), expected.len()));
    }
    expected
        .iter()
        .zip(given)
        .try_for_each(|(matrix, values)| checked(matrix.name, values, matrix.rows, matrix.cols).map(drop))
}

fn wrong_number(found: usize, expected: usize) -> LossError {
    LossError::Shape { what: "the list of parameters".into(), found, expected }
}

/// The norms of a matrix of the right length with finite elements only.
fn checked<T: Real>(what: &str, values: &[T], rows: usize, dim: usize) -> Result<Vec<Norm<T>>, LossError> {
    let expected = rows.saturating_mul(dim);
    if values.len() != expected {
        return Err(LossError::Shape { what: format!("{what}, {rows} x {dim},"), found: values.len(), expected });
    }
    let norms = norms(values, dim);
    match norms.iter().position(|norm| !norm.finite) {
        Some(row) => {
            let at = values[row * dim..].iter().position(|x| !x.is_finite()).unwrap_or(0);
            Err(LossError::NotFinite { what: what.into(), position: row * dim + at })
        }
        None => Ok(norms),
    }
}

/// `buffer` with `length` elements of unspecified value, reusing its memory.
pub fn sized<T: Real>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    buffer.resize(length, T::ZERO);
    buffer
}

/// `buffer` as `length` zeros, reusing its memory.
pub fn zeros<T: Real>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    sized(buffer, length).fill(T::ZERO);
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
/// respect to those cosines. With `both` the references are the rows themselves and receive gradients too.
pub fn cosine_gradient<T: Real>(units: &Units<T>, references: View<'_, T>, gradient: &[T], both: bool, out: &mut [T]) {
    let gradient = View::new(gradient, units.count, gradient.len() / units.count);
    product(gradient, references, Onto::Add, out);
    if both {
        product(gradient.transposed(), units.view(), Onto::Add, out);
    }
}

/// A gradient with respect to unit class vectors, in the buffer of the parameter's gradient.
pub struct UnitGradient<T> {
    values: Vec<T>,
    begun: bool,
}

impl<T: Real> UnitGradient<T> {
    /// None yet. Takes the buffer of the first parameter's gradient.
    pub fn none(gradients: &mut Gradients<T>) -> Self {
        gradients.parameters.resize_with(1, Vec::new);
        Self { values: std::mem::take(&mut gradients.parameters[0]), begun: false }
    }

    /// All `length` elements, zeros at first.
    pub fn begin(&mut self, length: usize) -> &mut [T] {
        if !std::mem::replace(&mut self.begun, true) {
            zeros(&mut self.values, length);
        }
        &mut self.values
    }
}

/// Writes the gradients of a loss of the cosines between embeddings and class vectors, given its gradient with respect
/// to those `B x rows` cosines. `unit_gradient` is added to the parameter's gradient.
///
/// Tiles without gradient are skipped; of tiles with few entries (inactive hinges) only these are multiplied.
pub fn from_scores<T: Real>(
    embeddings: &Units<T>,
    vectors: &ClassVectors<'_, T>,
    gradient: &[T],
    unit_gradient: UnitGradient<T>,
    gradients: &mut Gradients<T>,
) {
    let (count, dim, tile) = (embeddings.count, embeddings.dim, vectors.tile());
    let onto = if unit_gradient.begun { Onto::Add } else { Onto::Replace };
    gradients.parameters[0] = unit_gradient.values;
    let out = sized(&mut gradients.parameters[0], vectors.raw.len());
    let part = vectors.count.div_ceil(tile).div_ceil(PARTS) * tile;
    let mut sums = vec![T::ZERO; vectors.count.div_ceil(part) * count * dim];
    out.par_chunks_mut(part * dim).zip(sums.par_chunks_mut(count * dim)).enumerate().for_each(|(index, (out, sum))| {
        let mut units = vec![T::ZERO; tile * dim];
        for (at, out) in out.chunks_mut(tile * dim).enumerate() {
            let first = index * part + at * tile;
            let tile = Tile { embeddings, vectors, gradient, first, width: out.len() / dim };
            tile.add(onto, &mut units[..out.len()], sum, out);
        }
    });
    let sums: Vec<&[T]> = sums.chunks(count * dim).collect();
    let out = sized(&mut gradients.embeddings, count * dim);
    out.par_chunks_mut(dim).enumerate().for_each(|(i, out)| {
        out.fill(T::ZERO);
        sums.iter().for_each(|sum| add_scaled(out, T::ONE, &sum[i * dim..(i + 1) * dim]));
    });
    embeddings.pull_back(out);
}

/// Consecutive class vectors, with the gradient of their cosines with all embeddings.
struct Tile<'a, T> {
    embeddings: &'a Units<T>,
    vectors: &'a ClassVectors<'a, T>,
    gradient: &'a [T],
    first: usize,
    width: usize,
}

impl<T: Real> Tile<'_, T> {
    /// Adds this tile's part of the gradient of the unit embeddings to `sum`, and writes that of its raw rows to `out`,
    /// which with `Onto::Add` contains another gradient of the unit rows. `units` is scratch for the unit rows.
    fn add(&self, onto: Onto, units: &mut [T], sum: &mut [T], out: &mut [T]) {
        // A product performs this many operations in the time of one separate operation.
        const PRODUCT_GAIN: usize = 8;
        let Self { embeddings, vectors, first, width, .. } = *self;
        let (count, dim) = (embeddings.count, embeddings.dim);
        let row = |i: usize| &self.gradient[i * vectors.count + first..][..width];
        let mut active = 0;
        vectorise(
            #[inline(always)]
            || active = (0..count).map(|i| row(i).iter().filter(|&&g| g != T::ZERO).count()).sum(),
        );
        if active == 0 && onto == Onto::Replace {
            return out.fill(T::ZERO);
        }
        vectors.write_units(first, units);
        if active * PRODUCT_GAIN > count * width {
            let gradient = View::new(self.gradient, count, vectors.count).columns(first, width);
            serial_product(gradient, View::new(units, width, dim), Onto::Add, sum);
            serial_product(gradient.transposed(), embeddings.view(), onto, out);
        } else {
            if onto == Onto::Replace {
                out.fill(T::ZERO);
            }
            for i in 0..count {
                for (class, &g) in row(i).iter().enumerate().filter(|(_, g)| **g != T::ZERO) {
                    let class = class * dim..(class + 1) * dim;
                    add_scaled(&mut sum[i * dim..(i + 1) * dim], g, &units[class.clone()]);
                    add_scaled(&mut out[class], g, embeddings.row(i));
                }
            }
        }
        vectorise(
            #[inline(always)]
            || {
                let rows = out.chunks_mut(dim).zip(units.chunks(dim)).zip(&vectors.norms[first..]);
                rows.for_each(|((out, u), norm)| norm.pull_back(out, u));
            },
        );
    }
}

/// The samples of a batch, grouped by class.
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
    use crate::math::random::stream;

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
    fn gradients_of_scores_are_the_products_whether_many_entries_or_few_are_active() {
        let mut s = stream(4, "scores test", 0, 0);
        let (count, rows, dim) = (5, 300, 3);
        let mut normal = |n: usize| -> Vec<f64> { (0..n).map(|_| s.normal()).collect() };
        let (e, raw, start, all) =
            (Units::new(&normal(count * dim), dim), normal(rows * dim), normal(rows * dim), normal(count * rows));
        let vectors = class_vectors("v", &[&raw], rows, dim).unwrap();
        let m = Units::new(&raw, dim);
        let scores = e.scores(&vectors);
        for (every, started) in [(1, false), (1, true), (40, false), (40, true), (4_000, false), (4_000, true)] {
            let gradient: Vec<f64> =
                all.iter().enumerate().map(|(at, &g)| if at % every == 0 { g } else { 0.0 }).collect();
            let mut expected = if started { start.clone() } else { vec![0.0; rows * dim] };
            let mut of_embeddings = vec![0.0; count * dim];
            for (at, g) in gradient.iter().enumerate() {
                let (i, c) = (at / rows, at % rows);
                assert!((scores[at] - dot(e.row(i), m.row(c))).abs() <= 1e-15);
                for k in 0..dim {
                    expected[c * dim + k] += g * e.row(i)[k];
                    of_embeddings[i * dim + k] += g * m.row(c)[k];
                }
            }
            m.pull_back(&mut expected);
            e.pull_back(&mut of_embeddings);
            let mut gradients = Gradients { parameters: vec![vec![7.0; 11]], ..Gradients::default() };
            let mut unit_gradient = UnitGradient::none(&mut gradients);
            if started {
                unit_gradient.begin(start.len()).copy_from_slice(&start);
            }
            from_scores(&e, &vectors, &gradient, unit_gradient, &mut gradients);
            let close = |found: &[f64], expected: &[f64]| {
                assert_eq!(found.len(), expected.len());
                found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-11)
            };
            assert!(close(&gradients.parameters[0], &expected), "{every} {started}");
            assert!(close(&gradients.embeddings, &of_embeddings), "{every} {started}");
        }
    }

    #[test]
    fn groups_are_ascending_in_class_and_position() {
        let g = Groups::new(&[7, 2, 7, 0]);
        assert_eq!(g.classes, [0, 2, 7]);
        assert_eq!(g.members, [vec![3], vec![1], vec![0, 2]]);
    }
}
