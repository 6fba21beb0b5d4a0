//! Comparisons of two unit vectors, and the backward pass from gradients of comparisons to gradients of vectors.

use rayon::prelude::*;

use super::geometry::{Units, cosine_gradient, turn};
use crate::math::product::{Onto, View, product};
use crate::math::real::Real;
use crate::math::rows::add_scaled;
use crate::math::rows::dot;
use crate::math::simd::vectorise;

/// A similarity or distance of an anchor `a` and a reference `b`, both unit vectors of `D` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `a . b`.
    Cosine,
    /// `|a - b|`; a distance of 0 passes no gradient.
    Euclidean,
    /// `Var(a - b) / Var(a)`, the variances being over the elements. Not symmetric. A variance of `a` that is below
    /// [`SMALLEST_VARIANCE`] when multiplied by `D - 1` is replaced by it as a divisor.
    NoiseToSignal,
}

/// See [`Measure::NoiseToSignal`]; other implementations give NaN there.
pub const SMALLEST_VARIANCE: f64 = 1e-6;

impl Measure {
    /// The comparisons of each anchor with each of `references`, whose rows are as long as the anchors': `B x R`.
    pub fn matrix<T: Real>(self, anchors: &Units<T>, references: &[T]) -> Vec<T> {
        let (dim, count) = (anchors.dim, references.len() / anchors.dim);
        let mut out = vec![T::ZERO; anchors.count * count];
        match self {
            Self::Cosine => {
                inner_products(&anchors.rows, references, dim, &mut out);
            }
            Self::Euclidean => {
                squared_distances(&anchors.rows, references, dim, &mut out);
                out.iter_mut().for_each(|d| *d = d.sqrt());
            }
            Self::NoiseToSignal => {
                let anchors = Centred::new(&anchors.rows, dim);
                squared_distances(&anchors.rows, &Centred::new(references, dim).rows, dim, &mut out);
                for (out, variance) in out.chunks_mut(count).zip(&anchors.variances) {
                    out.iter_mut().for_each(|d| *d /= variance.max(T::from_f64(SMALLEST_VARIANCE)));
                }
            }
        }
        out
    }

    /// Adds to `out` the gradient with respect to the anchors, given the `matrix` and the `gradient` with respect to it as
    /// independent entries. With `both` the references are the anchors and receive gradients too; else they are constants.
    pub fn pull_back<T: Real>(
        self,
        anchors: &Units<T>,
        references: &[T],
        matrix: &[T],
        gradient: &[T],
        both: bool,
        out: &mut [T],
    ) {
        let (dim, count) = (anchors.dim, references.len() / anchors.dim);
        // The gradient of anchor i itself, and that as the reference of anchor j.
        let mirrored = |i: usize, j: usize| if both { gradient[j * count + i] } else { T::ZERO };
        match self {
            Self::Cosine => cosine_gradient(anchors, View::new(references, count, dim), gradient, both, out),
            Self::Euclidean => {
                let weight = |i: usize, j: usize| {
                    let (g, distance) = (gradient[i * count + j] + mirrored(i, j), matrix[i * count + j]);
                    if distance > T::ZERO { g / distance } else { T::ZERO }
                };
                let near = |i: usize, j: usize| matrix[i * count + j] < T::from_f64(0.5);
                differences(&anchors.rows, references, dim, out, weight, near);
            }
            Self::NoiseToSignal => {
                let anchors = Centred::new(&anchors.rows, dim);
                let inverse = |i: usize| T::from_f64(2.0) / anchors.variances[i].max(T::from_f64(SMALLEST_VARIANCE));
                let weight = |i: usize, j: usize| {
                    let own = gradient[i * count + j] * inverse(i);
                    if both { own + mirrored(i, j) * inverse(j) } else { own }
                };
                let near = |i: usize, j: usize| matrix[i * count + j] < T::from_f64(0.25);
                differences(&anchors.rows, &Centred::new(references, dim).rows, dim, out, weight, near);
                for (i, out) in out.chunks_mut(dim).enumerate() {
                    if anchors.variances[i] <= T::from_f64(SMALLEST_VARIANCE) {
                        continue;
                    }
                    let weight = inverse(i) * dot(&gradient[i * count..][..count], &matrix[i * count..][..count]);
                    let row = &anchors.rows[i * dim..][..dim];
                    out.iter_mut().zip(row).for_each(|(out, &x)| *out -= weight * x);
                }
            }
        }
    }
}

/// Centred rows, and their squared norms.
struct Centred<T> {
    rows: Vec<T>,
    variances: Vec<T>,
}

impl<T: Real> Centred<T> {
    fn new(rows: &[T], dim: usize) -> Self {
        let mut rows = rows.to_vec();
        let variances = rows
            .par_chunks_mut(dim)
            .map(|row| {
                let mean = row.iter().fold(T::ZERO, |s, &x| s + x) / T::from_f64(dim as f64);
                row.iter_mut().for_each(|x| *x -= mean);
                dot(row, row)
            })
            .collect();
        Self { rows, variances }
    }
}

/// `a . b` of all rows.
fn inner_products<T: Real>(a: &[T], b: &[T], dim: usize, out: &mut [T]) {
    let count = b.len() / dim;
    let mut turned = vec![T::ZERO; b.len()];
    turn(b, dim, &mut turned.chunks_mut(count).collect::<Vec<_>>());
    product(View::new(a, a.len() / dim, dim), View::new(&turned, dim, count), Onto::Replace, out);
}

