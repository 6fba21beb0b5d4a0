//! The transforms of Winograd's F(4, 3): images, kernels and outputs to frequencies and back, per channel.

use std::ops::Range;

use rayon::prelude::*;

use super::{FREQUENCIES, TILE, Taps};
use crate::math::simd::vectorise;
use crate::nn::native::buffer::{Buffer, scratch};
use crate::nn::native::conv::geometry::Geometry;
use crate::nn::native::product::{Finish, LANES};

/// Polynomials are multiplied at the points 0, infinity, and these two and their negatives. With the usual 1 and 2 the
/// frequencies are several times larger than their inputs, and cancel: half as much rounding again. Points near a
/// number and its inverse are best (Alam et al. 2022, "Winograd Convolution for Deep Neural Networks: Efficient Point
/// Selection"); the powers of these are exact in 32 bits.
const NEAR: f32 = 0.625;
const FAR: f32 = 1.5;

const NEAR2: f32 = NEAR * NEAR;
const NEAR3: f32 = NEAR2 * NEAR;
const FAR2: f32 = FAR * FAR;
const FAR3: f32 = FAR2 * FAR;

/// Kernel taps to frequencies: Lavin and Gray's G.
const KERNEL: [[f32; 3]; FREQUENCIES] = [
    [1.0 / (NEAR2 * FAR2), 0.0, 0.0],
    at_point(NEAR, FAR),
    at_point(-NEAR, FAR),
    at_point(FAR, NEAR),
    at_point(-FAR, NEAR),
    [0.0, 0.0, 1.0],
];

/// The kernel's polynomial at `point`, divided by the distances of the point from 0, from its negative and from both of
/// the `other`.
const fn at_point(point: f32, other: f32) -> [f32; 3] {
    let distances = point * (2.0 * point) * (point * point - other * other);
    [1.0 / distances, point / distances, point * point / distances]
}

/// The frequencies of all panels of a kernel, each `6 x (3 C) x LANES`.
pub(super) fn transform_kernel(inputs: usize, panels: usize, taps: Taps<'_>) -> Buffer {
    let block = 3 * inputs * LANES;
    let mut kernel = Buffer::new(panels * FREQUENCIES * block);
    kernel.par_chunks_mut(FREQUENCIES * block).enumerate().for_each(|(panel, kernel)| {
        scratch(3 * block, |of_panel| {
            taps(panel, of_panel);
            for (frequency, kernel) in kernel.chunks_exact_mut(block).enumerate() {
                transform_taps(of_panel, frequency, kernel);
            }
        });
    });
    kernel
}

/// One frequency, `3 x C x LANES`, of a panel's taps, `3 x 3 x C x LANES`.
pub(super) fn transform_taps(taps: &[f32], frequency: usize, out: &mut [f32]) {
    let [a, b, c] = KERNEL[frequency];
    let row = out.len() / 3;
    vectorise(
        #[inline(always)]
        || {
            for (out, taps) in out.chunks_exact_mut(row).zip(taps.chunks_exact(3 * row)) {
                let (first, rest) = taps.split_at(row);
                let (second, third) = rest.split_at(row);
                for (((out, x), y), z) in out.iter_mut().zip(first).zip(second).zip(third) {
                    *out = a * x + b * y + c * z;
                }
            }
        },
    );
}

/// Backpropagates the gradients of the frequencies (`6 x panels x 3 x C x LANES`) to `3 x 3 x C x O`.
pub(super) fn kernel_gradient(geometry: &Geometry, sums: &[f32], dw: &mut [f32]) {
    let Geometry { inputs, outputs, .. } = *geometry;
    let panels = outputs.div_ceil(LANES);
    dw.par_chunks_mut(outputs).enumerate().for_each(|(row, dw)| {
        let (ky, kx, channel) = (row / (3 * inputs), row / inputs % 3, row % inputs);
        for (panel, dw) in dw.chunks_mut(LANES).enumerate() {
            let mut total = [0.0; LANES];
            for (frequency, g) in KERNEL.iter().map(|g| g[kx]).enumerate().filter(|(_, g)| *g != 0.0) {
                let sums = &sums[(((frequency * panels + panel) * 3 + ky) * inputs + channel) * LANES..][..LANES];
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += g * sum);
            }
            dw.copy_from_slice(&total[..dw.len()]);
        }
    });
}

