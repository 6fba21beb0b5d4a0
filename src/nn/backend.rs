//! The interface between networks and devices: [`Backend`] and the types that it uses.
//!
//! Each operation that a network needs is a method here, implemented once per device; everything else is written once
//! for all devices. dfdx keeps the tape: an operation takes feature maps with a tape and returns one. With dfdx's empty
//! tape, [`NoneTape`], nothing is kept for a backward pass.

use std::ops::{Add, Div, Mul, Range, Sub};

use dfdx::prelude::{Device, Gradients, NoneTape, OwnedTape, Tape};

use super::Error;

/// The tape that records operations for a backward pass.
pub type Recording<B> = OwnedTape<f32, <B as Backend>::Device>;
/// A feature map with a tape `T`.
pub type Map<B, T = NoneTape> = <B as Backend>::Map<T>;
/// The gradients of one backward pass.
pub type Grads<B> = Gradients<f32, <B as Backend>::Device>;

/// The shape of a feature map, `images x rows x columns x channels`, in memory order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub images: usize,
    pub rows: usize,
    pub columns: usize,
    pub channels: usize,
}

impl Shape {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.images * self.rows * self.columns * self.channels
    }

    /// Whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// One pixel per image.
    pub fn vectors(images: usize, channels: usize) -> Self {
        Self { images, rows: 1, columns: 1, channels }
    }
}

/// The parameters of a convolution; pairs are (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zero padding on either side.
    pub padding: [usize; 2],
    /// Input and output channels are split into so many independent groups.
    pub groups: usize,
}

impl Convolution {
    /// A square kernel, one group.
    pub fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], groups: 1 }
    }
}

/// Batch normalisation after a convolution. Vectors have one element per output channel.
#[derive(Debug)]
pub enum Norm<'a, V> {
    /// None.
    Without,
    /// By the batch's mean and variance; the running ones move towards them by the fraction `momentum`.
    Batch { weight: &'a V, bias: &'a V, mean: &'a V, variance: &'a V, epsilon: f32, momentum: f32 },
    /// By the running mean and variance, which are not updated. Folded into the convolution. With `learn`, scale and
    /// shift have gradients.
    Running { weight: &'a V, bias: &'a V, mean: &'a V, variance: &'a V, epsilon: f32, learn: bool },
}

/// The last operation of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    Relu,
    /// ReLU, then 2x2 max pooling; a last odd row or column is dropped.
    ReluMaxPool,
}

/// Convolution, normalisation, residual, ReLU: fused into one operation, so that no intermediate result need be
/// written.
#[derive(Debug)]
pub struct Unit<'a, V> {
    pub convolution: Convolution,
    /// `KH x KW x C / groups x O`.
    pub kernel: &'a V,
    /// `O`.
    pub bias: Option<&'a V>,
    /// Output channels.
    pub outputs: usize,
    pub norm: Norm<'a, V>,
    pub after: After,
}

/// Running mean and variance after a batch.
pub type Running<V> = [V; 2];

/// The output map of a unit, and the running statistics of one that is normalised by its batch.
pub type Outcome<B, T> = Result<(Map<B, T>, Option<Running<<B as Backend>::Vector>>), Error>;

/// A window that slides over the pixels, the same in rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub size: usize,
    pub stride: usize,
    /// Padding on either side: ignored by a maximum, zeros that count in an average.
    pub padding: usize,
    /// Rounds the number of windows up, as long as the last one starts inside.
    pub ceil: bool,
}

impl Window {
    /// Number of windows along `len` pixels, as PyTorch counts them.
    pub fn count(self, len: usize) -> usize {
        let room = (len + 2 * self.padding).saturating_sub(self.size);
        if !self.ceil {
            return room / self.stride + 1;
        }
        let count = room.div_ceil(self.stride) + 1;
        if (count - 1) * self.stride >= len + self.padding { count - 1 } else { count }
    }

    /// The shape after pooling.
    pub fn out(self, shape: Shape) -> Shape {
        Shape { rows: self.count(shape.rows), columns: self.count(shape.columns), ..shape }
    }
}

