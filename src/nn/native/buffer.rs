//! Large buffers that are reused from one training step to the next.
//!
//! Fresh memory costs a page fault per four kilobytes, and the system reclaims large blocks as soon as they are freed:
//! at the sizes of activations that is a noticeable part of a step. So a dropped buffer is kept for the next one of
//! about its size.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Smaller buffers are left to the allocator.
const SMALLEST: usize = 1 << 12;

/// Free memory by its capacity.
static KEPT: Mutex<BTreeMap<usize, Vec<Vec<f32>>>> = Mutex::new(BTreeMap::new());
/// Elements in buffers now, and the peak since [`start_peak`].
static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// A vector of elements whose memory is reused once it is dropped.
#[derive(Debug, Default)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// A buffer of `len` elements with unspecified contents.
    pub fn new(len: usize) -> Self {
        Self::of(take(len))
    }

    /// A buffer of `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self::of(match kept(len) {
            Some(mut values) => {
                values.fill(0.0);
                values
            }
            None => vec![0.0; len],
        })
    }

    /// A buffer with the given elements.
    pub fn copy_of(values: &[f32]) -> Self {
        let mut buffer = Self::new(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// A buffer that takes ownership of `values`.
    pub fn of(values: Vec<f32>) -> Self {
        let now = IN_USE.fetch_add(values.len(), Ordering::Relaxed) + values.len();
        PEAK.fetch_max(now, Ordering::Relaxed);
        Self(values)
    }

    /// Gives up ownership of the memory.
    pub fn into_vec(mut self) -> Vec<f32> {
        let values = std::mem::take(&mut self.0);
        IN_USE.fetch_sub(values.len(), Ordering::Relaxed);
        values
    }
}

/// Memory of `len` elements with unspecified contents: for a later buffer, and not counted until then.
pub fn take(len: usize) -> Vec<f32> {
    kept(len).unwrap_or_else(|| vec![0.0; len])
}

/// Kept memory of `len` elements, at most a quarter larger.
fn kept(len: usize) -> Option<Vec<f32>> {
    if len < SMALLEST {
        return None;
    }
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, list) = kept.range_mut(len..=len + len / 4).find(|(_, list)| !list.is_empty())?;
    let mut values = list.pop()?;
    drop(kept);
    values.resize(len, 0.0);
    Some(values)
}

/// Returns all kept memory to the system.
pub fn release() {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Starts measuring the peak memory in buffers.
pub fn start_peak() {
    PEAK.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// The peak bytes in buffers since [`start_peak`].
pub fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed) * size_of::<f32>()
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        IN_USE.fetch_sub(values.len(), Ordering::Relaxed);
        if values.capacity() >= SMALLEST {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).entry(values.capacity()).or_default().push(values);
        }
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

thread_local! {
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends `with` a thread-local slice of `len` elements with unspecified contents.
pub(super) fn scratch<R>(len: usize, with: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut values = SCRATCH.take();
    if values.len() < len {
        values.resize(len, 0.0);
    }
    let result = with(&mut values[..len]);
    SCRATCH.set(values);
    result
}
