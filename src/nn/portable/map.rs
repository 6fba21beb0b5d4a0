//! Feature maps and vectors on a device of dfdx.

use dfdx::prelude::*;

use super::transformer::Matrix;
use super::{Block, Extents, Row};

/// A feature map.
#[derive(Debug, Clone)]
pub struct PortableMap<D: Device<f32>, T> {
    pub(super) values: Block<D, T>,
    /// Whether its gradient is needed.
    pub(super) traced: bool,
}

impl<D: Device<f32>, T: Tape<f32, D>> PortableMap<D, T> {
    /// The map after an operation.
    pub fn then(self, operation: impl FnOnce(Block<D, T>) -> Result<Block<D, T>, D::Err>) -> Result<Self, D::Err> {
        Ok(Self { values: operation(self.values)?, traced: self.traced })
    }
}

impl<D: Device<f32>, T: Tape<f32, D>> PortableMap<D, T> {
    /// The map after an operation on its pixels as rows of a matrix and the number of images; `shape` maps the shape.
    pub fn in_rows(
        self,
        operation: impl FnOnce(Matrix<D, T>, usize) -> Result<Matrix<D, T>, D::Err>,
        shape: impl FnOnce(Extents) -> Extents,
    ) -> Result<Self, D::Err> {
        self.then(|x| {
            let (n, h, w, c) = *x.shape();
            operation(x.try_reshape_like(&(n * h * w, c))?, n)?.try_reshape_like(&shape((n, h, w, c)))
        })
    }
}

/// A parameter, buffer, gradient or state.
///
/// dfdx does not report whether a table of gradients holds one, and panics when a missing one is requested. So an
/// operation that uses a vector leaves a mark in the table: a gradient of `mark` that is longer than `mark` itself.
#[derive(Debug, Clone)]
pub struct PortableVector<D: Device<f32>> {
    pub(super) values: Row<D>,
    mark: Row<D>,
}

/// Length of `mark`, and of its gradient if nothing used the vector.
const UNUSED: usize = 1;
/// Length of the gradient of `mark` if something did.
const USED: usize = 2;

/// Memory for `len` elements.
fn empty<D: Device<f32>>(device: &D, len: usize) -> Result<<D as Storage<f32>>::Vec, D::Err> {
    Storage::<f32>::try_alloc_len(device, len)
}

impl<D: Device<f32>> PortableVector<D> {
    pub fn new(values: Row<D>) -> Result<Self, D::Err> {
        let mark = values.device().try_zeros_like(&(UNUSED,))?;
        Ok(Self { values, mark })
    }

    /// The elements for an operation that gives the vector a gradient.
    pub fn learning<T: Tape<f32, D>>(&self) -> Row<D, T> {
        let mark = self.mark.clone();
        let mut tape = T::default();
        tape.add_backward_op(move |gradients| {
            *gradients.get_or_alloc_mut(&mark)? = empty(mark.device(), USED)?;
            Ok(())
        });
        self.values.clone().put_tape(tape)
    }

    /// Takes the vector's gradient out of the table; none if no operation used the vector.
    pub fn take(&self, gradients: &mut Gradients<f32, D>) -> Result<Option<Self>, D::Err> {
        let device = self.values.device();
        let marked = gradients.get_or_alloc_mut(&self.mark)?;
        if Storage::<f32>::len(device, marked) != USED {
            return Ok(None);
        }
        *marked = empty(device, UNUSED)?;
        let gradient = gradients.get(&self.values);
        // What stays in the table is never read again.
        *gradients.get_or_alloc_mut(&self.values)? = empty(device, UNUSED)?;
        Self::new(gradient).map(Some)
    }
}
