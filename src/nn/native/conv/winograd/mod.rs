//! Convolutions of 3x3, stride 1 and padding 1 by Winograd's F(4, 3) along the rows of an image.
//!
//! Four outputs of a row need twelve multiplications directly and six here (Lavin and Gray 2016, "Fast Algorithms for
//! Convolutional Neural Networks", equation 10 and section 5.1 in one dimension). A row is cut into tiles of four
//! outputs; six taps of input become six frequencies, and for each frequency the convolution is left with its three
//! vertical taps: a matrix product over (vertical tap, channel). The gradients are the exact adjoints. One dimension
//! instead of two keeps the transforms cheap and the rounding within three times that of the direct sum.
//!
//! Images are processed in groups whose transformed values stay in the L2 cache. The groups depend on the shapes alone,
//! and each sum is computed by one thread in one order: the bits do not depend on the number of threads.

mod transform;

use std::ops::Range;

use rayon::prelude::*;

use self::transform::{
    kernel_gradient, transform_input, transform_kernel, transform_output, transform_output_gradient, transform_taps,
};
use super::geometry::Geometry;
use super::layout::{pack_panel, pack_phase_panel, phase_taps};
use crate::nn::native::buffer::{Buffer, scratch};
use crate::nn::native::product::{Finish, LANES, Product, Sizes};

/// Outputs of one tile.
const TILE: usize = 4;
/// Frequencies of one tile: its outputs plus two for the kernel's other two taps.
const FREQUENCIES: usize = 6;
/// Minimum tiles per group of images, unless there are fewer.
const GROUP_TILES: usize = 128;
/// Minimum tasks per convolution, where its shape allows.
const TASKS: usize = 4;
/// Tiles whose products are accumulated before the sums are written back to memory, in the gradient of the kernel.
const DEPTH: usize = 128;

impl Geometry {
    /// The convolution of the backward pass: the same number of pixels, channels exchanged.
    fn adjoint(self) -> Self {
        Self { inputs: self.outputs, outputs: self.inputs, ..self }
    }

    /// Tiles in one row.
    fn tiles(&self) -> usize {
        self.size[1].div_ceil(TILE)
    }

    /// Images in one group.
    fn group(&self) -> usize {
        GROUP_TILES.div_ceil(self.size[0] * self.tiles()).min(self.images).max(1)
    }

    /// Elements of a group's input frequencies.
    fn spectrum(&self, images: usize) -> usize {
        FREQUENCIES * (self.size[0] + 2) * images * self.tiles() * self.pitch()
    }

    /// Stride between the tiles of a spectrum: a power of two would map a column of tiles to a few cache sets.
    fn pitch(&self) -> usize {
        if self.inputs < LANES { self.inputs } else { self.inputs + 16 }
    }
}

/// As [`super::forward`].
pub(super) fn forward<R: Send>(
    geometry: &Geometry,
    x: &[f32],
    weights: &[f32],
    scale: Option<&[f32]>,
    finish: Finish<'_>,
    y: &mut [f32],
    each: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    let taps = |panel: usize, to: &mut [f32]| pack_panel(weights, geometry.outputs, scale, panel, to);
    correlate(geometry, x, &taps, finish, y, each)
}

/// As [`super::input_gradient`].
pub(super) fn input_gradient(
    geometry: &Geometry,
    weights: &[f32],
    scale: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    let order = phase_taps(geometry, [0, 0]);
    let taps = |panel: usize, to: &mut [f32]| pack_phase_panel(geometry, weights, scale, &order, panel, to);
    correlate(&geometry.adjoint(), dy, &taps, Finish { add, ..Finish::default() }, dx, |_| ());
}

