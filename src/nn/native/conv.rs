//! Convolutions of any kernel, stride and padding, NHWC, as products over patches that are never written out.
//!
//! For a fixed row of the kernel, the columns of the kernel and the channels of a patch lie side by side in a padded image,
//! and the patches of neighbouring outputs lie at a fixed distance: a convolution is a product whose left side is the image
//! itself. The gradient of the input is a convolution of the same kind for each phase of the stride, that of the kernel
//! a product with rows and terms exchanged.
//!
//! Work is cut by shapes alone, and every sum is made by one thread in one order: the bits do not depend on the threads.

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
    /// Winograd's algorithm where it applies.
    pub winograd: bool,
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

    /// The same convolution of the pixels that it looks at alone, where these are fewer: a stride and single pixels.
    fn sampled(&self) -> Option<Self> {
        let sampled = self.kernel == [1, 1] && self.padding == [0, 0] && self.stride != [1, 1];
        sampled.then(|| Self { size: self.out(), stride: [1, 1], ..*self })
    }

    /// Winograd's algorithm applies.
    fn is_winograd(&self) -> bool {
        self.winograd && self.kernel == [3, 3] && self.stride == [1, 1] && self.padding == [1, 1]
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
    if let Some(sampled) = geometry.sampled() {
        return forward(&sampled, &sample(geometry, x), weights, scale, finish, y, each);
    }
    let terms = geometry.weights() / geometry.outputs;
    let right = Right::Weights { weights, scale };
    let strip = Strip { outputs: geometry.outputs, panel: terms * LANES, right, finish };
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
            scratch(strip.room(), |room| {
                for panel in 0..strip.count() {
                    let b = strip.lay(panel, room);
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
    /// Panel after panel.
    Packed(&'a [f32]),
    /// `terms x outputs`, each output's to be multiplied by its `scale`: a task packs a panel when it comes to it, in a cache
    /// that it does not leave.
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

    /// Elements that [`Self::lay`] needs for itself.
    fn room(&self) -> usize {
        if matches!(self.right, Right::Packed(_)) { 0 } else { self.panel }
    }

    /// One panel of the right side.
    fn lay<'b>(&'b self, panel: usize, room: &'b mut [f32]) -> &'b [f32] {
        match self.right {
            Right::Packed(panels) => &panels[panel * self.panel..][..self.panel],
            Right::Weights { weights, scale } => {
                pack_panel(weights, self.outputs, scale, panel, room);
                room
            }
        }
    }

    /// For results from element `start` on.
    fn from(self, start: usize) -> Self {
        let residual = self.finish.residual.map(|residual| &residual[start..]);
        Self { finish: Finish { residual, ..self.finish }, ..self }
    }

    /// Multiplies with one panel, which lies in `b`; `y` begins at element `at` of the strip's results.
    fn multiply(&self, panel: usize, b: &[f32], at: usize, sizes: Sizes, a: &[f32], y: &mut [f32]) {
        let first = panel * LANES;
        Arch::new().dispatch(Product {
            sizes: Sizes { lanes: LANES.min(self.outputs - first), ..sizes },
            a,
            b,
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
            let copied = if pitch == inputs { 0 } else { rows * pitch };
            scratch(copied + strip.room(), |all| {
                let (copy, room) = all.split_at_mut(copied);
                copy.chunks_mut(pitch).zip(x.chunks(inputs)).for_each(|(to, x)| to[..inputs].copy_from_slice(x));
                let a = if pitch == inputs { x } else { &*copy };
                for panel in 0..strip.count() {
                    strip.multiply(panel, strip.lay(panel, room), 0, sizes, a, y);
                }
            });
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
    if let Some(sampled) = geometry.sampled() {
        let mut samples = Buffer::new(sampled.images * sampled.pixels()[0] * geometry.inputs);
        input_gradient(&sampled, weights, scale, dy, &mut samples, false);
        return spread(geometry, &samples, dx, add);
    }
    let Geometry { inputs, outputs, .. } = *geometry;
    let finish = Finish { add, ..Finish::default() };
    if geometry.is_pointwise() {
        let panels = pack_phase(geometry, weights, scale, [0, 0]);
        let strip = Strip { outputs: inputs, panel: outputs * LANES, right: Right::Packed(&panels), finish };
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
            if columns.is_empty() {
                continue;
            }
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
            let strip = Strip { outputs: inputs, panel, right: Right::Packed(&phase.panels), finish };
            for panel in 0..strip.count() {
                let b = strip.lay(panel, &mut []);
                for q in rows.clone() {
                    // The first output that this row of inputs reaches, in the padded gradient.
                    let top = q + margin[0][0] - (taps - 1);
                    let left = columns.start + margin[0][1] - (tap_columns - 1);
                    let a = &dy.image(image)[top * dy.row() + left * outputs..];
                    let row = phase.at[0] + geometry.stride[0] * q - geometry.padding[0];
                    let column = phase.at[1] + geometry.stride[1] * columns.start - geometry.padding[1];
                    strip.multiply(
                        panel,
                        b,
                        0,
                        sizes,
                        a,
                        &mut dx[row * row_len + column * inputs..(row + 1) * row_len],
                    );
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

/// Rows of a kernel's gradient that need more memory are cut by its elements, others by pixels.
const FEW_WEIGHTS: usize = 1 << 17;
/// Parts that pixels are cut into.
const PARTS: usize = 4;

/// Writes the gradient of the kernel (`KH x KW x C x O`) to `dw`.
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    if geometry.is_winograd() {
        return winograd::weight_gradient(geometry, x, dy, dw);
    }
    if let Some(sampled) = geometry.sampled() {
        return weight_gradient(&sampled, &sample(geometry, x), dy, dw);
    }
    let padded = Padded::new(x, geometry.images, geometry.size, geometry.inputs, [geometry.padding; 2]);
    let terms = Terms::new(geometry, &padded);
    if geometry.weights() > FEW_WEIGHTS {
        return by_weights(geometry, &terms, dy, dw);
    }
    // Each part sums its own pixels; the parts are added in order.
    let blocks: Vec<Block> = terms.blocks().collect();
    let mut sums = Buffer::new(PARTS * dw.len());
    let share = blocks.len().div_ceil(PARTS);
    sums.par_chunks_mut(dw.len()).enumerate().for_each(|(part, sum)| {
        let blocks = blocks.iter().skip(part * share).take(share);
        if blocks.len() == 0 {
            sum.fill(0.0);
        }
        for (index, block) in blocks.enumerate() {
            let width = sum.len() / geometry.kernel[0];
            for (ky, sum) in sum.chunks_exact_mut(width).enumerate() {
                terms.add(block, ky, 0, dy, sum, index > 0);
            }
        }
    });
    dw.par_chunks_mut(1 << 12).enumerate().for_each(|(index, dw)| {
        let len = sums.len() / PARTS;
        dw.copy_from_slice(&sums[index << 12..][..dw.len()]);
        for part in 1..PARTS {
            dw.iter_mut().zip(&sums[part * len + (index << 12)..]).for_each(|(dw, sum)| *dw += sum);
        }
    });
}

/// The gradient of a large kernel: each task sums some of its rows over all pixels.
fn by_weights(geometry: &Geometry, terms: &Terms<'_>, dy: &[f32], dw: &mut [f32]) {
    let Geometry { inputs, outputs, .. } = *geometry;
    let width = geometry.kernel[1] * inputs;
    let parts = (width / 28).clamp(1, 4).max(width.div_ceil(256));
    let chunk = width.div_ceil(parts);
    let tasks: Vec<(usize, usize, &mut [f32])> = dw
        .chunks_mut(width * outputs)
        .enumerate()
        .flat_map(|(ky, dw)| dw.chunks_mut(chunk * outputs).enumerate().map(move |(part, dw)| (ky, part * chunk, dw)))
        .collect();
    tasks.into_par_iter().for_each(|(ky, first, dw)| {
        for (index, block) in terms.blocks().enumerate() {
            terms.add(&block, ky, first, dy, dw, index > 0);
        }
    });
}

/// The terms of a kernel's gradient: the pixels of the output, in blocks.
struct Terms<'a> {
    geometry: &'a Geometry,
    padded: &'a Padded<'a>,
    images: usize,
    size: [usize; 2],
}

/// Some pixels of the output, `runs` rows of `depth` columns.
struct Block {
    image: usize,
    top: usize,
    left: usize,
    runs: usize,
    depth: usize,
    /// Of all images.
    pixel: usize,
}

impl<'a> Terms<'a> {
    fn new(geometry: &'a Geometry, padded: &'a Padded<'a>) -> Self {
        // Without padding and stride all pixels are one row.
        let (images, size) = match geometry.is_pointwise() {
            true => (1, [1, geometry.images * geometry.pixels()[1]]),
            false => (geometry.images, geometry.out()),
        };
        Self { geometry, padded, images, size }
    }

    fn blocks(&self) -> impl Iterator<Item = Block> {
        let (images, [rows, columns]) = (self.images, self.size);
        let runs = (DEPTH / columns).clamp(1, rows);
        (0..images).flat_map(move |image| {
            (0..rows).step_by(runs).flat_map(move |top| {
                (0..columns).step_by(DEPTH).map(move |left| {
                    let (runs, depth) = (runs.min(rows - top), DEPTH.min(columns - left));
                    Block { image, top, left, runs, depth, pixel: (image * rows + top) * columns + left }
                })
            })
        })
    }

    /// Adds a block's products to rows `first..` of the gradient of the kernel's row `ky`, or writes them there.
    fn add(&self, block: &Block, ky: usize, first: usize, dy: &[f32], dw: &mut [f32], add: bool) {
        let Geometry { inputs, outputs, stride, .. } = *self.geometry;
        let row = self.padded.row();
        let start = (block.top * stride[0] + ky) * row + block.left * stride[1] * inputs + first;
        let pixels = block.runs * block.depth;
        let dy = &dy[block.pixel * outputs..][..pixels * outputs];
        scratch(pixels * LANES, |b| {
            for panel in 0..outputs.div_ceil(LANES) {
                fill_panel(dy, outputs, panel, b);
                Arch::new().dispatch(Product {
                    sizes: Sizes {
                        rows: dw.len() / outputs,
                        runs: block.runs,
                        depth: block.depth,
                        a_run: stride[0] * row,
                        a_depth: stride[1] * inputs,
                        a_row: 1,
                        c_row: outputs,
                        lanes: LANES.min(outputs - panel * LANES),
                    },
                    a: &self.padded.image(block.image)[start..],
                    b,
                    c: &mut dw[panel * LANES..],
                    finish: Finish { add, ..Finish::default() },
                });
            }
        });
    }
}

/// The pixels that a convolution of single pixels looks at.
fn sample(geometry: &Geometry, x: &[f32]) -> Buffer {
    let Geometry { size: [rows, columns], stride, inputs, .. } = *geometry;
    let [out_rows, out_columns] = geometry.out();
    let mut samples = Buffer::new(geometry.images * out_rows * out_columns * inputs);
    samples.par_chunks_mut(out_columns * inputs).enumerate().for_each(|(index, to)| {
        let row = index / out_rows * rows + index % out_rows * stride[0];
        let from = x[row * columns * inputs..].chunks(inputs).step_by(stride[1]);
        to.chunks_exact_mut(inputs).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
    });
    samples
}

/// The adjoint of [`sample`]: adds to `dx`, or replaces it.
fn spread(geometry: &Geometry, samples: &[f32], dx: &mut [f32], add: bool) {
    let Geometry { size: [rows, columns], stride, inputs, .. } = *geometry;
    let [out_rows, out_columns] = geometry.out();
    dx.par_chunks_mut(columns * inputs).enumerate().for_each(|(index, to)| {
        if !add {
            to.fill(0.0);
        }
        let (image, row) = (index / rows, index % rows);
        if row.is_multiple_of(stride[0]) && row / stride[0] < out_rows {
            let from = &samples[(image * out_rows + row / stride[0]) * out_columns * inputs..][..out_columns * inputs];
            for (to, from) in to.chunks_mut(inputs).step_by(stride[1]).zip(from.chunks(inputs)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    });
}

/// Elements of the caller's, or of our own.
enum Values<'a> {
    Lent(&'a [f32]),
    Own(Buffer),
}

/// Images with zeros around them; the images themselves where no zeros are needed.
struct Padded<'a> {
    values: Values<'a>,
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
            return Self { values: Values::Lent(x), image, row };
        }
        let mut values = Buffer::zeros(images * image);
        values.par_chunks_mut(image).zip(x.par_chunks(rows * columns * channels)).for_each(|(to, x)| {
            let first = before[0] * row + before[1] * channels;
            for (to, x) in to[first..].chunks_mut(row).zip(x.chunks(columns * channels)) {
                to[..x.len()].copy_from_slice(x);
            }
        });
        Self { values: Values::Own(values), image, row }
    }

    /// Elements of a row.
    fn row(&self) -> usize {
        self.row
    }

    fn image(&self, index: usize) -> &[f32] {
        let values = match &self.values {
            Values::Lent(values) => values,
            Values::Own(values) => &values[..],
        };
        &values[index * self.image..]
    }
}

/// A panel of [`LANES`] outputs of `terms x outputs`, `terms x LANES`, each output's multiplied by its `scale`.
pub(super) fn pack_panel(weights: &[f32], outputs: usize, scale: Option<&[f32]>, panel: usize, to: &mut [f32]) {
    fill_panel(weights, outputs, panel, to);
    if let Some(scale) = scale {
        let scale = &scale[panel * LANES..];
        for row in to.chunks_exact_mut(LANES) {
            row.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= scale);
        }
    }
}

/// [`LANES`] columns of `rows x columns`, those beyond the last one 0.
fn fill_panel(matrix: &[f32], columns: usize, panel: usize, to: &mut [f32]) {
    let first = panel * LANES;
    let lanes = LANES.min(columns - first);
    for (to, from) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(matrix.chunks_exact(columns)) {
        match from[first..].first_chunk::<LANES>() {
            Some(from) => *to = *from,
            None => {
                to[..lanes].copy_from_slice(&from[first..]);
                to[lanes..].fill(0.0);
            }
        }
    }
}

/// Outputs whose transposed elements stay in the first-level cache.
const TRANSPOSED: usize = 64;

/// The taps of a phase, the last first, with inputs and outputs exchanged: panels of inputs, each
/// `taps x taps x outputs x LANES`.
fn pack_phase(geometry: &Geometry, weights: &[f32], scale: Option<&[f32]>, at: [usize; 2]) -> Buffer {
    let taps = phase_taps(geometry, at);
    let mut panels = Buffer::new(taps.len() * geometry.outputs * geometry.inputs.next_multiple_of(LANES));
    panels.par_chunks_mut(taps.len() * geometry.outputs * LANES).enumerate().for_each(|(panel, to)| {
        pack_phase_panel(geometry, weights, scale, &taps, panel, to);
    });
    panels
}

/// The taps of the kernel that a phase has, the last first.
pub(super) fn phase_taps(geometry: &Geometry, at: [usize; 2]) -> Vec<usize> {
    let Geometry { kernel, stride, .. } = *geometry;
    let rows = (at[0]..kernel[0]).step_by(stride[0]).rev();
    rows.flat_map(|ky| (at[1]..kernel[1]).step_by(stride[1]).rev().map(move |kx| ky * kernel[1] + kx)).collect()
}

/// One panel of [`pack_phase`].
pub(super) fn pack_phase_panel(
    geometry: &Geometry,
    weights: &[f32],
    scale: Option<&[f32]>,
    taps: &[usize],
    panel: usize,
    to: &mut [f32],
) {
    let Geometry { inputs, outputs, .. } = *geometry;
    let first = panel * LANES;
    let lanes = LANES.min(inputs - first);
    for (to, tap) in to.chunks_exact_mut(outputs * LANES).zip(taps) {
        let from = &weights[(tap * inputs + first) * outputs..][..lanes * outputs];
        for (index, to) in to.chunks_mut(TRANSPOSED * LANES).enumerate() {
            let start = index * TRANSPOSED;
            for (lane, row) in from.chunks_exact(outputs).enumerate() {
                let scale = scale.map(|scale| &scale[start..]);
                let rows = to.as_chunks_mut::<LANES>().0.iter_mut().zip(&row[start..]);
                match scale {
                    Some(scale) => rows.zip(scale).for_each(|((to, weight), scale)| to[lane] = weight * scale),
                    None => rows.for_each(|(to, weight)| to[lane] = *weight),
                }
            }
            to.as_chunks_mut::<LANES>().0.iter_mut().for_each(|row| row[lanes..].fill(0.0));
        }
    }
}
