//! Convolutions of any kernel, stride and padding, NHWC, as products over patches that are never written out.
//!
//! For a fixed row of the kernel, the columns of the kernel and the channels of a patch lie side by side in a padded image,
//! and the patches of neighbouring outputs lie at a fixed distance: a convolution is a product whose left side is the image
//! itself. The gradient of the input is a convolution of the same kind for each phase of the stride, that of the kernel
//! a product with rows and terms exchanged.
//!
//! Work is cut by shapes alone, and every sum is made by one thread in one order: the bits do not depend on the threads.

use std::borrow::Cow;

use pulp::Arch;
use rayon::prelude::*;

use super::buffer::{Buffer, scratch};
use super::product::{Finish, LANES, Product, ROWS, Sizes};
use super::winograd;

/// Rows of the left side that one task takes at least, where there are that many.
const TASK_ROWS: usize = 14 * ROWS;
/// Pixels whose products are summed before the sums go back to memory, in the gradient of the kernel.
const DEPTH: usize = 128;

/// The shapes of one convolution; pairs are (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub images: usize,
    pub size: [usize; 2],
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
}

impl Geometry {
    /// Rows and columns of the output.
    pub fn out(&self) -> [usize; 2] {
        std::array::from_fn(|i| (self.size[i] + 2 * self.padding[i] - self.kernel[i]) / self.stride[i] + 1)
    }

    /// Pixels of an image, in and out.
    pub fn pixels(&self) -> [usize; 2] {
        [self.size, self.out()].map(|[rows, columns]| rows * columns)
    }

    /// Elements of the kernel.
    pub fn weights(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.inputs * self.outputs
    }

    /// Pixels are mapped one by one.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Winograd's algorithm applies.
    fn is_winograd(&self) -> bool {
        self.kernel == [3, 3] && self.stride == [1, 1] && self.padding == [1, 1]
    }
}

/// Writes the convolution of `x` (`N x H x W x C`) with `weights` (`KH x KW x C x O`, each output's multiplied by its `scale`)
/// to `y` (`N x OH x OW x O`), and returns what `each` makes of stretches of whole pixels of it, in order.
pub(super) fn forward<R: Send>(
    geometry: &Geometry,
    x: &[f32],
    weights: &[f32],
    scale: Option<&[f32]>,
    finish: Finish<'_>,
    y: &mut [f32],
    each: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    if geometry.is_winograd() {
        return winograd::forward(geometry, x, weights, scale, finish, y, each);
    }
    let terms = geometry.weights() / geometry.outputs;
    let panels = pack(weights, geometry.outputs, scale);
    let strip = Strip { outputs: geometry.outputs, panel: terms * LANES, panels: &panels, finish };
    if geometry.is_pointwise() {
        return pointwise(x, geometry.inputs, strip, y, each);
    }
    let padded = Padded::new(x, geometry.images, geometry.size, geometry.inputs, [geometry.padding; 2]);
    let [rows, columns] = geometry.out();
    let block = TASK_ROWS.div_ceil(columns).min(rows);
    let tasks: Vec<(usize, usize, &mut [f32])> = y
        .chunks_mut(rows * columns * geometry.outputs)
        .enumerate()
        .flat_map(|(image, y)| {
            y.chunks_mut(block * columns * geometry.outputs).enumerate().map(move |(b, y)| (image, b * block, y))
        })
        .collect();
    let sizes = Sizes {
        rows: columns,
        runs: geometry.kernel[0],
        depth: geometry.kernel[1] * geometry.inputs,
        a_run: padded.row(),
        a_depth: 1,
        a_row: geometry.stride[1] * geometry.inputs,
        c_row: geometry.outputs,
        lanes: LANES,
    };
    tasks
        .into_par_iter()
        .map(|(image, first, y)| {
            let start = (image * rows + first) * columns * geometry.outputs;
            let strip = strip.from(start);
            for panel in 0..strip.count() {
                for (row, y) in y.chunks_mut(columns * geometry.outputs).enumerate() {
                    let a = &padded.image(image)[(first + row) * geometry.stride[0] * padded.row()..];
                    strip.multiply(panel, row * columns * geometry.outputs, sizes, a, y);
                }
            }
            each(y)
        })
        .collect()
}

/// Packed columns of a right side, and what follows the product.
#[derive(Clone, Copy)]
struct Strip<'a> {
    outputs: usize,
    /// Elements of a panel.
    panel: usize,
    panels: &'a [f32],
    finish: Finish<'a>,
}

