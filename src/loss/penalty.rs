//! The penalty on mean fields that are too close, shared by the mean-field losses.

use rayon::prelude::*;

use super::geometry::{ClassVectors, UnitGradient, turn};
use crate::math::product::{Onto, View, product, serial_product};
use crate::math::real::Real;
use crate::math::rows::{add_scaled, largest};
use crate::math::simd::vectorise;

/// Number of rows of mean fields whose cosines with all following rows exist at once, and rows of one task.
const TILE: usize = 256;
/// If fewer than one in this many pairs has a gradient, single rows are added instead of multiplying matrices.
const SPARSE: usize = 64;

/// `weight / C sum_c sum_{d != c} x(m_c . m_d)^power` for the unit mean fields `m`, whose gradient with respect to these is
/// added to `gradient`.
///
/// `excess` maps a cosine to `x >= 0` and `dx / dcosine`, and is non-decreasing. Where `x` is 0 the derivative of the power is
/// taken as 0.
///
/// The cosines are symmetric, so only tiles on and above the diagonal are computed: C^2 D operations and O(C) memory in units
/// of 256 elements, plus one matrix of unit rows. The gradient costs twice as much if most pairs have one, and almost
/// nothing if few do.
pub(super) fn closeness<T: Real>(
    fields: &ClassVectors<'_, T>,
    weight: f64,
    power: f64,
    excess: impl Fn(T) -> (T, T) + Sync,
    gradient: &mut UnitGradient<T>,
) -> f64 {
    let (classes, dim) = (fields.count, fields.dim);
    let units = fields.units();
    let gradient = gradient.begin(units.len());
    let pair = 2.0 * weight / classes as f64;
    let (factor, exponent) = (T::from_f64(pair * power), T::from_f64(power));
    let (mut tile, mut turned) = (Vec::new(), Vec::new());
    let mut total = 0.0;
    for first in (0..classes).step_by(TILE) {
        let rows = TILE.min(classes - first);
        let width = classes - first;
        let rest = &units[first * dim..];
        let near = &rest[..rows * dim];
        turned.resize(near.len(), T::ZERO);
        turn(near, dim, &mut turned.chunks_mut(rows).collect::<Vec<_>>());
        tile.resize(width * rows, T::ZERO);
        let blocks: Vec<Block> = tile
            .par_chunks_mut(TILE * rows)
            .zip(rest.par_chunks(TILE * dim))
            .enumerate()
            .map(|(index, (cosines, units))| {
                let block = View::new(units, units.len() / dim, dim);
                serial_product(block, View::new(&turned, dim, rows), Onto::Replace, cosines);
                Block::of(
                    cosines,
                    rows,
                    index * TILE,
                    #[inline(always)]
                    |cosine| {
                        let (x, slope) = excess(cosine);
                        let below = if power == 2.0 { x } else { x.powf(exponent - T::ONE) };
                        (below * x, if x > T::ZERO { factor * below * slope } else { T::ZERO })
                    },
                )
            })
            .collect();
        total += blocks.iter().map(|block| block.sum).sum::<f64>();
        let gradient = &mut gradient[first * dim..];
        match blocks.iter().map(|block| block.active.as_deref()).collect::<Option<Vec<_>>>() {
            None => {
                let (tile, rest) = (View::new(&tile, width, rows), View::new(rest, width, dim));
                product(tile.transposed(), rest, Onto::Add, &mut gradient[..rows * dim]);
                product(tile, View::new(near, rows, dim), Onto::Add, gradient);
            }
            Some(active) if active.iter().all(|pairs| pairs.is_empty()) => {}
            Some(active) => {
                let row = |at: usize| &rest[at * dim..(at + 1) * dim];
                gradient[..rows * dim].par_chunks_mut(dim).enumerate().for_each(|(c, out)| {
                    for &(d, _) in active.iter().copied().flatten().filter(|pair| pair.1 == c) {
                        add_scaled(out, tile[d * rows + c], row(d));
                    }
                });
                gradient.par_chunks_mut(TILE * dim).zip(active).enumerate().for_each(|(index, (out, pairs))| {
                    for &(d, c) in pairs {
                        let at = d - index * TILE;
                        add_scaled(&mut out[at * dim..(at + 1) * dim], tile[d * rows + c], row(c));
                    }
                });
            }
        }
    }
    pair * total
}

