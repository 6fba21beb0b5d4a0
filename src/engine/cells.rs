//! The state of every cell of a run: one value per cell, and the queues of those that can be acted on.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use petgraph::Direction;
use petgraph::graphmap::DiGraphMap;

use super::plan::{self, Decision, Plan, Prepared, Reason};
use super::resources::Held;
use crate::pipeline::model::{CellId, CellMap, Pipeline};
use crate::store::Artifact;
use crate::store::digest::Digest;

/// The state of a cell, which is in exactly one. `attempts` counts its failed attempts in this run.
enum State<'a, T> {
    /// It is not part of the plan.
    Outside,
    /// So many of the cells that it reads have no result yet.
    Waiting { missing: usize },
    /// Its inputs are known, and it is not decided on yet: it is in [`Cells::ready`].
    Ready { attempts: u32 },
    /// It will run once a worker and its resources are free: it is in [`Cells::queued`].
    Queued(Box<Queued<'a>>),
    /// It will run or find a result once the running cell of the same key has ended: it is in [`Cells::parked`].
    Parked { attempts: u32 },
    /// A worker has it: it is in [`Cells::running`].
    Running(Box<Running<T>>),
    /// It has its outputs, since the plan or since it was executed.
    Done(Cow<'a, [Artifact]>),
    /// It failed for good.
    Failed,
    /// A cell that it needs failed.
    Skipped,
    /// It was stopped with the run.
    Stopped,
}

/// A cell that is known to run.
pub(super) struct Queued<'a> {
    pub prepared: Prepared<'a>,
    pub reason: Reason,
    pub attempts: u32,
}

/// A cell that a worker has.
pub(super) struct Running<T> {
    pub key: Digest,
    pub held: Held,
    pub ticket: Option<Arc<T>>,
    pub deadline: Option<Instant>,
    /// When it was asked to stop, and why.
    pub stopping: Option<(Instant, &'static str)>,
    /// This one included.
    pub attempts: u32,
    pub why: Vec<String>,
}

/// The cells of a run.
pub(super) struct Cells<'a, T> {
    states: CellMap<State<'a, T>>,
    /// The cells that had no result in the plan, an edge from each to those that read it.
    graph: DiGraphMap<CellId, ()>,
    ready: BTreeSet<CellId>,
    /// By stage: the cells of one stage need the same resources.
    queued: BTreeMap<u32, BTreeSet<CellId>>,
    /// By the key that they wait for.
    parked: HashMap<Digest, Vec<CellId>>,
    running: BTreeSet<CellId>,
}