/// The reduction over a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// The largest value; among equals the gradient goes to the first.
    Max,
    /// The mean, padding included.
    Average,
}

/// A number, or a vector of numbers with elementwise operations. The formulas of optimisers are generic over it, so
/// that one source serves a loop on the CPU and the kernels of a device.
pub trait Number:
    Clone
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<f32, Output = Self>
    + Mul<f32, Output = Self>
    + Div<f32, Output = Self>
{
    /// `self * factor + addend`, rounded twice. A device may skip `self`, whatever its value, if `factor` is 0.
    fn mul_add(self, factor: f32, addend: Self) -> Self;

    /// The square root.
    fn sqrt(self) -> Self;

    /// `most` where `self` is larger. NaN stays NaN.
    fn min(self, most: f32) -> Self;

    /// `least` where `self` is smaller. NaN stays NaN.
    fn max(self, least: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn mul_add(self, factor: f32, addend: Self) -> Self {
        addend + factor * self
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn min(self, most: f32) -> Self {
        if self > most { most } else { self }
    }

    #[inline(always)]
    fn max(self, least: f32) -> Self {
        if self < least { least } else { self }
    }
}

/// An elementwise update: from an element, its gradient and its `N` state values to the new element and state.
pub trait Rule<const N: usize>: Copy + Send + Sync {
    /// The new element and its new state. Must be marked `#[inline(always)]`: it is the body of the inner loop.
    fn apply<V: Number>(self, value: V, gradient: V, memory: [V; N]) -> (V, [V; N]);
}

/// A device with the operations of the networks, and dfdx's tape.
///
/// Every operation panics or returns an error only on shapes that do not fit, which the networks never produce.
pub trait Backend: Clone + std::fmt::Debug + Sized + 'static {
    /// The dfdx device that keeps the tape.
    type Device: Device<f32>;
    /// A parameter, a buffer, a gradient or an optimiser's state, as a flat vector. A clone is the same parameter.
    type Vector: Clone + std::fmt::Debug;
    /// A feature map.
    type Map<T: Tape<f32, Self::Device>>;

    /// The same device with convolutions, linear layers and attention in half precision and sums in single precision;
    /// none if its half-precision products are no faster.
    fn mixed(&self) -> Option<Self> {
        None
    }

    /// Bytes of the device's own memory in use now; none if it uses the host's memory.
    fn memory(&self) -> Option<u64> {
        None
    }

    /// Copies `values` to the device.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector, Error>;

    /// Lends the elements of a vector to `with`, on the host.
    fn read<R>(&self, vector: &Self::Vector, with: impl FnOnce(&[f32]) -> R) -> R;

    /// Lends the elements of a vector to `with`, on the host and mutably.
    fn write<R>(&self, vector: &mut Self::Vector, with: impl FnOnce(&mut [f32]) -> R) -> R;

    /// Number of elements of a vector.
    fn len(vector: &Self::Vector) -> usize;

    /// Applies `rule` to each element of `values` and its state in `memory`, on the device. All vectors have the same
    /// length.
    fn update<const N: usize>(
        &self,
        values: &mut Self::Vector,
        gradient: &Self::Vector,
        memory: [&mut Self::Vector; N],
        rule: impl Rule<N>,
    ) -> Result<(), Error>;

    /// The sum of the squares of all elements; NaN or infinite where one of them is.
    fn square_sum(&self, vector: &Self::Vector) -> Result<f64, Error>;

    /// Moves `values` (`shape.len()` elements) to the device. They get no gradient.
    fn map(&self, values: Vec<f32>, shape: Shape) -> Result<Map<Self>, Error>;

    /// Starts a tape at a map, which itself gets no gradient.
    fn record(&self, x: Map<Self>) -> Map<Self, Recording<Self>>;

    /// The shape of a map.
    fn shape<T: Tape<f32, Self::Device>>(x: &Map<Self, T>) -> Shape;

    /// Copies a map to the host.
    fn download<T: Tape<f32, Self::Device>>(x: &Map<Self, T>) -> Vec<f32>;

    /// The same map for a second use; the tape stays with the first.
    fn again<T: Tape<f32, Self::Device>>(x: &Map<Self, T>) -> Map<Self, T>;

    /// A unit; `residual` is added before the ReLU. Returns the updated running statistics if the unit is normalised by
    /// its batch.
    fn unit<T: Tape<f32, Self::Device>>(
        &self,
        x: Map<Self, T>,
        unit: Unit<'_, Self::Vector>,
        residual: Option<Map<Self, T>>,
    ) -> Outcome<Self, T>;

    /// Window pooling.
    fn pool<T: Tape<f32, Self::Device>>(
        &self,
        x: Map<Self, T>,
        window: Window,
        reduce: Reduce,
    ) -> Result<Map<Self, T>, Error>;

    /// Each image's mean or maximum per channel: one pixel per image.
    fn global_pool<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>, reduce: Reduce) -> Result<Map<Self, T>, Error>;

    /// Concatenates maps along the channels.
    fn concat<T: Tape<f32, Self::Device>>(&self, maps: Vec<Map<Self, T>>) -> Result<Map<Self, T>, Error>;

    /// The sum of two maps of the same shape.
    fn add<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>, y: Map<Self, T>) -> Result<Map<Self, T>, Error>;

    /// Multiplies each element by its own constant (`factors` has `x`'s shape): dropout with a given mask.
    fn scale<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>, factors: &[f32]) -> Result<Map<Self, T>, Error>;

    /// Each pixel's channels divided by their L2 norm, or by 1e-12 if that is larger, like PyTorch's `normalize`.
    fn l2_normalise<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>) -> Result<Map<Self, T>, Error>;

    /// Layer normalisation (Ba, Kiros and Hinton 2016): each pixel's channels minus their mean, divided by the square
    /// root of their variance plus `epsilon`, times `weight` plus `bias`, which have one element per channel.
    fn layer_norm<T: Tape<f32, Self::Device>>(
        &self,
        x: Map<Self, T>,
        weight: &Self::Vector,
        bias: &Self::Vector,
        epsilon: f32,
    ) -> Result<Map<Self, T>, Error>;

    /// The Gaussian error linear unit in its exact form, `x / 2 (1 + erf(x / sqrt(2)))` (Hendrycks and Gimpel 2016).
    fn gelu<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>) -> Result<Map<Self, T>, Error>;

    /// Self-attention among each image's pixels, the `T` tokens (Vaswani et al. 2017): `N x 1 x T x 3C` to
    /// `N x 1 x T x C`. The channels are queries, keys and values, each with its heads concatenated; each head, with
    /// `d = C / heads`, gives `softmax(Q K' / sqrt(d)) V`.
    fn attention<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>, heads: usize) -> Result<Map<Self, T>, Error>;

    /// Each image's pixels as tokens after a class token, `class` (`C`), with the position embeddings `positions`
    /// (`(1 + H W) x C`) added: `N x H x W x C` to `N x 1 x (1 + H W) x C`.
    fn tokens<T: Tape<f32, Self::Device>>(
        &self,
        x: Map<Self, T>,
        class: &Self::Vector,
        positions: &Self::Vector,
    ) -> Result<Map<Self, T>, Error>;

    /// A range of each image's pixels, in memory order: `N x 1 x range.len() x C`.
    fn pixels<T: Tape<f32, Self::Device>>(&self, x: Map<Self, T>, range: Range<usize>) -> Result<Map<Self, T>, Error>;

    /// Backpropagates a known gradient of `x` to the parameters: that of the scalar `sum(x * gradient)` with `gradient`
    /// constant.
    fn backward(&self, x: Map<Self, Recording<Self>>, gradient: &[f32]) -> Result<Grads<Self>, Error>;

    /// Takes a parameter's gradient out of `gradients`; none if no operation used the parameter.
    fn gradient(&self, gradients: &mut Grads<Self>, parameter: &Self::Vector) -> Result<Option<Self::Vector>, Error>;
}
