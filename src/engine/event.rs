//! What a run reports while it runs. The engine prints nothing; the observer decides what to show.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Counts;
use crate::pipeline::model::CellId;
use crate::store::Damage;
use crate::store::digest::Digest;

/// The progress of a cell, as the cell itself reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in total; zero if that is not known.
    pub total: u64,
    /// What is counted: `epoch`, `image`, `byte`.
    pub unit: String,
    /// Current named values, such as loss and rate, in the order to show them.
    #[serde(default)]
    pub figures: Vec<(String, f64)>,
}

/// Why an attempt at a cell failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// One sentence.
    pub message: String,
    /// What to do, if that is known.
    pub help: Option<String>,
    /// The last lines of its log, as a terminal would show them.
    pub log_tail: Vec<String>,
    /// Where the whole log is, if it holds anything.
    pub log: Option<PathBuf>,
}

impl Failure {
    /// A failure without a log.
    pub fn plain(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), help: None, log_tail: Vec::new(), log: None }
    }
}

/// How a cell got its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// It was executed.
    Executed,
    /// Its key had a result once its inputs were known: early cut-off.
    UpToDate,
    /// Another run, or another cell of this one, executed the same key meanwhile.
    Shared,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The plan is made.
    Planned(Counts),
    /// A stored object is missing or altered; the cell that made it runs again.
    Damaged { cell: CellId, digest: Digest, damage: Damage },
    /// A cell waits: another run executes its key.
    Waiting { cell: CellId },
    /// A cell was started.
    Running { cell: CellId },
    /// A running cell reports its progress.
    Progress { cell: CellId, progress: &'a Progress },
    /// A running cell was stopped by this signal, and waits to be continued.
    Halted { cell: CellId, signal: &'static str },
    /// A cell has its result.
    Finished { cell: CellId, how: Completion, seconds: f64 },
    /// A cell that was run again gave different bytes; the first result is kept.
    Replicate { cell: CellId },
    /// An attempt failed and the cell is tried again.
    Retrying { cell: CellId, failure: &'a Failure, attempts_left: u32 },
    /// A cell failed for good.
    Failed { cell: CellId, failure: &'a Failure },
    /// A cell cannot run because one before it failed.
    Skipped { cell: CellId, because: CellId },
    /// An output was put below the reports folder.
    Published { path: &'a Path },
    /// A file that a command had moved into its folder was kept here when the folder was removed.
    Rescued { path: &'a Path },
    /// An output was not put below the reports folder: `files` in its place were not put there by a run, or were changed
    /// since.
    InTheWay { path: &'a Path, files: &'a [String] },
    /// Files below a published output that no run put there; they are kept.
    Kept { path: &'a Path, files: &'a [String] },
    /// The user asked to stop; running cells are being stopped.
    Interrupted,
}

/// A receiver of the events of a run.
pub trait Observer {
    /// Called on the scheduler's thread, in order.
    fn event(&mut self, event: &Event<'_>);
}