/// Images (`G x H x W x C`) to frequencies (`6 x (H + 2) x G x tiles x pitch`): Lavin and Gray's B^T, per channel.
pub(super) fn transform_input(geometry: &Geometry, x: &[f32], spectrum: &mut [f32]) {
    let Geometry { size: [height, width], inputs, .. } = *geometry;
    let (group, tiles) = (x.len() / (height * width * inputs), geometry.tiles());
    let pitch = geometry.pitch();
    let row = group * tiles * pitch;
    let mut planes = planes(spectrum);
    for plane in &mut planes {
        plane[..row].fill(0.0);
        plane[(height + 1) * row..].fill(0.0);
    }
    let outside = [0.0; 512];
    let outside_long;
    let outside = if inputs <= outside.len() {
        &outside[..inputs]
    } else {
        outside_long = vec![0.0; inputs];
        &outside_long[..]
    };
    vectorise(
        #[inline(always)]
        || {
            for (index, line) in x.chunks_exact(width * inputs).enumerate() {
                let (image, y) = (index / height, index % height);
                for tile in 0..tiles {
                    let tap = |j: usize| match (tile * TILE + j).checked_sub(1) {
                        Some(column) if column < width => &line[column * inputs..][..inputs],
                        _ => outside,
                    };
                    let start = (y + 1) * row + (image * tiles + tile) * pitch;
                    let out = planes.each_mut().map(|plane| &mut plane[start..start + inputs]);
                    to_frequencies([tap(0), tap(1), tap(2), tap(3), tap(4), tap(5)], out);
                }
            }
        },
    );
}

/// One tile's six columns. The compiler assumes that the arguments of a function do not overlap, and vectorises it.
#[inline(always)]
fn to_frequencies([d0, d1, d2, d3, d4, d5]: [&[f32]; 6], [v0, v1, v2, v3, v4, v5]: [&mut [f32]; 6]) {
    let n = v0.len();
    let (d0, d1, d2, d3, d4, d5) = (&d0[..n], &d1[..n], &d2[..n], &d3[..n], &d4[..n], &d5[..n]);
    let (v1, v2, v3, v4, v5) = (&mut v1[..n], &mut v2[..n], &mut v3[..n], &mut v4[..n], &mut v5[..n]);
    for c in 0..n {
        let (near_even, near_odd) = (d4[c] - FAR2 * d2[c], NEAR * (d3[c] - FAR2 * d1[c]));
        let (far_even, far_odd) = (d4[c] - NEAR2 * d2[c], FAR * (d3[c] - NEAR2 * d1[c]));
        v0[c] = NEAR2 * FAR2 * d0[c] - (NEAR2 + FAR2) * d2[c] + d4[c];
        v1[c] = near_even + near_odd;
        v2[c] = near_even - near_odd;
        v3[c] = far_even + far_odd;
        v4[c] = far_even - far_odd;
        v5[c] = NEAR2 * FAR2 * d1[c] - (NEAR2 + FAR2) * d3[c] + d5[c];
    }
}

/// Output frequencies (`6 x panels x H x G x tiles x LANES`) of some panels to images (`G x H x W x O`): Lavin and
/// Gray's A^T, per channel.
pub(super) fn transform_output(
    geometry: &Geometry,
    product: &[f32],
    panels: Range<usize>,
    finish: Finish<'_>,
    y: &mut [f32],
) {
    let Geometry { size: [height, width], outputs, .. } = *geometry;
    let tiles = geometry.tiles();
    let group = y.len() / (height * width * outputs);
    let (plane, block) = (product.len() / FREQUENCIES, height * group * tiles * LANES);
    vectorise(
        #[inline(always)]
        || {
            for (index, line) in y.chunks_exact_mut(width * outputs).enumerate() {
                let (image, row) = (index / height, index % height);
                for (tile, out) in line.chunks_mut(TILE * outputs).enumerate() {
                    let start = ((row * group + image) * tiles + tile) * LANES;
                    for (at, panel) in panels.clone().enumerate() {
                        let first = panel * LANES;
                        let count = LANES.min(outputs - first);
                        let m = std::array::from_fn(|frequency| {
                            load(&product[frequency * plane + at * block + start..], LANES)
                        });
                        let values = from_frequencies(m);
                        let bias = finish.bias.map(|bias| &bias[first..]);
                        for (j, (out, values)) in out.chunks_exact_mut(outputs).zip(&values).enumerate() {
                            let pixel = (index * width + tile * TILE + j) * outputs + first;
                            let residual = finish.residual.map(|residual| &residual[pixel..]);
                            store(&mut out[first..], values, count, finish, bias, residual);
                        }
                    }
                }
            }
        },
    );
}

