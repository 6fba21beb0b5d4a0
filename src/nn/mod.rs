//! Networks and the devices they run on.
//!
//! | module | holds |
//! | --- | --- |
//! | `backend` | the seam: what a device must offer |
//! | `conv`, `norm`, `simd`, `buffer`, `cpu` | the CPU's operations and the backend made of them |
//! | `portable`, `cuda` | the same operations from dfdx's kernels, for the GPU |
//! | `model` | the backbones, their parameters and how these start |
//! | [`weights`] | weight files of anyone |
//! | `description` | weight files that say what network they are of |
//! | `adamw` | the optimiser's step |
//!
//! Activations are `N x H x W x C`. Weight files have the names and layouts of PyTorch.

mod adamw;
mod backend;
mod buffer;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod description;
mod model;
mod norm;
#[cfg(any(test, feature = "cuda"))]
mod portable;
#[cfg(test)]
mod tests;
pub mod weights;

pub use adamw::{AdamWStep, adamw};
pub use backend::{Backend, BlockTensors, Flat, Images, Matrix, Recording, download};
pub use model::{Architecture, Backbone, Kind, Model, NamedTensor, embed, normalise};
use thiserror::Error;

/// Why a network could not be built, run, or read.
#[derive(Debug, Error)]
pub enum Error {
    /// The device refused an operation.
    #[error("{operation} failed on the device: {message}")]
    Device { operation: &'static str, message: String },
    /// An architecture that no network can have.
    #[error("{field}: {message}")]
    Architecture { field: &'static str, message: String },
    /// Pixels that are not whole images of the expected size.
    #[error("{pixels} bytes of pixels are not a whole number of {height}x{width} RGB images")]
    Pixels { pixels: usize, height: usize, width: usize },
    /// Not a weight file, or a broken one.
    #[error("not a readable safetensors file: {0}")]
    File(#[from] safetensors::SafeTensorError),
    /// A weight file of another network.
    #[error("the weight file does not describe this network: {0}")]
    Description(String),
    /// Tensors that the network lacks, or the file.
    #[error("tensors missing from the weight file: [{}]; unexpected in it: [{}]", missing.join(", "), unexpected.join(", "))]
    Tensors { missing: Vec<String>, unexpected: Vec<String> },
    /// A tensor of the wrong shape or type.
    #[error("tensor {name} is {found} in the weight file, expected {expected}")]
    Tensor { name: String, found: String, expected: String },
}

impl Error {
    /// For `map_err`: names the operation that a device refused.
    pub(crate) fn device<E: std::fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Device { operation, message: error.to_string() }
    }
}
