//! The scheduler: starts what is ready and fits, takes what has ended, and wakes what was waiting for it.
//!
//! Cells that are up to date are not looked at again. The others form a petgraph graph; a cell is ready when the last
//! cell that it reads has a result, is then decided on once more with its inputs known, and either has a result
//! already (the change stopped before it) or is handed to one of `-j` worker threads.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use super::EngineError;
use super::event::{Event, Failure, How, Observer};
use super::execute::{Done, Fault, Order, Workshop};
use super::executor::{Executor, Sign, Stop, Usage};
use super::journal::{Journal, Line};
use super::outcome::{Options, Outcome, Summary};
use super::plan::{self, Context, Decision, Plan, Reason};
use super::resources::{Held, Pool};
use super::worker::{Message, work};
use crate::pipeline::model::{CellId, Source};
use crate::store::Artifact;
use crate::store::digest::Digest;
use crate::store::index::CellTag;

/// How long a cell that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A cell that a worker has.
struct Running<T> {
    key: Digest,
    held: Held,
    ticket: Option<Arc<T>>,
    deadline: Option<Instant>,
    /// When it was asked to stop, and why.
    stopping: Option<(Instant, &'static str)>,
    attempts: u32,
    why: Vec<String>,
}

/// One run in progress.
pub(super) struct Scheduler<'a> {
    context: &'a Context<'a>,
    plan: &'a Plan,
    options: &'a Options<'a>,
    journal: &'a mut Journal,
    observer: &'a mut dyn Observer,
    /// The cells without a result, an edge from each to those that read it.
    graph: DiGraph<CellId, ()>,
    nodes: HashMap<CellId, NodeIndex>,
    /// How many of the cells that it reads have no result yet.
    missing: HashMap<CellId, usize>,
    outputs: HashMap<CellId, Vec<Artifact>>,
    /// Cells whose inputs are known and that are not decided on yet.
    ready: BTreeSet<CellId>,
    /// Cells known to run, by stage: those of one stage need the same resources.
    queued: BTreeMap<u32, BTreeMap<CellId, (Digest, Reason)>>,
    /// Cells that wait for a running cell of the same key.
    parked: HashMap<Digest, Vec<CellId>>,
    attempts: HashMap<CellId, u32>,
    pool: Pool,
    dropped: HashSet<CellId>,
    last_keys: Vec<(CellTag, Digest)>,
    summary: Summary,
    stopped: bool,
}

