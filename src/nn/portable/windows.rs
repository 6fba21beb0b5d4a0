//! Indices of the pixels of a convolution's patches and of a pooling's windows.
//!
//! dfdx gathers rows of a matrix by a table of indices. The table of one image serves all images; it is built once per
//! shape, since building it and copying it to the device costs more than gathering.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dfdx::prelude::*;

use super::{Extents, Portable};

/// Windows that slide over an image; pairs are (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Windows {
    /// Of the image.
    pub image: [usize; 2],
    pub size: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    /// Number of windows.
    pub count: [usize; 2],
}

impl Windows {
    /// Number of pixels of a window.
    pub fn taps(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Number of windows of an image.
    pub fn cells(&self) -> usize {
        self.count[0] * self.count[1]
    }

    /// Whether every window is the pixel of the same index.
    pub fn are_pixels(&self) -> bool {
        self.size == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Number of pixels of an image.
    fn pixels(&self) -> usize {
        self.image[0] * self.image[1]
    }

    /// The index of every pixel of every window; one past the last pixel where there is none.
    fn numbers(&self) -> Vec<usize> {
        let along = |axis: usize, cell: usize, tap: usize| {
            let at = (cell * self.stride[axis] + tap).checked_sub(self.padding[axis])?;
            (at < self.image[axis]).then_some(at)
        };
        let windows = (0..self.cells()).map(|cell| [cell / self.count[1], cell % self.count[1]]);
        windows
            .flat_map(|[row, column]| {
                (0..self.taps()).map(move |tap| {
                    let pixel = along(0, row, tap / self.size[1]).zip(along(1, column, tap % self.size[1]));
                    pixel.map_or(self.pixels(), |(row, column)| row * self.image[1] + column)
                })
            })
            .collect()
    }

    /// The weight of each pixel in the mean of its window: padding inside the padded image counts.
    pub fn shares(&self) -> Vec<f32> {
        let along = |axis: usize, cell: usize| {
            let start = cell * self.stride[axis];
            (start + self.size[axis]).min(self.image[axis] + 2 * self.padding[axis]) - start
        };
        (0..self.cells())
            .map(|cell| 1.0 / (along(0, cell / self.count[1]) * along(1, cell % self.count[1])) as f32)
            .collect()
    }
}

/// A table on the device.
#[derive(Debug, Clone)]
struct Table<D: Device<f32>> {
    /// `windows x taps`
    numbers: Tensor<(usize,), usize, D>,
    /// Whether a window reaches beyond the image.
    outside: bool,
}

/// The tables built so far; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Tables<D: Device<f32>>(Arc<Mutex<HashMap<Windows, Table<D>>>>);

impl<D: Device<f32>> Default for Tables<D> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<D: Device<f32>> Tables<D> {
    fn get(&self, device: &D, windows: &Windows) -> Result<Table<D>, D::Err> {
        // A table is complete before it is inserted: a thread that panicked has left nothing broken.
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(windows) {
            return Ok(table.clone());
        }
        let numbers = windows.numbers();
        let outside = numbers.contains(&windows.pixels());
        let len = numbers.len();
        let table = Table { numbers: device.try_tensor_from_vec(numbers, (len,))?, outside };
        tables.insert(*windows, table.clone());
        Ok(table)
    }
}

/// The pixels of every window, `N x windows x taps x C`, with `outside` where there is none.
pub(super) fn gather<E: Dtype, D: Device<f32> + Device<E>, T: Tape<E, D>>(
    portable: &Portable<D>,
    x: Tensor<Extents, E, D, T>,
    windows: &Windows,
    outside: E,
) -> Result<Tensor<Extents, E, D, T>, D::Err> {
    let (images, _, _, channels) = *x.shape();
    let Table { numbers, outside: reaches } = portable.tables.get(&portable.device, windows)?;
    let mut pixels = x.try_reshape_like(&(images, windows.pixels(), channels))?;
    if reaches {
        let zeros: Tensor<_, E, D> = portable.device.try_zeros_like(&(images, 1, channels))?;
        pixels = (pixels, zeros.try_add(outside)?).try_concat_along(Axis::<1>)?;
    }
    let (len,) = *numbers.shape();
    let numbers = numbers.try_broadcast_like::<_, Axis<0>>(&(images, len))?;
    let found = pixels.try_gather::<(usize, usize, usize), _>(numbers)?;
    found.try_reshape_like(&(images, windows.cells(), windows.taps(), channels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_made_once_for_all_clones() {
        let (device, tables) = (Cpu::default(), Tables::default());
        let windows = Windows { image: [2, 2], size: [1, 2], stride: [1, 2], padding: [0, 1], count: [2, 2] };
        let table = tables.get(&device, &windows).unwrap();
        assert_eq!((table.numbers.as_vec(), table.outside), (vec![4, 0, 1, 4, 4, 2, 3, 4], true));
        // An existing table is returned.
        let other = Table { numbers: device.tensor_from_vec(vec![7], (1,)), outside: false };
        tables.0.lock().unwrap().insert(windows, other);
        assert_eq!(tables.clone().get(&device, &windows).unwrap().numbers.as_vec(), [7]);
    }
}
