//! The CPU backend: operations written for this machine's vector units, on dfdx's tape.
//!
//! | file | holds |
//! | --- | --- |
//! | `product` | the matrix product that everything uses |
//! | `conv`, `groups` | convolutions and their gradients |
//! | `norm`, `pool`, `vectors` | batch normalisation, pooling, L2 normalisation |
//! | `tokens`, `layer_norm`, `attention`, `gelu` | the operations of transformers |
//! | `map`, `buffer` | feature maps on the tape, and their memory |
//! | `update` | optimiser steps and gradient norms |

mod attention;
pub mod buffer;
mod conv;
mod gelu;
mod groups;
mod layer_norm;
mod map;
mod norm;
mod pool;
mod product;
mod tokens;
mod unit;
mod update;
mod vectors;

use std::ops::Range;
use std::sync::Arc;

use dfdx::prelude::{Cpu, CpuError, NoneTape, OwnedTape, PutTape, Rank0, Tape, Tensor, TensorFrom};

use self::attention::Heads;
use self::buffer::Buffer;
use self::map::{NativeMap, NativeVector, put, take};
use super::Error;
use super::backend::{Backend, Grads, Map, Recording, Reduce, Rule, Running, Shape, Unit, Window};

/// The CPU.
#[derive(Debug, Clone)]
pub struct Native {
    cpu: Cpu,
    winograd: bool,
}

impl Default for Native {
    fn default() -> Self {
        Self { cpu: Cpu::default(), winograd: true }
    }
}

/// Maps a dfdx error, naming the operation.
fn failed(operation: &'static str) -> impl Fn(CpuError) -> Error {
    move |error| Error::Device { operation, message: error.to_string() }
}

impl Native {
    /// Without Winograd's algorithm, whose rounding is compared with this.
    #[cfg(test)]
    pub(super) fn direct() -> Self {
        Self { winograd: false, ..Self::default() }
    }

    /// A vector that takes ownership of the memory of `values`; `NativeVector::into_values` returns it.
    pub fn adopt(&self, values: Vec<f32>) -> Result<NativeVector, Error> {
        NativeVector::new(&self.cpu, Buffer::of(values)).map_err(failed("a vector"))
    }

    /// The result of an operation with one input, with its backward function: `dy` to the input's gradient.
    fn unary<T: Tape<f32, Cpu>>(
        &self,
        operation: &'static str,
        x: &NativeMap<NoneTape>,
        mut tape: T,
        values: Buffer,
        shape: Shape,
        back: impl FnOnce(Buffer) -> Buffer + 'static,
    ) -> Result<NativeMap<T>, Error> {
        let y = NativeMap::new(&self.cpu, values, shape).map_err(failed(operation))?;
        if x.traced {
            let (from, to) = (y.handle.clone(), x.handle.clone());
            tape.add_backward_op(move |table| match take(table, &from)? {
                Some(dy) => put(table, &to, back(dy)),
                None => Ok(()),
            });
        }
        Ok(y.on(tape, x.traced))
    }
}

impl Backend for Native {
    type Device = Cpu;
    type Vector = NativeVector;
    type Map<T: Tape<f32, Cpu>> = NativeMap<T>;

    fn vector(&self, values: &[f32]) -> Result<NativeVector, Error> {
        NativeVector::new(&self.cpu, Buffer::copy_of(values)).map_err(failed("a vector"))
    }

    fn read<R>(&self, vector: &NativeVector, with: impl FnOnce(&[f32]) -> R) -> R {
        with(&vector.values)
    }

    fn write<R>(&self, vector: &mut NativeVector, with: impl FnOnce(&mut [f32]) -> R) -> R {
        with(vector.values_mut())
    }

    fn len(vector: &NativeVector) -> usize {
        vector.values.len()
    }

    fn update<const N: usize>(
        &self,
        values: &mut NativeVector,
        gradient: &NativeVector,
        memory: [&mut NativeVector; N],
        rule: impl Rule<N>,
    ) -> Result<(), Error> {
        update::update(values.values_mut(), &gradient.values, memory.map(NativeVector::values_mut), rule);
        Ok(())
    }

    fn square_sum(&self, vector: &NativeVector) -> Result<f64, Error> {
        Ok(update::square_sum(&vector.values))
    }

