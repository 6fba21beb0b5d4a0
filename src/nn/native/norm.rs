//! Batch normalisation, residual, ReLU and 2x2 max pooling on CPU slices, in one pass each way.
//!
//! The normalisation is one multiplication and one addition per channel, and of four values only the largest passes the
//! pooling: only the result is written. The backward pass recomputes the winner of each window instead of storing it.

use rayon::prelude::*;

use super::map::CHUNK;
use crate::math::simd::vectorise;

/// Pixels whose sums are accumulated in single precision before they are added in double precision.
const SUM_PIXELS: usize = 256;

/// The shapes of one pooling: `N x H x W x C` to `N x H/2 x W/2 x C`; a last odd row or column is dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Windows {
    /// Elements of one image before pooling.
    fn image(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Elements of one image after pooling.
    pub fn pooled(self) -> usize {
        (self.height / 2) * (self.width / 2) * self.channels
    }
}

/// Count, mean and sum of squared deviations of each channel.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub count: f64,
    pub mean: Vec<f64>,
    pub squares: Vec<f64>,
}

impl Moments {
    /// The moments of `values` (`pixels x C`): two passes, so that a mean far from zero loses no digits.
    pub fn of(values: &[f32], channels: usize) -> Self {
        let count = (values.len() / channels) as f64;
        let mut mean = vec![0.0; channels];
        let mut squares = vec![0.0; channels];
        vectorise(
            #[inline(always)]
            || {
                let mut sums = vec![0.0f32; channels];
                for pixels in values.chunks(SUM_PIXELS * channels) {
                    sums.fill(0.0);
                    for pixel in pixels.chunks_exact(channels) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
                    }
                    mean.iter_mut().zip(&sums).for_each(|(mean, &sum)| *mean += f64::from(sum));
                }
                mean.iter_mut().for_each(|mean| *mean /= count);
                let centre: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
                for pixels in values.chunks(SUM_PIXELS * channels) {
                    sums.fill(0.0);
                    for pixel in pixels.chunks_exact(channels) {
                        sums.iter_mut().zip(pixel).zip(&centre).for_each(|((sum, x), m)| *sum += (x - m) * (x - m));
                    }
                    squares.iter_mut().zip(&sums).for_each(|(squares, &sum)| *squares += f64::from(sum));
                }
            },
        );
        Self { count, mean, squares }
    }

    /// The moments of both together (Chan, Golub and LeVeque 1983).
    pub fn merge(mut self, other: &Self) -> Self {
        let count = self.count + other.count;
        for channel in 0..self.mean.len() {
            let difference = other.mean[channel] - self.mean[channel];
            self.mean[channel] += difference * other.count / count;
            self.squares[channel] +=
                other.squares[channel] + difference * difference * self.count * other.count / count;
        }
        self.count = count;
        self
    }

    /// Moves running statistics towards these by the fraction `momentum`; the running variance is the unbiased one, as
    /// in PyTorch.
    pub fn update_running(&self, mean: &mut [f32], variance: &mut [f32], momentum: f32) {
        let (freedom, momentum) = ((self.count - 1.0).max(1.0), f64::from(momentum));
        for (running, batch) in mean.iter_mut().zip(&self.mean) {
            *running = ((1.0 - momentum) * f64::from(*running) + momentum * batch) as f32;
        }
        for (running, batch) in variance.iter_mut().zip(&self.squares) {
            *running = ((1.0 - momentum) * f64::from(*running) + momentum * batch / freedom) as f32;
        }
    }

    /// The normalisation by the batch's own statistics (biased variance).
    pub fn normalisation(&self, weight: &[f32], bias: &[f32], epsilon: f32) -> Normalisation {
        let variances = self.squares.iter().map(|squares| squares / self.count);
        Normalisation::new(self.mean.iter().copied().zip(variances), weight, bias, epsilon)
    }
}

/// `y = scale * x + shift` for each channel, and what the backward pass needs in addition.
#[derive(Debug, Clone)]
pub(super) struct Normalisation {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub mean: Vec<f32>,
    /// 1 / sqrt(variance + epsilon)
    pub inverse: Vec<f32>,
}

