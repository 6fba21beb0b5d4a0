//! The losses: one file each, one trait, one registry.
//!
//! A loss is a pure function of (embeddings, labels, its own parameters). It returns its value and the gradients in
//! closed form: the caller puts them on a tape if it has one. Everything is generic over `f32` (training) and `f64`
//! (reference checks).

pub mod arcface;
pub mod binomial_deviance;
pub mod center;
pub mod check;
pub mod class_wise_contrastive;
pub mod class_wise_multi_similarity;
pub mod class_wise_triplet;
pub mod contrastive;
pub mod cosface;
pub mod cost;
pub mod cross_batch_memory;
pub mod fast_ap;
mod formula;
mod geometry;
pub mod margin;
pub mod mean_field_binomial_deviance;
pub mod mean_field_class_wise_multi_similarity;
pub mod mean_field_contrastive;
pub mod mean_field_triplet;
mod measure;
pub mod memory;
pub mod multi_similarity;
pub mod n_pair;
pub mod normalized_softmax;
pub mod nt_xent;
pub mod pairwise;
mod penalty;
pub mod proxy_anchor;
pub mod proxy_nca;
pub mod registry;
mod smooth;
pub mod snr_contrastive;
pub mod soft_triple;
mod softmax;
#[cfg(test)]
mod testing;
pub mod triplet;
#[cfg(test)]
mod vectors;

use thiserror::Error;

use self::memory::Memory;

/// A mini-batch as a loss sees it.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    /// `B x D`, row-major, the raw output of the network: a loss that needs unit vectors normalises them itself, and its
    /// gradient includes that normalisation.
    pub embeddings: &'a [T],
    /// `B` class indices, each below the number of classes.
    pub labels: &'a [u32],
    /// `D`, the length of one embedding.
    pub dim: usize,
}

/// The initialisation of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Each element from N(0, 1).
    Normal,
    /// Each element from N(0, 2 / fan), fan being the number of rows (Kaiming normal, fan-out, of a rows x cols matrix).
    KaimingNormalFanOut,
    /// Each element uniform within the square root of 1 / rows: PyTorch's Kaiming uniform with `a` the square root of
    /// 5, of the transposed matrix, since the original code stores vectors as columns.
    KaimingUniform,
    /// Each element has this value.
    Constant(f64),
}

/// One matrix that a loss learns.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name in checkpoints and logs: "mean_fields", "proxies".
    pub name: &'static str,
    /// Rows of the row-major matrix.
    pub rows: usize,
    /// Columns of it.
    pub cols: usize,
    /// Its initialisation.
    pub init: Init,
}

/// The gradients of one evaluation, in the shapes of their variables.
#[derive(Debug, Clone, Default)]
pub struct Gradients<T> {
    /// `B x D`.
    pub embeddings: Vec<T>,
    /// One for each of [`Loss::parameters`], in that order.
    pub parameters: Vec<Vec<T>>,
}

/// Why a loss has no value for a batch.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LossError {
    /// No samples, or samples without elements.
    #[error("the batch has {labels} labels and embeddings of length {dim}, expected at least 1 of each")]
    Empty { labels: usize, dim: usize },
    /// A length does not match the others.
    #[error("{what} has {found} elements, expected {expected}")]
    Shape { what: String, found: usize, expected: usize },
    /// A label is not a class.
    #[error("label {label} at position {position} is not below the number of classes, {classes}")]
    Label { label: u32, position: usize, classes: usize },
    /// An input is NaN or infinite.
    #[error("{what} is not finite at position {position}")]
    NotFinite { what: String, position: usize },
    /// The value of a loss of raw vectors overflows.
    #[error("the loss of raw vectors this long is not a finite number")]
    Overflow,
    /// A batch is larger than the memory of past batches.
    #[error("the memory holds {size} embeddings, fewer than the batch's {batch}")]
    Memory { size: usize, batch: usize },
    /// Only a loss that compares samples can have a memory.
    #[error("cross-batch memory needs a loss that compares samples")]
    NotOfSamples,
}

/// A metric-learning loss.
pub trait Loss<T>: Send + Sync {
    /// The matrices that this loss learns for `classes` classes and embeddings of length `dim`; empty for a loss
    /// without parameters.
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter>;

    /// The pair-based parent of which this is the mean-field form, if it is one.
    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        None
    }

    /// The value on `batch`, with its gradients written to `gradients` (resized as needed, so that one buffer serves
    /// every step). `parameters` are row-major, in the order of [`Loss::parameters`].
    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError>;
    /// [`Loss::evaluate`] as one training step: a loss with a memory of past batches reads and extends `memory`, which
    /// starts empty and is passed from step to step.
    fn step(
        &self,
        _memory: &mut Memory<T>,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        self.evaluate(batch, classes, parameters, gradients)
    }
}

/// Whether `loss` learns one matrix with one row per class, such as mean fields or proxies, and nothing else.
pub fn has_class_vectors<T>(loss: &dyn Loss<T>) -> bool {
    // Two shapes without a common factor, so that a coincidence in one is not one in the other.
    [(5, 3), (7, 4)].into_iter().all(|(classes, dim)| {
        matches!(&loss.parameters(classes, dim)[..], [matrix] if (matrix.rows, matrix.cols) == (classes, dim))
    })
}
