//! What two unit vectors are compared by, and the way back from gradients of comparisons to gradients of vectors.

use rayon::prelude::*;

use super::geometry::{Units, cosine_gradient};
use super::real::{Onto, Real, View, dot, product};

/// A similarity or distance of an anchor `a` and a reference `b`, both unit vectors of `D` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `a . b`.
    Cosine,
    /// `|a - b|`; a distance of 0 passes no gradient.
    Euclidean,
    /// `Var(a - b) / Var(a)`, the variances being over the elements. Not symmetric. A variance of `a` that is below
    /// [`SMALLEST_VARIANCE`] when multiplied by `D - 1` divides as if it were that.
    NoiseToSignal,
}

/// See [`Measure::NoiseToSignal`]; other codes give NaN there.
pub const SMALLEST_VARIANCE: f64 = 1e-6;

impl Measure {
    /// The comparisons of each anchor with each of `references`, whose rows are as long as the anchors': `B x R`.
    pub fn matrix<T: Real>(self, anchors: &Units<T>, references: &[T]) -> Vec<T> {
        let (dim, count) = (anchors.dim, references.len() / anchors.dim);
        let mut out = vec![T::ZERO; anchors.count * count];
        match self {
            Self::Cosine => {
                let references = View::new(references, count, dim);
                product(anchors.view(), references.transposed(), Onto::Replace, &mut out);
            }
            Self::Euclidean => {
                squared_distances(&anchors.rows, references, dim, &mut out);
                out.iter_mut().for_each(|d| *d = d.sqrt());
            }
            Self::NoiseToSignal => {
                let anchors = Centred::new(&anchors.rows, dim);
                squared_distances(&anchors.rows, &Centred::new(references, dim).rows, dim, &mut out);
                for (out, variance) in out.chunks_mut(count).zip(&anchors.variances) {
                    out.iter_mut().for_each(|d| *d /= variance.max(T::of(SMALLEST_VARIANCE)));
                }
            }
        }
        out
    }

    /// Adds to `out` the gradient with respect to the anchors, given the `matrix` and the `gradient` with respect to it as
    /// independent entries. With `both` the references are the anchors, and move too; else they are constants.
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
        // The gradient of anchor i as it is, and what it gets as the reference of anchor j.
        let mirrored = |i: usize, j: usize| if both { gradient[j * count + i] } else { T::ZERO };
        match self {
            Self::Cosine => cosine_gradient(anchors, View::new(references, count, dim), gradient, both, out),
            Self::Euclidean => differences(&anchors.rows, references, dim, out, |i, j| {
                let (g, distance) = (gradient[i * count + j] + mirrored(i, j), matrix[i * count + j]);
                if distance > T::ZERO { g / distance } else { T::ZERO }
            }),
            Self::NoiseToSignal => {
                let anchors = Centred::new(&anchors.rows, dim);
                let inverse = |i: usize| T::of(2.0) / anchors.variances[i].max(T::of(SMALLEST_VARIANCE));
                differences(&anchors.rows, &Centred::new(references, dim).rows, dim, out, |i, j| {
                    let own = gradient[i * count + j] * inverse(i);
                    if both { own + mirrored(i, j) * inverse(j) } else { own }
                });
                for (i, out) in out.chunks_mut(dim).enumerate() {
                    if anchors.variances[i] <= T::of(SMALLEST_VARIANCE) {
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

/// Rows less their means, and their squared norms after that.
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
                let mean = row.iter().fold(T::ZERO, |s, &x| s + x) / T::of(dim as f64);
                row.iter_mut().for_each(|x| *x -= mean);
                dot(row, row)
            })
            .collect();
        Self { rows, variances }
    }
}

/// `|a - b|^2` of all rows, from differences: no cancellation for near rows.
fn squared_distances<T: Real>(a: &[T], b: &[T], dim: usize, out: &mut [T]) {
    let count = b.len() / dim;
    out.par_chunks_mut(count).zip(a.par_chunks(dim)).for_each(|(out, a)| {
        let mut difference = vec![T::ZERO; dim];
        for (out, b) in out.iter_mut().zip(b.chunks(dim)) {
            difference.iter_mut().zip(a).zip(b).for_each(|((d, &a), &b)| *d = a - b);
            *out = dot(&difference, &difference);
        }
    });
}

/// `out_i += sum_j weight(i, j) (a_i - b_j)`.
fn differences<T: Real>(a: &[T], b: &[T], dim: usize, out: &mut [T], weight: impl Fn(usize, usize) -> T + Sync) {
    out.par_chunks_mut(dim).zip(a.par_chunks(dim)).enumerate().for_each(|(i, (out, a))| {
        for (j, b) in b.chunks(dim).enumerate() {
            let weight = weight(i, j);
            if weight != T::ZERO {
                out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out += weight * (a - b));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn noise_is_relative_to_the_anchor() {
        let u = Units::new(&[1.0f64, 0.0, 0.6, -0.8], 2);
        let r = Measure::NoiseToSignal.matrix(&u, &u.rows);
        // Centred: (0.5, -0.5) and (0.7, -0.7); squared norms 0.5, 0.98; their difference 0.08.
        for (found, expected) in r.iter().zip([0.0, 0.08 / 0.5, 0.08 / 0.98, 0.0]) {
            assert!((found - expected).abs() <= 1e-15, "{r:?}");
        }
    }
}