impl<'a> Strip<'a> {
    fn count(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// For results from element `start` on.
    fn from(self, start: usize) -> Self {
        let residual = self.finish.residual.map(|residual| &residual[start..]);
        Self { finish: Finish { residual, ..self.finish }, ..self }
    }

    /// Multiplies with one panel; `y` begins at element `at` of the strip's results.
    fn multiply(&self, panel: usize, at: usize, sizes: Sizes, a: &[f32], y: &mut [f32]) {
        let first = panel * LANES;
        Arch::new().dispatch(Product {
            sizes: Sizes { lanes: LANES.min(self.outputs - first), ..sizes },
            a,
            b: &self.panels[panel * self.panel..][..self.panel],
            c: &mut y[first..],
            finish: Finish {
                bias: self.finish.bias.map(|bias| &bias[first..]),
                residual: self.finish.residual.map(|residual| &residual[at + first..]),
                ..self.finish
            },
        });
    }
}

/// `x` (`pixels x inputs`) times the strip.
fn pointwise<R: Send>(
    x: &[f32],
    inputs: usize,
    strip: Strip<'_>,
    y: &mut [f32],
    each: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    let pixels = x.len() / inputs;
    let block = TASK_ROWS.min(pixels.div_ceil(4).next_multiple_of(ROWS));
    y.par_chunks_mut(block * strip.outputs)
        .zip(x.par_chunks(block * inputs))
        .enumerate()
        .map(|(index, (y, x))| {
            let rows = x.len() / inputs;
            let strip = strip.from(index * block * strip.outputs);
            // Rows at a distance of whole pages compete for the same few cache lines.
            let pitch = if inputs.is_multiple_of(1024) { inputs + 16 } else { inputs };
            let sizes = Sizes {
                rows,
                runs: 1,
                depth: inputs,
                a_run: 0,
                a_depth: 1,
                a_row: pitch,
                c_row: strip.outputs,
                lanes: LANES,
            };
            let mut multiply = |x: &[f32]| (0..strip.count()).for_each(|panel| strip.multiply(panel, 0, sizes, x, y));
            match pitch == inputs {
                true => multiply(x),
                false => scratch(rows * pitch, |copy| {
                    copy.chunks_mut(pitch).zip(x.chunks(inputs)).for_each(|(to, x)| to[..inputs].copy_from_slice(x));
                    multiply(copy);
                }),
            }
            each(y)
        })
        .collect()
}

/// Adds the gradient of the input to `dx` (`N x H x W x C`), or replaces it.
pub(super) fn input_gradient(
    geometry: &Geometry,
    weights: &[f32],
    scale: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    if geometry.is_winograd() {
        return winograd::input_gradient(geometry, weights, scale, dy, dx, add);
    }
    let Geometry { inputs, outputs, .. } = *geometry;
    let finish = Finish { add, ..Finish::default() };
    if geometry.is_pointwise() {
        let panels = pack_phase(geometry, weights, scale, [0, 0]);
        let strip = Strip { outputs: inputs, panel: outputs * LANES, panels: &panels, finish };
        pointwise(dy, outputs, strip, dx, |_| ());
        return;
    }
    let phases: Vec<Phase> = (0..geometry.stride[0])
        .flat_map(|row| (0..geometry.stride[1]).map(move |column| [row, column]))
        .map(|at| Phase::new(geometry, weights, scale, at))
        .collect();
    let margin: [[usize; 2]; 2] = std::array::from_fn(|side| {
        std::array::from_fn(|i| phases.iter().map(|phase| phase.margin(geometry, side, i)).max().unwrap_or(0))
    });
    let dy = Padded::new(dy, geometry.images, geometry.out(), outputs, margin);
    if !add && phases.iter().any(|phase| phase.panels.is_empty()) {
        dx.par_chunks_mut(1 << 16).for_each(|dx| dx.fill(0.0));
    }
    let row_len = geometry.size[1] * inputs;
    dx.par_chunks_mut(geometry.size[0] * row_len).enumerate().for_each(|(image, dx)| {
        for phase in phases.iter().filter(|phase| !phase.panels.is_empty()) {
            let [rows, columns] = [0, 1].map(|i| phase.positions(geometry, i));
            let [taps, tap_columns] = phase.taps;
            let sizes = Sizes {
                rows: columns.len(),
                runs: taps,
                depth: tap_columns * outputs,
                a_run: dy.row(),
                a_depth: 1,
                a_row: outputs,
                c_row: geometry.stride[1] * inputs,
                lanes: LANES,
            };
            let panel = taps * tap_columns * outputs * LANES;
            let strip = Strip { outputs: inputs, panel, panels: &phase.panels, finish };
            for panel in 0..strip.count() {
                for q in rows.clone() {
                    // The first output that this row of inputs reaches, in the padded gradient.
                    let top = q + margin[0][0] - (taps - 1);
                    let left = columns.start + margin[0][1] - (tap_columns - 1);
                    let a = &dy.image(image)[top * dy.row() + left * outputs..];
                    let row = phase.at[0] + geometry.stride[0] * q - geometry.padding[0];
                    let column = phase.at[1] + geometry.stride[1] * columns.start - geometry.padding[1];
                    strip.multiply(panel, 0, sizes, a, &mut dx[row * row_len + column * inputs..(row + 1) * row_len]);
                }
            }
        }
    });
}

/// The inputs that meet the kernel's taps `at`, `at + stride`, ...: input `at + stride q - padding` is reached by the
/// outputs `q, q - 1, ..., q - (taps - 1)`.
struct Phase {
    at: [usize; 2],
    taps: [usize; 2],
    /// The kernel's taps, the last first, packed by panels of inputs; empty if there are none.
    panels: Buffer,
}

impl Phase {
    fn new(geometry: &Geometry, weights: &[f32], scale: Option<&[f32]>, at: [usize; 2]) -> Self {
        let taps = std::array::from_fn(|i| geometry.kernel[i].saturating_sub(at[i]).div_ceil(geometry.stride[i]));
        let panels = match taps {
            [0, _] | [_, 0] => Buffer::new(0),
            _ => pack_phase(geometry, weights, scale, at),
        };
        Self { at, taps, panels }
    }

