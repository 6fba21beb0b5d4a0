//! Grouped convolutions, as one convolution per group; and ranges of columns.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::conv::{self, Geometry};
use super::product::{Finish, LANES};

/// Columns `first..first + count` of a matrix with `columns`.
pub(super) fn columns(matrix: &[f32], columns: usize, first: usize, count: usize) -> Buffer {
    let mut out = Buffer::new(matrix.len() / columns * count);
    out.par_chunks_mut(256 * count).zip(matrix.par_chunks(256 * columns)).for_each(|(out, matrix)| {
        for (out, row) in out.chunks_exact_mut(count).zip(matrix.chunks_exact(columns)) {
            out.copy_from_slice(&row[first..first + count]);
        }
    });
    out
}

/// Writes `part` to the columns from `first` on of a matrix with `columns`.
pub(super) fn put_columns(part: &[f32], matrix: &mut [f32], columns: usize, first: usize) {
    let count = part.len() / (matrix.len() / columns);
    matrix.par_chunks_mut(256 * columns).zip(part.par_chunks(256 * count)).for_each(|(matrix, part)| {
        for (row, part) in matrix.chunks_exact_mut(columns).zip(part.chunks_exact(count)) {
            row[first..first + count].copy_from_slice(part);
        }
    });
}

/// For each output channel, the dot product of two kernels' elements.
pub(super) fn channel_products(a: &[f32], b: &[f32], channels: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; channels];
    for (a, b) in a.chunks_exact(channels).zip(b.chunks_exact(channels)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a * b);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Multiplies each output channel's elements by its factor.
pub(super) fn scale_channels(kernel: &mut [f32], scale: &[f32]) {
    kernel.par_chunks_mut(64 * scale.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(scale.len()) {
            row.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= scale);
        }
    });
}

/// The geometry of one group.
fn one(geometry: &Geometry, groups: usize) -> Geometry {
    Geometry { inputs: geometry.inputs / groups, outputs: geometry.outputs / groups, ..*geometry }
}

/// As [`conv::forward`].
#[expect(clippy::too_many_arguments, reason = "the arguments of a convolution and the number of groups")]
pub(super) fn forward<R: Send>(
    geometry: &Geometry,
    groups: usize,
    x: &[f32],
    weights: &[f32],
    scale: Option<&[f32]>,
    finish: Finish<'_>,
    y: &mut [f32],
    each: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    if groups == 1 {
        return conv::forward(geometry, x, weights, scale, finish, y, each);
    }
    let part = one(geometry, groups);
    for group in 0..groups {
        let (first_in, first_out) = (group * part.inputs, group * part.outputs);
        let out = |matrix: &[f32]| columns(matrix, geometry.outputs, first_out, part.outputs);
        let mut bias = finish.bias.map(|bias| bias[first_out..first_out + part.outputs].to_vec());
        if let Some(bias) = &mut bias {
            bias.resize(part.outputs.next_multiple_of(LANES), 0.0);
        }
        let residual = finish.residual.map(out);
        let finish = Finish { bias: bias.as_deref(), residual: residual.as_deref(), ..finish };
        let mut y_part = Buffer::new(y.len() / groups);
        let x = columns(x, geometry.inputs, first_in, part.inputs);
        let scale = scale.map(|scale| &scale[first_out..first_out + part.outputs]);
        conv::forward(&part, &x, &out(weights), scale, finish, &mut y_part, |_| ());
        put_columns(&y_part, y, geometry.outputs, first_out);
    }
    vec![each(y)]
}

/// Writes the gradient of the input to `dx`, or adds it to `dx`.
pub(super) fn input_gradient(
    geometry: &Geometry,
    groups: usize,
    weights: &[f32],
    scale: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    if groups == 1 {
        return conv::input_gradient(geometry, weights, scale, dy, dx, add);
    }
    let part = one(geometry, groups);
    for group in 0..groups {
        let (first_in, first_out) = (group * part.inputs, group * part.outputs);
        let out = |matrix: &[f32]| columns(matrix, geometry.outputs, first_out, part.outputs);
        let scale = scale.map(|scale| &scale[first_out..first_out + part.outputs]);
        let mut dx_part = columns(dx, geometry.inputs, first_in, part.inputs);
        conv::input_gradient(&part, &out(weights), scale, &out(dy), &mut dx_part, add);
        put_columns(&dx_part, dx, geometry.inputs, first_in);
    }
}

/// Writes the gradient of the kernel to `dw`.
pub(super) fn weight_gradient(geometry: &Geometry, groups: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    if groups == 1 {
        return conv::weight_gradient(geometry, x, dy, dw);
    }
    let part = one(geometry, groups);
    for group in 0..groups {
        let first_out = group * part.outputs;
        let mut dw_part = Buffer::new(dw.len() / groups);
        let x = columns(x, geometry.inputs, group * part.inputs, part.inputs);
        let dy = columns(dy, geometry.outputs, first_out, part.outputs);
        conv::weight_gradient(&part, &x, &dy, &mut dw_part);
        put_columns(&dw_part, dw, geometry.outputs, first_out);
    }
}
