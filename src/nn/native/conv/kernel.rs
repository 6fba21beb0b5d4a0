//! The gradient of a convolution's kernel: a product with rows and terms exchanged.

use rayon::prelude::*;

use super::geometry::Geometry;
use super::layout::{Padded, fill_panel, sample};
use super::winograd;
use crate::nn::native::buffer::{Buffer, scratch};
use crate::nn::native::product::{Finish, LANES, Product, Sizes};

/// Pixels whose products are accumulated before the sums are written back to memory.
const DEPTH: usize = 128;
/// Gradients of kernels with more elements are partitioned by elements, others by pixels.
const FEW_WEIGHTS: usize = 1 << 17;
/// Number of parts into which the pixels are partitioned.
const PARTS: usize = 4;

/// Writes the gradient of the kernel (`KH x KW x C x O`) to `dw`.
pub(in crate::nn::native) fn weight_gradient(geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
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

/// The gradient of a large kernel: each task computes some of its rows over all pixels.
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
        let (row, rows) = (self.padded.row(), dw.len() / outputs);
        let start = (block.top * stride[0] + ky) * row + block.left * stride[1] * inputs + first;
        let x = &self.padded.image(block.image)[start..];
        let pixels = block.runs * block.depth;
        let dy = &dy[block.pixel * outputs..][..pixels * outputs];
        // Pixels at strides of many cache lines compete for the same few sets; where many panels read them, a copy pays
        // off.
        let pitch = rows + 16;
        let copied = if self.geometry.is_pointwise() && outputs >= 4 * LANES { pixels * pitch } else { 0 };
        scratch(pixels * LANES + copied, |all| {
            let (b, copy) = all.split_at_mut(pixels * LANES);
            copy.chunks_exact_mut(pitch)
                .zip(x.chunks(inputs))
                .for_each(|(to, x)| to[..rows].copy_from_slice(&x[..rows]));
            let (a, a_depth) = if copied > 0 { (&*copy, pitch) } else { (x, stride[1] * inputs) };
            for panel in 0..outputs.div_ceil(LANES) {
                fill_panel(dy, outputs, panel, b);
                Product {
                    sizes: Sizes {
                        rows,
                        runs: block.runs,
                        depth: block.depth,
                        a_run: stride[0] * row,
                        a_depth,
                        a_row: 1,
                        c_row: outputs,
                        lanes: LANES.min(outputs - panel * LANES),
                    },
                    a,
                    b,
                    c: &mut dw[panel * LANES..],
                    finish: Finish { add, ..Finish::default() },
                }
                .run();
            }
        });
    }
}
