//! The two number types of the losses, and the one place that calls the matrix product.
//!
//! [`product`] cuts its result into strips of a fixed width, each made by one thread. The width depends on nothing but
//! the shape, so any number of threads gives the same bits.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Range, Sub, SubAssign};

use rayon::prelude::*;

/// `f32` (training) or `f64` (reference checks).
pub trait Real:
    Copy
    + Default
    + Debug
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The nearest number to `x`.
    fn of(x: f64) -> Self;
    /// This number, exactly.
    fn to_f64(self) -> f64;
    /// Its absolute value.
    fn abs(self) -> Self;
    /// Its square root.
    fn sqrt(self) -> Self;
    /// e to its power. In 32 bits within 2 units in the last place, and 0 below e^-69, some 1e-30: what is multiplied with a
    /// smaller number may be subnormal, and takes the processor ten times as long.
    fn exp(self) -> Self;
    /// Its natural logarithm.
    fn ln(self) -> Self;
    /// ln(1 + x), exact for small x; for finite x > -1. In 32 bits within 3 units in the last place.
    fn ln_1p(self) -> Self;
    /// Its power `p`.
    fn powf(self, p: Self) -> Self;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;

    /// The larger of two numbers; `other` if `self` is NaN.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

macro_rules! real {
    ($t:ty, $exp:path, $ln_1p:path) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            #[inline(always)]
            fn ln_1p(self) -> Self {
                $ln_1p(self)
            }
            #[inline(always)]
            fn powf(self, p: Self) -> Self {
                <$t>::powf(self, p)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }
        }
    };
}
real!(f32, exp, ln_1p);
real!(f64, f64::exp, f64::ln_1p);

/// ln 2 in two parts, the first short enough that its product with any exponent is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `e^x` without branches, so that loops of it vectorise: `2^n e^r` with `|r| <= ln 2 / 2`, and the series of `e^r`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Below the first the result counts as 0, above the second it is too large.
    const ENDS: [f32; 2] = [-69.0, 88.722];
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = series * r + factor;
    }
    let power = 1.0 + (r + r * r * series);
    let scaled = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    let inside = if x < ENDS[0] { 0.0 } else { scaled };
    if x > ENDS[1] { f32::INFINITY } else { inside }
}

/// `ln(1 + x)` without branches: `k ln 2 + ln m` of `1 + x` rounded, `m` next to 1, and what the rounding lost.
#[inline(always)]
fn ln_1p(x: f32) -> f32 {
    // The bits of sqrt(1/2): m lies between it and its double.
    const LOWEST: i32 = 0x3f35_04f3;
    let rounded = 1.0 + x;
    let lost = (x - (rounded - 1.0)) / rounded;
    let above = (rounded.to_bits() as i32).wrapping_sub(LOWEST);
    let k = (above >> 23) as f32;
    let m = f32::from_bits(((above & 0x007f_ffff) + LOWEST) as u32);
    // ln m = 2 artanh s
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = 1.0 / 9.0;
    for factor in [1.0 / 7.0, 0.2, 1.0 / 3.0] {
        series = series * z + factor;
    }
    let ln = 2.0 * s + 2.0 * s * z * series;
    k * LN_2[0] + (ln + (k * LN_2[1] + lost))
}

/// `a . b`, in eight interleaved sums: a fixed order that vectorises.
///
/// ```
/// assert_eq!(meanfield::loss::real::dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
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

/// A borrowed matrix, row-major or the transpose of one.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// `data` as a row-major `rows x cols` matrix.
    ///
    /// # Panics
    /// If `data` does not hold `rows * cols` elements.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a {rows} x {cols} view of {} elements", data.len());
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// `width` of its columns, from `first`.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn columns(self, first: usize, width: usize) -> Self {
        assert!(first + width <= self.cols, "columns {first} to {} of {}", first + width, self.cols);
        Self { data: &self.data[(first * self.col_stride).min(self.data.len())..], cols: width, ..self }
    }

    /// The same memory with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// Whether a product replaces or adds to what its output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// `out = left right`.
    Replace,
    /// `out += left right`.
    Add,
}

/// Rows or columns of the result that one task makes.
const STRIP: usize = 128;

/// The matrix product of `left` (m x k) and `right` (k x n) into the row-major `out` (m x n).
///
/// # Panics
/// If the shapes do not fit.
pub fn product<T: Real>(left: View<'_, T>, right: View<'_, T>, onto: Onto, out: &mut [T]) {
    let (m, k, n) = (left.rows, left.cols, right.cols);
    assert_eq!(k, right.rows, "{m} x {k} times {} x {n}", right.rows);
    assert_eq!(out.len(), m * n, "the output of a {m} x {n} product");
    if onto == Onto::Replace && k == 0 {
        out.fill(T::ZERO);
    }
    if out.is_empty() || k == 0 {
        return;
    }
    let out = Output(out.as_mut_ptr());
    let long = m.max(n);
    (0..long.div_ceil(STRIP)).into_par_iter().for_each(|strip| {
        let first = strip * STRIP;
        let length = STRIP.min(long - first);
        let block = if m >= n { (first..first + length, 0..n) } else { (0..m, first..first + length) };
        // SAFETY: the asserts above tie m, k, n and `out` together, and blocks of different strips do not overlap.
        unsafe { multiply(left, right, onto, out, n, block) }
    });
}

