//! The matrix product: the only caller of `gemm`.
//!
//! [`product`] splits its result into strips of a fixed width, each computed by one thread. The width depends only on
//! the shape, so any number of threads gives the same bits.

use std::ops::Range;

use rayon::prelude::*;

use super::real::Real;

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

    /// The transpose, in the same memory.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// Whether a product overwrites its output or adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// `out = left right`.
    Replace,
    /// `out += left right`.
    Add,
}

/// Rows or columns of the result per task.
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

/// Like [`product`], on the calling thread: for loops that are parallel themselves.
///
/// # Panics
/// If the shapes do not fit.
pub fn serial_product<T: Real>(left: View<'_, T>, right: View<'_, T>, onto: Onto, out: &mut [T]) {
    assert_eq!(left.cols, right.rows, "columns of the left matrix, rows of the right one");
    assert_eq!(out.len(), left.rows * right.cols, "the output of a product");
    // SAFETY: the asserts tie the shapes together; the only block is the whole output.
    unsafe { multiply(left, right, onto, Output(out.as_mut_ptr()), right.cols, (0..left.rows, 0..right.cols)) }
}

/// One block of a product; `width` is the number of columns of the whole result.
///
/// # Safety
/// `left.cols == right.rows`, `out` holds `left.rows x width` elements with `width == right.cols`, the block is within
/// these, and no other thread accesses it.
unsafe fn multiply<T: Real>(
    left: View<'_, T>,
    right: View<'_, T>,
    onto: Onto,
    out: Output<T>,
    width: usize,
    (rows, cols): (Range<usize>, Range<usize>),
) {
    // SAFETY: `View` checked that each view's memory holds its rows x cols elements under its strides, and the caller
    // guarantees the rest.
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

/// The output's pointer, shared by the strips.
#[derive(Clone, Copy)]
struct Output<T>(*mut T);

// SAFETY: `product` hands each thread a block that no other thread touches, and outlives them all.
unsafe impl<T: Send> Send for Output<T> {}
// SAFETY: as above; the pointer itself is only copied.
unsafe impl<T: Send> Sync for Output<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::stream;

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
