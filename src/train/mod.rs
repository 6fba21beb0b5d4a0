//! Training a network with a metric-learning loss.

mod batch;
mod checkpoint;
mod config;
mod epochs;
mod error;
mod forward;
mod loader;
mod log;
mod measure;
mod mode;
mod optimiser;
mod parameters;
mod precision;
mod run;
mod schedule;
mod selection;
mod state;
#[cfg(test)]
mod tests;
mod updater;

pub use batch::{BatchDraw, BatchShape};
pub use checkpoint::{Checkpoint, CheckpointError, Difference};
pub use config::{
    BatchNorm, Config, Criterion, Group, KeepEpoch, Measure, NotFinite, SelectOn, UnknownCriterion, Untrained, Validate,
};
pub use epochs::{EpochTable, summary};
pub use error::TrainError;
pub use forward::{HeldOut, TrainSet};
pub use log::{EpochLog, Measured};
pub use mode::MeanFields;
pub use optimiser::{Adam, LengthError, OptimiserSpec, RmsProp, Sgd, State, Step, StepError, norm_factor};
pub use parameters::LossParameter;
pub use precision::{LossScale, Precision};
pub use run::{Start, Trained, train};
pub use schedule::{Schedule, WarmUp};
pub use selection::ScoreError;
