//! Pooling over windows and over whole images, NHWC.

use rayon::prelude::*;

use super::buffer::Buffer;
use crate::math::simd::vectorise;
use crate::nn::backend::{Reduce, Shape, Window};

/// The pixels of an image in the window at (`row`, `column`): their index in the window, and in the image.
fn taps(window: Window, shape: Shape, row: usize, column: usize) -> impl Iterator<Item = (usize, usize)> {
    let Window { size, stride, padding, .. } = window;
    (0..size * size).filter_map(move |tap| {
        let y = (row * stride + tap / size).checked_sub(padding).filter(|&y| y < shape.rows)?;
        let x = (column * stride + tap % size).checked_sub(padding).filter(|&x| x < shape.columns)?;
        Some((tap, y * shape.columns + x))
    })
}

/// Elements that a window's mean divides by: padding inside the padded image counts, as with PyTorch's
/// `count_include_pad`.
fn counted(window: Window, shape: Shape, row: usize, column: usize) -> f32 {
    let along = |at: usize, len: usize| {
        let start = at * window.stride;
        (start + window.size).min(len + 2 * window.padding) - start
    };
    (along(row, shape.rows) * along(column, shape.columns)) as f32
}

/// The pooled map, and for a maximum, if they are to be kept, the index in its window of each winner.
pub(super) fn forward(window: Window, reduce: Reduce, shape: Shape, x: &[f32], keep: bool) -> (Buffer, Vec<u8>) {
    let (out, channels) = (window.out(shape), shape.channels);
    let mut y = Buffer::new(out.len());
    let keep = keep && reduce == Reduce::Max;
    let mut winners = vec![0; if keep { out.len() } else { 0 }];
    let row_len = out.columns * channels;
    let image = shape.rows * shape.columns * channels;
    let pool = |index: usize, y: &mut [f32], winners: &mut [u8]| {
        let (x, row) = (&x[index / out.rows * image..][..image], index % out.rows);
        vectorise(
            #[inline(always)]
            || match reduce {
                Reduce::Max if winners.is_empty() => {
                    for (column, y) in y.chunks_exact_mut(channels).enumerate() {
                        y.fill(f32::NEG_INFINITY);
                        for (_, pixel) in taps(window, shape, row, column) {
                            let x = &x[pixel * channels..][..channels];
                            // NaN wins, so that it is not hidden.
                            y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x > *y || x.is_nan() { *x } else { *y });
                        }
                    }
                }
                Reduce::Max => {
                    let cells = y.chunks_exact_mut(channels).zip(winners.chunks_exact_mut(channels));
                    for (column, (y, winners)) in cells.enumerate() {
                        y.fill(f32::NEG_INFINITY);
                        for (tap, pixel) in taps(window, shape, row, column) {
                            larger(&x[pixel * channels..][..channels], tap as u8, y, winners);
                        }
                    }
                }
                Reduce::Average => {
                    for (column, y) in y.chunks_exact_mut(channels).enumerate() {
                        y.fill(0.0);
                        for (_, pixel) in taps(window, shape, row, column) {
                            y.iter_mut().zip(&x[pixel * channels..]).for_each(|(y, x)| *y += x);
                        }
                        let share = 1.0 / counted(window, shape, row, column);
                        y.iter_mut().for_each(|y| *y *= share);
                    }
                }
            },
        );
    };
    match keep {
        true => y
            .par_chunks_mut(row_len)
            .zip(winners.par_chunks_mut(row_len))
            .enumerate()
            .for_each(|(index, (y, winners))| pool(index, y, winners)),
        false => y.par_chunks_mut(row_len).enumerate().for_each(|(index, y)| pool(index, y, &mut [])),
    }
    (y, winners)
}

