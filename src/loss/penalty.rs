//! The penalty on mean fields that come too close, shared by the two mean-field losses.

use rayon::prelude::*;

use super::geometry::Units;
use super::real::{Onto, Real, View, product};

/// Rows of mean fields whose cosines exist at one time.
const TILE: usize = 256;

/// `weight / C sum_c sum_{d != c} x(m_c . m_d)^power`, for the unit mean fields `m`.
///
/// `excess` maps a cosine to `x >= 0` and `dx / dcosine`; where `x` is 0 the derivative of the power is taken as 0. Adds
/// the gradient with respect to the unit rows to `gradient`.
///
/// The cosines are symmetric, so only tiles on and above the diagonal are made: O(C^2 D) time, O(C) memory in units of
/// 256 elements.
pub(super) fn closeness<T: Real>(
    fields: &Units<T>,
    weight: f64,
    power: f64,
    excess: impl Fn(T) -> (T, T) + Sync,
    gradient: &mut [T],
) -> f64 {
    let (classes, dim) = (fields.count, fields.dim);
    let (power, pair) = (T::of(power), 2.0 * weight / classes as f64);
    let mut tile = Vec::new();
    let mut total = 0.0;
    for first in (0..classes).step_by(TILE) {
        let rows = TILE.min(classes - first);
        let width = classes - first;
        let near = View::new(&fields.rows[first * dim..(first + rows) * dim], rows, dim);
        let rest = View::new(&fields.rows[first * dim..], width, dim);
        tile.resize(rows * width, T::ZERO);
        product(near, rest.transposed(), Onto::Replace, &mut tile);
        let sums: Vec<f64> = tile
            .par_chunks_mut(width)
            .enumerate()
            .map(|(row, cosines)| {
                cosines[..=row].fill(T::ZERO);
                let mut sum = 0.0;
                for cosine in &mut cosines[row + 1..] {
                    let (x, slope) = excess(*cosine);
                    *cosine = T::ZERO;
                    if x > T::ZERO {
                        sum += x.powf(power).to_f64();
                        *cosine = T::of(pair) * power * x.powf(power - T::ONE) * slope;
                    }
                }
                sum
            })
            .collect();
        total += sums.iter().sum::<f64>();
        let tile = View::new(&tile, rows, width);
        product(tile, rest, Onto::Add, &mut gradient[first * dim..(first + rows) * dim]);
        product(tile.transposed(), near, Onto::Add, &mut gradient[first * dim..]);
    }
    pair * total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::stream;

    #[test]
    fn tiles_over_the_triangle_equal_the_full_double_sum() {
        let (classes, dim) = (2 * TILE + 3, 4);
        let mut s = stream(1, "penalty test", 0, 0);
        let raw: Vec<f64> = (0..classes * dim).map(|_| s.normal()).collect();
        let fields = Units::new(&raw, dim);
        let mut gradient = vec![0.0; classes * dim];
        let excess = |cosine: f64| if cosine > 0.4 { (cosine - 0.4, 1.0) } else { (0.0, 0.0) };
        let value = closeness(&fields, 0.7, 3.0, excess, &mut gradient);

        let mut expected = 0.0;
        let mut slope = vec![0.0; classes * dim];
        for c in 0..classes {
            for d in (0..classes).filter(|&d| d != c) {
                let cosine: f64 = fields.row(c).iter().zip(fields.row(d)).map(|(a, b)| a * b).sum();
                let x = (cosine - 0.4).max(0.0);
                expected += 0.7 / classes as f64 * x.powi(3);
                for k in 0..dim {
                    slope[c * dim + k] += 2.0 * 0.7 / classes as f64 * 3.0 * x * x * fields.row(d)[k];
                }
            }
        }
        assert!(expected > 1.0 && (value - expected).abs() <= 1e-12 * expected, "{value} {expected}");
        for (found, expected) in gradient.iter().zip(&slope) {
            assert!((found - expected).abs() <= 1e-12, "{found} {expected}");
        }
    }
}
