//! The scheduler: starts what is ready and fits, takes what has ended, and wakes what was waiting for it.
//!
//! Cells that are up to date are not looked at again. The others form a petgraph graph; a cell is ready when the last
//! cell that it reads has a result, is then decided on once more with its inputs known, and either has a result
//! already (the change stopped before it) or is handed to one of `-j` worker threads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use super::event::{Event, Failure, How, Observer, Progress};
use super::execute::{Done, Fault, Order, Workshop};
use super::executor::{Executor, Stop, Usage};
use super::fingerprint;
use super::journal::{Journal, Line};
use super::plan::{self, Context, Decision, Plan, Reason};
use super::resources::{Capacities, Held, Pool};
use super::{EngineError, sources};
use crate::pipeline::model::{CellId, Source};
use crate::store::blobs::Placement;
use crate::store::digest::Digest;
use crate::store::index::CellTag;
use crate::store::staging::Staging;
use crate::store::{Artifact, IoContext, StoreError};

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
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// Wall time in seconds.
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

/// How long a cell that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What a worker tells the scheduler.
enum Message<T> {
    Waiting(CellId),
    Started(CellId, Arc<T>),
    Progress(CellId, Progress),
    Ended(CellId, Result<Done, Fault>),
}

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

/// Runs `plan`.
pub fn run<E: Executor>(
    context: &Context<'_>,
    plan: &Plan,
    options: &Options<'_>,
    executor: &E,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<Outcome, EngineError> {
    let start = Instant::now();
    observer.event(&Event::Planned(plan.counts()));
    let mut scheduler = Scheduler::new(context, plan, options, journal, observer);
    if scheduler.graph.node_count() > 0 {
        let staging = Staging::create(&context.store.staging(), options.run)?;
        let workshop = Workshop {
            context,
            executor,
            staging: &staging,
            kind_program: options.kind_program.clone(),
            run: options.run,
        };
        scheduler.drive(&workshop)?;
    }
    scheduler.publish_all()?;
    let last_keys = std::mem::take(&mut scheduler.last_keys);
    let Scheduler { mut summary, outputs, .. } = scheduler;
    context.store.index.set_last_keys(&last_keys)?;
    context.store.stat.flush()?;
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { summary, outputs })
}