/// As [`product`], on the calling thread: for loops that are parallel themselves.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product<T: Real>(left: View<'_, T>, right: View<'_, T>, onto: Onto, out: &mut [T]) {
    assert_eq!(left.cols, right.rows, "columns of the left matrix, rows of the right one");
    assert_eq!(out.len(), left.rows * right.cols, "the output of a product");
    // SAFETY: the asserts tie the shapes together; the only block is the whole output.
    unsafe { multiply(left, right, onto, Output(out.as_mut_ptr()), right.cols, (0..left.rows, 0..right.cols)) }
}

/// One block of a product, `width` being the number of columns of the whole.
///
/// # Safety
/// `left.cols == right.rows`, `out` holds `left.rows x width` elements with `width == right.cols`, the block lies within
/// these, and no other thread touches it.
unsafe fn multiply<T: Real>(
    left: View<'_, T>,
    right: View<'_, T>,
    onto: Onto,
    out: Output<T>,
    width: usize,
    (rows, cols): (Range<usize>, Range<usize>),
) {
    // SAFETY: `View` checked that each view's memory holds its rows x cols elements under its strides, and the
    // caller promises the rest.
    unsafe {
        gemm::gemm(
            rows.len(),
            cols.len(),
            left.cols,
            out.0.add(rows.start * width + cols.start),
            1,
            width as isize,
            onto == Onto::Add,
            left.data.as_ptr().add(rows.start * left.row_stride),
            left.col_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr().add(cols.start * right.col_stride),
            right.col_stride as isize,
            right.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The output's pointer, for the strips.
#[derive(Clone, Copy)]
struct Output<T>(*mut T);

// SAFETY: `product` hands each thread a block that no other thread touches, and outlives them all.
unsafe impl<T: Send> Send for Output<T> {}
// SAFETY: as above; the pointer itself is only copied.
unsafe impl<T: Send> Sync for Output<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::stream;

    fn random(count: usize, item: u64) -> Vec<f64> {
        let mut s = stream(5, "product test", 0, item);
        (0..count).map(|_| s.normal()).collect()
    }

    #[test]
    fn products_equal_the_triple_loop_in_every_layout() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (130, 7, 9), (9, 33, 300), (128, 4, 128), (2, 0, 3), (0, 2, 2)] {
            let (a, b, start) = (random(m * k, 1), random(k * n, 2), random(m * n, 3));
            let at = random(k * m, 1);
            for transposed in [false, true] {
                for onto in [Onto::Replace, Onto::Add] {
                    let left = if transposed { View::new(&at, k, m).transposed() } else { View::new(&a, m, k) };
                    let element = |i: usize, l: usize| if transposed { at[l * m + i] } else { a[i * k + l] };
                    let mut out = start.clone();
                    product(left, View::new(&b, k, n), onto, &mut out);
                    for i in 0..m {
                        for j in 0..n {
                            let mut expected = if onto == Onto::Add { start[i * n + j] } else { 0.0 };
                            expected += (0..k).map(|l| element(i, l) * b[l * n + j]).sum::<f64>();
                            let found = out[i * n + j];
                            assert!(
                                (found - expected).abs() <= 1e-12,
                                "{m} {k} {n} {transposed} {onto:?}: {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_exponential_and_the_logarithm_are_within_their_units_in_the_last_place() {
        let far = |found: f32, exact: f64| (f64::from(found) - exact).abs() / (exact.abs() * f64::from(f32::EPSILON));
        let mut worst = [0.0f64; 2];
        for step in -690_000..887_000 {
            let x = step as f32 * 1e-4;
            worst[0] = worst[0].max(far(Real::exp(x), f64::from(x).exp()));
            let small = Real::exp(x).min(1e30);
            worst[1] = worst[1].max(far(Real::ln_1p(small), f64::from(small).ln_1p()));
        }
        assert!(worst[0] <= 2.0 && worst[1] <= 3.0, "{worst:?}");
        assert_eq!(
            [0.0, -1e30, -69.1, 89.0, 1e30].map(<f32 as Real>::exp),
            [1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]
        );
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY].map(Real::exp), [0.0, f32::INFINITY]);
        assert!(Real::exp(f32::NAN).is_nan());
        assert_eq!(Real::ln_1p(0.0f32), 0.0);
    }

    #[test]
    fn columns_of_a_view_multiply_as_a_matrix_of_their_own() {
        let (a, b) = (random(3 * 7, 1), random(4 * 2, 2));
        let mut out = vec![0.0; 6];
        serial_product(View::new(&a, 3, 7).columns(2, 4), View::new(&b, 4, 2), Onto::Replace, &mut out);
        for (at, found) in out.iter().enumerate() {
            let expected: f64 = (0..4).map(|l| a[at / 2 * 7 + 2 + l] * b[l * 2 + at % 2]).sum();
            assert!((found - expected).abs() <= 1e-12, "{at}");
        }
    }

    #[test]
    #[should_panic(expected = "a 2 x 3 view of 5 elements")]
    fn a_view_longer_than_its_memory_is_refused() {
        View::new(&[0.0f32; 5], 2, 3);
    }
}
