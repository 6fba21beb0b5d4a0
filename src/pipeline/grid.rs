//! The points of some axes, numbered: the last axis fastest.

use super::axes::AxisSpec;

/// Some of the pipeline's axes. A point has an index for every axis of the pipeline; a grid looks at its own only.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    /// Axis, size and stride, ascending by axis.
    axes: Vec<(usize, u32, usize)>,
    len: u64,
}

impl Grid {
    /// The grid of these axes, which ascend.
    pub(super) fn new(axes: impl IntoIterator<Item = usize>, specs: &[AxisSpec]) -> Grid {
        let mut axes: Vec<_> = axes.into_iter().map(|axis| (axis, specs[axis].names.len() as u32, 0)).collect();
        let mut len = 1u64;
        for (_, size, stride) in axes.iter_mut().rev() {
            *stride = len as usize;
            len = len.saturating_mul(u64::from(*size));
        }
        Grid { axes, len }
    }

    /// How many points there are.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The number of a point.
    pub(super) fn index(&self, point: &[u32]) -> usize {
        self.axes.iter().map(|&(axis, _, stride)| point[axis] as usize * stride).sum()
    }

    /// The indices of a point on these axes.
    pub(super) fn coordinates(&self, point: &[u32]) -> Box<[u32]> {
        self.axes.iter().map(|&(axis, ..)| point[axis]).collect()
    }

    /// Calls `visit` at every point of the grid; the other axes stay as they are in `point`, and so does `point`.
    pub(super) fn each(&self, point: &mut [u32], mut visit: impl FnMut(&mut [u32])) {
        if self.len == 0 {
            return;
        }
        let before: Vec<u32> = self.axes.iter().map(|&(axis, ..)| std::mem::take(&mut point[axis])).collect();
        'points: loop {
            visit(point);
            for &(axis, size, _) in self.axes.iter().rev() {
                point[axis] += 1;
                if point[axis] < size {
                    continue 'points;
                }
                point[axis] = 0;
            }
            break;
        }
        self.axes.iter().zip(before).for_each(|(&(axis, ..), before)| point[axis] = before);
    }
}