impl Normalisation {
    /// From each channel's (mean, variance).
    fn new(statistics: impl Iterator<Item = (f64, f64)>, weight: &[f32], bias: &[f32], epsilon: f32) -> Self {
        let mut this = Self { scale: Vec::new(), shift: Vec::new(), mean: Vec::new(), inverse: Vec::new() };
        for (((mean, variance), &weight), &bias) in statistics.zip(weight).zip(bias) {
            let inverse = (variance + f64::from(epsilon)).sqrt().recip();
            let scale = f64::from(weight) * inverse;
            this.scale.push(scale as f32);
            this.shift.push((f64::from(bias) - mean * scale) as f32);
            this.mean.push(mean as f32);
            this.inverse.push(inverse as f32);
        }
        this
    }

    /// The normalisation by running statistics.
    pub fn running(mean: &[f32], variance: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Self {
        Self::new(mean.iter().zip(variance).map(|(&m, &v)| (f64::from(m), f64::from(v))), weight, bias, epsilon)
    }

    /// Elements of a stretch of whole pixels.
    fn stretch(&self) -> usize {
        (CHUNK / self.scale.len()).max(1) * self.scale.len()
    }

    /// Writes normalised `x` (`pixels x C`), plus `residual`, with a ReLU if `relu`, to `y`.
    pub fn apply(&self, x: &[f32], residual: Option<&[f32]>, relu: bool, y: &mut [f32]) {
        let (channels, stretch) = (self.scale.len(), self.stretch());
        y.par_chunks_mut(stretch).zip(x.par_chunks(stretch)).enumerate().for_each(|(index, (y, x))| {
            let residual = residual.map(|residual| &residual[index * stretch..][..y.len()]);
            vectorise(
                #[inline(always)]
                || match residual {
                    None => {
                        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                            for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(&self.scale).zip(&self.shift) {
                                let value = x * scale + shift;
                                *y = if relu && value < 0.0 { 0.0 } else { value };
                            }
                        }
                    }
                    Some(residual) => {
                        let rows = y.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                        for ((y, x), residual) in rows.zip(residual.chunks_exact(channels)) {
                            let pixel = y.iter_mut().zip(x).zip(residual);
                            for (((y, x), residual), (scale, shift)) in pixel.zip(self.scale.iter().zip(&self.shift)) {
                                let value = x * scale + shift + residual;
                                *y = if relu && value < 0.0 { 0.0 } else { value };
                            }
                        }
                    }
                },
            );
        });
    }

