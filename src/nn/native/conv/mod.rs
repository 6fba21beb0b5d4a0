//! Convolutions of any kernel, stride and padding, NHWC, as matrix products over patches that are never materialised.
//!
//! For a fixed row of the kernel, the columns of the kernel and the channels of a patch are contiguous in a padded
//! image, and the patches of neighbouring outputs are at a fixed stride: a convolution is a product whose left side is
//! the image itself. The gradient of the input is a convolution of the same kind for each phase of the stride, and that
//! of the kernel is a product with rows and terms exchanged.
//!
//! | file | holds |
//! | --- | --- |
//! | this one | the forward convolution |
//! | `geometry` | shapes |
//! | `input`, `kernel` | the gradients of input and kernel |
//! | `winograd` | 3x3 convolutions by Winograd's algorithm |
//! | `layout` | padding, sampling, packing |
//!
//! Work is partitioned by shapes alone, and each sum is computed by one thread in one order: the bits do not depend on
//! the number of threads.

mod geometry;
mod input;
mod kernel;
mod layout;
mod winograd;

use rayon::prelude::*;

pub(super) use self::geometry::Geometry;
pub(super) use self::input::input_gradient;
pub(super) use self::kernel::weight_gradient;
use self::layout::{Padded, pack, pack_panel, sample};
use super::buffer::scratch;
use super::product::{Finish, LANES, Product, ROWS, Sizes};

/// Minimum rows of the left side per task, where there are that many.
const TASK_ROWS: usize = 14 * ROWS;
/// From this many tasks on, the right side is packed once for all; with fewer, each task packs it for itself.
const MANY_TASKS: usize = 4;
/// From this many columns of the right side on, it pays to write out patches that are not contiguous.
const MANY_OUTPUTS: usize = 4 * LANES;

/// Writes the convolution of `x` (`N x H x W x C`) with `weights` (`KH x KW x C x O`, each output's multiplied by its
/// `scale`) to `y` (`N x OH x OW x O`), and returns the results of `each` for consecutive stretches of whole pixels of
/// it, in order.
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
    if let Some(sampled) = geometry.sampled() {
        return forward(&sampled, &sample(geometry, x), weights, scale, finish, y, each);
    }
    let terms = geometry.weights() / geometry.outputs;
    let pixels = geometry.images * geometry.pixels()[1];
    let packed;
    let right = if pixels >= MANY_TASKS * TASK_ROWS {
        packed = pack(weights, geometry.outputs, scale);
        Right::Packed(&packed)
    } else {
        Right::Weights { weights, scale }
    };
    let strip = Strip { outputs: geometry.outputs, panel: terms * LANES, right, finish };
    if geometry.is_pointwise() {
        return pointwise(x, geometry.inputs, strip, y, each);
    }
    if geometry.stride[1] > 1 && geometry.outputs >= MANY_OUTPUTS {
        return gathered(geometry, x, strip, y, each);
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
            scratch(strip.scratch_len(), |scratch| {
                for panel in 0..strip.count() {
                    let b = strip.lay(panel, scratch);
                    for (row, y) in y.chunks_mut(columns * geometry.outputs).enumerate() {
                        let a = &padded.image(image)[(first + row) * geometry.stride[0] * padded.row()..];
                        strip.multiply(panel, b, row * columns * geometry.outputs, sizes, a, y);
                    }
                }
            });
            each(y)
        })
        .collect()
}

/// The right side of a product.
#[derive(Clone, Copy)]
enum Right<'a> {
    /// All panels, contiguous.
    Packed(&'a [f32]),
    /// `terms x outputs`, each output's to be multiplied by its `scale`: a task packs each panel when it needs it, so
    /// that the panel stays in its cache.
    Weights { weights: &'a [f32], scale: Option<&'a [f32]> },
}

/// Columns of a right side, and what follows the product.
#[derive(Clone, Copy)]
struct Strip<'a> {
    outputs: usize,
    /// Elements of a panel.
    panel: usize,
    right: Right<'a>,
    finish: Finish<'a>,
}

