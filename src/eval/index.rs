//! Rows prepared for a search by cosine similarity, in two precisions.
//!
//! A search proposes by 32-bit products of unit vectors and decides by [`Index::similarity`], 64-bit cosines that depend on
//! nothing but the two rows. [`Index::slack`] bounds the difference between the two, so whatever the 32-bit products
//! leave open is decided in 64 bits: the result is that of a plain 64-bit computation.

use std::ops::Range;

use rayon::prelude::*;

use crate::math::product::View;
use crate::math::real::Real;

/// Rows ready for the search: unit vectors in 32 bits, the raw rows, and their norms.
#[derive(Debug)]
pub(super) struct Index<'a, T> {
    raw: &'a [T],
    units: Vec<f32>,
    inverse_norms: Vec<f64>,
    dim: usize,
}

/// The first row that has no direction: zero, or so small or large that its norm cannot be inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoDirection {
    pub row: usize,
}

impl<'a, T: Real> Index<'a, T> {
    /// Prepares `raw`, finite rows of length `dim`.
    pub fn new(raw: &'a [T], dim: usize) -> Result<Self, NoDirection> {
        let mut units = vec![0.0f32; raw.len()];
        let inverse_norms: Vec<f64> = raw
            .par_chunks(dim)
            .zip(units.par_chunks_mut(dim))
            .map(|(row, unit)| {
                let largest = row.iter().fold(0.0f64, |m, x| m.max(x.to_f64().abs()));
                let squares: f64 = row.iter().map(|x| (x.to_f64() / largest) * (x.to_f64() / largest)).sum();
                let inverse = 1.0 / squares.sqrt() / largest;
                unit.iter_mut().zip(row).for_each(|(u, x)| *u = (x.to_f64() * inverse) as f32);
                inverse
            })
            .collect();
        match inverse_norms.iter().position(|inverse| !inverse.is_normal()) {
            Some(row) => Err(NoDirection { row }),
            None => Ok(Self { raw, units, inverse_norms, dim }),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.inverse_norms.len()
    }

    /// Length of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The cosine of row `query` with row `i` of `gallery`, in 64 bits; never -0.
    pub fn similarity(&self, query: usize, gallery: &Index<'_, T>, i: usize) -> f64 {
        self.dot(query, gallery.row(i)) * gallery.inverse_norms[i] + 0.0
    }

    /// The product of row `query`, as a unit vector, with any vector, in 64 bits.
    pub fn dot<U: Real>(&self, query: usize, vector: &[U]) -> f64 {
        let norm = self.inverse_norms[query];
        let mut lanes = [0.0f64; 8];
        let (vectors, units) = (vector.chunks_exact(8), self.row(query).chunks_exact(8));
        let rest: f64 =
            vectors.remainder().iter().zip(units.remainder()).map(|(x, u)| x.to_f64() * (u.to_f64() * norm)).sum();
        for (x, u) in vectors.zip(units) {
            for lane in 0..8 {
                lanes[lane] += x[lane].to_f64() * (u[lane].to_f64() * norm);
            }
        }
        lanes.iter().sum::<f64>() + rest
    }

    /// Adds row `i`, as a unit vector, to `sum`.
    pub fn add_unit(&self, i: usize, sum: &mut [f64]) {
        sum.iter_mut().zip(self.row(i)).for_each(|(sum, x)| *sum += x.to_f64() * self.inverse_norms[i]);
    }

    /// Row `i` as a unit vector, in 32 bits.
    pub fn unit(&self, i: usize) -> &[f32] {
        &self.units[i * self.dim..(i + 1) * self.dim]
    }

    fn row(&self, i: usize) -> &[T] {
        &self.raw[i * self.dim..(i + 1) * self.dim]
    }

    /// `rows` unit vectors in 32 bits.
    pub fn block(&self, first: usize, rows: usize) -> View<'_, f32> {
        View::new(&self.units[first * self.dim..(first + rows) * self.dim], rows, self.dim)
    }

    /// `rows` as unit vectors in 64 bits.
    pub fn wide_block(&self, rows: Range<usize>) -> Vec<f64> {
        rows.flat_map(|i| self.row(i).iter().map(move |x| x.to_f64() * self.inverse_norms[i])).collect()
    }

    /// The largest difference between a 32-bit product of two unit vectors and their 64-bit cosine.
    ///
    /// A sum of n products in any order errs by at most `n u / (1 - n u)` times the sum of their magnitudes, u being half an
    /// epsilon (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, section 3.1); that sum is at most 1 here, by
    /// Cauchy and Schwarz. Rounding the two factors to 32 bits adds 2 u; 8 u also cover 64-bit rounding.
    pub fn slack(&self) -> f64 {
        self.bound(f64::from(f32::EPSILON))
    }

    /// The same for a 64-bit product of any order: both sides err by the same bound.
    pub fn wide_slack(&self) -> f64 {
        2.0 * self.bound(f64::EPSILON)
    }

    fn bound(&self, epsilon: f64) -> f64 {
        let units = (self.dim as f64 + 8.0) * 0.5 * epsilon;
        // Beyond a length of some millions the bound for 32 bits says nothing; then everything is decided in 64.
        if units < 0.5 { units / (1.0 - units) } else { 4.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::product::{Onto, serial_product};
    use crate::math::random::stream;

    #[test]
    fn rows_without_direction_are_found() {
        assert_eq!(Index::new(&[1.0f64, 0.0, 0.0, 0.0], 2).unwrap_err(), NoDirection { row: 1 });
        assert_eq!(Index::new(&[1.0f32, 0.0, 1e-40, 1e30], 2).unwrap().len(), 2);
    }

    #[test]
    fn products_lie_within_the_slack_of_the_cosines() {
        let mut s = stream(4, "index test", 0, 0);
        for dim in [1, 7, 64, 900] {
            // All of one sign, so that no error cancels, and of very different sizes.
            let rows: Vec<f64> = (0..20 * dim).map(|i| (s.normal() * f64::from(i as u32 % 5)).exp()).collect();
            let index = Index::new(&rows, dim).unwrap();
            let mut products = vec![0.0f32; 400];
            serial_product(index.block(0, 20), index.block(0, 20).transposed(), Onto::Replace, &mut products);
            for (at, &product) in products.iter().enumerate() {
                let far = (f64::from(product) - index.similarity(at / 20, &index, at % 20)).abs();
                assert!(far <= index.slack(), "{dim}: {far}");
            }
        }
    }
}