impl<'a> Scheduler<'a> {
    /// Sorts the cells of `plan` into those with a result and the graph of the others.
    pub(super) fn new(
        context: &'a Context<'a>,
        plan: &'a Plan,
        options: &'a Options<'a>,
        journal: &'a mut Journal,
        observer: &'a mut dyn Observer,
    ) -> Scheduler<'a> {
        let mut scheduler = Scheduler {
            context,
            plan,
            options,
            journal,
            observer,
            graph: DiGraph::new(),
            nodes: HashMap::new(),
            missing: HashMap::new(),
            outputs: HashMap::new(),
            ready: BTreeSet::new(),
            queued: BTreeMap::new(),
            parked: HashMap::new(),
            attempts: HashMap::new(),
            pool: Pool::new(options.capacities),
            dropped: HashSet::new(),
            last_keys: Vec::new(),
            summary: Summary::default(),
            stopped: false,
        };
        for (id, decision) in plan.cells() {
            match decision {
                Decision::Cached { key, .. } => {
                    scheduler.summary.cached += 1;
                    scheduler.note_key(id, *key);
                }
                _ => {
                    let node = scheduler.graph.add_node(id);
                    scheduler.nodes.insert(id, node);
                }
            }
        }
        for (&id, &node) in &scheduler.nodes {
            for input in plan::reads(&context.pipeline.cells[id.0 as usize]) {
                if let Some(&producer) = scheduler.nodes.get(&input) {
                    scheduler.graph.update_edge(producer, node, ());
                }
            }
        }
        for (&id, &node) in &scheduler.nodes {
            let count = scheduler.graph.neighbors_directed(node, Direction::Incoming).count();
            scheduler.missing.insert(id, count);
            if count == 0 {
                scheduler.ready.insert(id);
            }
        }
        scheduler
    }

    /// Whether any cell has no result yet.
    pub(super) fn has_work(&self) -> bool {
        self.graph.node_count() > 0
    }

    /// What the run has come to: the counts, the outputs that the plan did not know, and the keys that cells have now.
    pub(super) fn leave(self) -> (Outcome, Vec<(CellTag, Digest)>) {
        (Outcome { summary: self.summary, outputs: self.outputs }, self.last_keys)
    }

    /// Remembers the key that a cell has now, if it is another than it had.
    fn note_key(&mut self, id: CellId, key: Digest) {
        let tag = plan::tag(self.context.pipeline, id);
        if self.context.store.index.last_key(tag) != Some(key) {
            self.last_keys.push((tag, key));
        }
    }

    fn known(&self, id: CellId) -> Option<&[Artifact]> {
        match &self.plan.decisions[id.0 as usize] {
            Some(Decision::Cached { outputs, .. }) => Some(outputs),
            _ => self.outputs.get(&id).map(Vec::as_slice),
        }
    }

    /// Runs the graph to its end.
    pub(super) fn drive<E: Executor>(&mut self, workshop: &Workshop<'_, E>) -> Result<(), EngineError> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let inbox = Mutex::new(inbox);
        let (sender, messages) = mpsc::channel::<Message<E::Ticket>>();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut workers = 0;
            for _ in 0..self.options.jobs.min(self.graph.node_count()) {
                let (sender, inbox, stop) = (sender.clone(), &inbox, &stop);
                let worker = std::thread::Builder::new();
                match worker.spawn_scoped(scope, move || work(workshop, inbox, &sender, stop)) {
                    Ok(_) => workers += 1,
                    // Those that there are do the work.
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

    fn schedule<E: Executor>(
        &mut self,
        executor: &E,
        orders: &mpsc::Sender<Order>,
        messages: &mpsc::Receiver<Message<E::Ticket>>,
        stop: &AtomicBool,
    ) -> Result<(), EngineError> {
        let mut running: HashMap<CellId, Running<E::Ticket>> = HashMap::new();
        let mut fatal: Option<EngineError> = None;
        loop {
            self.stop_what_must(executor, &mut running, fatal.is_some(), stop);
            if fatal.is_none()
                && let Err(error) = self.dispatch(&mut running, orders)
            {
                fatal = Some(error);
            }
            if running.is_empty() {
                break;
            }
            match messages.recv_timeout(Duration::from_millis(100)) {
                Ok(Message::Waiting(cell)) => self.observer.event(&Event::Waiting { cell }),
                Ok(Message::Started(cell, ticket)) => {
                    let stage = self.context.pipeline.stage_of(cell);
                    if let Some(entry) = running.get_mut(&cell) {
                        entry.deadline = stage.policy.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                        entry.ticket = Some(ticket);
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
                    if let Some(entry) = running.remove(&cell)
                        && let Err(error) = self.ended(cell, entry, result)
                    {
                        fatal.get_or_insert(error);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.summary.skipped += self.nodes.len() - self.settled();
        match fatal {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Cells of the graph that have a result, failed, or were skipped by name.
    fn settled(&self) -> usize {
        self.outputs.len() + self.summary.failed + self.dropped.len()
    }

    /// Hands cells to workers as long as there are workers and resources.
    fn dispatch<T>(
        &mut self,
        running: &mut HashMap<CellId, Running<T>>,
        orders: &mpsc::Sender<Order>,
    ) -> Result<(), EngineError> {
        let mut refused: HashSet<u32> = HashSet::new();
        while running.len() < self.options.jobs && !self.stopped {
            let Some((id, key, reason)) = self.next_queued(&refused) else {
                match self.ready.pop_first() {
                    Some(id) => self.decide(id)?,
                    None => break,
                }
                continue;
            };
            if running.values().any(|other| other.key == key) {
                self.parked.entry(key).or_default().push(id);
                continue;
            }
            let stage = self.context.pipeline.cells[id.0 as usize].stage;
            let policy = &self.context.pipeline.stages[stage as usize].policy;
            let Some(held) = self.pool.take(&policy.resources) else {
                refused.insert(stage);
                self.queued.entry(stage).or_default().insert(id, (key, reason));
                continue;
            };
            if let Reason::Damaged { digest, damage } = reason {
                self.observer.event(&Event::Damaged { cell: id, digest, damage });
            }
            let threads = policy.resources.get("cpu").copied().unwrap_or(1).max(1) as usize;
            let known = plan::fields(self.context, id, |cell| self.known(cell));
            let (fields, lineage) = known.unwrap_or((Vec::new(), key));
            let inputs = self.input_artifacts(id);
            let (gpus, forced) = (held.gpus.clone(), self.plan.forced.contains(&id));
            let attempts = self.attempts.get(&id).copied().unwrap_or(0) + 1;
            self.attempts.insert(id, attempts);
            let why = reason.lines();
            running.insert(id, Running { key, held, ticket: None, deadline: None, stopping: None, attempts, why });
            if orders
                .send(Order { cell: id, key, lineage, inputs, fields, forced, attempt: attempts, gpus, threads })
                .is_err()
            {
                break;
            }
        }
        Ok(())
    }

    /// The first cell that is known to run, of a stage whose resources were not refused in this pass.
    fn next_queued(&mut self, refused: &HashSet<u32>) -> Option<(CellId, Digest, Reason)> {
        let (stage, cells) = self.queued.iter_mut().find(|(stage, _)| !refused.contains(stage))?;
        let (stage, first) = (*stage, cells.pop_first());
        if cells.is_empty() {
            self.queued.remove(&stage);
        }
        first.map(|(id, (key, reason))| (id, key, reason))
    }

    /// Decides on a cell whose inputs are known now: it has its result, cannot have one, or is queued.
    fn decide(&mut self, id: CellId) -> Result<(), EngineError> {
        let forced = self.plan.forced.contains(&id);
        match plan::decide(self.context, id, |cell| self.known(cell), forced)? {
            Decision::Cached { key, outputs } => {
                self.note_key(id, key);
                self.finish(id, key, How::UpToDate, outputs)
            }
            Decision::Run { key, reason } => {
                let stage = self.context.pipeline.cells[id.0 as usize].stage;
                self.queued.entry(stage).or_default().insert(id, (key, reason));
                Ok(())
            }
            Decision::Blocked { message } => self.failed(id, None, &Failure::plain(message), Vec::new(), 0),
            Decision::May { .. } => Ok(()),
        }
    }

    fn input_artifacts(&self, id: CellId) -> Vec<Artifact> {
        let pipeline = self.context.pipeline;
        let artifact = |producer: CellId, output: &str| -> Option<Artifact> {
            self.known(producer)?.get(plan::output_index(pipeline, producer, output)?).copied()
        };
        let mut artifacts = Vec::new();
        for input in &pipeline.cells[id.0 as usize].inputs {
            match &input.source {
                Source::Path(_) => {}
                Source::Cell { cell, output } => artifacts.extend(artifact(*cell, output)),
                Source::Gathered { members, output } => {
                    artifacts.extend(members.iter().filter_map(|(_, cell)| artifact(*cell, output)));
                }
            }
        }
        artifacts
    }

    /// Takes the end of a running cell.
    fn ended<T>(&mut self, id: CellId, entry: Running<T>, result: Result<Done, Fault>) -> Result<(), EngineError> {
        self.pool.give_back(entry.held);
        self.ready.extend(self.parked.remove(&entry.key).unwrap_or_default());
        match result {
            Ok(done) => {
                if done.replicate {
                    self.observer.event(&Event::Replicate { cell: id });
                }
                self.last_keys.push((plan::tag(self.context.pipeline, id), entry.key));
                self.write_cell(
                    id,
                    entry.key,
                    &outcome(done.how),
                    entry.why,
                    done.wall,
                    done.usage,
                    entry.attempts,
                    None,
                )?;
                self.conclude(id, done.how, done.wall.as_secs_f64(), done.outputs);
                Ok(())
            }
            Err(Fault::Store(error)) => Err(error.into()),
            Err(Fault::Failed(mut failure, usage)) => {
                if let Some((_, why)) = entry.stopping {
                    failure.message = why.to_owned();
                    failure.help = None;
                }
                // Its name keeps the key, so that the next plan says "unfinished" rather than "new".
                self.last_keys.push((plan::tag(self.context.pipeline, id), entry.key));
                if self.options.interrupts.load(Ordering::Relaxed) > 0 {
                    return Ok(());
                }
                let policy = &self.context.pipeline.stage_of(id).policy;
                if entry.attempts <= policy.retry {
                    let attempts_left = policy.retry + 1 - entry.attempts;
                    self.observer.event(&Event::Retrying { cell: id, failure: &failure, attempts_left });
                    self.ready.insert(id);
                    return Ok(());
                }
                self.failed(id, Some((entry.key, usage)), &failure, entry.why, entry.attempts)
            }
        }
    }

    fn finish(&mut self, id: CellId, key: Digest, how: How, outputs: Vec<Artifact>) -> Result<(), EngineError> {
        self.write_cell(id, key, &outcome(how), Vec::new(), Duration::ZERO, Usage::default(), 0, None)?;
        self.conclude(id, how, 0.0, outputs);
        Ok(())
    }

    /// Gives a cell its result and wakes the cells that waited for it.
    fn conclude(&mut self, id: CellId, how: How, seconds: f64, outputs: Vec<Artifact>) {
        match how {
            How::Executed => self.summary.executed += 1,
            How::UpToDate | How::Shared => self.summary.cached += 1,
        }
        self.observer.event(&Event::Finished { cell: id, how, seconds });
        self.outputs.insert(id, outputs);
        for reader in self.readers(id) {
            let missing = self.missing.entry(reader).or_default();
            *missing = missing.saturating_sub(1);
            if *missing == 0 && !self.dropped.contains(&reader) {
                self.ready.insert(reader);
            }
        }
    }

    fn readers(&self, id: CellId) -> Vec<CellId> {
        let Some(&node) = self.nodes.get(&id) else { return Vec::new() };
        let mut readers: Vec<CellId> = self.graph.neighbors(node).map(|reader| self.graph[reader]).collect();
        readers.sort_unstable();
        readers
    }

    fn failed(
        &mut self,
        id: CellId,
        ran: Option<(Digest, Usage)>,
        failure: &Failure,
        why: Vec<String>,
        attempts: u32,
    ) -> Result<(), EngineError> {
        self.summary.failed += 1;
        self.stopped |= self.options.fail_fast;
        self.observer.event(&Event::Failed { cell: id, failure });
        let (key, usage) = ran.unwrap_or((Digest([0; 32]), Usage::default()));
        self.write_cell(id, key, "failed", why, Duration::ZERO, usage, attempts, Some(failure.message.clone()))?;
        let mut front = self.readers(id);
        while let Some(reader) = front.pop() {
            if self.dropped.insert(reader) {
                self.ready.remove(&reader);
                self.summary.skipped += 1;
                self.observer.event(&Event::Skipped { cell: reader, because: id });
                front.extend(self.readers(reader));
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one journal line")]
    fn write_cell(
        &mut self,
        id: CellId,
        key: Digest,
        outcome: &str,
        why: Vec<String>,
        wall: Duration,
        usage: Usage,
        attempts: u32,
        failure: Option<String>,
    ) -> Result<(), EngineError> {
        self.journal.write(&Line::Cell {
            cell: self.context.pipeline.cell_name(id),
            key: key.to_string(),
            outcome: outcome.to_owned(),
            why,
            seconds: wall.as_secs_f64(),
            cpu_seconds: usage.cpu.as_secs_f64(),
            peak_memory: usage.peak_memory,
            attempts,
            failure,
        })
    }

    /// Stops cells whose time is up, and all of them when the user or a broken store asks for it; by `stop` those that wait
    /// for another run too.
    fn stop_what_must<E: Executor>(
        &mut self,
        executor: &E,
        running: &mut HashMap<CellId, Running<E::Ticket>>,
        broken: bool,
        stop: &AtomicBool,
    ) {
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
        for entry in running.values_mut() {
            let Some(ticket) = &entry.ticket else { continue };
            let reason = if interrupts > 0 {
                Some("was interrupted")
            } else if broken {
                Some("was stopped because the store cannot be written")
            } else if entry.deadline.is_some_and(|deadline| now > deadline) {
                Some("ran out of time (its stage has a `timeout`)")
            } else {
                None
            };
            match (entry.stopping, reason) {
                (None, Some(reason)) => {
                    entry.stopping = Some((now, reason));
                    executor.cancel(ticket, Stop::Ask);
                }
                (Some((since, _)), _) if interrupts > 1 || now > since + GRACE => executor.cancel(ticket, Stop::Kill),
                _ => {}
            }
        }
    }
}

fn outcome(how: How) -> String {
    match how {
        How::Executed => "executed",
        How::UpToDate => "up_to_date",
        How::Shared => "shared",
    }
    .to_owned()
}
