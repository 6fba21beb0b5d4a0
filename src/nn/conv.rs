//! The CPU convolution: 3x3, stride 1, padding 1, NHWC, by Winograd's F(4, 3) along the rows of an image.
//!
//! Four outputs of a row need twelve multiplications directly and six here (Lavin and Gray 2016, "Fast Algorithms for
//! Convolutional Neural Networks", equation 10 and section 5.1 in one dimension). A row is cut into tiles of four
//! outputs; six taps of input become six frequencies, and for each frequency the convolution is left with its three
//! vertical taps: a matrix product over (vertical tap, channel). The gradients are the exact adjoints. One dimension
//! instead of two keeps the transforms cheap and the rounding error within a few times that of the direct sum.
//!
//! Images are worked on in groups whose transformed values stay in the second-level cache. The groups, and the number
//! of partial sums of the weight gradient, depend on the shapes alone, so the bits do not depend on the threads.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::buffer::Buffer;

/// Outputs of one tile.
const TILE: usize = 4;
/// Frequencies of one tile: its outputs and the kernel's other two taps.
const FREQUENCIES: usize = 6;
/// Output channels that one pass of the product takes; channels are padded to a multiple of it.
const LANES: usize = 32;
/// Tiles that a group of images has at least, unless there are fewer.
const GROUP_TILES: usize = 128;
/// Partial sums of the weight gradient, and with it the most threads that one backward convolution keeps busy.
const PARTS: usize = 4;

/// The shapes of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Images in the batch.
    pub images: usize,
    /// Rows of an image, in and out.
    pub height: usize,
    /// Columns of an image, in and out.
    pub width: usize,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
}

impl Geometry {
    /// The convolution that takes the gradient back: as many pixels, channels exchanged.
    fn adjoint(self) -> Self {
        Self { inputs: self.outputs, outputs: self.inputs, ..self }
    }

    /// Tiles in one row.
    fn tiles(self) -> usize {
        self.width.div_ceil(TILE)
    }

    /// Images in one group.
    pub fn group(self) -> usize {
        GROUP_TILES.div_ceil(self.height * self.tiles()).min(self.images).max(1)
    }

    /// Output channels, padded.
    fn padded(self) -> usize {
        self.outputs.next_multiple_of(LANES)
    }

    /// Distance between the tiles of a spectrum: a power of two would put a column of tiles in a few cache sets.
    fn pitch(self) -> usize {
        if self.inputs < LANES { self.inputs } else { self.inputs + 16 }
    }

