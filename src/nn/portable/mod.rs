//! The networks' operations built from dfdx's own, for every device of dfdx: the GPU's backend.
//!
//! A convolution is a gather of patches and a matrix product, a pooling a gather of windows and a reduction. On a GPU
//! each is a kernel that dfdx ships; on dfdx's CPU the same code runs slowly, and the tests compare it there with
//! [`Native`](super::Native). On a GPU dfdx sums gradients in no fixed order: the last bits of a result may differ from
//! run to run.
//!
//! | file | holds |
//! | --- | --- |
//! | `windows` | indices of the pixels of patches and pooling windows |
//! | `unit` | convolution, normalisation, residual, ReLU |
//! | `pool` | maxima and means over windows |
//! | `transformer` | layer normalisation, GELU, attention, tokens |
//! | `half` | products in half precision |
//! | `map` | feature maps and vectors |
//! | `update` | optimiser steps and gradient norms |

mod half;
mod map;
mod pool;
#[cfg(test)]
mod tests;
pub(in crate::nn) mod transformer;
mod unit;
mod update;
mod windows;

use std::fmt::Display;
use std::ops::Range;

use dfdx::prelude::*;

use self::half::Precisions;
use self::map::{PortableMap, PortableVector};
use self::windows::Tables;
use super::Error;
use super::backend::{self, Backend, Grads, Map, Recording, Reduce, Rule, Running, Unit, Window};

/// The backend of an NVIDIA GPU.
#[cfg(feature = "cuda")]
pub type Gpu = Portable<Cuda>;

/// A device of dfdx. Clones share the device and its tables.
#[derive(Debug, Clone)]
pub struct Portable<D: Device<f32>> {
    device: D,
    tables: Tables<D>,
    /// Whether convolutions and products are in half precision.
    mixed: bool,
}

impl<D: Device<f32>> Portable<D> {
    /// With no tables yet, in single precision.
    pub fn new(device: D) -> Self {
        Self { device, tables: Tables::default(), mixed: false }
    }
}

/// The shape of a feature map: `N x H x W x C`.
type Extents = (usize, usize, usize, usize);
/// A feature map as a dfdx tensor, or as many values with another four-axis shape.
type Block<D, T = NoneTape> = Tensor<Extents, f32, D, T>;
/// A map with its pixels along one axis, or a [`Block`] after a reduction: `N x pixels x C`.
type Pixels<D, T = NoneTape> = Tensor<(usize, usize, usize), f32, D, T>;
/// A flat vector.
type Row<D, T = NoneTape> = Tensor<(usize,), f32, D, T>;

/// Maps a dfdx error, naming the operation.
fn failed<E: Display>(operation: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Device { operation, message: error.to_string() }
}

/// The elements of a tensor that is contiguous in memory.
fn to_host<S: Shape, D: Device<f32>, T>(tensor: &Tensor<S, f32, D, T>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape().num_elements()];
    tensor.copy_into(&mut values);
    values
}

impl<D: Precisions> Backend for Portable<D> {
    type Device = D;
    type Vector = PortableVector<D>;
    type Map<T: Tape<f32, D>> = PortableMap<D, T>;

    fn mixed(&self) -> Option<Self> {
        Some(Self { mixed: true, ..self.clone() })
    }

    fn memory(&self) -> Option<u64> {
        self.device.memory()
    }

    fn vector(&self, values: &[f32]) -> Result<PortableVector<D>, Error> {
        let values = self.device.try_tensor_from_vec(values.to_vec(), (values.len(),));
        values.and_then(PortableVector::new).map_err(failed("a vector"))
    }

    fn read<R>(&self, vector: &PortableVector<D>, with: impl FnOnce(&[f32]) -> R) -> R {
        with(&to_host(&vector.values))
    }

    fn write<R>(&self, vector: &mut PortableVector<D>, with: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut values = to_host(&vector.values);
        let result = with(&mut values);
        vector.values.copy_from(&values);
        result
    }

    fn len(vector: &PortableVector<D>) -> usize {
        vector.values.shape().num_elements()
    }