/// Writes a panel of the kernel, `3 x 3 x C x LANES`.
type Taps<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// A kernel's frequencies.
#[derive(Clone, Copy)]
enum Kernel<'a> {
    /// Precomputed for all panels, each `6 x (3 C) x LANES`.
    Made(&'a [f32]),
    /// Computed panel by panel where they are used, for a kernel that is used once.
    ToMake(Taps<'a>),
}

/// The convolution of `x` with a kernel.
fn correlate<R: Send>(
    geometry: &Geometry,
    x: &[f32],
    taps: Taps<'_>,
    finish: Finish<'_>,
    y: &mut [f32],
    each: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    let Geometry { images, inputs, outputs, .. } = *geometry;
    let (group, pixels, panels) = (geometry.group(), geometry.pixels()[0], outputs.div_ceil(LANES));
    let made;
    let kernel = if images <= group {
        Kernel::ToMake(taps)
    } else {
        made = transform_kernel(inputs, panels, taps);
        Kernel::Made(&made)
    };
    // Few groups are also split by output channels; each part then transforms the input for itself.
    let parts = TASKS.div_ceil(images.div_ceil(group)).min(panels);
    let share = panels.div_ceil(parts);
    y.par_chunks_mut(group * pixels * outputs)
        .zip(x.par_chunks(group * pixels * inputs))
        .enumerate()
        .map(|(index, (y, x))| {
            let residual = finish.residual.map(|residual| &residual[index * group * pixels * outputs..]);
            let finish = Finish { residual, ..finish };
            if parts == 1 {
                multiply(geometry, x, kernel, 0..panels, |product| {
                    transform_output(geometry, product, 0..panels, finish, y);
                });
                return each(y);
            }
            let products: Vec<(Range<usize>, Buffer)> = (0..panels)
                .step_by(share)
                .collect::<Vec<_>>()
                .into_par_iter()
                .map(|first| {
                    let range = first..panels.min(first + share);
                    let mut kept = Buffer::new(0);
                    multiply(geometry, x, kernel, range.clone(), |product| kept = Buffer::copy_of(product));
                    (range, kept)
                })
                .collect();
            for (range, product) in products {
                transform_output(geometry, &product, range, finish, y);
            }
            each(y)
        })
        .collect()
}

/// Passes to `then` the output frequencies of a group of images for some panels of outputs,
/// `6 x panels x positions x LANES`.
fn multiply(geometry: &Geometry, x: &[f32], kernel: Kernel<'_>, panels: Range<usize>, then: impl FnOnce(&[f32])) {
    let Geometry { size: [height, _], inputs, .. } = *geometry;
    let images = x.len() / (geometry.pixels()[0] * inputs);
    let (row, pitch) = (images * geometry.tiles(), geometry.pitch());
    let (positions, block) = (height * row, 3 * inputs * LANES);
    let lens = [geometry.spectrum(images), FREQUENCIES * positions * panels.len() * LANES, 3 * block, block];
    scratch(lens.iter().sum(), |all| {
        let (spectrum, rest) = all.split_at_mut(lens[0]);
        let (product, rest) = rest.split_at_mut(lens[1]);
        let (taps, made) = rest.split_at_mut(lens[2]);
        transform_input(geometry, x, spectrum);
        let sizes = Sizes {
            rows: positions,
            runs: 3,
            depth: inputs,
            a_run: row * pitch,
            a_depth: 1,
            a_row: pitch,
            c_row: LANES,
            lanes: LANES,
        };
        for (at, panel) in panels.clone().enumerate() {
            if let Kernel::ToMake(make) = kernel {
                make(panel, taps);
            }
            for frequency in 0..FREQUENCIES {
                let b = match kernel {
                    Kernel::Made(kernel) => &kernel[(panel * FREQUENCIES + frequency) * block..][..block],
                    Kernel::ToMake(_) => {
                        transform_taps(taps, frequency, made);
                        &*made
                    }
                };
                Product {
                    sizes,
                    a: &spectrum[frequency * (height + 2) * row * pitch..][..(height + 2) * row * pitch],
                    b,
                    c: &mut product[(frequency * panels.len() + at) * positions * LANES..][..positions * LANES],
                    finish: Finish::default(),
                }
                .run();
            }
        }
        then(product);
    });
}

/// As [`super::weight_gradient`].
pub(super) fn weight_gradient(geometry: &Geometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let Geometry { images, size: [height, _], inputs, outputs, .. } = *geometry;
    let (group, pixels) = (geometry.group(), geometry.pixels()[0]);
    let (pitch, panels) = (geometry.pitch(), outputs.div_ceil(LANES));
    let (spectrum, product) =
        (geometry.spectrum(group), FREQUENCIES * height * group * geometry.tiles() * panels * LANES);
    let groups = images.div_ceil(group);
    let mut spectra = Buffer::new(groups * spectrum);
    let mut products = Buffer::new(groups * product);
    spectra
        .par_chunks_mut(spectrum)
        .zip(products.par_chunks_mut(product))
        .zip(x.par_chunks(group * pixels * inputs).zip(dy.par_chunks(group * pixels * outputs)))
        .for_each(|((spectrum, product), (x, dy))| {
            let images = x.len() / (pixels * inputs);
            transform_input(geometry, x, &mut spectrum[..geometry.spectrum(images)]);
            let product_len = FREQUENCIES * height * images * geometry.tiles() * panels * LANES;
            transform_output_gradient(geometry, dy, &mut product[..product_len]);
        });
    let mut sums = Buffer::new(FREQUENCIES * panels * 3 * inputs * LANES);
    sums.par_chunks_mut(3 * inputs * LANES).enumerate().for_each(|(index, sums)| {
        let (frequency, panel) = (index / panels, index % panels);
        let mut first_block = true;
        for at in 0..groups {
            let row = group.min(images - at * group) * geometry.tiles();
            let positions = height * row;
            let a = &spectra[at * spectrum + frequency * (height + 2) * row * pitch..];
            let b = &products[at * product + (frequency * panels + panel) * positions * LANES..];
            for start in (0..positions).step_by(DEPTH) {
                let depth = DEPTH.min(positions - start);
                for (ky, sum) in sums.chunks_exact_mut(inputs * LANES).enumerate() {
                    let sizes = Sizes {
                        rows: inputs,
                        runs: 1,
                        depth,
                        a_run: 0,
                        a_depth: pitch,
                        a_row: 1,
                        c_row: LANES,
                        lanes: LANES,
                    };
                    Product {
                        sizes,
                        a: &a[(ky * row + start) * pitch..],
                        b: &b[start * LANES..],
                        c: sum,
                        finish: Finish { add: !first_block, ..Finish::default() },
                    }
                    .run();
                }
                first_block = false;
            }
        }
    });
    kernel_gradient(geometry, &sums, dw);
}
