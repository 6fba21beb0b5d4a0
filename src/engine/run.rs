//! Runs a plan.

use super::EngineError;
use super::ending::Room;
use super::event::{Event, Observer};
use super::execute::Workshop;
use super::executor::Executor;
use super::journal::Journal;
use super::outcome::{Options, Outcome};
use super::plan::{Context, Plan};
use super::publish::publish;
use super::scheduler::Scheduler;
use crate::store::staging::Staging;

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