    /// The gradients of bias and weight: each channel's sums of `dy`, and of `dy` times the normalised value of `x`
    /// (`pixels x C`). Where the result `y` of a ReLU is not positive, `dy` becomes 0 first.
    pub fn sums(&self, x: &[f32], y: Option<&[f32]>, dy: &mut [f32]) -> [Vec<f64>; 2] {
        let (channels, stretch) = (self.scale.len(), self.stretch());
        let parts: Vec<[Vec<f32>; 2]> = dy
            .par_chunks_mut(stretch)
            .zip(x.par_chunks(stretch))
            .enumerate()
            .map(|(index, (dy, x))| {
                let (mut plain, mut weighted) = (vec![0.0f32; channels], vec![0.0f32; channels]);
                let y = y.map(|y| &y[index * stretch..][..dy.len()]);
                vectorise(
                    #[inline(always)]
                    || {
                        for (at, (dy, x)) in dy.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).enumerate() {
                            if let Some(y) = y {
                                mask(&y[at * channels..][..channels], dy);
                            }
                            add_moments(dy, x, &self.mean, &mut plain, &mut weighted);
                        }
                        weighted.iter_mut().zip(&self.inverse).for_each(|(sum, inverse)| *sum *= inverse);
                    },
                );
                [plain, weighted]
            })
            .collect();
        total(&parts, channels)
    }

    /// Replaces `dy` by the gradient of `x` (`pixels x C`), given [`Self::sums`].
    pub fn back(&self, x: &[f32], [plain, weighted]: &[Vec<f64>; 2], dy: &mut [f32]) {
        let (channels, stretch) = (self.scale.len(), self.stretch());
        let (slope, offset) = self.slopes([plain, weighted], (x.len() / channels) as f64);
        dy.par_chunks_mut(stretch).zip(x.par_chunks(stretch)).for_each(|(dy, x)| {
            vectorise(
                #[inline(always)]
                || {
                    for (dy, x) in dy.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                        let pixel = dy.iter_mut().zip(x).zip(&self.scale);
                        for (((dy, x), scale), (slope, offset)) in pixel.zip(slope.iter().zip(&offset)) {
                            *dy = *dy * scale + x * slope + offset;
                        }
                    }
                },
            );
        });
    }

    /// Like [`Self::back`], without changing `dy`.
    pub fn back_from(&self, x: &[f32], [plain, weighted]: &[Vec<f64>; 2], dy: &[f32], dx: &mut [f32]) {
        let (channels, stretch) = (self.scale.len(), self.stretch());
        let (slope, offset) = self.slopes([plain, weighted], (x.len() / channels) as f64);
        dx.par_chunks_mut(stretch).zip(dy.par_chunks(stretch)).zip(x.par_chunks(stretch)).for_each(|((dx, dy), x)| {
            vectorise(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(channels).zip(dy.chunks_exact(channels));
                    for ((dx, dy), x) in rows.zip(x.chunks_exact(channels)) {
                        let pixel = dx.iter_mut().zip(dy).zip(x).zip(&self.scale);
                        for ((((dx, dy), x), scale), (slope, offset)) in pixel.zip(slope.iter().zip(&offset)) {
                            *dx = dy * scale + x * slope + offset;
                        }
                    }
                },
            );
        });
    }

    /// The gradient of `x` is `scale * dy + slope * x + offset` for each channel.
    fn slopes(&self, [plain, weighted]: [&[f64]; 2], count: f64) -> (Vec<f32>, Vec<f32>) {
        let channels = self.scale.len();
        let (mut slope, mut offset) = (vec![0.0; channels], vec![0.0; channels]);
        for c in 0..channels {
            slope[c] = -self.scale[c] * self.inverse[c] * (weighted[c] / count) as f32;
            offset[c] = -self.scale[c] * (plain[c] / count) as f32 - self.mean[c] * slope[c];
        }
        (slope, offset)
    }

    /// Writes `x` (`N x H x W x C`) after normalisation, ReLU and pooling to `y` (`N x H/2 x W/2 x C`).
    pub fn forward(&self, windows: Windows, x: &[f32], y: &mut [f32]) {
        let image = windows.image();
        y.par_chunks_mut(windows.pooled()).zip(x.par_chunks(image)).for_each(|(y, x)| {
            vectorise(
                #[inline(always)]
                || {
                    for (cell, y) in y.chunks_exact_mut(windows.channels).enumerate() {
                        self.pool(window(windows, x, cell), y);
                    }
                },
            );
        });
    }

    /// The gradients of bias and weight: each channel's sums of the gradient that reaches `x`'s normalised value, and
    /// of that gradient times the normalised value.
    pub fn parameter_gradients(&self, windows: Windows, x: &[f32], dy: &[f32]) -> [Vec<f64>; 2] {
        let channels = windows.channels;
        let sums: Vec<[Vec<f32>; 2]> = dy
            .par_chunks(windows.pooled())
            .zip(x.par_chunks(windows.image()))
            .map(|(dy, x)| {
                let mut plain = vec![0.0f32; channels];
                let mut weighted = vec![0.0f32; channels];
                vectorise(
                    #[inline(always)]
                    || {
                        for (cell, dy) in dy.chunks_exact(channels).enumerate() {
                            self.sum(window(windows, x, cell), dy, &mut plain, &mut weighted);
                        }
                    },
                );
                [plain, weighted]
            })
            .collect();
        total(&sums, channels)
    }

    /// Writes the gradient of `x` (`N x H x W x C`) to `dx`, given [`Self::parameter_gradients`] and the gradient of
    /// the pooled output.
    pub fn input_gradient(
        &self,
        windows: Windows,
        x: &[f32],
        dy: &[f32],
        [plain, weighted]: &[Vec<f64>; 2],
        dx: &mut [f32],
    ) {
        let (image, pooled, channels) = (windows.image(), windows.pooled(), windows.channels);
        let (slope, offset) = self.slopes([plain, weighted], (x.len() / channels) as f64);
        dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(dy.par_chunks(pooled)).for_each(|((dx, x), dy)| {
            vectorise(
                #[inline(always)]
                || {
                    for (dx, x) in dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                        for (((dx, x), slope), offset) in dx.iter_mut().zip(x).zip(&slope).zip(&offset) {
                            *dx = x * slope + offset;
                        }
                    }
                    for (cell, dy) in dy.chunks_exact(channels).enumerate() {
                        let [a, b, d, e] = window_mut(windows, dx, cell);
                        self.spread(window(windows, x, cell), dy, a, b, d, e);
                    }
                },
            );
        });
    }

    // The loops over channels are separate functions because the compiler assumes that arguments do not overlap, and
    // does not vectorise the loops without that.

    /// One pixel of the pooled output.
    #[inline(always)]
    fn pool(&self, [a, b, d, e]: [&[f32]; 4], y: &mut [f32]) {
        let n = y.len();
        let (scale, shift) = (&self.scale[..n], &self.shift[..n]);
        let (a, b, d, e) = (&a[..n], &b[..n], &d[..n], &e[..n]);
        for c in 0..n {
            let (scale, shift) = (scale[c], shift[c]);
            let [a, b, d, e] = [a[c] * scale + shift, b[c] * scale + shift, d[c] * scale + shift, e[c] * scale + shift];
            // This order propagates NaN.
            y[c] = largest(0.0, largest(largest(a, b), largest(d, e)));
        }
    }

    /// Adds the contribution of one pixel of the pooled output's gradient to the parameters' gradients.
    #[inline(always)]
    fn sum(&self, [a, b, d, e]: [&[f32]; 4], dy: &[f32], plain: &mut [f32], weighted: &mut [f32]) {
        let n = dy.len();
        let (scale, shift) = (&self.scale[..n], &self.shift[..n]);
        let (mean, inverse) = (&self.mean[..n], &self.inverse[..n]);
        let (a, b, d, e) = (&a[..n], &b[..n], &d[..n], &e[..n]);
        let (plain, weighted) = (&mut plain[..n], &mut weighted[..n]);
        for c in 0..n {
            let [w, x, y, z] = winner([a[c], b[c], d[c], e[c]], scale[c], shift[c]);
            let gradient = if w | x | y | z { dy[c] } else { 0.0 };
            let value = if w { a[c] } else { 0.0 }
                + if x { b[c] } else { 0.0 }
                + if y { d[c] } else { 0.0 }
                + if z { e[c] } else { 0.0 };
            plain[c] += gradient;
            weighted[c] += gradient * (value - mean[c]) * inverse[c];
        }
    }

    /// Adds one pixel of the pooled output's gradient to the pixel it came from.
    #[inline(always)]
    fn spread(
        &self,
        [a, b, d, e]: [&[f32]; 4],
        dy: &[f32],
        da: &mut [f32],
        db: &mut [f32],
        dd: &mut [f32],
        de: &mut [f32],
    ) {
        let n = dy.len();
        let (scale, shift) = (&self.scale[..n], &self.shift[..n]);
        let (a, b, d, e) = (&a[..n], &b[..n], &d[..n], &e[..n]);
        let (da, db, dd, de) = (&mut da[..n], &mut db[..n], &mut dd[..n], &mut de[..n]);
        for c in 0..n {
            let [w, x, y, z] = winner([a[c], b[c], d[c], e[c]], scale[c], shift[c]);
            let gradient = dy[c] * scale[c];
            da[c] += if w { gradient } else { 0.0 };
            db[c] += if x { gradient } else { 0.0 };
            dd[c] += if y { gradient } else { 0.0 };
            de[c] += if z { gradient } else { 0.0 };
        }
    }
}

