//! The operations of [`Backend`](super::Backend) written with dfdx's own kernels, for devices without faster ones.
//!
//! A convolution is a gather of patches and a matrix product, a pooling a gather of windows and a maximum. On a GPU
//! each is a kernel that dfdx ships; on the CPU the same code runs slowly, and the tests compare it there.

use dfdx::prelude::*;

use super::adamw::{self, AdamWStep};
use super::backend::{Backend, BlockTensors, Flat, Images, Matrix, download};

/// The statistics of a batch normalisation.
pub(super) enum Statistics<'a, B: Backend> {
    /// The batch's own; the running mean and variance move towards them.
    Batch(&'a mut Flat<B>, &'a mut Flat<B>),
    /// The running mean and variance.
    Running(&'a Flat<B>, &'a Flat<B>),
}

/// One block of `convnet4`: see [`Backend::block_train`].
pub(super) fn block<B: Backend, T: Tape<f32, B>>(
    device: &B,
    x: Images<B, T>,
    block: BlockTensors<'_, B>,
    statistics: Statistics<'_, B>,
) -> Result<Images<B, T>, B::Err> {
    let (n, h, w, _) = *x.shape();
    let (c,) = *block.bias.shape();
    let y = convolution(device, x, block.kernel, c)?;
    let y = normalisation(y, block, statistics)?.try_relu()?;
    let windows: Vec<usize> = (0..n * (h / 2) * (w / 2))
        .flat_map(|cell| {
            let (image, row, column) = (cell / (w / 2) / (h / 2), cell / (w / 2) % (h / 2), cell % (w / 2));
            let corner = (image * h + 2 * row) * w + 2 * column;
            [corner, corner + 1, corner + w, corner + w + 1]
        })
        .collect();
    let cells = windows.len() / 4;
    let windows = device.try_tensor_from_vec(windows, (cells * 4,))?;
    let y = y.try_gather::<(usize, usize), _>(windows)?.try_reshape_like(&(cells, 4, c))?;
    y.try_max::<(usize, usize), Axis<1>>()?.try_reshape_like(&(n, h / 2, w / 2, c))
}

/// 3x3 convolution with padding 1: `N x H x W x C` to `(N H W) x O`.
fn convolution<B: Backend, T: Tape<f32, B>>(
    device: &B,
    x: Images<B, T>,
    kernel: &Flat<B>,
    outputs: usize,
) -> Result<Matrix<B, T>, B::Err> {
    let (n, h, w, c) = *x.shape();
    let pixels = n * h * w;
    // Row `pixels` of the padded matrix is the zero that lies outside every image.
    let zeros: Matrix<B> = device.try_zeros_like(&(1, c))?;
    let x = (x.try_reshape_like(&(pixels, c))?, zeros).try_concat_along(Axis::<0>)?;
    let taps: Vec<usize> = (0..pixels * 9)
        .map(|index| {
            let (pixel, tap) = (index / 9, index % 9);
            let (row, column) = (pixel / w % h + tap / 3, pixel % w + tap % 3);
            let inside = (1..=h).contains(&row) && (1..=w).contains(&column);
            if inside { pixel + tap / 3 * w + tap % 3 - w - 1 } else { pixels }
        })
        .collect();
    let taps = device.try_tensor_from_vec(taps, (pixels * 9,))?;
    let patches = x.try_gather::<(usize, usize), _>(taps)?.try_reshape_like(&(pixels, 9 * c))?;
    patches.try_matmul(kernel.retaped::<T>().try_reshape_like(&(9 * c, outputs))?)
}

/// Batch normalisation of the columns of `x`.
fn normalisation<B: Backend, T: Tape<f32, B>>(
    x: Matrix<B, T>,
    block: BlockTensors<'_, B>,
    statistics: Statistics<'_, B>,
) -> Result<Matrix<B, T>, B::Err> {
    let shape = *x.shape();
    let (centred, variance) = match statistics {
        Statistics::Batch(running_mean, running_variance) => {
            let mean = x.with_empty_tape().try_mean::<(usize,), Axis<0>>()?;
            let batch_mean = download(&mean);
            let centred = x.try_sub(mean.try_broadcast_like::<_, Axis<0>>(&shape)?)?;
            let variance = centred.with_empty_tape().try_square()?.try_mean::<(usize,), Axis<0>>()?;
            let unbiased = shape.0 as f32 / (shape.0 as f32 - 1.0).max(1.0);
            let batch_variance: Vec<f32> = download(&variance).iter().map(|variance| variance * unbiased).collect();
            for (running, batch) in [(running_mean, batch_mean), (running_variance, batch_variance)] {
                let moved: Vec<f32> =
                    download(running).iter().zip(&batch).map(|(running, batch)| 0.9 * running + 0.1 * batch).collect();
                running.copy_from(&moved);
            }
            (centred, variance)
        }
        Statistics::Running(mean, variance) => {
            let mean = mean.retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?;
            (x.try_sub(mean)?, variance.retaped::<T>())
        }
    };
    let deviation = variance.try_add(1e-5)?.try_sqrt()?;
    let scale = block.weight.retaped::<T>().try_div(deviation)?.try_broadcast_like::<_, Axis<0>>(&shape)?;
    centred.try_mul(scale)?.try_add(block.bias.retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?)
}

/// One step of AdamW: see [`Backend::adamw`].
pub(super) fn adamw_step<B: Backend>(
    step: AdamWStep,
    parameter: &mut Flat<B>,
    gradient: &Flat<B>,
    moments: &mut [Flat<B>; 2],
) -> Result<(), B::Err> {
    let gradient = gradient.clone().try_clamp(-step.clip, step.clip)?;
    let mix = |moment: &Flat<B>, beta: f64, value: Flat<B>| {
        moment.clone().try_mul(beta as f32)?.try_add(value.try_mul((1.0 - beta) as f32)?)
    };
    let mean = mix(&moments[0], adamw::BETA_1, gradient.clone())?;
    let square = mix(&moments[1], adamw::BETA_2, gradient.try_square()?)?;
    let denominator = square.clone().try_sqrt()?.try_div(step.root())?.try_add(adamw::EPSILON as f32)?;
    let change = mean.clone().try_mul(step.rate())?.try_div(denominator)?;
    *parameter = parameter.clone().try_mul(step.keep())?.try_sub(change)?;
    *moments = [mean, square];
    Ok(())
}
