//! The operations of a transformer.
//!
//! Maps are matrices here, `(images * pixels) x channels`.

use std::ops::Range;

use dfdx::prelude::*;

use super::Block;
use super::half::{Precisions, in_half};

/// `(images * pixels) x channels`.
pub(in crate::nn) type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;
/// A parameter.
pub(in crate::nn) type Flat<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;

/// See [`Backend::layer_norm`](crate::nn::Backend::layer_norm).
pub(in crate::nn) fn layer_norm<D: Device<f32>, T: Tape<f32, D>>(
    x: Matrix<D, T>,
    weight: Flat<D, T>,
    bias: Flat<D, T>,
    epsilon: f32,
) -> Result<Matrix<D, T>, D::Err> {
    let shape = *x.shape();
    let scale = weight.try_broadcast_like::<_, Axis<0>>(&shape)?;
    let shift = bias.try_broadcast_like::<_, Axis<0>>(&shape)?;
    x.try_normalize::<Axis<1>>(epsilon)?.try_mul(scale)?.try_add(shift)
}

/// See [`Backend::gelu`](crate::nn::Backend::gelu).
///
/// The derivative of dfdx's own (0.13.0, `accurate_gelu`) has the normal density too large by a factor of the root of
/// 2. The term added here has the value 0 and the derivative that corrects this.
pub(in crate::nn) fn gelu<D: Device<f32>, T: Tape<f32, D>>(x: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
    let excess = (std::f32::consts::SQRT_2 - 1.0) / std::f32::consts::TAU.sqrt();
    // Without a tape, and not a copy of `bell`, with which a copy would share its gradient.
    let still = bell(x.retaped::<NoneTape>())?;
    let zero = bell(x.retaped::<T>())?.try_sub(still.put_tape(T::default()))?;
    x.try_accurate_gelu()?.try_add(zero.try_mul(excess)?)
}

/// `e^(-x^2 / 2)`, whose derivative is `-x` times it.
fn bell<D: Device<f32>, T: Tape<f32, D>>(x: Matrix<D, T>) -> Result<Matrix<D, T>, D::Err> {
    x.try_square()?.try_mul(-0.5)?.try_exp()
}

/// See [`Backend::attention`](crate::nn::Backend::attention).
pub(in crate::nn) fn attention<D: Precisions, T: Tape<f32, D>>(
    x: Matrix<D, T>,
    images: usize,
    heads: usize,
    mixed: bool,
) -> Result<Matrix<D, T>, D::Err> {
    let (rows, columns) = *x.shape();
    let (tokens, size) = (rows / images, columns / 3 / heads);
    // Queries, keys and values of every head as separate matrices: N x 3 heads x T x d.
    let x = x.try_reshape_like(&(images, tokens, 3 * heads, size))?;
    let x = x.try_permute::<(usize, usize, usize, usize), Axes4<0, 2, 1, 3>>()?;
    let part = |x: Block<D, T>, part: usize| {
        x.try_slice((0..images, part * heads..(part + 1) * heads, 0..tokens, 0..size))?
            .try_reshape_like(&(images, heads, tokens, size))
    };
    let keys = part(x.retaped::<T>(), 1)?.try_permute::<(usize, usize, usize, usize), Axes4<0, 1, 3, 2>>()?;
    let values = part(x.retaped::<T>(), 2)?;
    let product = |x: Block<D, T>, y: Block<D, T>| match mixed {
        true => in_half(x, true, y, |x, y| x.try_matmul(y)),
        false => x.try_matmul(y),
    };
    let scores = product(part(x, 0)?.try_mul(1.0 / (size as f32).sqrt())?, keys)?;
    let y = product(scores.try_softmax::<Axis<3>>()?, values)?;
    y.try_permute::<(usize, usize, usize, usize), Axes4<0, 2, 1, 3>>()?.try_reshape_like(&(rows, heads * size))
}

/// See [`Backend::tokens`](crate::nn::Backend::tokens).
pub(in crate::nn) fn tokens<D: Device<f32>, T: Tape<f32, D>>(
    x: Matrix<D, T>,
    images: usize,
    class: Flat<D, T>,
    positions: Flat<D, T>,
) -> Result<Matrix<D, T>, D::Err> {
    let (rows, channels) = *x.shape();
    let tokens = rows / images + 1;
    let shape = (images, tokens, channels);
    let class = class.try_broadcast_like::<_, Axes2<0, 1>>(&(images, 1, channels))?;
    let x = x.try_reshape_like(&(images, tokens - 1, channels))?;
    let positions = positions.try_reshape_like(&(tokens, channels))?;
    let x = (class, x).try_concat_along(Axis::<1>)?.try_reshape_like(&shape)?;
    x.try_add(positions.try_broadcast_like::<_, Axis<0>>(&shape)?)?.try_reshape_like(&(images * tokens, channels))
}

/// See [`Backend::pixels`](crate::nn::Backend::pixels).
pub(in crate::nn) fn pixels<D: Device<f32>, T: Tape<f32, D>>(
    x: Matrix<D, T>,
    images: usize,
    range: Range<usize>,
) -> Result<Matrix<D, T>, D::Err> {
    let (rows, channels) = *x.shape();
    let count = range.len();
    x.try_reshape_like(&(images, rows / images, channels))?
        .try_slice((0..images, range, 0..channels))?
        .try_reshape_like(&(images * count, channels))
}
