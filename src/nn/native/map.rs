//! Feature maps and vectors of the CPU backend, and their gradients on dfdx's tape.
//!
//! dfdx exposes no slice of a CPU tensor, only copies. So the elements are stored in buffers of this module, and each
//! map and vector carries an empty dfdx tensor as its identity: the tape orders the operations and finds the gradients
//! by it. A gradient is an empty vector in dfdx's table until something is written to it.

use std::sync::Arc;

use dfdx::prelude::{Cpu, CpuError, Gradients, NoneTape, PutTape, SplitTape, Tape, Tensor, ZerosTensor};
use rayon::prelude::*;

use super::buffer::Buffer;
use crate::nn::backend::Shape;

/// A dfdx tensor without elements.
pub(super) type Handle<T = NoneTape> = Tensor<(usize,), f32, Cpu, T>;
/// The gradients of a backward pass.
pub(super) type Table = Gradients<f32, Cpu>;

/// Elements per task of an element-wise loop.
pub(super) const CHUNK: usize = 1 << 14;

/// `N x H x W x C` elements and a tape.
#[derive(Debug, Clone)]
pub struct NativeMap<T> {
    pub(super) values: Arc<Buffer>,
    pub(super) shape: Shape,
    pub(super) handle: Handle<T>,
    /// Whether its gradient is needed.
    pub(super) traced: bool,
}

impl NativeMap<NoneTape> {
    /// A map without a recorded operation.
    pub fn new(device: &Cpu, values: Buffer, shape: Shape) -> Result<Self, CpuError> {
        Ok(Self { values: Arc::new(values), shape, handle: device.try_zeros_like(&(0,))?, traced: false })
    }

    /// The result of the operations on `tape`.
    pub fn on<T>(self, tape: T, traced: bool) -> NativeMap<T> {
        NativeMap { values: self.values, shape: self.shape, handle: self.handle.put_tape(tape), traced }
    }
}

impl<T: Tape<f32, Cpu>> NativeMap<T> {
    /// The map without its tape, and the tape.
    pub fn split(self) -> (NativeMap<NoneTape>, T) {
        let (handle, tape) = self.handle.split_tape();
        (NativeMap { values: self.values, shape: self.shape, handle, traced: self.traced }, tape)
    }
}

/// A parameter, buffer, gradient or state.
#[derive(Debug, Clone)]
pub struct NativeVector {
    pub(super) values: Arc<Buffer>,
    pub(super) handle: Handle,
}

impl NativeVector {
    pub fn new(device: &Cpu, values: Buffer) -> Result<Self, CpuError> {
        Ok(Self { values: Arc::new(values), handle: device.try_zeros_like(&(0,))? })
    }

    /// The elements, mutably: copied first if another clone is still in use.
    pub fn values_mut(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.values).is_none() {
            self.values = Arc::new(Buffer::copy_of(&self.values));
        }
        Arc::get_mut(&mut self.values).map_or(&mut [], |values| &mut values[..])
    }

    /// The elements as an owned vector.
    pub fn into_values(self) -> Vec<f32> {
        Arc::try_unwrap(self.values).map_or_else(|shared| shared.to_vec(), Buffer::into_vec)
    }
}

/// Takes a gradient out of the table; none if nothing was written to it.
pub(super) fn take(table: &mut Table, handle: &Handle) -> Result<Option<Buffer>, CpuError> {
    let values = std::mem::take(&mut **table.get_or_alloc_mut(handle)?);
    Ok((!values.is_empty()).then(|| Buffer::of(values)))
}

/// Puts a gradient into the table, adding it to one that is there already.
pub(super) fn put(table: &mut Table, handle: &Handle, gradient: Buffer) -> Result<(), CpuError> {
    let there = &mut **table.get_or_alloc_mut(handle)?;
    if there.is_empty() {
        *there = gradient.into_vec();
    } else {
        add(there, &gradient);
    }
    Ok(())
}

/// Adds element by element.
pub(super) fn add(to: &mut [f32], more: &[f32]) {
    to.par_chunks_mut(CHUNK).zip(more.par_chunks(CHUNK)).for_each(|(to, more)| {
        to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
    });
}
