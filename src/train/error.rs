//! The errors of a training.

use thiserror::Error;

use super::checkpoint::CheckpointError;
use super::optimiser::StepError;
use super::selection::ScoreError;
use crate::data::images::ImageError;
use crate::data::sampler::SamplerError;
use crate::eval::EvalError;
use crate::loss::LossError;
use crate::nn;

/// Why a training could not start or continue. Epochs and steps count from 1.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Settings out of range: (path of the field, message).
    #[error("invalid training settings: {}", .0.iter().map(|(path, message)| format!("{path} {message}")).collect::<Vec<_>>().join("; "))]
    Config(Vec<(String, String)>),
    /// An unreadable image, or one of the wrong size.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No batch can be drawn.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// Fewer images than a batch has.
    #[error("{images} images are fewer than one batch of {batch}; set steps_per_epoch")]
    NoSteps { images: usize, batch: usize },
    /// The network failed.
    #[error(transparent)]
    Network(#[from] nn::Error),
    /// The loss has no value.
    #[error("epoch {epoch}, step {step}")]
    Loss { epoch: u32, step: u32, source: LossError },
    /// The loss has no value on a batch that is measured.
    #[error("measuring after epoch {epoch}")]
    Measure { epoch: u32, source: LossError },
    /// There are no images to score the network on.
    #[error("the training is scored on its {on} images, but there are none; does the split rule assign any?")]
    NothingHeldOut { on: &'static str },
    /// It cannot be scored; epoch 0 is before the first.
    #[error("scoring after epoch {epoch}")]
    Score { epoch: u32, source: ScoreError },
    /// The loss, or a gradient of it, is NaN or infinite.
    #[error("epoch {epoch}, step {step}: the {what} is not finite; lower the learning rates or look at the data")]
    NotFinite { epoch: u32, step: u32, what: String },
    /// A gradient of the network is NaN or infinite in mixed precision, whatever the loss's scale.
    #[error(
        "epoch {epoch}: a gradient of the network is not finite in half precision; train with `precision: full`, or lower the learning rates"
    )]
    NetworkGradient { epoch: u32 },
    /// The loss returned a gradient of the wrong length.
    #[error("the loss gave {found} gradient elements for its {what}, expected {expected}")]
    LossGradient { what: String, found: usize, expected: usize },
    /// The embeddings do not depend on a parameter of the network.
    #[error("no gradient reaches the parameter {parameter}")]
    NoGradient { parameter: String },
    /// A gradient or a state of the wrong length, or a device that failed.
    #[error("optimiser step failed for {tensor}")]
    Optimiser { tensor: String, source: StepError },
    /// A checkpoint cannot be written, or does not fit the training.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl TrainError {
    /// Whether the training has diverged: a loss, a gradient or an embedding is not finite.
    pub(super) fn is_not_finite(&self) -> bool {
        let embedding =
            |error: &EvalError| matches!(error, EvalError::NotFinite { .. } | EvalError::NoDirection { .. });
        match self {
            Self::NotFinite { .. } => true,
            Self::Score { source: ScoreError::Retrieval(error), .. } => embedding(error),
            _ => false,
        }
    }
}
