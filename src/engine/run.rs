//! Running a plan: what the caller says, what it gets, and the road from one to the other.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::EngineError;
use super::ending::Room;
use super::event::{Event, Observer};
use super::execute::Workshop;
use super::executor::Executor;
use super::journal::Journal;
use super::plan::{Context, Plan};
use super::publish::publish;
use super::resources::Capacities;
use super::scheduler::Scheduler;
use crate::pipeline::model::CellId;
use crate::store::Artifact;
use crate::store::staging::Staging;

/// How to run a plan.
pub struct Options<'a> {
    /// Cells at once.
    pub jobs: usize,
    /// Start nothing new after the first failure.
    pub fail_fast: bool,
    /// What there is of each resource.
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

/// What a run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub summary: Summary,
    /// The outputs of the cells that the plan did not know to be up to date.
    pub outputs: HashMap<CellId, Vec<Artifact>>,
}

/// Runs `plan`.
pub fn run<E: Executor>(
    context: &Context<'_>,
    plan: &Plan,
    options: &Options<'_>,
    executor: &E,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<Outcome, EngineError> {
    observer.event(&Event::Planned(plan.counts()));
    let mut scheduler = Scheduler::new(context, plan, options, journal, observer);
    let staging = match scheduler.has_work() {
        true => Some(Staging::create(&context.store.staging(), options.run)?),
        false => None,
    };
    if let Some(staging) = &staging {
        let kind_program = options.kind_program.clone();
        let room = Room::of(context.store.logs());
        scheduler.drive(&Workshop { context, executor, staging, kind_program, run: options.run, room })?;
    }
    let (mut outcome, last_keys) = scheduler.leave();
    outcome.summary.unpublished =
        publish(context, plan, &outcome.outputs, staging.as_ref(), options.reports, observer)?;
    for path in staging.iter().flat_map(Staging::clear) {
        observer.event(&Event::Rescued { path: &path });
    }
    context.store.index.set_last_keys(&last_keys)?;
    context.store.stat.flush()?;
    outcome.summary.seconds = options.start.elapsed().as_secs_f64();
    Ok(outcome)
}