/// Adds one pixel's gradient, and its product with the distance of `x` from the mean.
#[inline(always)]
fn add_moments(dy: &[f32], x: &[f32], mean: &[f32], plain: &mut [f32], weighted: &mut [f32]) {
    let n = dy.len();
    let (x, mean, plain, weighted) = (&x[..n], &mean[..n], &mut plain[..n], &mut weighted[..n]);
    for c in 0..n {
        plain[c] += dy[c];
        weighted[c] += dy[c] * (x[c] - mean[c]);
    }
}

/// The sums of parts, in order.
fn total(parts: &[[Vec<f32>; 2]], channels: usize) -> [Vec<f64>; 2] {
    [0, 1].map(|which| {
        let mut total = vec![0.0; channels];
        for part in parts {
            total.iter_mut().zip(&part[which]).for_each(|(total, &sum)| *total += f64::from(sum));
        }
        total
    })
}

/// See [`rectify`].
#[inline(always)]
fn mask(y: &[f32], dy: &mut [f32]) {
    dy.iter_mut().zip(y).for_each(|(dy, y)| *dy = if *y > 0.0 { *dy } else { 0.0 });
}

/// Zeroes the gradient where the result `y` of a ReLU is not positive.
pub(super) fn rectify(y: &[f32], dy: &mut [f32]) {
    dy.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(dy, y)| {
        vectorise(
            #[inline(always)]
            || mask(y, dy),
        );
    });
}

