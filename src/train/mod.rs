//! Training a network with a metric-learning loss.

mod batch;
mod checkpoint;
mod config;
mod error;
mod learner;
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

pub use batch::{BatchDraw, BatchShape};
pub use checkpoint::{Checkpoint, CheckpointError, Difference};
pub use config::{BatchNorm, Config, Group, NotFinite};
pub use error::TrainError;
pub use log::EpochLog;
pub use measure::{Measure, Measured};
pub use mode::MeanFields;
pub use optimiser::{Adam, LengthError, OptimiserSpec, RmsProp, Sgd, State, Step, StepError, norm_factor};
pub use parameters::LossParameter;
pub use precision::{LossScale, Precision};
pub use run::{Keep, Start, TrainSet, Trained, train};
pub use schedule::{Schedule, WarmUp};
pub use selection::{Criterion, HeldOut, Leave, ScoreError, SelectOn, UnknownCriterion, Untrained, Validate};
