//! Points that fill the unit cube more evenly than random ones: the scrambled Halton sequence.
//!
//! Coordinate `d` of point `i` is the number `0.a b c...` in base `p`, the `d`th prime, whose digits are those of `i`
//! in reverse order, each mapped by a random permutation of its position and base (Braaten and Weller 1979, with
//! permutations from the seed). Without them the coordinates of large primes are correlated.

use crate::math::random::stream;

/// Point number `at`, counted from 0, of a cube of `dimensions`.
pub(super) fn point(dimensions: usize, seed: u64, at: u32) -> Vec<f64> {
    primes(dimensions).into_iter().map(|prime| coordinate(prime, seed, at)).collect()
}

fn coordinate(prime: u32, seed: u64, at: u32) -> f64 {
    let (mut rest, mut share, mut found) = (at, 1.0, 0.0);
    let mut place = 0;
    // Leading zeros are permuted too: as many digits as a double can hold.
    while share > f64::EPSILON {
        share /= f64::from(prime);
        let mut permutation: Vec<u32> = (0..prime).collect();
        stream(seed, "search digits", u64::from(prime), place).shuffle(&mut permutation);
        found += share * f64::from(permutation[(rest % prime) as usize]);
        rest /= prime;
        place += 1;
    }
    found.min(1.0 - f64::EPSILON)
}

fn primes(count: usize) -> Vec<u32> {
    let mut primes: Vec<u32> = Vec::with_capacity(count);
    let mut next = 2;
    while primes.len() < count {
        if primes.iter().all(|prime| next % prime != 0) {
            primes.push(next);
        }
        next += 1;
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_box_of_a_base_has_its_share_of_points() {
        assert_eq!(primes(6), [2, 3, 5, 7, 11, 13]);
        let points: Vec<Vec<f64>> = (0..36).map(|at| point(2, 3, at)).collect();
        // The first 4 x 9 points: one in each of the boxes of quarters by ninths.
        let mut boxes: Vec<(u32, u32)> =
            points.iter().map(|p| ((p[0] * 4.0) as u32, (p[1] * 9.0 + 1e-9) as u32)).collect();
        boxes.sort_unstable();
        boxes.dedup();
        assert_eq!(boxes.len(), 36);
        assert!(points.iter().flatten().all(|x| (0.0..1.0).contains(x)));
    }

    #[test]
    fn points_depend_on_the_seed_and_large_bases_do_not_rise_together() {
        assert_eq!(point(3, 1, 5), point(3, 1, 5));
        assert_ne!(point(3, 1, 5), point(3, 2, 5));
        assert_ne!(point(3, 1, 0), vec![0.0; 3]);
        // The first ten points of bases 17 and 19 without permutations: a correlation of 1.
        let points: Vec<Vec<f64>> = (0..10).map(|at| point(8, 4, at)).collect();
        let column = |d: usize| points.iter().map(|p| p[d]).collect::<Vec<_>>();
        let (a, b) = (column(6), column(7));
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| (p - mean(x)) * (q - mean(y))).sum::<f64>();
        assert!((dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()).abs() < 0.9);
    }
}