impl<'a, T> Cells<'a, T> {
    /// The cells of `plan` at the start of its run.
    pub(super) fn new(pipeline: &Pipeline, plan: &'a Plan) -> Cells<'a, T> {
        let mut graph = DiGraphMap::new();
        let mut ready = BTreeSet::new();
        let state = |(id, decision): (CellId, &'a Option<Decision>)| match decision {
            None => State::Outside,
            Some(Decision::Cached { outputs, .. }) => State::Done(Cow::Borrowed(outputs)),
            Some(_) => {
                graph.add_node(id);
                // A cell comes after its inputs: those without a result are in the graph.
                for input in plan::reads(&pipeline.cells[id]).filter(|input| *input != id) {
                    if graph.contains_node(input) {
                        graph.add_edge(input, id, ());
                    }
                }
                match graph.neighbors_directed(id, Direction::Incoming).count() {
                    0 => {
                        ready.insert(id);
                        State::Ready { attempts: 0 }
                    }
                    missing => State::Waiting { missing },
                }
            }
        };
        let states = plan.decisions.entries().map(state).collect();
        Cells { states, graph, ready, queued: BTreeMap::new(), parked: HashMap::new(), running: BTreeSet::new() }
    }

    /// How many cells had no result in the plan.
    pub(super) fn planned(&self) -> usize {
        self.graph.node_count()
    }

    /// The outputs of a cell that has its result.
    pub(super) fn outputs(&self, id: CellId) -> Option<&[Artifact]> {
        if let State::Done(outputs) = &self.states[id] { Some(outputs) } else { None }
    }

    /// The outputs of the cells that got their result in this run.
    pub(super) fn into_outputs(self) -> HashMap<CellId, Vec<Artifact>> {
        let ids = self.states.ids();
        let fresh = |(id, state)| match state {
            State::Done(Cow::Owned(outputs)) => Some((id, outputs)),
            _ => None,
        };
        ids.zip(self.states.into_values()).filter_map(fresh).collect()
    }

    /// How many cells have neither a result nor failed: skipped, stopped and not started ones.
    pub(super) fn not_run(&self) -> usize {
        let ended = |state: &&State<'a, T>| !matches!(state, State::Outside | State::Done(_) | State::Failed);
        self.states.iter().filter(ended).count()
    }

    /// The first cell whose inputs are known and that is not decided on, with its failed attempts.
    pub(super) fn next_ready(&mut self) -> Option<(CellId, u32)> {
        let id = self.ready.pop_first()?;
        let (State::Ready { attempts } | State::Parked { attempts }) = self.states[id] else { return None };
        Some((id, attempts))
    }

    /// The cell will run, as soon as it can.
    pub(super) fn queue(&mut self, id: CellId, stage: u32, cell: Box<Queued<'a>>) {
        self.queued.entry(stage).or_default().insert(id);
        self.states[id] = State::Queued(cell);
    }

    /// The first queued cell, of a stage that is not in `refused`. The caller gives it its next state.
    pub(super) fn next_queued(&mut self, refused: &HashSet<u32>) -> Option<(CellId, Box<Queued<'a>>)> {
        let (&stage, cells) = self.queued.iter_mut().find(|(stage, _)| !refused.contains(stage))?;
        let id = cells.pop_first();
        if cells.is_empty() {
            self.queued.remove(&stage);
        }
        let id = id?;
        match std::mem::replace(&mut self.states[id], State::Stopped) {
            State::Queued(cell) => Some((id, cell)),
            _ => None,
        }
    }

    /// The cell waits for the end of the running cell with `key`, which is its own.
    pub(super) fn park(&mut self, id: CellId, key: Digest, attempts: u32) {
        self.parked.entry(key).or_default().push(id);
        self.states[id] = State::Parked { attempts };
    }

    /// A worker gets the cell.
    pub(super) fn start(&mut self, id: CellId, cell: Running<T>) {
        self.running.insert(id);
        self.states[id] = State::Running(Box::new(cell));
    }

    /// How many cells run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// A cell that runs.
    pub(super) fn running_mut(&mut self, id: CellId) -> Option<&mut Running<T>> {
        if let State::Running(cell) = &mut self.states[id] { Some(cell) } else { None }
    }

    /// Whether a cell with `key` runs.
    pub(super) fn runs(&self, key: Digest) -> bool {
        self.running.iter().any(|&id| matches!(&self.states[id], State::Running(cell) if cell.key == key))
    }

    /// Visits the cells that run.
    pub(super) fn each_running(&mut self, mut visit: impl FnMut(&mut Running<T>)) {
        for &id in &self.running {
            if let State::Running(cell) = &mut self.states[id] {
                visit(cell);
            }
        }
    }

    /// Takes a cell that has ended from its worker; those parked behind its key are decided on again. It counts as stopped
    /// until the caller gives it its next state.
    pub(super) fn end(&mut self, id: CellId) -> Option<Box<Running<T>>> {
        self.running.remove(&id);
        let State::Running(cell) = std::mem::replace(&mut self.states[id], State::Stopped) else { return None };
        self.ready.extend(self.parked.remove(&cell.key).unwrap_or_default());
        Some(cell)
    }

    /// The cell is tried again after `attempts`.
    pub(super) fn retry(&mut self, id: CellId, attempts: u32) {
        self.ready.insert(id);
        self.states[id] = State::Ready { attempts };
    }

    /// Gives a cell its result; cells that only waited for it are ready.
    pub(super) fn complete(&mut self, id: CellId, outputs: Vec<Artifact>) {
        self.states[id] = State::Done(Cow::Owned(outputs));
        for reader in self.graph.neighbors(id) {
            if let State::Waiting { missing } = &mut self.states[reader] {
                *missing -= 1;
                if *missing == 0 {
                    self.states[reader] = State::Ready { attempts: 0 };
                    self.ready.insert(reader);
                }
            }
        }
    }

    /// The cell has failed: the cells that need it, directly or not, are skipped, and returned.
    pub(super) fn fail(&mut self, id: CellId) -> Vec<CellId> {
        self.states[id] = State::Failed;
        let mut skipped = Vec::new();
        let mut front = vec![id];
        while let Some(id) = front.pop() {
            for reader in self.graph.neighbors(id) {
                if let State::Waiting { .. } = self.states[reader] {
                    self.states[reader] = State::Skipped;
                    skipped.push(reader);
                    front.push(reader);
                }
            }
        }
        skipped
    }
}