    /// The range of `q`.
    fn positions(&self, geometry: &Geometry, i: usize) -> std::ops::Range<usize> {
        let (at, stride, padding) = (self.at[i], geometry.stride[i], geometry.padding[i]);
        let first = padding.saturating_sub(at).div_ceil(stride);
        let end = (geometry.size[i] + padding).saturating_sub(at).div_ceil(stride);
        first..end.max(first)
    }

    /// Zeros that the output's gradient needs before its first and after its last row or column.
    fn margin(&self, geometry: &Geometry, side: usize, i: usize) -> usize {
        let positions = self.positions(geometry, i);
        match side {
            0 => self.taps[i].saturating_sub(1),
            _ => positions.end.saturating_sub(geometry.out()[i]),
        }
    }
}

/// Writes the gradient of the kernel (`KH x KW x C x O`) to `dw`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    if geometry.is_winograd() {
        return winograd::weight_gradient(geometry, x, dy, dw);
    }
    let Geometry { inputs, outputs, stride, .. } = *geometry;
    let dy = panels_of(dy, outputs);
    let padded = Padded::new(x, geometry.images, geometry.size, inputs, [geometry.padding; 2]);
    // Without padding and stride all pixels are one row.
    let (images, [rows, columns]) = match geometry.is_pointwise() {
        true => (1, [1, geometry.images * geometry.pixels()[1]]),
        false => (geometry.images, geometry.out()),
    };
    let pixels = images * rows * columns;
    let width = geometry.kernel[1] * inputs;
    let parts = (width / 28).clamp(1, 4).max(width.div_ceil(256));
    let chunk = width.div_ceil(parts);
    let tasks: Vec<(usize, usize, &mut [f32])> = dw
        .chunks_mut(width * outputs)
        .enumerate()
        .flat_map(|(ky, dw)| dw.chunks_mut(chunk * outputs).enumerate().map(move |(part, dw)| (ky, part * chunk, dw)))
        .collect();
    let block = (DEPTH / columns).clamp(1, rows);
    tasks.into_par_iter().for_each(|(ky, first, dw)| {
        let mut add = false;
        for image in 0..images {
            for top in (0..rows).step_by(block) {
                for left in (0..columns).step_by(DEPTH) {
                    let (runs, depth) = (block.min(rows - top), DEPTH.min(columns - left));
                    let start = (top * stride[0] + ky) * padded.row() + left * stride[1] * inputs + first;
                    let sizes = Sizes {
                        rows: dw.len() / outputs,
                        runs,
                        depth,
                        a_run: stride[0] * padded.row(),
                        a_depth: stride[1] * inputs,
                        a_row: 1,
                        c_row: outputs,
                        lanes: LANES,
                    };
                    let pixel = (image * rows + top) * columns + left;
                    for panel in 0..outputs.div_ceil(LANES) {
                        let lanes = LANES.min(outputs - panel * LANES);
                        Arch::new().dispatch(Product {
                            sizes: Sizes { lanes, ..sizes },
                            a: &padded.image(image)[start..],
                            b: &dy[(panel * pixels + pixel) * LANES..],
                            c: &mut dw[panel * LANES..],
                            finish: Finish { add, ..Finish::default() },
                        });
                    }
                    add = true;
                }
            }
        }
    });
}

