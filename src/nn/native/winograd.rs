//! Convolutions of 3x3, stride 1 and padding 1 by Winograd's F(4, 3) along the rows of an image.
//!
//! Four outputs of a row need twelve multiplications directly and six here (Lavin and Gray 2016, "Fast Algorithms for
//! Convolutional Neural Networks", equation 10 and section 5.1 in one dimension). A row is cut into tiles of four
//! outputs; six taps of input become six frequencies, and for each frequency the convolution is left with its three
//! vertical taps: a matrix product over (vertical tap, channel). The gradients are the exact adjoints. One dimension
//! instead of two keeps the transforms cheap and the rounding error within a few times that of the direct sum.
//!
//! Images are worked on in groups whose transformed values stay in the second-level cache. The groups depend on the shapes
//! alone, and each sum is made by one thread in one order: the bits do not depend on the threads.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::buffer::{Buffer, scratch};
use super::conv::{Geometry, pack_panel, pack_phase_panel, phase_taps};
use super::product::{Finish, LANES, Product, Sizes};
use crate::simd::vectorise;

/// Outputs of one tile.
const TILE: usize = 4;
/// Frequencies of one tile: its outputs and the kernel's other two taps.
const FREQUENCIES: usize = 6;
/// Tiles that a group of images has at least, unless there are fewer.
const GROUP_TILES: usize = 128;
/// Tasks that a convolution is cut into at least, where its shape allows.
const TASKS: usize = 4;
/// Tiles whose products are summed before the sums go back to memory, in the gradient of the kernel.
const DEPTH: usize = 128;

impl Geometry {
    /// The convolution that takes the gradient back: as many pixels, channels exchanged.
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

    /// Distance between the tiles of a spectrum: a power of two would put a column of tiles in a few cache sets.
    fn pitch(&self) -> usize {
        if self.inputs < LANES { self.inputs } else { self.inputs + 16 }
    }
}

/// As [`super::conv::forward`].
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

/// As [`super::conv::input_gradient`].
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
    /// Of all panels, each `6 x (3 C) x LANES`.
    Made(&'a [f32]),
    /// To be made panel by panel where they are used, for a kernel that is used once.
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
    // Few groups are cut by output channels as well; each part then transforms the input for itself.
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

/// Hands `then` the output frequencies of a group of images for some panels of outputs, `6 x panels x positions x LANES`.
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
                Arch::new().dispatch(Product {
                    sizes,
                    a: &spectrum[frequency * (height + 2) * row * pitch..][..(height + 2) * row * pitch],
                    b,
                    c: &mut product[(frequency * panels.len() + at) * positions * LANES..][..positions * LANES],
                    finish: Finish::default(),
                });
            }
        }
        then(product);
    });
}

/// As [`super::conv::weight_gradient`].
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
                    Arch::new().dispatch(Product {
                        sizes,
                        a: &a[(ky * row + start) * pitch..],
                        b: &b[start * LANES..],
                        c: sum,
                        finish: Finish { add: !first_block, ..Finish::default() },
                    });
                }
                first_block = false;
            }
        }
    });
    kernel_gradient(geometry, &sums, dw);
}

/// Kernel taps to frequencies: Lavin and Gray's G.
const KERNEL: [[f32; 3]; FREQUENCIES] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// The frequencies of all panels of a kernel, each `6 x (3 C) x LANES`.
fn transform_kernel(inputs: usize, panels: usize, taps: Taps<'_>) -> Buffer {
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
fn transform_taps(taps: &[f32], frequency: usize, out: &mut [f32]) {
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

/// Takes the gradients of the frequencies (`6 x panels x 3 x C x LANES`) back to `3 x 3 x C x O`.
fn kernel_gradient(geometry: &Geometry, sums: &[f32], dw: &mut [f32]) {
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
fn transform_input(geometry: &Geometry, x: &[f32], spectrum: &mut [f32]) {
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

/// One tile's six columns. The compiler takes the arguments of a function not to overlap, and vectorises it.
#[inline(always)]
fn to_frequencies([d0, d1, d2, d3, d4, d5]: [&[f32]; 6], [v0, v1, v2, v3, v4, v5]: [&mut [f32]; 6]) {
    let n = v0.len();
    let (d0, d1, d2, d3, d4, d5) = (&d0[..n], &d1[..n], &d2[..n], &d3[..n], &d4[..n], &d5[..n]);
    let (v1, v2, v3, v4, v5) = (&mut v1[..n], &mut v2[..n], &mut v3[..n], &mut v4[..n], &mut v5[..n]);
    for c in 0..n {
        let (even, odd) = (d4[c] - 4.0 * d2[c], d3[c] - 4.0 * d1[c]);
        let (near_even, near_odd) = (d4[c] - d2[c], 2.0 * (d3[c] - d1[c]));
        v0[c] = 4.0 * d0[c] - 5.0 * d2[c] + d4[c];
        v1[c] = even + odd;
        v2[c] = even - odd;
        v3[c] = near_even + near_odd;
        v4[c] = near_even - near_odd;
        v5[c] = 4.0 * d1[c] - 5.0 * d3[c] + d5[c];
    }
}

/// Output frequencies (`6 x panels x H x G x tiles x LANES`) of some panels to images (`G x H x W x O`): Lavin and Gray's A^T,
/// per channel.
fn transform_output(geometry: &Geometry, product: &[f32], panels: Range<usize>, finish: Finish<'_>, y: &mut [f32]) {
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
        let (sum, difference) = (m1[c] + m2[c], m1[c] - m2[c]);
        let (far_sum, far_difference) = (m3[c] + m4[c], m3[c] - m4[c]);
        values[0][c] = m0[c] + sum + far_sum;
        values[1][c] = difference + 2.0 * far_difference;
        values[2][c] = sum + 4.0 * far_sum;
        values[3][c] = difference + 8.0 * far_difference + m5[c];
    }
    values
}

/// The adjoint of [`transform_output`]: `dy` (`G x H x W x O`) to frequencies, the padding channels zero.
fn transform_output_gradient(geometry: &Geometry, dy: &[f32], product: &mut [f32]) {
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
                            let (near_even, near_odd) = (d0[c] + d2[c], d1[c] + d3[c]);
                            let (far_even, far_odd) = (d0[c] + 4.0 * d2[c], 2.0 * d1[c] + 8.0 * d3[c]);
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

/// Writes the first `count` lanes to `to`, finished.
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
