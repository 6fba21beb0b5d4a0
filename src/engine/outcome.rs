//! The options of a run and its result: the types that callers, [`run`](super::run) and the scheduler share.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::resources::Capacities;
use crate::pipeline::model::CellId;
use crate::store::Artifact;

/// How to run a plan.
pub struct Options<'a> {
    /// Cells at once.
    pub jobs: usize,
    /// Start nothing new after the first failure.
    pub fail_fast: bool,
    /// The available amount of each resource.
    pub capacities: &'a Capacities,
    /// Where published outputs go.
    pub reports: &'a Path,
    /// The program that runs built-in kinds, and the arguments before the job's path.
    pub kind_program: (PathBuf, Vec<OsString>),
    /// How often the user has asked to stop; once lets cells clean up, twice kills them.
    pub interrupts: &'a AtomicUsize,
    /// The name of the run.
    pub run: &'a str,
    /// When the command began: what the summary's time counts from.
    pub start: Instant,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Cells executed.
    pub executed: usize,
    /// Cells that had their result, before or once their inputs were known.
    pub cached: usize,
    /// Cells that failed.
    pub failed: usize,
    /// Cells behind them, and those not started after an interrupt.
    pub skipped: usize,
    /// Outputs that could not be put below the reports folder, because a user's file is in the way.
    pub unpublished: usize,
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// Wall time in seconds since [`Options::start`].
    pub seconds: f64,
}

/// What a run reached.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How it ended.
    pub summary: Summary,
    /// The outputs of the cells that the plan did not know to be up to date.
    pub outputs: HashMap<CellId, Vec<Artifact>>,
}
