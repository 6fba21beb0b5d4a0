//! The scheduler: starts what is ready and fits, takes what has ended, and wakes what was waiting for it.
//!
//! Cells that are up to date are not looked at again. The others form a petgraph graph ([`super::cells`]); a cell is ready
//! when the last cell that it reads has a result, is then decided on once more with its inputs known, and either has a
//! result already (early cut-off) or is given to one of `-j` worker threads.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use super::EngineError;
use super::cells::{Cells, Queued, Running};
use super::event::{Completion, Event, Failure, Observer};
use super::execute::{Done, Fault, Order, Workshop};
use super::executor::{Executor, Sign, Stop};
use super::journal::{CellLine, CellOutcome, Journal, Line};
use super::outcome::{Options, Outcome, Summary};
use super::plan::{self, Context, Decision, Plan, Reason, Unprepared};
use super::resources::Pool;
use super::worker::{Message, work};
use crate::pipeline::model::CellId;
use crate::store::Artifact;
use crate::store::digest::Digest;
use crate::store::index::CellTag;

/// How long a cell that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// One run in progress; `T` is the executor's ticket.
pub(super) struct Scheduler<'a, T> {
    context: &'a Context<'a>,
    plan: &'a Plan,
    options: &'a Options<'a>,
    journal: &'a mut Journal,
    observer: &'a mut dyn Observer,
    cells: Cells<'a, T>,
    pool: Pool,
    last_keys: Vec<(CellTag, Digest)>,
    summary: Summary,
    /// No cell is started any more.
    stopped: bool,
}