    fn map(&self, values: Vec<f32>, shape: Shape) -> Result<Map<Self>, Error> {
        NativeMap::new(&self.cpu, Buffer::of(values), shape).map_err(failed("a map"))
    }

    fn record(&self, x: Map<Self>) -> Map<Self, Recording<Self>> {
        NativeMap { values: x.values, shape: x.shape, handle: x.handle.put_tape(OwnedTape::default()), traced: false }
    }

    fn shape<T: Tape<f32, Cpu>>(x: &NativeMap<T>) -> Shape {
        x.shape
    }

    fn download<T: Tape<f32, Cpu>>(x: &NativeMap<T>) -> Vec<f32> {
        x.values.to_vec()
    }

    fn again<T: Tape<f32, Cpu>>(x: &NativeMap<T>) -> NativeMap<T> {
        NativeMap { values: x.values.clone(), shape: x.shape, handle: x.handle.retaped(), traced: x.traced }
    }

    fn unit<T: Tape<f32, Cpu>>(
        &self,
        x: NativeMap<T>,
        unit: Unit<'_, NativeVector>,
        residual: Option<NativeMap<T>>,
    ) -> Result<(NativeMap<T>, Option<Running<NativeVector>>), Error> {
        unit::forward(self, x, unit, residual)
    }

