//! Settings of measurements during a training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

/// What to measure and when. A measurement costs one pass of all training images through the network, and for each
/// batch one training step, two if the loss has a pair-based parent.
#[derive(Debug, Clone, Copy, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Epochs from one measurement to the next.
    #[default = 1]
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "epochs"))]
    pub every: u32,
    /// Number of batches used to estimate gradient noise and gap, the same each time.
    #[default = 8]
    #[schemars(range(min = 2, max = 1000), extend("x-unit" = "batches"))]
    pub batches: u32,
}
