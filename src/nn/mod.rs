//! Networks and the devices they run on.
//!
//! | module | holds |
//! | --- | --- |
//! | `backend` | the interface that a device implements |
//! | `native` | the CPU's operations |
//! | `portable` | the same built from dfdx's operations, for a GPU |
//! | `tensor`, `layers` | named tensors; layers as data, and running them |
//! | `backbone` | the table of the backbones, one file per family |
//! | `pixels`, `model` | pixel normalisations; whole networks |
//! | [`weights`] | weight files of any source |
//! | `description` | weight files that describe their network, and pretrained weights |
//!
//! Activations are `N x H x W x C`. Weight files use PyTorch's names and layouts.

mod backbone;
mod backend;
mod description;
mod layers;
mod model;
mod native;
#[cfg(test)]
mod parity;
mod pixels;
#[cfg(any(test, feature = "cuda"))]
mod portable;
mod tensor;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transformer_tests;
pub mod weights;

pub use backbone::{BACKBONES, Backbone, CONVNET4, NAMES as BACKBONE_NAMES, Pooling};
pub use backend::{Backend, Grads, Map, Number, Recording, Rule, Shape};
pub use description::{check_own, fit_backbone, normalisation_of};
pub use layers::Statistics;
pub use model::{Architecture, Dropout, Head, Model, Training, embed, embed_batch};
pub use native::Native;
pub use native::buffer;
pub use pixels::{CHANNELS, Normalisation, Normaliser, Pixels};
#[cfg(feature = "cuda")]
pub use portable::Gpu;
#[cfg(any(test, feature = "cuda"))]
pub use portable::Portable;
pub use tensor::{Kind, NamedTensor, Part};
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
    /// Not a weight file, a broken one, or one of another network.
    #[error(transparent)]
    Weights(#[from] weights::WeightError),
    /// A weight file that does not describe its network.
    #[error("the weight file does not describe this network: {0}")]
    Description(String),
}