struct Scheduler<'a> {
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
    ready: BTreeSet<CellId>,
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
    fn new(
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

    fn drive<E: Executor>(&mut self, workshop: &Workshop<'_, E>) -> Result<(), EngineError> {
        let (orders, inbox) = mpsc::channel::<Order>();
        let inbox = Mutex::new(inbox);
        let (sender, messages) = mpsc::channel::<Message<E::Ticket>>();
        std::thread::scope(|scope| {
            for _ in 0..self.options.jobs {
                let (sender, inbox) = (sender.clone(), &inbox);
                let interrupts = self.options.interrupts;
                scope.spawn(move || work(workshop, inbox, &sender, interrupts));
            }
            drop(sender);
            let result = self.schedule(workshop.executor, &orders, &messages);
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
    ) -> Result<(), EngineError> {
        let mut running: HashMap<CellId, Running<E::Ticket>> = HashMap::new();
        let mut fatal: Option<EngineError> = None;
        loop {
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
                        entry.deadline = stage.policy.timeout.map(|timeout| Instant::now() + timeout);
                        entry.ticket = Some(ticket);
                    }
                    self.observer.event(&Event::Running { cell });
                }
                Ok(Message::Progress(cell, progress)) => {
                    self.observer.event(&Event::Progress { cell, progress: &progress });
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
            self.stop_what_must(executor, &mut running, fatal.is_some());
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

    /// Hands ready cells to workers as long as there are workers and resources.
    fn dispatch<T>(
        &mut self,
        running: &mut HashMap<CellId, Running<T>>,
        orders: &mpsc::Sender<Order>,
    ) -> Result<(), EngineError> {
        let mut refused: BTreeSet<CellId> = BTreeSet::new();
        while running.len() < self.options.jobs && !self.stopped {
            let Some(id) = self.ready.pop_first() else { break };
            let forced = self.plan.forced.contains(&id);
            let decision = plan::decide(self.context, id, |cell| self.known(cell), forced)?;
            let (key, reason) = match decision {
                Decision::Cached { key, outputs } => {
                    self.note_key(id, key);
                    self.finish(id, key, How::UpToDate, outputs)?;
                    continue;
                }
                Decision::Run { key, reason } => (key, reason),
                Decision::May { .. } => continue,
                Decision::Blocked { message } => {
                    self.failed(id, None, &Failure { message, log_tail: Vec::new(), log: None }, Vec::new(), 0)?;
                    continue;
                }
            };
            if running.values().any(|other| other.key == key) {
                self.parked.entry(key).or_default().push(id);
                continue;
            }
            let policy = &self.context.pipeline.stage_of(id).policy;
            let Some(held) = self.pool.take(&policy.resources) else {
                refused.insert(id);
                continue;
            };
            if let Reason::Damaged { digest, damage } = reason {
                self.observer.event(&Event::Damaged { cell: id, digest, damage });
            }
            let threads = policy.resources.get("cpu").copied().unwrap_or(1).max(1) as usize;
            let fields = plan::fields(self.context, id, |cell| self.known(cell)).unwrap_or_default();
            let inputs = self.input_artifacts(id);
            let gpus = held.gpus.clone();
            let attempts = self.attempts.get(&id).copied().unwrap_or(0) + 1;
            self.attempts.insert(id, attempts);
            let why = why(&reason);
            running.insert(id, Running { key, held, ticket: None, deadline: None, stopping: None, attempts, why });
            if orders.send(Order { cell: id, key, inputs, fields, forced, gpus, threads }).is_err() {
                break;
            }
        }
        self.ready.append(&mut refused);
        Ok(())
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

    /// Stops cells whose time is up, and all of them when the user or a broken store asks for it.
    fn stop_what_must<E: Executor>(
        &mut self,
        executor: &E,
        running: &mut HashMap<CellId, Running<E::Ticket>>,
        broken: bool,
    ) {
        let interrupts = self.options.interrupts.load(Ordering::Relaxed);
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

    /// Puts outputs below the reports folder, those that are not there already.
    fn publish_all(&mut self) -> Result<(), EngineError> {
        for (id, _) in self.plan.cells() {
            let cell = &self.context.pipeline.cells[id.0 as usize];
            for (i, output) in cell.outputs.iter().enumerate() {
                let Some(path) = &output.publish else { continue };
                let Some(artifact) = self.known(id).and_then(|outputs| outputs.get(i)).copied() else { continue };
                let target = self.options.reports.join(path);
                if sources::digest_of(&target, &self.context.store.stat).is_ok_and(|found| found == artifact) {
                    continue;
                }
                publish(self.context, &artifact, &target)?;
                self.observer.event(&Event::Published { path: &target });
            }
        }
        Ok(())
    }
}

/// Replaces whatever lies at `target`: the new one is complete before the old one goes.
fn publish(context: &Context<'_>, artifact: &Artifact, target: &Path) -> Result<(), StoreError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).at("create", parent)?;
    let scratch =
        tempfile::Builder::new().prefix(".publishing-").tempdir_in(parent).at("create a folder in", parent)?;
    let fresh = scratch.path().join("new");
    context.store.blobs.place(artifact, &fresh, Placement::Writable)?;
    if target.is_dir() {
        std::fs::rename(target, scratch.path().join("old")).at("replace", target)?;
    }
    std::fs::rename(&fresh, target).at("replace", target)
}

fn outcome(how: How) -> String {
    match how {
        How::Executed => "executed",
        How::UpToDate => "up_to_date",
        How::Shared => "shared",
    }
    .to_owned()
}

/// A reason as the lines of a journal.
pub fn why(reason: &Reason) -> Vec<String> {
    match reason {
        Reason::New => vec!["new".to_owned()],
        Reason::Changed(changes) => changes.iter().map(fingerprint::Change::to_string).collect(),
        Reason::Unfinished => vec!["has no result yet".to_owned()],
        Reason::Damaged { digest, damage } => {
            vec![format!("stored object {} is {}", digest.short(), damage.as_str())]
        }
        Reason::Forced => vec!["forced".to_owned()],
    }
}

fn work<E: Executor>(
    workshop: &Workshop<'_, E>,
    inbox: &Mutex<mpsc::Receiver<Order>>,
    sender: &mpsc::Sender<Message<E::Ticket>>,
    interrupts: &AtomicUsize,
) {
    // The scheduler outlives its workers and takes every message: a send cannot fail while anybody cares.
    let tell = |message| drop(sender.send(message));
    loop {
        let order = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = order else { return };
        let id = order.cell;
        let result = workshop.execute(
            &order,
            &mut || tell(Message::Waiting(id)),
            &mut |ticket| tell(Message::Started(id, ticket)),
            &mut |progress| tell(Message::Progress(id, progress)),
            &|| interrupts.load(Ordering::Relaxed) > 0,
        );
        tell(Message::Ended(id, result));
    }
}