    fn update<const N: usize>(
        &self,
        values: &mut PortableVector<D>,
        gradient: &PortableVector<D>,
        memory: [&mut PortableVector<D>; N],
        rule: impl Rule<N>,
    ) -> Result<(), Error> {
        update::update(values, gradient, memory, rule).map_err(failed("an optimiser's step"))
    }

    fn square_sum(&self, vector: &PortableVector<D>) -> Result<f64, Error> {
        update::square_sum(&vector.values).map_err(failed("a sum of squares"))
    }

    fn map(&self, values: Vec<f32>, shape: backend::Shape) -> Result<Map<Self>, Error> {
        let backend::Shape { images, rows, columns, channels } = shape;
        let values = self.device.try_tensor_from_vec(values, (images, rows, columns, channels));
        Ok(PortableMap { values: values.map_err(failed("a map"))?, traced: false })
    }

    fn record(&self, x: Map<Self>) -> Map<Self, Recording<Self>> {
        PortableMap { values: x.values.put_tape(OwnedTape::default()), traced: false }
    }

    fn shape<T: Tape<f32, D>>(x: &PortableMap<D, T>) -> backend::Shape {
        let (images, rows, columns, channels) = *x.values.shape();
        backend::Shape { images, rows, columns, channels }
    }

    fn download<T: Tape<f32, D>>(x: &PortableMap<D, T>) -> Vec<f32> {
        to_host(&x.values)
    }

    fn again<T: Tape<f32, D>>(x: &PortableMap<D, T>) -> PortableMap<D, T> {
        PortableMap { values: x.values.with_empty_tape(), traced: x.traced }
    }

    fn unit<T: Tape<f32, D>>(
        &self,
        x: PortableMap<D, T>,
        unit: Unit<'_, PortableVector<D>>,
        residual: Option<PortableMap<D, T>>,
    ) -> Result<(PortableMap<D, T>, Option<Running<PortableVector<D>>>), Error> {
        unit::forward(self, x, unit, residual).map_err(failed("a unit"))
    }

    fn pool<T: Tape<f32, D>>(
        &self,
        x: PortableMap<D, T>,
        window: Window,
        reduce: Reduce,
    ) -> Result<PortableMap<D, T>, Error> {
        x.then(|x| pool::windows(self, x, window, reduce)).map_err(failed("pooling"))
    }

    fn global_pool<T: Tape<f32, D>>(&self, x: PortableMap<D, T>, reduce: Reduce) -> Result<PortableMap<D, T>, Error> {
        x.then(|x| pool::images(self, x, reduce)).map_err(failed("global pooling"))
    }

    /// dfdx panics if one of the maps occurs twice.
    fn concat<T: Tape<f32, D>>(&self, maps: Vec<PortableMap<D, T>>) -> Result<PortableMap<D, T>, Error> {
        let size = |map: &PortableMap<D, T>| backend::Shape { channels: 0, ..Self::shape(map) };
        if maps.windows(2).any(|pair| size(&pair[0]) != size(&pair[1])) {
            return Err(Error::Device { operation: "joining channels", message: "maps of other sizes".into() });
        }
        let join = |x: PortableMap<D, T>, y: PortableMap<D, T>| -> Result<_, D::Err> {
            let values = (x.values, y.values).try_concat_along(Axis::<3>)?;
            Ok(PortableMap { values, traced: x.traced || y.traced })
        };
        let operation = "joining channels";
        let mut maps = maps.into_iter();
        let Some(first) = maps.next() else {
            return Err(Error::Device { operation, message: "no maps".into() });
        };
        maps.try_fold(first, join).map_err(failed(operation))
    }

    fn add<T: Tape<f32, D>>(&self, x: PortableMap<D, T>, y: PortableMap<D, T>) -> Result<PortableMap<D, T>, Error> {
        // dfdx cannot add a tensor to itself; its product with 1 is another tensor.
        let sum = || x.values.try_add(y.values.try_mul(1.0)?);
        Ok(PortableMap { values: sum().map_err(failed("a sum"))?, traced: x.traced || y.traced })
    }