/// Keeps the larger values, and their indices.
#[inline(always)]
fn larger(x: &[f32], tap: u8, y: &mut [f32], winners: &mut [u8]) {
    let n = y.len();
    let (x, winners) = (&x[..n], &mut winners[..n]);
    for c in 0..n {
        // NaN wins, so that it is not hidden.
        let wins = x[c] > y[c] || x[c].is_nan();
        y[c] = if wins { x[c] } else { y[c] };
        winners[c] = if wins { tap } else { winners[c] };
    }
}

/// The gradient of the input map from that of the pooled one.
pub(super) fn backward(window: Window, reduce: Reduce, shape: Shape, winners: &[u8], dy: &[f32]) -> Buffer {
    let (out, channels) = (window.out(shape), shape.channels);
    let mut dx = Buffer::new(shape.len());
    let (image, pooled) = (shape.rows * shape.columns * channels, out.rows * out.columns * channels);
    dx.par_chunks_mut(image).enumerate().for_each(|(index, dx)| {
        let dy = &dy[index * pooled..][..pooled];
        dx.fill(0.0);
        vectorise(
            #[inline(always)]
            || {
                for (cell, dy) in dy.chunks_exact(channels).enumerate() {
                    let (row, column) = (cell / out.columns, cell % out.columns);
                    let share = 1.0 / counted(window, shape, row, column);
                    for (tap, pixel) in taps(window, shape, row, column) {
                        let dx = &mut dx[pixel * channels..][..channels];
                        match reduce {
                            Reduce::Max => {
                                let winners = &winners[index * pooled + cell * channels..][..channels];
                                for ((dx, dy), winner) in dx.iter_mut().zip(dy).zip(winners) {
                                    *dx += if *winner == tap as u8 { *dy } else { 0.0 };
                                }
                            }
                            Reduce::Average => dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += share * dy),
                        }
                    }
                }
            },
        );
    });
    dx
}

/// Each image's mean or maximum per channel (`N x C`), and for a maximum the pixel of each winner.
pub(super) fn global(reduce: Reduce, shape: Shape, x: &[f32]) -> (Buffer, Vec<u32>) {
    let channels = shape.channels;
    let image = shape.rows * shape.columns * channels;
    let mut y = Buffer::new(shape.images * channels);
    let mut winners = vec![0; y.len()];
    y.par_chunks_mut(channels).zip(winners.par_chunks_mut(channels)).zip(x.par_chunks(image)).for_each(
        |((y, winners), x)| match reduce {
            Reduce::Max => {
                y.fill(f32::NEG_INFINITY);
                for (pixel, x) in x.chunks_exact(channels).enumerate() {
                    for ((y, winner), &x) in y.iter_mut().zip(&mut *winners).zip(x) {
                        if x > *y || x.is_nan() {
                            (*y, *winner) = (x, pixel as u32);
                        }
                    }
                }
            }
            Reduce::Average => {
                y.fill(0.0);
                for x in x.chunks_exact(channels) {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
                }
                let share = 1.0 / (shape.rows * shape.columns) as f32;
                y.iter_mut().for_each(|y| *y *= share);
            }
        },
    );
    (y, winners)
}

/// The gradient of the input map from that of [`global`].
pub(super) fn global_backward(reduce: Reduce, shape: Shape, winners: &[u32], dy: &[f32]) -> Buffer {
    let channels = shape.channels;
    let image = shape.rows * shape.columns * channels;
    let mut dx = Buffer::new(shape.len());
    dx.par_chunks_mut(image).enumerate().for_each(|(index, dx)| {
        let dy = &dy[index * channels..][..channels];
        match reduce {
            Reduce::Max => {
                dx.fill(0.0);
                for (c, (&winner, &dy)) in winners[index * channels..].iter().zip(dy).enumerate() {
                    dx[winner as usize * channels + c] = dy;
                }
            }
            Reduce::Average => {
                let share = 1.0 / (shape.rows * shape.columns) as f32;
                for dx in dx.chunks_exact_mut(channels) {
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = share * dy);
                }
            }
        }
    });
    dx
}
