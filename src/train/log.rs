//! What is told of each epoch.

use serde::{Deserialize, Serialize};

use super::measure::Measured;
use super::precision::LossScale;

/// What an epoch was like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochLog {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean of the loss over the epoch's steps.
    pub mean_loss: f64,
    /// The network's learning rate.
    pub learning_rate: f64,
    /// The learning rate of the loss's parameters.
    pub loss_learning_rate: f64,
    /// Seconds that the epoch took.
    pub seconds: f64,
    /// Training images a second.
    pub images_per_second: f64,
    /// The most memory that the process has held so far, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
    /// The most bytes of parameters, activations and gradients in a step of it, on the CPU.
    pub step_memory: u64,
    /// Bytes in use on the GPU after it; dfdx keeps what it has had, so that this is near the most.
    #[serde(default)]
    pub device_memory: Option<u64>,
    /// The loss's scale after it, in mixed precision.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// Share of the seconds in which the trainer waited for images.
    #[serde(default)]
    pub waiting: f64,
    /// What was measured after it, where the settings ask for that.
    pub measured: Option<Measured>,
    /// Its score on images that are held out, where the settings ask for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// The most memory that this process has held, in bytes.
pub(super) fn peak_memory() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let kibibytes = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
    // macOS counts bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(kibibytes).ok().map(|peak| peak * unit)
}
