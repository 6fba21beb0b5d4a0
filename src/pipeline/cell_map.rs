//! Cells by their ids: a dense map, so that a lookup is an index and every cell has a value.

use std::ops::{Deref, Index, IndexMut};

/// Index of a cell in [`Pipeline::cells`](super::model::Pipeline::cells).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId(pub u32);

/// One value per cell of a pipeline. As a slice, the values in the order of the cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellMap<T>(Vec<T>);

impl<T> CellMap<T> {
    /// A map without cells, with space for `count`.
    pub fn with_capacity(count: usize) -> CellMap<T> {
        CellMap(Vec::with_capacity(count))
    }

    /// The ids of all cells, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = CellId> + ExactSizeIterator + use<T> {
        (0..self.0.len() as u32).map(CellId)
    }

    /// The cells with their values, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (CellId, &T)> {
        self.ids().zip(&self.0)
    }

    /// The values, in the order of the cells.
    pub fn into_values(self) -> Vec<T> {
        self.0
    }

    /// As [`CellMap::entries`], to change the values.
    pub fn entries_mut(&mut self) -> impl Iterator<Item = (CellId, &mut T)> {
        self.ids().zip(&mut self.0)
    }
}

impl<T> Deref for CellMap<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> Index<CellId> for CellMap<T> {
    type Output = T;

    fn index(&self, cell: CellId) -> &T {
        &self.0[cell.0 as usize]
    }
}

impl<T> IndexMut<CellId> for CellMap<T> {
    fn index_mut(&mut self, cell: CellId) -> &mut T {
        &mut self.0[cell.0 as usize]
    }
}

impl<T> FromIterator<T> for CellMap<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> CellMap<T> {
        CellMap(values.into_iter().collect())
    }
}

impl<T> Extend<T> for CellMap<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        self.0.extend(values);
    }
}

impl<'a, T> IntoIterator for &'a CellMap<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> From<Vec<T>> for CellMap<T> {
    fn from(values: Vec<T>) -> CellMap<T> {
        CellMap(values)
    }
}
