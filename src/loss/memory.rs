//! The state of a loss between training steps.

use super::LossError;
use super::geometry::Units;
use crate::math::real::Real;

/// Unit embeddings of past batches and their classes; new ones replace the oldest.
///
/// The training loop owns it, so that a loss stays a pure function: it starts empty and is passed to every
/// [`step`](super::Loss::step).
#[derive(Debug, Clone, Default)]
pub struct Memory<T> {
    pub(super) rows: Vec<T>,
    pub(super) labels: Vec<u32>,
    next: usize,
}

impl<T: Real> Memory<T> {
    /// Its complete state: the embeddings, their classes and the index that is overwritten next.
    pub fn parts(&self) -> (&[T], &[u32], usize) {
        (&self.rows, &self.labels, self.next)
    }

    /// A memory of [`Memory::parts`].
    pub fn of(rows: Vec<T>, labels: Vec<u32>, next: usize) -> Self {
        Self { rows, labels, next }
    }

    /// Inserts a batch; `size` is the capacity. Sample `i` is then at index `(first + i) % size`, where `first` is the
    /// returned value.
    pub(super) fn insert(&mut self, size: usize, units: &Units<T>, labels: &[u32]) -> Result<usize, LossError> {
        if labels.len() > size {
            return Err(LossError::Memory { size, batch: labels.len() });
        }
        let (found, expected) = (self.rows.len(), self.labels.len() * units.dim);
        if found != expected {
            return Err(LossError::Shape { what: "the memory".into(), found, expected });
        }
        let first = self.next % size;
        for (row, &label) in units.rows.chunks(units.dim).zip(labels) {
            let place = self.next % size;
            if place < self.labels.len() {
                self.rows[place * units.dim..][..units.dim].copy_from_slice(row);
                self.labels[place] = label;
            } else {
                self.rows.extend_from_slice(row);
                self.labels.push(label);
            }
            self.next = place + 1;
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_embeddings_take_the_place_of_the_oldest() {
        let mut memory = Memory::default();
        let batch = |from: u32| (Units::new(&[1.0f64, -2.0], 1), [from, from + 1]);
        let mut places = Vec::new();
        for from in [0, 2, 4] {
            let (units, labels) = batch(from);
            places.push(memory.insert(5, &units, &labels).unwrap());
        }
        assert_eq!((places, &memory.labels[..]), (vec![0, 2, 4], &[5, 1, 2, 3, 4][..]));
        assert_eq!(memory.rows, [-1.0, -1.0, 1.0, -1.0, 1.0]);
        let (units, labels) = batch(6);
        let error = memory.insert(1, &units, &labels).unwrap_err().to_string();
        assert_eq!(error, "the memory holds 1 embeddings, fewer than the batch's 2");
    }
}
