//! Large buffers that a thread keeps from one training step to the next.
//!
//! Fresh memory costs a page fault for every four kilobytes, and the system takes large blocks back as soon as they are
//! freed: at the sizes of activations that is a noticeable part of a step.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use dfdx::prelude::*;

/// Buffers that a thread keeps: more than a step of one network holds at a time.
const KEPT: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that returns to the list of its thread when dropped.
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// Of `len` elements, what they hold being unspecified.
    pub fn new(len: usize) -> Self {
        let kept = FREE.with_borrow_mut(|free| {
            free.iter().rposition(|buffer| buffer.len() == len).map(|index| free.remove(index))
        });
        Self(kept.unwrap_or_else(|| vec![0.0; len]))
    }

    /// With a tensor's elements.
    pub fn of<S: Shape, T>(tensor: &Tensor<S, f32, Cpu, T>) -> Self {
        let mut buffer = Self::new(tensor.shape().num_elements());
        tensor.copy_into(&mut buffer);
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // At the end of a thread the list may be gone already; the buffer is then simply freed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            // The oldest goes: it belongs to shapes that are no longer in use.
            if free.len() == KEPT {
                free.remove(0);
            }
            free.push(buffer);
        });
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
