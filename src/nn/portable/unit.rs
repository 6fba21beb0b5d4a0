//! Convolution, normalisation, residual and ReLU.

use dfdx::prelude::*;

use super::half::{Precisions, in_half};
use super::map::{PortableMap, PortableVector};
use super::windows::{Windows, gather};
use super::{Extents, Portable, Row, pool};
use crate::nn::backend::{After, Convolution, Norm, Reduce, Running, Unit, Window};

/// `rows x columns`.
type Matrix<D, T = NoneTape, E = f32> = Tensor<(usize, usize), E, D, T>;
/// The result of [`forward`]: the map, and the running statistics of a unit normalised by its batch.
type Outcome<D, T> = Result<(PortableMap<D, T>, Option<Running<PortableVector<D>>>), <D as HasErr>::Err>;

pub(super) fn forward<D: Precisions, T: Tape<f32, D>>(
    portable: &Portable<D>,
    x: PortableMap<D, T>,
    unit: Unit<'_, PortableVector<D>>,
    residual: Option<PortableMap<D, T>>,
) -> Outcome<D, T> {
    let Unit { convolution, kernel, bias, outputs, norm, after } = unit;
    let Convolution { kernel: size, stride, padding, groups } = convolution;
    let (images, rows, columns, channels) = *x.values.shape();
    let image = [rows, columns];
    let count = std::array::from_fn(|axis| (image[axis] + 2 * padding[axis] - size[axis]) / stride[axis] + 1);
    let windows = Windows { image, size, stride, padding, count };
    let convolved = |kernel| convolved(portable, x, kernel, &windows, groups);
    let kernel = kernel.learning::<T>().try_reshape_like(&(windows.taps() * (channels / groups), outputs))?;
    let bias = bias.map(|bias| bias.learning::<T>());

    let (y, running) = match norm {
        Norm::Without => (add_row(convolved(kernel)?, bias)?, None),
        Norm::Batch { weight, bias: shift, mean, variance, epsilon, momentum } => {
            let y = add_row(convolved(kernel)?, bias)?;
            let [weight, shift] = [weight, shift].map(|vector| vector.learning::<T>());
            let (y, moments) = normalise(y, weight, shift, epsilon)?;
            (y, Some(moved([mean, variance], moments, momentum, images * windows.cells())?))
        }
        Norm::Running { weight, bias: shift, mean, variance, epsilon, learn } => {
            let [mean, variance] = [mean, variance].map(|vector| vector.values.clone());
            let inverse = variance.try_add(epsilon)?.try_sqrt()?.try_recip()?;
            let pass = |vector: &PortableVector<D>| match learn {
                true => Ok(vector.learning::<T>()),
                // Under its own id, its gradient is not propagated.
                false => Ok(vector.values.clone().try_mul(1.0)?.retaped::<T>()),
            };
            let (weight, shift) = (pass(weight)?, pass(shift)?);
            let scale = weight.try_mul(inverse)?;
            // The normalisation applies to the convolution's bias too.
            let offset = match bias {
                Some(bias) => bias.try_sub(mean)?,
                None => mean.try_negate()?.retaped::<T>(),
            };
            let shift = offset.try_mul(scale.with_empty_tape())?.try_add(shift)?;
            let shape = *kernel.shape();
            let kernel = kernel.try_mul(scale.try_broadcast_like::<_, Axis<0>>(&shape)?)?;
            (add_row(convolved(kernel)?, Some(shift))?, None)
        }
    };

    let mut y = y.try_reshape_like(&(images, count[0], count[1], outputs))?;
    if let Some(residual) = residual {
        y = y.try_add(residual.values)?;
    }
    let y = match after {
        After::Nothing => y,
        After::Relu => pool::relu(portable, y)?,
        After::ReluMaxPool => {
            // The ReLU of the maximum is the maximum of the ReLUs, and has fewer elements.
            let window = Window { size: 2, stride: 2, padding: 0, ceil: false };
            pool::relu(portable, pool::windows(portable, y, window, Reduce::Max)?)?
        }
    };
    Ok((PortableMap { values: y, traced: T::OWNS_TAPE }, running))
}

/// The convolution alone, `windows x outputs`: kernel `taps C/groups x outputs`.
fn convolved<D: Precisions, T: Tape<f32, D>>(
    portable: &Portable<D>,
    PortableMap { values, traced }: PortableMap<D, T>,
    kernel: Matrix<D, T>,
    windows: &Windows,
    groups: usize,
) -> Result<Matrix<D, T>, D::Err> {
    if portable.mixed {
        // The patches too, which are most of the memory traffic.
        return in_half(values, traced, kernel, |x, kernel| {
            product(patches(portable, x, traced, windows)?, kernel, groups)
        });
    }
    product(patches(portable, values, traced, windows)?, kernel, groups)
}

