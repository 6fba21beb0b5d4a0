//! The seam between networks and devices: [`Backend`], and the shapes that cross it.
//!
//! A backend is a dfdx device. What a network needs beyond dfdx's own operations is a method here, once for each
//! device; everything else is written once, for all of them. dfdx keeps the tape: an operation takes a tensor with a
//! tape and returns one.

use dfdx::prelude::*;

use super::adamw::AdamWStep;

/// Gradients are tracked on it.
pub type Recording<B> = OwnedTape<f32, B>;
/// A parameter or a buffer: its elements in compute layout, one after another.
pub type Flat<B> = Tensor<(usize,), f32, B>;
/// `rows x columns`.
pub type Matrix<B, T = NoneTape> = Tensor<(usize, usize), f32, B, T>;
/// `N x H x W x C`.
pub type Images<B, T = NoneTape> = Tensor<(usize, usize, usize, usize), f32, B, T>;

/// The parameters and running statistics of one block of `convnet4`, in compute layout.
#[derive(Debug)]
pub struct BlockTensors<'a, B: Backend> {
    /// `3 x 3 x C x O`.
    pub kernel: &'a Flat<B>,
    /// Scale of the normalisation, `O`.
    pub weight: &'a Flat<B>,
    /// Shift of the normalisation, `O`.
    pub bias: &'a Flat<B>,
}

/// A dfdx device with the operations of the networks.
pub trait Backend: Device<f32> + Cache {
    /// Convolution 3x3 with padding 1, batch normalisation by the batch's statistics, ReLU, and 2x2 max pooling:
    /// `N x H x W x C` to `N x H/2 x W/2 x O`. `running` are the running mean and variance, which move towards the
    /// batch's. Without `input_gradient` the gradient stops here, as it may below the first layer.
    fn block_train(
        &self,
        x: Images<Self, Recording<Self>>,
        block: BlockTensors<'_, Self>,
        running: (&mut Flat<Self>, &mut Flat<Self>),
        input_gradient: bool,
    ) -> Result<Images<Self, Recording<Self>>, Self::Err>;

    /// The same with the running mean and variance, for evaluation.
    fn block_eval(
        &self,
        x: Images<Self>,
        block: BlockTensors<'_, Self>,
        running: (&Flat<Self>, &Flat<Self>),
    ) -> Result<Images<Self>, Self::Err>;

    /// One step of AdamW (Loshchilov and Hutter 2019, as PyTorch computes it) on `parameter`; `moments` are the
    /// running means of the gradient and of its square.
    fn adamw(
        &self,
        step: AdamWStep,
        parameter: &mut Flat<Self>,
        gradient: &Flat<Self>,
        moments: &mut [Flat<Self>; 2],
    ) -> Result<(), Self::Err>;

    /// Copies `values` to the device in the given shape, which must have as many elements.
    fn upload<S: Shape>(&self, values: &[f32], shape: S) -> Result<Tensor<S, f32, Self>, Self::Err> {
        // Not `tensor_from_vec`: with its cache on, dfdx would keep every such vector without ever reusing it.
        let mut tensor = self.try_zeros_like(&shape)?;
        tensor.copy_from(values);
        Ok(tensor)
    }
}

/// Copies a tensor to the host.
pub fn download<S: Shape, B: Backend, T>(tensor: &Tensor<S, f32, B, T>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape().num_elements()];
    tensor.copy_into(&mut values);
    values
}

/// Global average pooling: `N x H x W x C` to `N x C`.
pub(super) fn average_pool<B: Backend, T: Tape<f32, B>>(x: Images<B, T>) -> Result<Matrix<B, T>, B::Err> {
    let (n, h, w, c) = *x.shape();
    x.try_reshape_like(&(n, h * w, c))?.try_mean::<(usize, usize), Axis<1>>()
}

/// `x W^T + b`: `N x I` to `N x O`, `weight` being `O x I` as PyTorch has it.
pub(super) fn linear<B: Backend, T: Tape<f32, B>>(
    x: Matrix<B, T>,
    weight: &Flat<B>,
    bias: &Flat<B>,
) -> Result<Matrix<B, T>, B::Err> {
    let (rows, inputs) = *x.shape();
    let (outputs,) = *bias.shape();
    let weight = weight.retaped::<T>().try_reshape_like(&(outputs, inputs))?;
    let product = x.try_matmul(weight.try_permute::<(usize, usize), Axes2<1, 0>>()?)?;
    product.try_add(bias.retaped::<T>().try_broadcast_like::<_, Axis<0>>(&(rows, outputs))?)
}

/// Each row divided by its length, or by 1e-12 if that is larger, as PyTorch's `normalize`.
pub(super) fn l2_normalise<B: Backend, T: Tape<f32, B>>(x: Matrix<B, T>) -> Result<Matrix<B, T>, B::Err> {
    let shape = *x.shape();
    let squares = x.with_empty_tape().try_square()?.try_sum::<(usize,), Axis<1>>()?;
    // The bound is on the squared length: below it the derivative of the root would be infinite.
    let length = squares.try_clamp(1e-24, f32::MAX)?.try_sqrt()?;
    x.try_div(length.try_broadcast_like::<_, Axis<1>>(&shape)?)
}