    fn pool<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>, window: Window, reduce: Reduce) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let shape = x.shape;
        let (y, winners) = pool::forward(window, reduce, shape, &x.values, T::OWNS_TAPE);
        self.unary("pooling", &x, tape, y, window.out(shape), move |dy| {
            pool::backward(window, reduce, shape, &winners, &dy)
        })
    }

    fn global_pool<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>, reduce: Reduce) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let shape = x.shape;
        let (y, winners) = pool::global(reduce, shape, &x.values);
        let out = Shape::vectors(shape.images, shape.channels);
        self.unary("global pooling", &x, tape, y, out, move |dy| pool::global_backward(reduce, shape, &winners, &dy))
    }

    fn concat<T: Tape<f32, Cpu>>(&self, maps: Vec<NativeMap<T>>) -> Result<NativeMap<T>, Error> {
        let mut all = T::default();
        let mut parts = Vec::new();
        for map in maps {
            let (map, tape) = map.split();
            all = all.merge(tape);
            parts.push(map);
        }
        let channels: usize = parts.iter().map(|part| part.shape.channels).sum();
        let Some(shape) = parts.first().map(|part| Shape { channels, ..part.shape }) else {
            return Err(Error::Device { operation: "joining channels", message: "no maps".into() });
        };
        if parts.iter().any(|part| Shape { channels, ..part.shape } != shape) {
            return Err(Error::Device { operation: "joining channels", message: "maps of other sizes".into() });
        }
        let mut values = Buffer::new(shape.len());
        let mut first = 0;
        for part in &parts {
            groups::put_columns(&part.values, &mut values, channels, first);
            first += part.shape.channels;
        }
        let y = NativeMap::new(&self.cpu, values, shape).map_err(failed("joining channels"))?;
        let traced = parts.iter().any(|part| part.traced);
        let from = y.handle.clone();
        let to: Vec<_> = parts.into_iter().map(|part| (part.handle, part.shape.channels, part.traced)).collect();
        all.add_backward_op(move |table| {
            let Some(dy) = take(table, &from)? else { return Ok(()) };
            let mut first = 0;
            for (handle, count, traced) in to {
                if traced {
                    put(table, &handle, groups::columns(&dy, channels, first, count))?;
                }
                first += count;
            }
            Ok(())
        });
        Ok(y.on(all, traced))
    }

    fn add<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>, y: NativeMap<T>) -> Result<NativeMap<T>, Error> {
        let ((x, tape), (y, more)) = (x.split(), y.split());
        let mut tape = tape.merge(more);
        let mut values = Buffer::copy_of(&x.values);
        map::add(&mut values, &y.values);
        let sum = NativeMap::new(&self.cpu, values, x.shape).map_err(failed("a sum"))?;
        let traced = x.traced || y.traced;
        let from = sum.handle.clone();
        tape.add_backward_op(move |table| {
            let Some(dy) = take(table, &from)? else { return Ok(()) };
            if x.traced {
                put(table, &x.handle, Buffer::copy_of(&dy))?;
            }
            if y.traced { put(table, &y.handle, dy) } else { Ok(()) }
        });
        Ok(sum.on(tape, traced))
    }

    fn scale<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>, factors: &[f32]) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let mut values = Buffer::copy_of(&x.values);
        let factors = Buffer::copy_of(factors);
        let multiply = |values: &mut Buffer, factors: &Buffer| {
            values.iter_mut().zip(factors.iter()).for_each(|(value, factor)| *value *= factor);
        };
        multiply(&mut values, &factors);
        let shape = x.shape;
        self.unary("scaling", &x, tape, values, shape, move |mut dy| {
            multiply(&mut dy, &factors);
            dy
        })
    }

    fn l2_normalise<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let shape = x.shape;
        let (y, lengths) = vectors::normalise(&x.values, shape.channels);
        let units = Arc::new(y);
        let values = Buffer::copy_of(&units);
        self.unary("L2 normalisation", &x, tape, values, shape, move |mut dy| {
            vectors::normalise_back(&units, &lengths, shape.channels, &mut dy);
            dy
        })
    }

    fn layer_norm<T: Tape<f32, Cpu>>(
        &self,
        x: NativeMap<T>,
        weight: &NativeVector,
        bias: &NativeVector,
        epsilon: f32,
    ) -> Result<NativeMap<T>, Error> {
        layer_norm::forward(self, x, weight, bias, epsilon)
    }

    fn gelu<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let (values, shape) = (x.values.clone(), x.shape);
        self.unary("GELU", &x, tape, gelu::forward(&values), shape, move |mut dy| {
            gelu::backward(&values, &mut dy);
            dy
        })
    }

    fn attention<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>, heads: usize) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let Shape { rows, columns, channels, .. } = x.shape;
        if heads == 0 || !channels.is_multiple_of(3 * heads) {
            let message = format!("{channels} channels are not queries, keys and values of {heads} heads");
            return Err(Error::Device { operation: "attention", message });
        }
        let heads = Heads { tokens: rows * columns, heads, size: channels / 3 / heads };
        let values = x.values.clone();
        let shape = Shape { rows: 1, columns: heads.tokens, channels: channels / 3, ..x.shape };
        self.unary("attention", &x, tape, attention::forward(heads, &values), shape, move |dy| {
            attention::backward(heads, &values, &dy)
        })
    }

    fn tokens<T: Tape<f32, Cpu>>(
        &self,
        x: NativeMap<T>,
        class: &NativeVector,
        positions: &NativeVector,
    ) -> Result<NativeMap<T>, Error> {
        tokens::forward(self, x, class, positions)
    }

    fn pixels<T: Tape<f32, Cpu>>(&self, x: NativeMap<T>, range: Range<usize>) -> Result<NativeMap<T>, Error> {
        let (x, tape) = x.split();
        let Shape { rows, columns, channels, .. } = x.shape;
        let shape = Shape { rows: 1, columns: range.len(), ..x.shape };
        let (image, part) = (rows * columns * channels, range.start * channels..range.end * channels);
        let values = tokens::cut(&x.values, image, part.clone());
        self.unary("pixels", &x, tape, values, shape, move |dy| tokens::uncut(&dy, image, part))
    }

    fn backward(&self, x: Map<Self, Recording<Self>>, gradient: &[f32]) -> Result<Grads<Self>, Error> {
        let run = || {
            let (x, mut tape) = x.split();
            let gradient = Buffer::copy_of(gradient);
            tape.add_backward_op(move |table| put(table, &x.handle, gradient));
            // dfdx runs a tape backward from a scalar.
            let scalar: Tensor<Rank0, f32, Cpu> = self.cpu.try_tensor(0.0)?;
            dfdx::prelude::Backward::try_backward(scalar.put_tape(tape))
        };
        run().map_err(failed("the backward pass"))
    }

    fn gradient(&self, gradients: &mut Grads<Self>, parameter: &NativeVector) -> Result<Option<NativeVector>, Error> {
        take(gradients, &parameter.handle)
            .and_then(|gradient| gradient.map(|gradient| NativeVector::new(&self.cpu, gradient)).transpose())
            .map_err(failed("a gradient"))
    }
}