    /// Pixels of an image.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// Buffers that a thread keeps from one group to the next.
#[derive(Default)]
struct Scratch {
    /// Frequencies of the input: `6 x (H + 2) x G x tiles x pitch`, the first and last row zero.
    spectrum: Vec<f32>,
    /// Frequencies of the output, channels in blocks: `6 x (padded O / LANES) x H x G x tiles x LANES`.
    product: Vec<f32>,
    /// Gradient of a group's output.
    gradient: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first `len` elements of `buffer`, which grows as needed; what they hold is unspecified.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Writes the convolution of `x` (`N x H x W x C`) with `weights` (`3 x 3 x C x O`) to `y` (`N x H x W x O`), and
/// returns what `finish` makes of each group's output while it is in cache, in the order of the groups.
pub(super) fn forward<R: Send>(
    geometry: Geometry,
    x: &[f32],
    weights: &[f32],
    y: &mut [f32],
    finish: impl Fn(&[f32]) -> R + Sync,
) -> Vec<R> {
    let kernel = transform_weights(geometry, weights);
    let (group, pixels) = (geometry.group(), geometry.pixels());
    y.par_chunks_mut(group * pixels * geometry.outputs)
        .zip(x.par_chunks(group * pixels * geometry.inputs))
        .map(|(y, x)| {
            SCRATCH.with_borrow_mut(|scratch| {
                Arch::new().dispatch(Correlate { geometry, x, kernel: &kernel, y: &mut *y, add: false, scratch });
            });
            finish(y)
        })
        .collect()
}

/// Adds the gradients of a convolution to `weight_gradient` (`3 x 3 x C x O`) and, if wanted, to `input_gradient`
/// (`N x H x W x C`).
///
/// `output_gradient(images, out)` writes the gradient of those images' output (`images x H x W x O`).
pub(super) fn backward(
    geometry: Geometry,
    x: &[f32],
    weights: &[f32],
    output_gradient: impl Fn(Range<usize>, &mut [f32]) + Sync,
    weight_gradient: &mut [f32],
    input_gradient: Option<&mut [f32]>,
) {
    let Geometry { images, inputs, .. } = geometry;
    let (group, pixels) = (geometry.group(), geometry.pixels());
    let flipped = input_gradient.as_ref().map(|_| transform_weights(geometry.adjoint(), &flip(geometry, weights)));
    let part = images.div_ceil(group).div_ceil(PARTS) * group;
    let mut gradients: Vec<Option<&mut [f32]>> = match input_gradient {
        Some(gradient) => gradient.chunks_mut(part * pixels * inputs).map(Some).collect(),
        None => (0..images.div_ceil(part)).map(|_| None).collect(),
    };
    let sum_len = FREQUENCIES * 3 * inputs * geometry.padded();
    let mut sums = Buffer::new(gradients.len() * sum_len);
    gradients.par_iter_mut().zip(sums.par_chunks_mut(sum_len)).enumerate().for_each(|(index, (dx, sum))| {
        sum.fill(0.0);
        let end = images.min((index + 1) * part);
        for first in (index * part..end).step_by(group) {
            let range = first..end.min(first + group);
            let x = &x[range.start * pixels * inputs..range.end * pixels * inputs];
            let dx = dx.as_deref_mut().map(|dx| {
                let start = (first - index * part) * pixels * inputs;
                &mut dx[start..start + x.len()]
            });
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = std::mem::take(&mut scratch.gradient);
                let dy = sized(&mut buffer, range.len() * pixels * geometry.outputs);
                output_gradient(range, dy);
                let sum = &mut *sum;
                Arch::new().dispatch(WeightGradient { geometry, x, dy, sum, scratch });
                if let (Some(dx), Some(kernel)) = (dx, &flipped) {
                    let geometry = geometry.adjoint();
                    Arch::new().dispatch(Correlate { geometry, x: dy, kernel, y: dx, add: true, scratch });
                }
                scratch.gradient = buffer;
            });
        }
    });
    add_kernel_gradient(geometry, &sums, weight_gradient);
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

/// `3 x 3 x C x O` weights to frequencies, `6 x (padded O / LANES) x (3 C) x LANES`: the order in which the product
/// reads them.
fn transform_weights(geometry: Geometry, weights: &[f32]) -> Buffer {
    let Geometry { inputs, outputs, .. } = geometry;
    let mut kernel = Buffer::new(FREQUENCIES * 3 * inputs * geometry.padded());
    let blocks = geometry.padded() / LANES;
    for (index, block) in kernel.chunks_exact_mut(3 * inputs * LANES).enumerate() {
        let (g, first) = (KERNEL[index / blocks], index % blocks * LANES);
        let count = LANES.min(outputs - first);
        for (row, out) in block.chunks_exact_mut(LANES).enumerate() {
            let (ky, channel) = (row / inputs, row % inputs);
            let tap = |kx: usize| &weights[((ky * 3 + kx) * inputs + channel) * outputs + first..][..count];
            let (used, padding) = out.split_at_mut(count);
            padding.fill(0.0);
            for (((out, a), b), c) in used.iter_mut().zip(tap(0)).zip(tap(1)).zip(tap(2)) {
                *out = g[0] * a + g[1] * b + g[2] * c;
            }
        }
    }
    kernel
}

/// `3 x 3 x C x O` weights turned by half a turn with their channels exchanged: `3 x 3 x O x C`.
fn flip(geometry: Geometry, weights: &[f32]) -> Buffer {
    let Geometry { inputs, outputs, .. } = geometry;
    let mut flipped = Buffer::new(weights.len());
    for (tap, out) in flipped.chunks_exact_mut(inputs * outputs).enumerate() {
        let source = &weights[(8 - tap) * inputs * outputs..][..inputs * outputs];
        for (output, row) in out.chunks_exact_mut(inputs).enumerate() {
            row.iter_mut().enumerate().for_each(|(input, value)| *value = source[input * outputs + output]);
        }
    }
    flipped
}

/// Takes the sum of the partial gradients of the frequencies (`6 x 3 x (padded O / LANES) x C x LANES` each) back to
/// `3 x 3 x C x O`.
fn add_kernel_gradient(geometry: Geometry, sums: &[f32], weight_gradient: &mut [f32]) {
    let Geometry { inputs, outputs, .. } = geometry;
    let padded = geometry.padded();
    weight_gradient.par_chunks_mut(outputs).enumerate().for_each(|(row, out)| {
        let (ky, kx, channel) = (row / (3 * inputs), row / inputs % 3, row % inputs);
        for (frequency, g) in KERNEL.iter().map(|g| g[kx]).enumerate().filter(|(_, g)| *g != 0.0) {
            let start = (frequency * 3 + ky) * inputs * padded + channel * LANES;
            for partial in sums.chunks_exact(FREQUENCIES * 3 * inputs * padded) {
                for (out, sum) in out.chunks_mut(LANES).zip(partial[start..].chunks(inputs * LANES)) {
                    out.iter_mut().zip(sum).for_each(|(out, sum)| *out += g * sum);
                }
            }
        }
    });
}

/// The convolution of one group of images.
struct Correlate<'a> {
    geometry: Geometry,
    x: &'a [f32],
    kernel: &'a [f32],
    y: &'a mut [f32],
    /// Add to `y` instead of overwriting it.
    add: bool,
    scratch: &'a mut Scratch,
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, x, kernel, y, add, scratch } = self;
        let Geometry { height, inputs, .. } = geometry;
        let row = x.len() / (geometry.pixels() * inputs) * geometry.tiles();
        let (positions, padded, pitch) = (height * row, geometry.padded(), geometry.pitch());
        let spectrum = sized(&mut scratch.spectrum, FREQUENCIES * (height + 2) * row * pitch);
        let product = sized(&mut scratch.product, FREQUENCIES * positions * padded);
        transform_input(geometry, x, spectrum);
        let blocks = kernel.chunks_exact(3 * inputs * LANES);
        for (index, b) in blocks.enumerate() {
            let frequency = index / (padded / LANES);
            let a = &spectrum[frequency * (height + 2) * row * pitch..][..(height + 2) * row * pitch];
            let c = &mut product[index * positions * LANES..][..positions * LANES];
            let strides = Strides { a_run: row * pitch, a_depth: 1, a_row: pitch, c_row: LANES };
            let size = Size { rows: positions, runs: 3, depth: inputs };
            multiply(simd, size, strides, a, b, c, false);
        }
        transform_output(geometry, product, y, add);
    }
}

