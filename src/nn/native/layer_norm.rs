//! Layer normalisation: each pixel's channels by their own mean and variance.

use dfdx::prelude::{Cpu, Tape};
use rayon::prelude::*;

use super::buffer::Buffer;
use super::map::{CHUNK, NativeMap, NativeVector, put, take};
use super::{Native, failed};
use crate::math::rows::dot;
use crate::math::rows::sum;
use crate::math::simd::vectorise;
use crate::nn::Error;

/// Mean and inverse standard deviation of one pixel.
type Moments = [f32; 2];

pub(super) fn forward<T: Tape<f32, Cpu>>(
    native: &Native,
    x: NativeMap<T>,
    weight: &NativeVector,
    bias: &NativeVector,
    epsilon: f32,
) -> Result<NativeMap<T>, Error> {
    let (x, mut tape) = x.split();
    let shape = x.shape;
    let (values, moments) = normalise(&x.values, &weight.values, &bias.values, epsilon);
    let y = NativeMap::new(&native.cpu, values, shape).map_err(failed("layer normalisation"))?;
    let (result, weight, bias) = (y.handle.clone(), weight.clone(), bias.handle.clone());
    tape.add_backward_op(move |table| {
        let Some(dy) = take(table, &result)? else { return Ok(()) };
        // The residual's gradient may exist already; this one is added to it in place.
        let there = if x.traced { take(table, &x.handle)? } else { None };
        let add = there.is_some();
        let mut dx = there.unwrap_or_else(|| Buffer::new(dy.len()));
        let [slopes, shifts] = back(&x.values, &moments, &weight.values, &dy, &mut dx, add);
        put(table, &weight.handle, slopes)?;
        put(table, &bias, shifts)?;
        if x.traced { put(table, &x.handle, dx) } else { Ok(()) }
    });
    Ok(y.on(tape, T::OWNS_TAPE))
}

/// Elements of the pixels per task.
fn stretch(channels: usize) -> usize {
    (CHUNK / channels).max(1) * channels
}

/// The normalised pixels, scaled and shifted, and their moments.
fn normalise(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> (Buffer, Vec<Moments>) {
    let channels = weight.len();
    let stretch = stretch(channels);
    let mut y = Buffer::new(x.len());
    let mut moments = vec![[0.0; 2]; x.len() / channels];
    let share = 1.0 / channels as f32;
    y.par_chunks_mut(stretch).zip(x.par_chunks(stretch)).zip(moments.par_chunks_mut(stretch / channels)).for_each(
        |((y, x), moments)| {
            vectorise(
                #[inline(always)]
                || {
                    let pixels = y.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                    for ((y, x), moments) in pixels.zip(&mut *moments) {
                        let mean = share
                            * sum(
                                x,
                                #[inline(always)]
                                |x| x,
                            );
                        // Two passes, so that a mean far from zero loses no digits.
                        let variance = share
                            * sum(
                                x,
                                #[inline(always)]
                                |x| (x - mean) * (x - mean),
                            );
                        let inverse = 1.0 / (variance + epsilon).sqrt();
                        *moments = [mean, inverse];
                        for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                            *y = (x - mean) * inverse * weight + bias;
                        }
                    }
                },
            );
        },
    );
    (y, moments)
}

/// Writes the gradient of `x` to `dx`, or adds it to `dx`; returns those of the scale and the shift.
///
/// With `g` the gradient of the normalised pixel `n`: `(g - mean(g) - n mean(g n)) / deviation`.
fn back(x: &[f32], moments: &[Moments], weight: &[f32], dy: &[f32], dx: &mut [f32], add: bool) -> [Buffer; 2] {
    let channels = weight.len();
    let stretch = stretch(channels);
    let share = 1.0 / channels as f32;
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(stretch)
        .zip(dy.par_chunks(stretch))
        .zip(x.par_chunks(stretch))
        .zip(moments.par_chunks(stretch / channels))
        .map(|(((dx, dy), x), moments)| {
            let mut rows = vec![0.0; 4 * channels];
            let (sums, rows) = rows.split_at_mut(2 * channels);
            let (slopes, shifts) = sums.split_at_mut(channels);
            let (normal, scaled) = rows.split_at_mut(channels);
            vectorise(
                #[inline(always)]
                || {
                    let pixels = dx.chunks_exact_mut(channels).zip(dy.chunks_exact(channels));
                    for (((dx, dy), x), &[mean, inverse]) in pixels.zip(x.chunks_exact(channels)).zip(moments) {
                        for c in 0..channels {
                            normal[c] = (x[c] - mean) * inverse;
                            scaled[c] = dy[c] * weight[c];
                            slopes[c] += dy[c] * normal[c];
                            shifts[c] += dy[c];
                        }
                        let level = share
                            * sum(
                                scaled,
                                #[inline(always)]
                                |g| g,
                            );
                        let along = share * dot(scaled, normal);
                        for ((dx, g), n) in dx.iter_mut().zip(&*scaled).zip(&*normal) {
                            let there = if add { *dx } else { 0.0 };
                            *dx = there + (g - level - n * along) * inverse;
                        }
                    }
                },
            );
            [&*slopes, &*shifts].concat()
        })
        .collect();
    let mut total = vec![0.0f64; 2 * channels];
    for part in &parts {
        total.iter_mut().zip(part).for_each(|(total, &part)| *total += f64::from(part));
    }
    let mut total = total.into_iter().map(|sum| sum as f32);
    std::array::from_fn(|_| Buffer::of(total.by_ref().take(channels).collect()))
}