/// The sum over the pairs of a block of rows and the rows of a strip.
struct Block {
    sum: f64,
    /// Pairs (row after the strip's first, row of the strip) with a gradient; none if they are too many to list.
    active: Option<Vec<(usize, usize)>>,
}

impl Block {
    /// Overwrites the cosines of rows `first..` with `rows` rows by the gradient with respect to them; 0 for pairs on and
    /// below the diagonal. `term` maps a cosine to a pair's term and its derivative.
    fn of<T: Real>(cosines: &mut [T], rows: usize, first: usize, term: impl Fn(T) -> (T, T)) -> Self {
        let limit = cosines.len() / SPARSE;
        let (mut sum, mut listed) = (0.0, 0);
        let mut active = Vec::new();
        for (at, row) in cosines.chunks_mut(rows).enumerate() {
            let (above, below) = row.split_at_mut(rows.min(first + at));
            below.fill(T::ZERO);
            let mut row_sum = 0.0;
            vectorise(
                #[inline(always)]
                || {
                    // No pair of a row exceeds its closest one.
                    let nearest = largest(
                        above,
                        T::from_f64(-2.0),
                        #[inline(always)]
                        |x| x,
                    );
                    let (value, slope) = term(nearest);
                    if value == T::ZERO && slope == T::ZERO {
                        return above.fill(T::ZERO);
                    }
                    for cosine in &mut *above {
                        let (value, slope) = term(*cosine);
                        row_sum += value.to_f64();
                        *cosine = slope;
                    }
                },
            );
            sum += row_sum;
            let count = above.iter().filter(|&&g| g != T::ZERO).count();
            listed += count;
            if count > 0 && listed <= limit {
                active.extend(above.iter().enumerate().filter(|(_, g)| **g != T::ZERO).map(|(c, _)| (first + at, c)));
            }
        }
        Self { sum, active: (listed <= limit).then_some(active) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Gradients;
    use crate::loss::geometry::class_vectors;
    use crate::math::random::stream;
    use crate::math::rows::dot;

    #[test]
    fn tiles_over_the_triangle_equal_the_full_double_sum() {
        let (classes, dim) = (2 * TILE + 3, 4);
        let mut s = stream(1, "penalty test", 0, 0);
        let raw: Vec<f64> = (0..classes * dim).map(|_| s.normal()).collect();
        let fields = class_vectors("fields", &[&raw], classes, dim).unwrap();
        let units = fields.units();
        let row = |c: usize| &units[c * dim..(c + 1) * dim];
        // Most pairs, few pairs, none.
        for (bound, least) in [(-0.5, 100.0), (0.95, 1e-6), (1.5, 0.0)] {
            let excess = |cosine: f64| if cosine > bound { (cosine - bound, 1.0) } else { (0.0, 0.0) };
            let mut gradient = UnitGradient::none(&mut Gradients::default());
            let value = closeness(&fields, 0.7, 3.0, excess, &mut gradient);
            let mut expected = 0.0;
            let mut slope = vec![0.0; classes * dim];
            for c in 0..classes {
                for d in (0..classes).filter(|&d| d != c) {
                    let x = (dot(row(c), row(d)) - bound).max(0.0);
                    expected += 0.7 / classes as f64 * x.powi(3);
                    for k in 0..dim {
                        slope[c * dim + k] += 2.0 * 0.7 / classes as f64 * 3.0 * x * x * row(d)[k];
                    }
                }
            }
            assert!(expected >= least && (value - expected).abs() <= 1e-11 * expected, "{value} {expected}");
            for (found, expected) in gradient.begin(units.len()).iter().zip(&slope) {
                assert!((found - expected).abs() <= 1e-11, "{found} {expected}");
            }
        }
    }
}