/// The gradient of the kernel's frequencies from one group of images, added to `sum`.
struct WeightGradient<'a> {
    geometry: Geometry,
    x: &'a [f32],
    dy: &'a [f32],
    sum: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, x, dy, sum, scratch } = self;
        let Geometry { height, inputs, .. } = geometry;
        let row = x.len() / (geometry.pixels() * inputs) * geometry.tiles();
        let (positions, padded, pitch) = (height * row, geometry.padded(), geometry.pitch());
        let spectrum = sized(&mut scratch.spectrum, FREQUENCIES * (height + 2) * row * pitch);
        let product = sized(&mut scratch.product, FREQUENCIES * positions * padded);
        transform_input(geometry, x, spectrum);
        transform_output_gradient(geometry, dy, product);
        for (index, sum) in sum.chunks_exact_mut(inputs * padded).enumerate() {
            let (frequency, ky) = (index / 3, index % 3);
            let a = &spectrum[(frequency * (height + 2) + ky) * row * pitch..][..positions * pitch];
            let blocks =
                product[frequency * positions * padded..][..positions * padded].chunks_exact(positions * LANES);
            let strides = Strides { a_run: 0, a_depth: pitch, a_row: 1, c_row: LANES };
            let size = Size { rows: inputs, runs: 1, depth: positions };
            for (b, c) in blocks.zip(sum.chunks_exact_mut(inputs * LANES)) {
                multiply(simd, size, strides, a, b, c, true);
            }
        }
    }
}