impl<'a, T> Scheduler<'a, T> {
    pub(super) fn new(
        context: &'a Context<'a>,
        plan: &'a Plan,
        options: &'a Options<'a>,
        journal: &'a mut Journal,
        observer: &'a mut dyn Observer,
    ) -> Scheduler<'a, T> {
        let mut scheduler = Scheduler {
            context,
            plan,
            options,
            journal,
            observer,
            cells: Cells::new(context.pipeline, plan),
            pool: Pool::new(options.capacities),
            last_keys: Vec::new(),
            summary: Summary::default(),
            stopped: false,
        };
        for (id, decision) in plan.cells() {
            if let Decision::Cached { key, .. } = decision {
                scheduler.summary.cached += 1;
                scheduler.note_key(id, *key);
            }
        }
        scheduler
    }

    /// Whether any cell has no result yet.
    pub(super) fn has_work(&self) -> bool {
        self.cells.planned() > 0
    }

    /// The counts, the outputs that the plan did not know, and the keys that cells have now.
    pub(super) fn into_outcome(mut self) -> (Outcome, Vec<(CellTag, Digest)>) {
        self.summary.skipped = self.cells.not_run();
        (Outcome { summary: self.summary, outputs: self.cells.into_outputs() }, self.last_keys)
    }

    /// Remembers the key that a cell has now, if it had another one.
    fn note_key(&mut self, id: CellId, key: Digest) {
        let tag = plan::tag(self.context.pipeline, id);
        if self.context.store.index.last_key(tag) != Some(key) {
            self.last_keys.push((tag, key));
        }
    }

    /// Runs all cells without a result.
    pub(super) fn drive<E: Executor<Ticket = T>>(&mut self, workshop: &Workshop<'_, E>) -> Result<(), EngineError>
    where
        T: Send + Sync,
    {
        let (orders, inbox) = mpsc::channel::<Order>();
        let inbox = Mutex::new(inbox);
        let (sender, messages) = mpsc::channel::<Message<T>>();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut workers = 0;
            for _ in 0..self.options.jobs.min(self.cells.planned()) {
                let (sender, inbox, stop) = (sender.clone(), &inbox, &stop);
                let worker = std::thread::Builder::new();
                match worker.spawn_scoped(scope, move || work(workshop, inbox, &sender, stop)) {
                    Ok(_) => workers += 1,
                    // The workers that did start do the work.
                    Err(_) if workers > 0 => break,
                    Err(source) => return Err(EngineError::Threads(source)),
                }
            }
            drop(sender);
            let result = self.schedule(workshop.executor, &orders, &messages, &stop);
            // Closing the channel ends the workers.
            drop(orders);
            result
        })
    }

    fn schedule<E: Executor<Ticket = T>>(
        &mut self,
        executor: &E,
        orders: &mpsc::Sender<Order>,
        messages: &mpsc::Receiver<Message<T>>,
        stop: &AtomicBool,
    ) -> Result<(), EngineError> {
        let mut fatal: Option<EngineError> = None;
        loop {
            self.cancel_overdue(executor, fatal.is_some(), stop);
            if fatal.is_none()
                && let Err(error) = self.dispatch(orders)
            {
                fatal = Some(error);
            }
            if self.cells.running() == 0 {
                break;
            }
            match messages.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Waiting(cell)) => self.observer.event(&Event::Waiting { cell }),
                Ok(Message::Started(cell, ticket)) => {
                    let timeout = self.context.pipeline.stage_of(cell).policy.timeout;
                    if let Some(running) = self.cells.running_mut(cell) {
                        running.deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                        running.ticket = Some(ticket);
                    }
                    self.observer.event(&Event::Running { cell });
                }
                Ok(Message::Shows(cell, Sign::Progress(progress))) => {
                    self.observer.event(&Event::Progress { cell, progress: &progress });
                }
                Ok(Message::Shows(cell, Sign::Stopped(signal))) => {
                    self.observer.event(&Event::Halted { cell, signal });
                }
                Ok(Message::Ended(cell, result)) => {
                    if let Some(running) = self.cells.end(cell)
                        && let Err(error) = self.ended(cell, *running, result)
                    {
                        fatal.get_or_insert(error);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        fatal.map_or(Ok(()), Err)
    }

    /// Gives cells to workers as long as there are workers and resources.
    fn dispatch(&mut self, orders: &mpsc::Sender<Order>) -> Result<(), EngineError> {
        let mut refused: HashSet<u32> = HashSet::new();
        while self.cells.running() < self.options.jobs && !self.stopped {
            let Some((id, queued)) = self.cells.next_queued(&refused) else {
                match self.cells.next_ready() {
                    Some((id, attempts)) => self.decide(id, attempts)?,
                    None => break,
                }
                continue;
            };
            let key = queued.prepared.key;
            if self.cells.runs(key) {
                self.cells.park(id, key, queued.attempts);
                continue;
            }
            let stage = self.context.pipeline.cells[id].stage;
            let policy = &self.context.pipeline.stages[stage as usize].policy;
            let Some(held) = self.pool.take(&policy.resources) else {
                refused.insert(stage);
                self.cells.queue(id, stage, queued);
                continue;
            };
            let Queued { prepared, reason, attempts } = *queued;
            if let Reason::Damaged { digest, damage } = reason {
                self.observer.event(&Event::Damaged { cell: id, digest, damage });
            }
            let attempts = attempts + 1;
            let order = Order {
                cell: id,
                key,
                lineage: prepared.lineage(),
                inputs: prepared.input_artifacts(),
                fields: prepared.fields(),
                forced: self.plan.forced.contains(&id),
                attempt: attempts,
                gpus: held.gpus.clone(),
                threads: policy.resources.get("cpu").copied().unwrap_or(1).max(1) as usize,
            };
            let why = reason.lines();
            self.cells.start(id, Running { key, held, ticket: None, deadline: None, stopping: None, attempts, why });
            if orders.send(order).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Decides on a cell whose inputs are known now: it has its result, cannot have one, or is queued.
    fn decide(&mut self, id: CellId, attempts: u32) -> Result<(), EngineError> {
        let prepared = match plan::prepare(self.context, id, |cell| self.cells.outputs(cell)) {
            Ok(prepared) => prepared,
            Err(Unprepared::Path(message)) => return self.failed(&Failure::plain(message), id, self.line(id)),
            // A ready cell has all its inputs.
            Err(Unprepared::Upstream(_)) => return Ok(()),
        };
        let key = prepared.key;
        match prepared.decide(self.context, self.plan.forced.contains(&id))? {
            Decision::Cached { outputs, .. } => {
                self.note_key(id, key);
                self.conclude(
                    id,
                    Completion::UpToDate,
                    outputs,
                    CellLine { key: Some(key.to_string()), ..self.line(id) },
                )
            }
            Decision::Run { reason, .. } => {
                let stage = self.context.pipeline.cells[id].stage;
                self.cells.queue(id, stage, Box::new(Queued { prepared, reason, attempts }));
                Ok(())
            }
            Decision::May { .. } | Decision::Blocked { .. } => Ok(()),
        }
    }

    /// Takes the end of a running cell.
    fn ended(&mut self, id: CellId, cell: Running<T>, result: Result<Done, Fault>) -> Result<(), EngineError> {
        let Running { key, held, stopping, attempts, why, .. } = cell;
        self.pool.give_back(held);
        let line = CellLine { key: Some(key.to_string()), why, attempts, ..self.line(id) };
        // A failed one keeps its key too, so that the next plan says "unfinished" rather than "new".
        let tag = plan::tag(self.context.pipeline, id);
        match result {
            Ok(done) => {
                if done.replicate {
                    self.observer.event(&Event::Replicate { cell: id });
                }
                self.last_keys.push((tag, key));
                let line = CellLine { seconds: done.wall.as_secs_f64(), ..line.with(done.usage) };
                self.conclude(id, done.how, done.outputs, line)
            }
            Err(Fault::Store(error)) => Err(error.into()),
            Err(Fault::Failed(mut failure, usage)) => {
                if let Some((_, why)) = stopping {
                    failure.message = why.to_owned();
                    failure.help = None;
                }
                self.last_keys.push((tag, key));
                if self.options.interrupts.load(Ordering::Relaxed) > 0 {
                    return Ok(());
                }
                let policy = &self.context.pipeline.stage_of(id).policy;
                if attempts <= policy.retry {
                    let attempts_left = policy.retry + 1 - attempts;
                    self.observer.event(&Event::Retrying { cell: id, failure: &failure, attempts_left });
                    self.cells.retry(id, attempts);
                    return Ok(());
                }
                self.failed(&failure, id, line.with(usage))
            }
        }
    }

    /// The journal line of a cell of which nothing is known.
    fn line(&self, id: CellId) -> CellLine {
        CellLine::new(self.context.pipeline.cell_name(id))
    }

    /// Gives a cell its result and wakes the cells that waited for it.
    fn conclude(
        &mut self,
        id: CellId,
        completion: Completion,
        outputs: Vec<Artifact>,
        line: CellLine,
    ) -> Result<(), EngineError> {
        let seconds = line.seconds;
        self.journal.write(&Line::Cell(CellLine { outcome: completion.into(), ..line }))?;
        match completion {
            Completion::Executed => self.summary.executed += 1,
            Completion::UpToDate | Completion::Shared => self.summary.cached += 1,
        }
        self.observer.event(&Event::Finished { cell: id, how: completion, seconds });
        self.cells.complete(id, outputs);
        Ok(())
    }

    /// The cell has failed for good.
    fn failed(&mut self, failure: &Failure, id: CellId, line: CellLine) -> Result<(), EngineError> {
        self.summary.failed += 1;
        self.stopped |= self.options.fail_fast;
        self.observer.event(&Event::Failed { cell: id, failure });
        for cell in self.cells.fail(id) {
            self.observer.event(&Event::Skipped { cell, because: id });
        }
        let (outcome, failure) = (CellOutcome::Failed, Some(failure.message.clone()));
        self.journal.write(&Line::Cell(CellLine { outcome, failure, ..line }))
    }

    /// Stops cells whose time is up, and all of them when the user or a broken store asks for it; by `stop` those that wait
    /// for another run too.
    fn cancel_overdue<E: Executor<Ticket = T>>(&mut self, executor: &E, broken: bool, stop: &AtomicBool) {
        let interrupts = self.options.interrupts.load(Ordering::Relaxed);
        if interrupts > 0 || broken {
            stop.store(true, Ordering::Relaxed);
        }
        if interrupts > 0 && !self.summary.interrupted {
            self.summary.interrupted = true;
            self.stopped = true;
            self.observer.event(&Event::Interrupted);
        }
        let now = Instant::now();
        self.cells.each_running(|cell| {
            let Some(ticket) = &cell.ticket else { return };
            let reason = if interrupts > 0 {
                Some("was interrupted")
            } else if broken {
                Some("was stopped because the store cannot be written")
            } else if cell.deadline.is_some_and(|deadline| now > deadline) {
                Some("ran out of time (its stage has a `timeout`)")
            } else {
                None
            };
            match (cell.stopping, reason) {
                (None, Some(reason)) => {
                    cell.stopping = Some((now, reason));
                    executor.cancel(ticket, Stop::Ask);
                }
                (Some((since, _)), _) if interrupts > 1 || now > since + GRACE => executor.cancel(ticket, Stop::Kill),
                _ => {}
            }
        });
    }
}
