//! Memory layout of the operands of convolutions: padded images, the pixels of a stride, panels of a right side.

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::nn::native::buffer::Buffer;
use crate::nn::native::product::LANES;

/// The pixels that a 1x1 convolution with a stride reads.
pub(super) fn sample(geometry: &Geometry, x: &[f32]) -> Buffer {
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

/// The adjoint of [`sample`]: adds to `dx`, or overwrites it.
pub(super) fn spread(geometry: &Geometry, samples: &[f32], dx: &mut [f32], add: bool) {
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

/// Elements borrowed from the caller, or owned.
enum Values<'a> {
    Lent(&'a [f32]),
    Own(Buffer),
}

/// Images with zero padding; the images themselves where no padding is needed.
pub(super) struct Padded<'a> {
    values: Values<'a>,
    image: usize,
    row: usize,
}

impl<'a> Padded<'a> {
    /// `margin`: rows and columns of zeros before and after.
    pub fn new(x: &'a [f32], images: usize, size: [usize; 2], channels: usize, margin: [[usize; 2]; 2]) -> Self {
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
    pub fn row(&self) -> usize {
        self.row
    }

    pub fn image(&self, index: usize) -> &[f32] {
        let values = match &self.values {
            Values::Lent(values) => values,
            Values::Own(values) => &values[..],
        };
        &values[index * self.image..]
    }
}

/// All panels of `terms x outputs`, one after another; see [`pack_panel`].
pub(super) fn pack(weights: &[f32], outputs: usize, scale: Option<&[f32]>) -> Buffer {
    let panel = weights.len() / outputs * LANES;
    let mut panels = Buffer::new(outputs.div_ceil(LANES) * panel);
    panels.par_chunks_mut(panel).enumerate().for_each(|(index, to)| pack_panel(weights, outputs, scale, index, to));
    panels
}

/// A panel of [`LANES`] outputs of `terms x outputs`, `terms x LANES`, each output's multiplied by its `scale`.
pub(in crate::nn::native) fn pack_panel(
    weights: &[f32],
    outputs: usize,
    scale: Option<&[f32]>,
    panel: usize,
    to: &mut [f32],
) {
    fill_panel(weights, outputs, panel, to);
    if let Some(scale) = scale {
        let scale = &scale[panel * LANES..];
        for row in to.chunks_exact_mut(LANES) {
            row.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= scale);
        }
    }
}

/// [`LANES`] columns of `rows x columns`, with zeros beyond the last one.
pub(super) fn fill_panel(matrix: &[f32], columns: usize, panel: usize, to: &mut [f32]) {
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

/// Outputs whose transposed elements stay in the L1 cache.
const TRANSPOSED: usize = 64;

/// The taps of a phase in reverse order, with inputs and outputs exchanged: panels of inputs, each
/// `taps x taps x outputs x LANES`.
pub(super) fn pack_phase(geometry: &Geometry, weights: &[f32], scale: Option<&[f32]>, at: [usize; 2]) -> Buffer {
    let taps = phase_taps(geometry, at);
    let mut panels = Buffer::new(taps.len() * geometry.outputs * geometry.inputs.next_multiple_of(LANES));
    panels.par_chunks_mut(taps.len() * geometry.outputs * LANES).enumerate().for_each(|(panel, to)| {
        pack_phase_panel(geometry, weights, scale, &taps, panel, to);
    });
    panels
}

/// The taps of the kernel that belong to a phase, in reverse order.
pub(in crate::nn::native) fn phase_taps(geometry: &Geometry, at: [usize; 2]) -> Vec<usize> {
    let Geometry { kernel, stride, .. } = *geometry;
    let rows = (at[0]..kernel[0]).step_by(stride[0]).rev();
    rows.flat_map(|ky| (at[1]..kernel[1]).step_by(stride[1]).rev().map(move |kx| ky * kernel[1] + kx)).collect()
}

/// One panel of [`pack_phase`].
pub(in crate::nn::native) fn pack_phase_panel(
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