    fn scale<T: Tape<f32, D>>(&self, x: PortableMap<D, T>, factors: &[f32]) -> Result<PortableMap<D, T>, Error> {
        x.then(|x| {
            let factors = self.device.try_tensor_from_vec(factors.to_vec(), *x.shape())?;
            x.try_mul(factors)
        })
        .map_err(failed("scaling"))
    }

    fn l2_normalise<T: Tape<f32, D>>(&self, x: PortableMap<D, T>) -> Result<PortableMap<D, T>, Error> {
        x.then(|x| {
            let shape = *x.shape();
            let squares = x.with_empty_tape().try_square()?.try_sum::<(usize, usize, usize), Axis<3>>()?;
            // Clamped before the square root, whose derivative at 0 is infinite.
            let lengths = squares.try_clamp(SMALLEST_SQUARE, f32::MAX)?.try_sqrt()?;
            x.try_div(lengths.try_broadcast_like::<_, Axis<3>>(&shape)?)
        })
        .map_err(failed("L2 normalisation"))
    }

    fn layer_norm<T: Tape<f32, D>>(
        &self,
        x: PortableMap<D, T>,
        weight: &PortableVector<D>,
        bias: &PortableVector<D>,
        epsilon: f32,
    ) -> Result<PortableMap<D, T>, Error> {
        let run = |x, _| transformer::layer_norm(x, weight.learning(), bias.learning(), epsilon);
        x.in_rows(run, |shape| shape).map_err(failed("layer normalisation"))
    }

    fn gelu<T: Tape<f32, D>>(&self, x: PortableMap<D, T>) -> Result<PortableMap<D, T>, Error> {
        x.in_rows(|x, _| transformer::gelu(x), |shape| shape).map_err(failed("GELU"))
    }

    fn attention<T: Tape<f32, D>>(&self, x: PortableMap<D, T>, heads: usize) -> Result<PortableMap<D, T>, Error> {
        let run = |x, images| transformer::attention(x, images, heads, self.mixed);
        x.in_rows(run, |(n, h, w, c)| (n, h, w, c / 3)).map_err(failed("attention"))
    }

    fn tokens<T: Tape<f32, D>>(
        &self,
        x: PortableMap<D, T>,
        class: &PortableVector<D>,
        positions: &PortableVector<D>,
    ) -> Result<PortableMap<D, T>, Error> {
        let run = |x, images| transformer::tokens(x, images, class.learning(), positions.learning());
        let mut x = x.in_rows(run, |(n, h, w, c)| (n, 1, 1 + h * w, c)).map_err(failed("tokens"))?;
        // The class token and the positions learn, whatever precedes them.
        x.traced = T::OWNS_TAPE;
        Ok(x)
    }

    fn pixels<T: Tape<f32, D>>(&self, x: PortableMap<D, T>, range: Range<usize>) -> Result<PortableMap<D, T>, Error> {
        let len = range.len();
        let run = |x, images| transformer::pixels(x, images, range);
        x.in_rows(run, |(n, _, _, c)| (n, 1, len, c)).map_err(failed("taking pixels"))
    }

    fn backward(&self, x: Map<Self, Recording<Self>>, gradient: &[f32]) -> Result<Grads<Self>, Error> {
        let run = || {
            let len = x.values.shape().num_elements();
            let gradient = self.device.try_tensor_from_vec(gradient.to_vec(), (len,))?;
            let product = x.values.try_reshape_like(&(len,))?.try_mul(gradient)?;
            product.try_sum::<Rank0, Axis<0>>()?.try_backward()
        };
        run().map_err(failed("the backward pass"))
    }

    fn gradient(
        &self,
        gradients: &mut Grads<Self>,
        parameter: &PortableVector<D>,
    ) -> Result<Option<PortableVector<D>>, Error> {
        parameter.take(gradients).map_err(failed("a gradient"))
    }
}

/// Smaller squared norms are replaced by this: the square of PyTorch's bound in `normalize`.
const SMALLEST_SQUARE: f32 = 1e-24;
