//! The record of each epoch.

use serde::{Deserialize, Serialize};

use super::precision::LossScale;

/// The record of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochLog {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean loss over the epoch's steps.
    pub mean_loss: f64,
    /// The backbone's learning rate.
    pub learning_rate: f64,
    /// The learning rate of the loss's parameters.
    pub loss_learning_rate: f64,
    /// Wall-clock seconds of the epoch's steps.
    pub seconds: f64,
    /// Training images per second.
    pub images_per_second: f64,
    /// Peak memory of the process so far, in bytes, where the system reports it.
    pub peak_memory: Option<u64>,
    /// Peak bytes of parameters, activations and gradients in one step, on the CPU.
    pub step_memory: u64,
    /// Bytes in use on the GPU after the epoch. dfdx caches what it has allocated, so this is close to the peak.
    #[serde(default)]
    pub device_memory: Option<u64>,
    /// The loss scale after the epoch, in mixed precision.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// Fraction of the seconds in which the trainer waited for images.
    #[serde(default)]
    pub waiting: f64,
    /// What was measured after the epoch, if `measure` asks for it.
    pub measured: Option<Measured>,
    /// The score on held-out images after the epoch, if `validate` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

/// What was measured after an epoch. A figure that is undefined for the loss is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The angle between a class's vector and the average embedding of the class, in degrees, averaged over the
    /// classes. For losses with one vector per class.
    pub field_angle: Option<f64>,
    /// The squared distance of an embedding to the average of its class, averaged over the samples: 0 if classes are
    /// points, 1 at most. Absent if an embedding is not finite.
    pub spread: Option<f64>,
    /// The pair-based parent's value minus this loss's on the same embeddings, averaged over the batches. Both see only
    /// the classes of the batch. For losses with a parent.
    pub parent_gap: Option<f64>,
    /// Variance of the gradient of a mini-batch with respect to the network's parameters, summed over these, divided by
    /// the squared norm of the mean over the batches: at most the number of batches. Absent if that mean is zero.
    pub noise: Option<f64>,
    /// The same for the pair-based parent, on the same batches.
    pub parent_noise: Option<f64>,
}

impl Measured {
    /// The names of the figures.
    pub const NAMES: [&'static str; 5] = ["field_angle", "spread", "parent_gap", "noise", "parent_noise"];

    /// The figures, in the order of [`Measured::NAMES`].
    pub fn values(&self) -> [Option<f64>; 5] {
        [self.field_angle, self.spread, self.parent_gap, self.noise, self.parent_noise]
    }
}

/// The peak memory of this process, in bytes.
pub(super) fn peak_memory() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let kibibytes = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
    // macOS counts bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(kibibytes).ok().map(|peak| peak * unit)
}
