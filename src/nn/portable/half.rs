//! Products in half precision: 16-bit operands, 32-bit sums, as in dfdx's `AMP<f16>`.
//!
//! dfdx converts only tensors without a tape. So an operation runs on its own half-precision tape, which the
//! single-precision tape runs in the backward pass: gradients are rounded to half precision on the way in and widened
//! on the way out. Parameters, normalisations, sums of gradients and everything else stay in single precision.

use dfdx::dtypes::{AMP, f16};
use dfdx::prelude::*;

/// An element in half precision.
pub(super) type Half = AMP<f16>;

/// A device that computes in both precisions.
pub trait Precisions: Device<f32> + Device<Half> {
    /// Bytes of its memory in use, by any process; none if it has no memory of its own.
    fn memory(&self) -> Option<u64> {
        None
    }
}

impl Precisions for Cpu {}

#[cfg(feature = "cuda")]
impl Precisions for Cuda {
    fn memory(&self) -> Option<u64> {
        let (free, total) = cudarc::driver::result::mem_get_info().ok()?;
        u64::try_from(total.checked_sub(free)?).ok()
    }
}

/// The tape of an operation in half precision.
type HalfTape<D> = OwnedTape<Half, D>;

/// Applies `operation`, which has one result, to `x` and `y` in half precision. Without `traced`, `x` gets no gradient.
pub(super) fn in_half<D: Precisions, T: Tape<f32, D>, X: Shape, Y: Shape, Z: Shape>(
    x: Tensor<X, f32, D, T>,
    traced: bool,
    y: Tensor<Y, f32, D, T>,
    operation: impl FnOnce(
        Tensor<X, Half, D, HalfTape<D>>,
        Tensor<Y, Half, D, HalfTape<D>>,
    ) -> Result<Tensor<Z, Half, D, HalfTape<D>>, D::Err>,
) -> Result<Tensor<Z, f32, D, T>, D::Err> {
    let (x, x_tape) = named(x)?.split_tape();
    let (y, y_tape) = named(y)?.split_tape();
    let mut tape = x_tape.merge(y_tape);
    let (half_x, half_y) = (x.clone().try_to_dtype::<Half>()?, y.clone().try_to_dtype::<Half>()?);
    let z = operation(half_x.clone().put_tape(HalfTape::default()), half_y.clone().put_tape(HalfTape::default()))?;
    let (half_z, half_tape) = z.split_tape();
    let z = half_z.clone().try_to_dtype::<f32>()?;
    let (x, y, at) = (x.ghost(), y.ghost(), z.ghost());
    tape.add_backward_op(move |gradients| {
        gradients.try_alloc_for(&at)?;
        let gradient = gradients.get(&at).try_to_dtype::<Half>()?;
        let len = gradient.shape().num_elements();
        let product =
            half_z.put_tape(half_tape).try_reshape_like(&(len,))?.try_mul(gradient.try_reshape_like(&(len,))?)?;
        let half_gradients = product.try_sum::<Rank0, Axis<0>>()?.try_backward()?;
        if traced {
            *gradients.get_or_alloc_mut(&x)? = widened(half_gradients.get(&half_x))?;
        }
        *gradients.get_or_alloc_mut(&y)? = widened(half_gradients.get(&half_y))?;
        Ok(())
    });
    Ok(z.put_tape(tape))
}

/// A tensor's values under an id to which no other operation propagates gradients, in memory order.
fn named<S: Shape, D: Precisions, T: Tape<f32, D>>(x: Tensor<S, f32, D, T>) -> Result<Tensor<S, f32, D, T>, D::Err> {
    x.try_contiguous()?.try_mul(1.0f32)
}

/// A gradient in single precision, in the form of dfdx's gradient table.
///
/// dfdx puts only gradients that it computes into its table. So this is the gradient of `sum(x^2) / 2`: `x`, exactly.
fn widened<S: Shape, D: Precisions>(gradient: Tensor<S, Half, D>) -> Result<<D as Storage<f32>>::Vec, D::Err> {
    let len = gradient.shape().num_elements();
    let x = gradient.try_to_dtype::<f32>()?.try_reshape_like(&(len,))?;
    let recorded = x.clone().put_tape(OwnedTape::<f32, D>::default());
    let mut table = recorded.try_square()?.try_sum::<Rank0, Axis<0>>()?.try_mul(0.5f32)?.try_backward()?;
    // Replaced by the smallest allocation of a GPU, which is never read.
    let least = Storage::<f32>::try_alloc_len(x.device(), 1)?;
    Ok(std::mem::replace(table.get_or_alloc_mut(&x)?, least))
}