/// The kernel's input for each window: `N x windows x taps x C`.
fn patches<E: Dtype, D: Device<f32> + Device<E>, T: Tape<E, D>>(
    portable: &Portable<D>,
    x: Tensor<Extents, E, D, T>,
    traced: bool,
    windows: &Windows,
) -> Result<Tensor<Extents, E, D, T>, D::Err> {
    let (images, rows, columns, channels) = *x.shape();
    if windows.are_pixels() {
        return x.try_reshape_like(&(images, rows * columns, 1, channels));
    }
    if traced {
        return gather(portable, x, windows, E::default());
    }
    let (values, tape) = x.split_tape();
    Ok(gather(portable, values, windows, E::default())?.put_tape(tape))
}

/// Patches times kernel.
fn product<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    patches: Tensor<Extents, E, D, T>,
    kernel: Matrix<D, T, E>,
    groups: usize,
) -> Result<Matrix<D, T, E>, D::Err> {
    let (images, cells, taps, channels) = *patches.shape();
    let (depth, outputs) = *kernel.shape();
    let windows = images * cells;
    if groups == 1 {
        return patches.try_reshape_like(&(windows, depth))?.try_matmul(kernel);
    }
    let patches = patches
        .try_reshape_like(&(windows, taps, groups, channels / groups))?
        .try_permute::<_, Axes4<2, 0, 1, 3>>()?
        .try_reshape_like(&(groups, windows, depth))?;
    let kernel = kernel
        .try_reshape_like(&(depth, groups, outputs / groups))?
        .try_permute::<_, Axes3<1, 0, 2>>()?
        .try_contiguous()?;
    let y = patches.try_matmul(kernel)?;
    y.try_permute::<_, Axes3<1, 0, 2>>()?.try_reshape_like(&(windows, outputs))
}

/// Adds a vector, if there is one, to every row.
fn add_row<D: Device<f32>, T: Tape<f32, D>>(y: Matrix<D, T>, row: Option<Row<D, T>>) -> Result<Matrix<D, T>, D::Err> {
    let shape = *y.shape();
    match row {
        Some(row) => y.try_add(row.try_broadcast_like::<_, Axis<0>>(&shape)?),
        None => Ok(y),
    }
}

/// Columns after batch normalisation, and their means and (biased) variances.
type Normalised<D, T> = (Matrix<D, T>, [Row<D>; 2]);

/// Batch normalisation of the columns of `y`.
fn normalise<D: Device<f32>, T: Tape<f32, D>>(
    y: Matrix<D, T>,
    weight: Row<D, T>,
    shift: Row<D, T>,
    epsilon: f32,
) -> Result<Normalised<D, T>, D::Err> {
    let shape = *y.shape();
    let mean = y.with_empty_tape().try_mean::<(usize,), Axis<0>>()?;
    let batch_mean = mean.retaped::<NoneTape>();
    let centred = y.try_sub(mean.try_broadcast_like::<_, Axis<0>>(&shape)?)?;
    let variance = centred.with_empty_tape().try_square()?.try_mean::<(usize,), Axis<0>>()?;
    let batch_variance = variance.retaped::<NoneTape>();
    let scale = weight.try_div(variance.try_add(epsilon)?.try_sqrt()?)?;
    let y = centred.try_mul(scale.try_broadcast_like::<_, Axis<0>>(&shape)?)?;
    Ok((add_row(y, Some(shift))?, [batch_mean, batch_variance]))
}

/// Running mean and variance after a batch of `count` values; the running variance moves towards the unbiased one.
fn moved<D: Device<f32>>(
    running: [&PortableVector<D>; 2],
    [mean, variance]: [Row<D>; 2],
    momentum: f32,
    count: usize,
) -> Result<Running<PortableVector<D>>, D::Err> {
    let unbiased = count as f32 / (count as f32 - 1.0).max(1.0);
    let mix = |running: &PortableVector<D>, batch: Row<D>, share: f32| {
        let kept = running.values.clone().try_mul(1.0 - momentum)?;
        PortableVector::new(kept.try_add(batch.try_mul(share)?)?)
    };
    Ok([mix(running[0], mean, momentum)?, mix(running[1], variance, momentum * unbiased)?])
}
