//! Loops over one row, in forms that vectorise and that add in a fixed order.

use super::real::Real;
use super::simd::vectorise;

/// `a . b`, in eight interleaved partial sums: a fixed order that vectorises.
///
/// ```
/// assert_eq!(meanfield::math::rows::dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
/// ```
#[inline(always)]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::ZERO; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut rest = T::ZERO;
    for (&x, &y) in a8.remainder().iter().zip(b8.remainder()) {
        rest += x * y;
    }
    for (x, y) in a8.zip(b8) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    rest + ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]))
}

/// Number of parallel partial sums.
const LANES: usize = 16;

/// The sum of `term` over a row. For closures marked `#[inline(always)]`.
#[inline(always)]
pub fn sum<T: Real, S: Real>(row: &[T], term: impl Fn(T) -> S) -> S {
    let mut lanes = [S::ZERO; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(S::ZERO, |sum, &x| sum + term(x));
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += term(chunk[lane]);
        }
    }
    lanes.iter().fold(rest, |sum, &lane| sum + lane)
}

/// The maximum of `term` over a row, at least `floor`. For closures marked `#[inline(always)]`.
#[inline(always)]
pub fn largest<T: Real>(row: &[T], floor: T, term: impl Fn(T) -> T) -> T {
    let mut lanes = [floor; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(floor, |m, &x| term(x).max(m));
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = term(chunk[lane]).max(lanes[lane]);
        }
    }
    lanes.iter().fold(rest, |m, &lane| lane.max(m))
}

/// Replaces each `x` of a row by `exp(x - shift)` and returns their sum.
#[inline(always)]
pub fn exponentials<T: Real>(row: &mut [T], shift: T) -> T {
    row.iter_mut().for_each(|x| *x = (*x - shift).exp());
    sum(
        row,
        #[inline(always)]
        |x| x,
    )
}

/// `out += factor x`.
pub fn add_scaled<T: Real>(out: &mut [T], factor: T, x: &[T]) {
    vectorise(
        #[inline(always)]
        || out.iter_mut().zip(x).for_each(|(out, &x)| *out += factor * x),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_any_length_equal_their_plain_loops() {
        for length in [0, 1, 15, 16, 17, 50] {
            let mut row: Vec<f64> = (0..length).map(|i| f64::from(i * 7 % 11) - 5.0).collect();
            let plain: f64 = row.iter().map(|x| x * x).sum();
            assert_eq!(sum(&row, |x| x * x), plain, "{length}");
            assert_eq!(largest(&row, -9.0, |x| x), row.iter().fold(-9.0, |m: f64, &x| m.max(x)), "{length}");
            let exact: f64 = row.iter().map(|x| (x - 2.0).exp()).sum();
            assert!((exponentials(&mut row, 2.0) - exact).abs() <= 1e-12, "{length}");
        }
        let mut out = [1.0, 2.0];
        add_scaled(&mut out, 3.0, &[1.0, -1.0]);
        assert_eq!(out, [4.0, -1.0]);
    }
}