/// One tile's four columns.
#[inline(always)]
fn from_frequencies([m0, m1, m2, m3, m4, m5]: [[f32; LANES]; FREQUENCIES]) -> [[f32; LANES]; TILE] {
    let mut values = [[0.0; LANES]; TILE];
    for c in 0..LANES {
        let (near_even, near_odd) = (m1[c] + m2[c], m1[c] - m2[c]);
        let (far_even, far_odd) = (m3[c] + m4[c], m3[c] - m4[c]);
        values[0][c] = m0[c] + near_even + far_even;
        values[1][c] = NEAR * near_odd + FAR * far_odd;
        values[2][c] = NEAR2 * near_even + FAR2 * far_even;
        values[3][c] = NEAR3 * near_odd + FAR3 * far_odd + m5[c];
    }
    values
}

/// The adjoint of [`transform_output`]: `dy` (`G x H x W x O`) to frequencies, with zeros in the padding channels.
pub(super) fn transform_output_gradient(geometry: &Geometry, dy: &[f32], product: &mut [f32]) {
    let Geometry { size: [height, width], outputs, .. } = *geometry;
    let tiles = geometry.tiles();
    let group = dy.len() / (height * width * outputs);
    let block = height * group * tiles * LANES;
    let mut planes = planes(product);
    vectorise(
        #[inline(always)]
        || {
            for (index, line) in dy.chunks_exact(width * outputs).enumerate() {
                let (image, row) = (index / height, index % height);
                for (tile, pixels) in line.chunks(TILE * outputs).enumerate() {
                    for first in (0..outputs).step_by(LANES) {
                        let count = LANES.min(outputs - first);
                        let at = |j: usize| load(pixels.get(j * outputs + first..).unwrap_or_default(), count);
                        let [d0, d1, d2, d3] = [at(0), at(1), at(2), at(3)];
                        let start = first / LANES * block + ((row * group + image) * tiles + tile) * LANES;
                        let [m0, m1, m2, m3, m4, m5] = planes.each_mut().map(|plane| &mut plane[start..start + LANES]);
                        for c in 0..LANES {
                            let near_even = d0[c] + NEAR2 * d2[c];
                            let near_odd = NEAR * d1[c] + NEAR3 * d3[c];
                            let far_even = d0[c] + FAR2 * d2[c];
                            let far_odd = FAR * d1[c] + FAR3 * d3[c];
                            m0[c] = d0[c];
                            m1[c] = near_even + near_odd;
                            m2[c] = near_even - near_odd;
                            m3[c] = far_even + far_odd;
                            m4[c] = far_even - far_odd;
                            m5[c] = d3[c];
                        }
                    }
                }
            }
        },
    );
}

/// The first `count` lanes of `from`, the others zero; all zero if `from` is shorter.
#[inline(always)]
fn load(from: &[f32], count: usize) -> [f32; LANES] {
    match from.first_chunk() {
        Some(all) if count == LANES => *all,
        _ => {
            let mut lanes = [0.0; LANES];
            if let Some(from) = from.get(..count) {
                lanes[..count].copy_from_slice(from);
            }
            lanes
        }
    }
}

/// Writes the first `count` lanes to `to`, after `finish`.
#[inline(always)]
fn store(
    to: &mut [f32],
    lanes: &[f32; LANES],
    count: usize,
    finish: Finish<'_>,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) {
    let mut values = *lanes;
    let mut plus = |more: [f32; LANES]| values.iter_mut().zip(more).for_each(|(value, more)| *value += more);
    if let Some(bias) = bias {
        plus(load(bias, count));
    }
    if let Some(residual) = residual {
        plus(load(residual, count));
    }
    if finish.add {
        plus(load(to, count));
    }
    if finish.relu {
        values.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
    }
    match to.first_chunk_mut::<LANES>() {
        Some(to) if count == LANES => *to = values,
        _ => to[..count].copy_from_slice(&values[..count]),
    }
}

/// The six equal planes of a buffer.
#[inline(always)]
fn planes(buffer: &mut [f32]) -> [&mut [f32]; FREQUENCIES] {
    let mut chunks = buffer.chunks_exact_mut(buffer.len() / FREQUENCIES);
    std::array::from_fn(|_| chunks.next().unwrap_or_default())
}