/// Images (`G x H x W x C`) to frequencies (`6 x (H + 2) x G x tiles x pitch`): Lavin and Gray's B^T, per channel.
#[inline(always)]
fn transform_input(geometry: Geometry, x: &[f32], spectrum: &mut [f32]) {
    let Geometry { height, width, inputs, .. } = geometry;
    let (group, tiles) = (x.len() / (geometry.pixels() * inputs), geometry.tiles());
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
    for (index, line) in x.chunks_exact(width * inputs).enumerate() {
        let (image, y) = (index / height, index % height);
        for tile in 0..tiles {
            let tap = |j: usize| match (tile * TILE + j).checked_sub(1) {
                Some(column) if column < width => &line[column * inputs..][..inputs],
                _ => outside,
            };
            let [d0, d1, d2, d3, d4, d5] = [tap(0), tap(1), tap(2), tap(3), tap(4), tap(5)];
            let start = (y + 1) * row + (image * tiles + tile) * pitch;
            let [v0, v1, v2, v3, v4, v5] = planes.each_mut().map(|plane| &mut plane[start..start + inputs]);
            for c in 0..inputs {
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
    }
}

/// Frequencies (`6 x (padded O / LANES) x H x G x tiles x LANES`) to images (`G x H x W x O`): Lavin and Gray's A^T,
/// per channel.
#[inline(always)]
fn transform_output(geometry: Geometry, product: &[f32], y: &mut [f32], add: bool) {
    let Geometry { height, width, outputs, .. } = geometry;
    let tiles = geometry.tiles();
    let group = y.len() / (geometry.pixels() * outputs);
    let (plane, block) = (product.len() / FREQUENCIES, height * group * tiles * LANES);
    for (index, line) in y.chunks_exact_mut(width * outputs).enumerate() {
        let (image, row) = (index / height, index % height);
        for (tile, out) in line.chunks_mut(TILE * outputs).enumerate() {
            let start = ((row * group + image) * tiles + tile) * LANES;
            for first in (0..outputs).step_by(LANES) {
                let count = LANES.min(outputs - first);
                let at = |frequency: usize| load(&product[frequency * plane + first / LANES * block + start..], LANES);
                let [m0, m1, m2, m3, m4, m5] = [at(0), at(1), at(2), at(3), at(4), at(5)];
                let mut values = [[0.0; LANES]; TILE];
                for c in 0..LANES {
                    let (sum, difference) = (m1[c] + m2[c], m1[c] - m2[c]);
                    let (far_sum, far_difference) = (m3[c] + m4[c], m3[c] - m4[c]);
                    values[0][c] = m0[c] + sum + far_sum;
                    values[1][c] = difference + 2.0 * far_difference;
                    values[2][c] = sum + 4.0 * far_sum;
                    values[3][c] = difference + 8.0 * far_difference + m5[c];
                }
                for (out, values) in out.chunks_exact_mut(outputs).zip(&values) {
                    store(&mut out[first..], values, count, add);
                }
            }
        }
    }
}

/// The adjoint of [`transform_output`]: `dy` (`G x H x W x O`) to frequencies, the padding channels zero.
#[inline(always)]
fn transform_output_gradient(geometry: Geometry, dy: &[f32], product: &mut [f32]) {
    let Geometry { height, width, outputs, .. } = geometry;
    let tiles = geometry.tiles();
    let group = dy.len() / (geometry.pixels() * outputs);
    let block = height * group * tiles * LANES;
    let mut planes = planes(product);
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

/// Writes the first `count` lanes to `to`, or adds them.
#[inline(always)]
fn store(to: &mut [f32], lanes: &[f32; LANES], count: usize, add: bool) {
    match to.first_chunk_mut::<LANES>() {
        Some(to) if count == LANES && add => to.iter_mut().zip(lanes).for_each(|(to, lane)| *to += lane),
        Some(to) if count == LANES => *to = *lanes,
        _ => {
            for (to, lane) in to.iter_mut().zip(&lanes[..count]) {
                *to = if add { *to + lane } else { *lane };
            }
        }
    }
}

/// The six equal planes of a buffer.
#[inline(always)]
fn planes(buffer: &mut [f32]) -> [&mut [f32]; FREQUENCIES] {
    let mut chunks = buffer.chunks_exact_mut(buffer.len() / FREQUENCIES);
    std::array::from_fn(|_| chunks.next().unwrap_or_default())
}

/// Extents of a product.
#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    runs: usize,
    depth: usize,
}

/// Distances between neighbours.
#[derive(Clone, Copy)]
struct Strides {
    a_run: usize,
    a_depth: usize,
    a_row: usize,
    c_row: usize,
}

/// `c[row, lane] (+)= sum over run and depth of a[run, depth, row] * b[run, depth, lane]`, for [`LANES`] lanes.
#[inline(always)]
fn multiply<S: Simd>(simd: S, size: Size, strides: Strides, a: &[f32], b: &[f32], c: &mut [f32], add: bool) {
    let Size { rows, runs, depth } = size;
    let last = (runs - 1) * strides.a_run + (depth - 1) * strides.a_depth + (rows - 1) * strides.a_row;
    assert!(last < a.len(), "the left operand is too short");
    assert!((runs * depth - 1) * LANES + LANES <= b.len(), "the right operand is too short");
    assert!((rows - 1) * strides.c_row + LANES <= c.len(), "the result is too short");
    // 32 vector registers hold 8 rows of two vectors; 16 registers hold 4.
    let step = if S::REGISTER_COUNT >= 32 { 8 } else { 4 };
    let mut row = 0;
    while row < rows {
        let rows_now = [step, 4, 3, 1].into_iter().find(|&count| count <= rows - row).unwrap_or(1);
        for lane in (0..LANES).step_by(2 * S::F32_LANES) {
            // SAFETY: the assertions above bound every index of rows row..row + rows_now and lanes
            // lane..lane + 2 * F32_LANES, which divides LANES on every instruction set (1, 4, 8 or 16 lanes).
            unsafe {
                let a = a.as_ptr().add(row * strides.a_row);
                let b = b.as_ptr().add(lane);
                let c = c.as_mut_ptr().add(row * strides.c_row + lane);
                match rows_now {
                    8 => tile::<S, 8>(simd, size, strides, a, b, c, add),
                    4 => tile::<S, 4>(simd, size, strides, a, b, c, add),
                    3 => tile::<S, 3>(simd, size, strides, a, b, c, add),
                    _ => tile::<S, 1>(simd, size, strides, a, b, c, add),
                }
            }
        }
        row += rows_now;
    }
}

/// One register block of [`multiply`]: `ROWS` rows of two vectors.
///
/// # Safety
/// Every element that `size` and `strides` reach from the three pointers, with `ROWS` rows, must be valid.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize>(
    simd: S,
    size: Size,
    strides: Strides,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    add: bool,
) {
    let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
    // SAFETY: the caller vouches for all offsets; the vectors are read and written unaligned.
    unsafe {
        let mut b = b;
        for run in 0..size.runs {
            let mut a = a.add(run * strides.a_run);
            for _ in 0..size.depth {
                let low = b.cast::<S::f32s>().read_unaligned();
                let high = b.add(S::F32_LANES).cast::<S::f32s>().read_unaligned();
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = simd.splat_f32s(*a.add(row * strides.a_row));
                    sum[0] = simd.mul_add_e_f32s(value, low, sum[0]);
                    sum[1] = simd.mul_add_e_f32s(value, high, sum[1]);
                }
                a = a.wrapping_add(strides.a_depth);
                b = b.wrapping_add(LANES);
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            for (half, &sum) in sum.iter().enumerate() {
                let out = c.add(row * strides.c_row + half * S::F32_LANES).cast::<S::f32s>();
                let sum = if add { simd.add_f32s(sum, out.read_unaligned()) } else { sum };
                out.write_unaligned(sum);
            }
        }
    }
}
