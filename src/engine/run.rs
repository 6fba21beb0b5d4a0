//! Runs a plan.

use super::EngineError;
use super::ending::Room;
use super::event::{Event, Observer};
use super::execute::Workshop;
use super::executor::Executor;
use super::journal::{Journal, Line};
use super::outcome::{Options, Outcome};
use super::plan::{Context, Plan};
use super::publish::publish;
use super::scheduler::Scheduler;
use crate::store::staging::Staging;
use crate::text::chain;

/// Runs `plan`, and writes the last line of `journal` also where the run cannot be finished.
pub fn run<E: Executor>(
    context: &Context<'_>,
    plan: &Plan,
    options: &Options<'_>,
    executor: &E,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<Outcome, EngineError> {
    observer.event(&Event::Planned(plan.counts()));
    let mut outcome = Outcome::default();
    let result = finish(context, plan, options, executor, journal, observer, &mut outcome);
    let summary = &mut outcome.summary;
    summary.seconds = options.start.elapsed().as_secs_f64();
    let written = journal.write(&Line::End {
        ended: jiff::Timestamp::now().to_string(),
        seconds: summary.seconds,
        executed: summary.executed,
        cached: summary.cached,
        failed: summary.failed,
        skipped: summary.skipped,
        interrupted: summary.interrupted,
        error: result.as_ref().err().map(|error| chain(error)),
    });
    result.and(written).map(|()| outcome)
}

/// Executes the cells and publishes their outputs; `outcome` is what was reached, also where that fails.
fn finish<E: Executor>(
    context: &Context<'_>,
    plan: &Plan,
    options: &Options<'_>,
    executor: &E,
    journal: &mut Journal,
    observer: &mut dyn Observer,
    outcome: &mut Outcome,
) -> Result<(), EngineError> {
    let mut scheduler = Scheduler::new(context, plan, options, journal, observer);
    let (mut staging, mut driven) = (None, Ok(()));
    if scheduler.has_work() {
        let staging = staging.insert(Staging::create(&context.store.staging(), options.run)?);
        context.sources.keep_trees(context.store)?;
        let kind_program = options.kind_program.clone();
        let room = Room::of(context.store.logs());
        driven = scheduler.drive(&Workshop { context, executor, staging, kind_program, run: options.run, room });
    }
    let (reached, last_keys) = scheduler.into_outcome();
    *outcome = reached;
    driven?;
    outcome.summary.unpublished =
        publish(context, plan, &outcome.outputs, staging.as_ref(), options.reports, observer)?;
    for path in staging.iter().flat_map(Staging::clear) {
        observer.event(&Event::Rescued { path: &path });
    }
    context.store.index.set_last_keys(&last_keys)?;
    Ok(context.store.stat.flush()?)
}