/// Squared distances below this fraction of the rows' squared norms are computed from differences: the rounding error of an
/// inner product, a few units in the last place of those norms, would be too large compared with them.
const NEAR: f64 = 0.125;

/// `|a - b|^2` of all rows: from inner products, or from differences if rows are close.
fn squared_distances<T: Real>(a: &[T], b: &[T], dim: usize, out: &mut [T]) {
    let squares = |rows: &[T]| -> Vec<T> { rows.chunks(dim).map(|row| dot(row, row)).collect() };
    let (of_a, of_b) = (squares(a), squares(b));
    inner_products(a, b, dim, out);
    out.par_chunks_mut(of_b.len()).zip(a.par_chunks(dim)).zip(&of_a).for_each(|((out, a), &of_a)| {
        vectorise(
            #[inline(always)]
            || {
                for ((out, b), &of_b) in out.iter_mut().zip(b.chunks(dim)).zip(&of_b) {
                    let scale = of_a + of_b;
                    *out = scale - T::from_f64(2.0) * *out;
                    if *out < T::from_f64(NEAR) * scale {
                        *out = squared_distance(a, b);
                    }
                }
            },
        );
    });
}

/// `|a - b|^2`, in eight interleaved sums.
#[inline(always)]
fn squared_distance<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(a).zip(b) {
            *lane += (x - y) * (x - y);
        }
    }
    lanes.iter().fold(T::ZERO, |sum, &lane| sum + lane)
}

/// `out_i += sum_j weight(i, j) (a_i - b_j)`. If `near`, differences are computed before weighting, so that a large
/// weight does not amplify rounding errors.
fn differences<T: Real>(
    a: &[T],
    b: &[T],
    dim: usize,
    out: &mut [T],
    weight: impl Fn(usize, usize) -> T + Sync,
    near: impl Fn(usize, usize) -> bool + Sync,
) {
    let (rows, count) = (a.len() / dim, b.len() / dim);
    let mut weights = vec![T::ZERO; rows * count];
    let parts = out.par_chunks_mut(dim).zip(a.par_chunks(dim)).zip(weights.par_chunks_mut(count));
    parts.enumerate().for_each(|(i, ((out, a), far))| {
        let mut total = T::ZERO;
        for (j, (far, b)) in far.iter_mut().zip(b.chunks(dim)).enumerate() {
            let weight = weight(i, j);
            if weight != T::ZERO && near(i, j) {
                vectorise(
                    #[inline(always)]
                    || out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out += weight * (a - b)),
                );
            } else {
                total += weight;
                *far = -weight;
            }
        }
        add_scaled(out, total, a);
    });
    product(View::new(&weights, rows, count), View::new(b, count, dim), Onto::Add, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::stream;

    #[test]
    fn distances_are_euclidean_and_symmetric() {
        let u = Units::new(&[2.0f64, 0.0, 0.0, 5.0, -1.0, 0.0], 2);
        let d = Measure::Euclidean.matrix(&u, &u.rows);
        assert_eq!(d[0], 0.0);
        assert!((d[1] - 2f64.sqrt()).abs() <= 1e-15);
        assert!((d[2] - 2.0).abs() <= 1e-15);
        assert_eq!(d[1].to_bits(), d[3].to_bits());
    }

    #[test]
    fn distances_and_their_gradients_are_exact_near_and_far() {
        let mut s = stream(3, "distances test", 0, 0);
        let (count, dim) = (9, 21);
        let mut rows: Vec<f64> = (0..count * dim).map(|_| s.normal()).collect();
        // Two rows that differ by a millionth.
        rows.copy_within(..dim, dim);
        rows[dim] += 1e-6;
        let weights: Vec<f64> = (0..count * count).map(|_| s.normal()).collect();
        let mut squares = vec![0.0; count * count];
        squared_distances(&rows, &rows, dim, &mut squares);
        let mut out = vec![0.0; rows.len()];
        let (weight, near) = (|i, j| weights[i * count + j], |i, j| squares[i * count + j] < 1.0);
        differences(&rows, &rows, dim, &mut out, weight, near);
        for i in 0..count {
            for j in 0..count {
                let exact: f64 = (0..dim).map(|k| (rows[i * dim + k] - rows[j * dim + k]).powi(2)).sum();
                assert!((squares[i * count + j] - exact).abs() <= 1e-13 * exact, "{i} {j}");
            }
            for k in 0..dim {
                let term = |j: usize| weight(i, j) * (rows[i * dim + k] - rows[j * dim + k]);
                assert!((out[i * dim + k] - (0..count).map(term).sum::<f64>()).abs() <= 1e-12, "{i} {k}");
            }
        }
    }

    #[test]
    fn noise_is_relative_to_the_anchor() {
        let u = Units::new(&[1.0f64, 0.0, 0.6, -0.8], 2);
        let r = Measure::NoiseToSignal.matrix(&u, &u.rows);
        // Centred: (0.5, -0.5) and (0.7, -0.7); squared norms 0.5, 0.98; their difference 0.08.
        for (found, expected) in r.iter().zip([0.0, 0.08 / 0.5, 0.08 / 0.98, 0.0]) {
            assert!((found - expected).abs() <= 1e-15, "{r:?}");
        }
    }
}
