//! Training a network with a metric-learning loss.

mod config;
mod measure;
mod mode;
mod optimiser;
mod run;
#[cfg(test)]
mod tests;

pub use config::{BatchShape, Config, Decay};
pub use measure::{Measure, Measured};
pub use mode::MeanFields;
pub use run::{EpochLog, LossParameter, TrainError, TrainSet, Trained, train};