/// Each channel's sum of `dy` (`pixels x C`).
pub(super) fn channel_sums(dy: &[f32], channels: usize) -> Vec<f32> {
    let stretch = (CHUNK / channels).max(1) * channels;
    let parts: Vec<Vec<f32>> = dy
        .par_chunks(stretch)
        .map(|dy| {
            let mut sums = vec![0.0f32; channels];
            vectorise(
                #[inline(always)]
                || {
                    for dy in dy.chunks_exact(channels) {
                        sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                    }
                },
            );
            sums
        })
        .collect();
    let mut total = vec![0.0f64; channels];
    for part in &parts {
        total.iter_mut().zip(part).for_each(|(total, &sum)| *total += f64::from(sum));
    }
    total.into_iter().map(|sum| sum as f32).collect()
}

/// Which of a window's values passes: the first maximum, if positive after normalisation.
#[inline(always)]
fn winner([a, b, d, e]: [f32; 4], scale: f32, shift: f32) -> [bool; 4] {
    let [a, b, d, e] = [a * scale + shift, b * scale + shift, d * scale + shift, e * scale + shift];
    let top = largest(largest(a, b), largest(d, e));
    let alive = top > 0.0;
    let first = a == top;
    let second = !first & (b == top);
    let third = !first & !second & (d == top);
    [alive & first, alive & second, alive & third, alive & !first & !second & !third]
}

/// The larger of two, by one comparison; `f32::max` needs a second one for NaN.
#[inline(always)]
fn largest(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Where the four pixels of pooling window `cell` start in an image.
#[inline(always)]
fn corners(windows: Windows, cell: usize) -> [usize; 2] {
    let (row, column) = (cell / (windows.width / 2), cell % (windows.width / 2));
    let top = (2 * row * windows.width + 2 * column) * windows.channels;
    [top, top + windows.width * windows.channels]
}

/// The four pixels of a window.
#[inline(always)]
fn window(windows: Windows, image: &[f32], cell: usize) -> [&[f32]; 4] {
    let channels = windows.channels;
    let [top, bottom] = corners(windows, cell);
    let (top, bottom) = (&image[top..top + 2 * channels], &image[bottom..bottom + 2 * channels]);
    [&top[..channels], &top[channels..], &bottom[..channels], &bottom[channels..]]
}

/// The four pixels of a window, mutably.
#[inline(always)]
fn window_mut(windows: Windows, image: &mut [f32], cell: usize) -> [&mut [f32]; 4] {
    let channels = windows.channels;
    let [top, bottom] = corners(windows, cell);
    let (upper, lower) = image.split_at_mut(bottom);
    let (a, b) = upper[top..top + 2 * channels].split_at_mut(channels);
    let (d, e) = lower[..2 * channels].split_at_mut(channels);
    [a, b, d, e]
}