/// Images with zeros around them; the images themselves where no zeros are needed.
struct Padded<'a> {
    values: Cow<'a, [f32]>,
    image: usize,
    row: usize,
}

impl<'a> Padded<'a> {
    /// `margin`: rows and columns of zeros before and after.
    fn new(x: &'a [f32], images: usize, size: [usize; 2], channels: usize, margin: [[usize; 2]; 2]) -> Self {
        let [rows, columns] = size;
        let [before, after] = margin;
        let row = (columns + before[1] + after[1]) * channels;
        let image = (rows + before[0] + after[0]) * row;
        if margin == [[0; 2]; 2] {
            return Self { values: Cow::Borrowed(x), image, row };
        }
        let mut values = vec![0.0; images * image];
        values.par_chunks_mut(image).zip(x.par_chunks(rows * columns * channels)).for_each(|(to, x)| {
            let first = before[0] * row + before[1] * channels;
            for (to, x) in to[first..].chunks_mut(row).zip(x.chunks(columns * channels)) {
                to[..x.len()].copy_from_slice(x);
            }
        });
        Self { values: Cow::Owned(values), image, row }
    }

    /// Elements of a row.
    fn row(&self) -> usize {
        self.row
    }

    fn image(&self, index: usize) -> &[f32] {
        &self.values[index * self.image..]
    }
}

/// `terms x outputs` to panels of [`LANES`] outputs, each `terms x LANES`; every output times its `scale`.
fn pack(weights: &[f32], outputs: usize, scale: Option<&[f32]>) -> Buffer {
    let mut panels = panels_of(weights, outputs);
    if let Some(scale) = scale {
        let panel = panels.len() / outputs.div_ceil(LANES);
        panels.par_chunks_mut(panel).zip(scale.par_chunks(LANES)).for_each(|(panel, scale)| {
            for row in panel.chunks_exact_mut(LANES) {
                row.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= scale);
            }
        });
    }
    panels
}

/// `rows x columns` to panels of [`LANES`] columns, a last one filled up with zeros.
fn panels_of(matrix: &[f32], columns: usize) -> Buffer {
    let rows = matrix.len() / columns;
    let mut panels = Buffer::new(rows * columns.next_multiple_of(LANES));
    panels.par_chunks_mut(rows * LANES).enumerate().for_each(|(panel, to)| {
        let first = panel * LANES;
        let lanes = LANES.min(columns - first);
        for (to, from) in to.chunks_exact_mut(LANES).zip(matrix.chunks_exact(columns)) {
            to[..lanes].copy_from_slice(&from[first..first + lanes]);
            to[lanes..].fill(0.0);
        }
    });
    panels
}

/// The taps of a phase, the last first, with inputs and outputs exchanged: panels of inputs, each
/// `taps x taps x outputs x LANES`.
fn pack_phase(geometry: &Geometry, weights: &[f32], scale: Option<&[f32]>, at: [usize; 2]) -> Buffer {
    let Geometry { inputs, outputs, kernel, stride, .. } = *geometry;
    let taps: Vec<usize> = (at[0]..kernel[0])
        .step_by(stride[0])
        .rev()
        .flat_map(|ky| (at[1]..kernel[1]).step_by(stride[1]).rev().map(move |kx| ky * kernel[1] + kx))
        .collect();
    let mut panels = Buffer::new(taps.len() * outputs * inputs.next_multiple_of(LANES));
    panels.par_chunks_mut(taps.len() * outputs * LANES).enumerate().for_each(|(panel, to)| {
        let first = panel * LANES;
        let lanes = LANES.min(inputs - first);
        for (to, tap) in to.chunks_exact_mut(outputs * LANES).zip(&taps) {
            let from = &weights[(tap * inputs + first) * outputs..][..lanes * outputs];
            for (lane, row) in from.chunks_exact(outputs).enumerate() {
                to[lane..].iter_mut().step_by(LANES).zip(row).for_each(|(to, weight)| *to = *weight);
            }
            for (output, row) in to.chunks_exact_mut(LANES).enumerate() {
                row[lanes..].fill(0.0);
                if let Some(scale) = scale {
                    row.iter_mut().for_each(|weight| *weight *= scale[output]);
                }
            }
        }
    });
    panels
}
