//! Training a network with a metric-learning loss.

mod checkpoint;
mod config;
mod learner;
mod loader;
mod measure;
mod mode;
mod optimiser;
mod precision;
mod run;
mod schedule;
mod selection;
mod state;
#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, CheckpointError, Difference};
pub use config::{BatchDraw, BatchNorm, BatchShape, Config, Group, NotFinite};
pub use measure::{Measure, Measured};
pub use mode::MeanFields;
pub use optimiser::{Adam, LengthError, OptimiserSpec, RmsProp, Sgd, State, Step, StepError, norm_factor};
pub use precision::{LossScale, Precision};
pub use run::{EpochLog, Keep, LossParameter, Start, TrainError, TrainSet, Trained, train};
pub use schedule::{Schedule, WarmUp};
pub use selection::{Criterion, HeldOut, Leave, ScoreError, SelectOn, UnknownCriterion, Validate};
