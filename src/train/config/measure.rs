//! Settings of measurements during a training.

use serde::{Deserialize, Serialize};

/// What to measure and when. A measurement costs one pass of all training images through the network, and for each
/// batch one training step, two if the loss has a pair-based parent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Epochs from one measurement to the next. Default 1.
    pub every: u32,
    /// Mini-batches behind `parent_gap`, `noise` and `parent_noise`, the same each time. Default 8.
    pub batches: u32,
}

impl Default for Measure {
    fn default() -> Self {
        Self { every: 1, batches: 8 }
    }
}
