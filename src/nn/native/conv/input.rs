//! The gradient of a convolution's input: one convolution per phase of the stride.

use rayon::prelude::*;

use super::geometry::Geometry;
use super::layout::{Padded, pack_phase, spread};
use super::{Right, Strip, pointwise, winograd};
use crate::nn::native::buffer::Buffer;
use crate::nn::native::product::{Finish, LANES, Sizes};

/// Adds the gradient of the input to `dx` (`N x H x W x C`), or replaces it.
pub(in crate::nn::native) fn input_gradient(
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

/// The inputs that the kernel's taps `at`, `at + stride`, ... reach: input `at + stride q - padding` contributes to the
/// outputs `q, q - 1, ..., q - (taps - 1)`.
struct Phase {
    at: [usize; 2],
    taps: [usize; 2],
    /// The kernel's taps in reverse order, packed by panels of inputs; empty if there are none.
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

    /// Zeros that the output's gradient needs before its first or after its last row or column.
    fn margin(&self, geometry: &Geometry, side: usize, i: usize) -> usize {
        let positions = self.positions(geometry, i);
        match side {
            0 => self.taps[i].saturating_sub(1),
            _ => positions.end.saturating_sub(geometry.out()[i]),
        }
    }
}
