//! Maxima and means over windows, and ReLU, which drops values as a maximum does.
//!
//! dfdx's own maximum gives its gradient to all equals, and its maximum and its ReLU hide NaN. So the positions of the
//! values to keep are found without a tape, and everything else is replaced by zeros.

use dfdx::prelude::*;

use super::windows::{Windows, gather};
use super::{Block, Extents, Pixels, Portable, Row};
use crate::nn::backend::{Reduce, Window};

/// Pooling over windows: `N x H x W x C` to fewer rows and columns.
pub(super) fn windows<D: Device<f32>, T: Tape<f32, D>>(
    portable: &Portable<D>,
    x: Block<D, T>,
    window: Window,
    reduce: Reduce,
) -> Result<Block<D, T>, D::Err> {
    let (images, rows, columns, channels) = *x.shape();
    let Window { size, stride, padding, .. } = window;
    let count = [window.count(rows), window.count(columns)];
    let windows =
        Windows { image: [rows, columns], size: [size; 2], stride: [stride; 2], padding: [padding; 2], count };
    let y = match reduce {
        Reduce::Max => largest(portable, gather(portable, x, &windows, f32::NEG_INFINITY)?)?,
        Reduce::Average => {
            let sums = gather(portable, x, &windows, 0.0)?.try_sum::<(usize, usize, usize), Axis<2>>()?;
            let shares = windows.shares();
            match shares.iter().all(|share| *share == shares[0]) {
                true => sums.try_mul(shares[0])?,
                false => {
                    let shape = *sums.shape();
                    let shares = portable.device.try_tensor_from_vec(shares, (windows.cells(),))?;
                    sums.try_mul(shares.try_broadcast_like::<_, Axes2<0, 2>>(&shape)?)?
                }
            }
        }
    };
    y.try_reshape_like(&(images, count[0], count[1], channels))
}

/// Pooling over whole images: `N x H x W x C` to `N x 1 x 1 x C`.
pub(super) fn images<D: Device<f32>, T: Tape<f32, D>>(
    portable: &Portable<D>,
    x: Block<D, T>,
    reduce: Reduce,
) -> Result<Block<D, T>, D::Err> {
    let (images, rows, columns, channels) = *x.shape();
    let x = x.try_reshape_like(&(images, 1, rows * columns, channels))?;
    let y = match reduce {
        Reduce::Max => largest(portable, x)?,
        Reduce::Average => x.try_mean::<(usize, usize, usize), Axis<2>>()?,
    };
    y.try_reshape_like(&(images, 1, 1, channels))
}

/// The maximum along the third axis; among equals the gradient goes to the first.
fn largest<D: Device<f32>, T: Tape<f32, D>>(portable: &Portable<D>, x: Block<D, T>) -> Result<Pixels<D, T>, D::Err> {
    let device = &portable.device;
    let shape @ (_, _, taps, channels) = *x.shape();
    let most = |values: &Block<D>| -> Result<Block<D>, D::Err> {
        values.clone().try_max::<(usize, usize, usize), Axis<2>>()?.try_broadcast_like::<_, Axis<2>>(&shape)
    };
    // NaN wins, so that it is not hidden.
    let seen = x.retaped::<NoneTape>().try_nans_to(f32::INFINITY)?;
    let winners = seen.try_eq(&most(&seen)?)?;
    drop(seen);
    // Of the winners, the one with the most taps from it to the end is the first.
    let left: Vec<f32> = (1..=taps).rev().map(|left| left as f32).collect();
    let left: Row<D> = device.try_tensor_from_vec(left, (taps,))?;
    let none: Row<D> = device.try_zeros_like(&(channels,))?;
    let left = winners.try_choose(
        left.try_broadcast_like::<Extents, Axes3<0, 1, 3>>(&shape)?,
        none.try_broadcast_like::<Extents, Axes3<0, 1, 2>>(&shape)?,
    )?;
    let losers = left.try_ne(&most(&left)?)?;
    drop(left);
    without(portable, x, losers)?.try_sum::<(usize, usize, usize), Axis<2>>()
}

/// `x` where it is above 0, else 0.
pub(super) fn relu<D: Device<f32>, T: Tape<f32, D>>(
    portable: &Portable<D>,
    x: Block<D, T>,
) -> Result<Block<D, T>, D::Err> {
    let dropped = x.try_le(0.0)?;
    without(portable, x, dropped)
}

/// `x` with zeros in place of the dropped values, which get no gradient.
fn without<D: Device<f32>, T: Tape<f32, D>>(
    portable: &Portable<D>,
    x: Block<D, T>,
    dropped: Tensor<Extents, bool, D>,
) -> Result<Block<D, T>, D::Err> {
    let shape @ (_, rows, columns, channels) = *x.shape();
    // dfdx sums a gradient for the zeros too: those of one image are few enough to store and many enough that a GPU's
    // threads do not wait for each other.
    let zeros: Pixels<D> = portable.device.try_zeros_like(&(rows, columns, channels))?;
    dropped.try_choose(zeros.retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?, x)
}