impl<'a> Strip<'a> {
    fn count(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// Scratch elements that [`Self::lay`] needs.
    fn scratch_len(&self) -> usize {
        if matches!(self.right, Right::Packed(_)) { 0 } else { self.panel }
    }

    /// One panel of the right side.
    fn lay<'b>(&'b self, panel: usize, scratch: &'b mut [f32]) -> &'b [f32] {
        match self.right {
            Right::Packed(panels) => &panels[panel * self.panel..][..self.panel],
            Right::Weights { weights, scale } => {
                pack_panel(weights, self.outputs, scale, panel, scratch);
                scratch
            }
        }
    }

    /// The strip for results from element `start` on.
    fn from(self, start: usize) -> Self {
        let residual = self.finish.residual.map(|residual| &residual[start..]);
        Self { finish: Finish { residual, ..self.finish }, ..self }
    }

    /// Multiplies by one panel, stored in `b`; `y` starts at element `at` of the strip's results.
    fn multiply(&self, panel: usize, b: &[f32], at: usize, sizes: Sizes, a: &[f32], y: &mut [f32]) {
        let first = panel * LANES;
        Product {
            sizes: Sizes { lanes: LANES.min(self.outputs - first), ..sizes },
            a,
            b,
            c: &mut y[first..],
            finish: Finish {
                bias: self.finish.bias.map(|bias| &bias[first..]),
                residual: self.finish.residual.map(|residual| &residual[at + first..]),
                ..self.finish
            },
        }
        .run();
    }
}

/// Stride of rows of `depth` terms: rows at strides of whole pages compete for the same few cache sets.
fn pitch(depth: usize) -> usize {
    if depth.is_multiple_of(1024) { depth + 16 } else { depth }
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
            let pitch = pitch(inputs);
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
            let copied = if pitch == inputs { 0 } else { rows * pitch };
            scratch(copied + strip.scratch_len(), |all| {
                let (copy, scratch) = all.split_at_mut(copied);
                copy.chunks_mut(pitch).zip(x.chunks(inputs)).for_each(|(to, x)| to[..inputs].copy_from_slice(x));
                let a = if pitch == inputs { x } else { &*copy };
                for panel in 0..strip.count() {
                    strip.multiply(panel, strip.lay(panel, scratch), 0, sizes, a, y);
                }
            });
            each(y)
        })
        .collect()
}

/// A convolution whose patches are not contiguous: for each row of the kernel, the patches are gathered into
/// consecutive rows, so that one product covers many rows of pixels.
fn gathered<R: Send>(
    geometry: &Geometry,
    x: &[f32],
    strip: Strip<'_>,
    y: &mut [f32],
    each: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    let Geometry { size: [height, width], inputs, outputs, kernel, stride, padding, .. } = *geometry;
    let [rows, columns] = geometry.out();
    let depth = kernel[1] * inputs;
    let pitch = pitch(depth);
    let block = TASK_ROWS.div_ceil(columns);
    y.par_chunks_mut(block * columns * outputs)
        .enumerate()
        .map(|(task, y)| {
            let positions = y.len() / outputs;
            let strip = strip.from(task * block * columns * outputs);
            let sizes = Sizes {
                rows: positions,
                runs: 1,
                depth,
                a_run: 0,
                a_depth: 1,
                a_row: pitch,
                c_row: outputs,
                lanes: LANES,
            };
            scratch(positions * pitch + strip.scratch_len(), |all| {
                let (patches, scratch) = all.split_at_mut(positions * pitch);
                for ky in 0..kernel[0] {
                    for (at, to) in patches.chunks_exact_mut(pitch).enumerate() {
                        let (line, column) = (task * block + at / columns, at % columns);
                        let image = &x[line / rows * height * width * inputs..];
                        let row = (line % rows * stride[0] + ky).checked_sub(padding[0]).filter(|&row| row < height);
                        let row = row.map_or(&[][..], |row| &image[row * width * inputs..][..width * inputs]);
                        copy_patch(row, column * stride[1] * inputs, padding[1] * inputs, &mut to[..depth]);
                    }
                    let strip = Strip { finish: strip.finish.of_terms(ky == 0, ky + 1 == kernel[0]), ..strip };
                    for panel in 0..strip.count() {
                        let b = &strip.lay(panel, scratch)[ky * depth * LANES..];
                        strip.multiply(panel, b, 0, sizes, patches, y);
                    }
                }
            });
            each(y)
        })
        .collect()
}

/// Fills `to` from `row`, starting at element `start`, where `row` has `margin` zeros before it and zeros after it.
fn copy_patch(row: &[f32], start: usize, margin: usize, to: &mut [f32]) {
    let (before, rest) = to.split_at_mut(margin.saturating_sub(start).min(to.len()));
    before.fill(0.0);
    let row = row.get(start.saturating_sub(margin)..).unwrap_or_default();
    let (inside, after) = rest.split_at_mut(row.len().min(rest.len()));
    inside.copy_from_slice(&row[..inside.len()]);
    after.fill(0.0);
}
