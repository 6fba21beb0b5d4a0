//! What `run` will do, as a value.
//!
//! [`decide`] answers for one cell whose inputs are known. The plan asks it for every cell before anything runs, the
//! scheduler asks the same two steps, [`prepare`] and [`Prepared::decide`], again when the inputs of the others have become
//! known: a plan cannot promise what a run does not do.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use serde::Serialize;

use super::fingerprint::{self, Change, InputDigest, Surroundings};
use super::folders::FolderChange;
use super::sources::Sources;
use crate::pipeline::model::{Cell, CellId, CellMap, Pipeline, Source};
use crate::store::digest::Digest;
use crate::store::index::CellTag;
use crate::store::{Artifact, Damage, Store, StoreError};

/// Everything that decisions are made from.
pub struct Context<'a> {
    /// The cells.
    pub pipeline: &'a Pipeline,
    /// What earlier runs left.
    pub store: &'a Store,
    /// The user's own files.
    pub sources: &'a Sources,
}

/// The answer for one cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Its key has a whole result.
    Cached { key: Digest, outputs: Vec<Artifact> },
    /// It will run.
    Run { key: Digest, reason: Reason },
    /// It runs if the outputs of the cells it reads, which run first, change.
    May { upstream: Vec<CellId> },
    /// It cannot run: an input file cannot be read or used.
    Blocked { message: String },
}

/// Why a cell runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// No cell of that name was seen before.
    New,
    /// Its key changed; these fields did.
    Changed { changes: Vec<Change> },
    /// Its key was seen, but it has no result: it failed or was stopped.
    Unfinished,
    /// A stored object of its result is missing or altered.
    Damaged { digest: Digest, damage: Damage },
    /// The user asked for it.
    Forced,
}

impl Reason {
    /// In words, one line per changed field.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::New => vec!["new".to_owned()],
            Self::Changed { changes } => changes.iter().map(Change::to_string).collect(),
            Self::Unfinished => vec!["has no result yet".to_owned()],
            Self::Damaged { digest, damage } => {
                vec![format!("stored object {} is {}", digest.short(), damage.as_str())]
            }
            Self::Forced => vec!["forced".to_owned()],
        }
    }
}

/// What a run will do.
pub struct Plan {
    /// One per cell of the pipeline; `None` for those that were not asked for and that nothing asked for needs.
    pub decisions: CellMap<Option<Decision>>,
    /// The cells that were asked for to run in any case.
    pub forced: HashSet<CellId>,
}

/// How many cells of a plan fall under each answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Up to date.
    pub cached: usize,
    /// Will run.
    pub run: usize,
    /// May run.
    pub may: usize,
    /// Cannot run.
    pub blocked: usize,
}

impl Counts {
    /// Counts one more answer.
    pub fn add(&mut self, decision: &Decision) {
        match decision {
            Decision::Cached { .. } => self.cached += 1,
            Decision::Run { .. } => self.run += 1,
            Decision::May { .. } => self.may += 1,
            Decision::Blocked { .. } => self.blocked += 1,
        }
    }
}

impl Plan {
    /// The counts of the answers.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.cells().for_each(|(_, decision)| counts.add(decision));
        counts
    }

    /// Adds the files behind the folders that changed to the reasons. Each pair of folders is compared once.
    pub fn name_files(&mut self, context: &Context<'_>) {
        let mut known: HashMap<(String, String), Option<FolderChange>> = HashMap::new();
        let tree = |digest: &str| context.sources.tree(digest).or_else(|| context.store.blobs.find_tree(digest));
        for (_, decision) in self.decisions.entries_mut() {
            let Some(Decision::Run { reason: Reason::Changed { changes }, .. }) = decision else { continue };
            for change in changes.iter_mut().filter(|change| change.of_folders) {
                let (Some(old), Some(new)) = (&change.old, &change.new) else { continue };
                let compared = known.entry((old.clone(), new.clone()));
                let compared = compared.or_insert_with(|| Some(FolderChange::between(&tree(old)?, &tree(new)?)));
                change.folder.clone_from(compared);
            }
        }
    }

    /// The cells in the plan with their answers, in order.
    pub fn cells(&self) -> impl Iterator<Item = (CellId, &Decision)> {
        self.decisions.entries().filter_map(|(id, decision)| Some((id, decision.as_ref()?)))
    }
}

/// The cells that a cell reads.
pub fn reads(cell: &Cell) -> impl Iterator<Item = CellId> {
    cell.inputs.iter().flat_map(|input| {
        let (one, many): (_, &[_]) = match &input.source {
            Source::Cell { cell, .. } => (Some(*cell), &[]),
            Source::Gathered { members, .. } => (None, members),
            Source::Path(_) => (None, &[]),
        };
        one.into_iter().chain(many.iter().map(|(_, cell)| *cell))
    })
}

/// Whether each cell is among `wanted` or something that these need.
pub fn needed(pipeline: &Pipeline, wanted: &[CellId]) -> CellMap<bool> {
    let mut needed = CellMap::from(vec![false; pipeline.cells.len()]);
    wanted.iter().for_each(|&cell| needed[cell] = true);
    // A cell comes after its inputs: one pass from the end reaches everything.
    for (id, cell) in pipeline.cells.entries().rev() {
        if needed[id] {
            reads(cell).for_each(|input| needed[input] = true);
        }
    }
    needed
}

/// Plans `wanted` and everything that it needs. Cells in `forced` run even if they are up to date.
pub fn plan(context: &Context<'_>, wanted: &[CellId], forced: HashSet<CellId>) -> Result<Plan, StoreError> {
    let cells = &context.pipeline.cells;
    let needed = needed(context.pipeline, wanted);
    let mut decisions: CellMap<Option<Decision>> = CellMap::with_capacity(cells.len());
    // Neighbours of one stage do not read each other, unless the stage reads earlier cells of itself.
    let apart = |stage: u32| context.pipeline.stages[stage as usize].recalls.contains(&(stage as usize));
    for stage in cells.chunk_by(|a, b| a.stage == b.stage && !apart(a.stage)) {
        let first = decisions.len();
        let known = &decisions;
        let answer = |i: usize| -> Result<Option<Decision>, StoreError> {
            let id = CellId((first + i) as u32);
            if !needed[id] {
                return Ok(None);
            }
            let outputs = |cell: CellId| match &known[cell] {
                Some(Decision::Cached { outputs, .. }) => Some(&outputs[..]),
                _ => None,
            };
            decide(context, id, outputs, forced.contains(&id)).map(Some)
        };
        let answers: Vec<Option<Decision>> = if stage.len() < 64 {
            (0..stage.len()).map(answer).collect::<Result<_, _>>()?
        } else {
            (0..stage.len()).into_par_iter().with_min_len(16).map(answer).collect::<Result<_, _>>()?
        };
        decisions.extend(answers);
    }
    Ok(Plan { decisions, forced })
}

/// The answer for `id`. `outputs` knows the outputs of the cells that it reads, as far as they are known.
pub fn decide<'o>(
    context: &Context<'_>,
    id: CellId,
    outputs: impl Fn(CellId) -> Option<&'o [Artifact]>,
    forced: bool,
) -> Result<Decision, StoreError> {
    match prepare(context, id, outputs) {
        Ok(prepared) => prepared.decide(context, forced),
        Err(Unprepared::Upstream(upstream)) => Ok(Decision::May { upstream }),
        Err(Unprepared::Path(message)) => Ok(Decision::Blocked { message }),
    }
}

/// A cell whose inputs are known: what deciding on it and running it need.
#[derive(Debug)]
pub struct Prepared<'a> {
    id: CellId,
    cell: &'a Cell,
    around: Surroundings<'a>,
    /// Its key.
    pub key: Digest,
}

/// Why a cell cannot be prepared.
#[derive(Debug)]
pub enum Unprepared {
    /// These cells that it reads have no result yet.
    Upstream(Vec<CellId>),
    /// An input file cannot be read.
    Path(String),
}

/// Looks up the inputs of `id` and computes its key. `outputs` as for [`decide`].
pub fn prepare<'a, 'o>(
    context: &Context<'a>,
    id: CellId,
    outputs: impl Fn(CellId) -> Option<&'o [Artifact]>,
) -> Result<Prepared<'a>, Unprepared> {
    let cell = &context.pipeline.cells[id];
    let around = surroundings(context, cell, outputs)?;
    let key = fingerprint::key(cell, &around);
    Ok(Prepared { id, cell, around, key })
}

impl Prepared<'_> {
    /// Whether the cell has its result, or why it runs.
    pub fn decide(&self, context: &Context<'_>, forced: bool) -> Result<Decision, StoreError> {
        let key = self.key;
        if forced {
            return Ok(Decision::Run { key, reason: Reason::Forced });
        }
        let Some(outputs) = context.store.index.outputs(&key) else {
            return Ok(Decision::Run { key, reason: self.reason(context) });
        };
        for artifact in &outputs {
            match context.store.verify(artifact) {
                Ok(()) => {}
                Err(StoreError::Damaged { digest, damage }) => {
                    return Ok(Decision::Run { key, reason: Reason::Damaged { digest, damage } });
                }
                Err(other) => return Err(other),
            }
        }
        Ok(Decision::Cached { key, outputs })
    }

    fn reason(&self, context: &Context<'_>) -> Reason {
        let index = &context.store.index;
        match index.last_key(tag(context.pipeline, self.id)) {
            None => Reason::New,
            Some(last) if last == self.key => Reason::Unfinished,
            Some(last) => match index.origin(&last) {
                Some(origin) => Reason::Changed { changes: fingerprint::changes(&origin.fields, &self.fields()) },
                None => Reason::Unfinished,
            },
        }
    }

    /// The fields of its key for people and for the index.
    pub fn fields(&self) -> Vec<(String, String)> {
        fingerprint::explain(self.cell, &self.around)
    }

    /// Its key less the parameters in which it may differ from a cell whose work it continues.
    pub fn lineage(&self) -> Digest {
        fingerprint::lineage(self.cell, &self.around, self.key)
    }

    /// The artifact of every input that is another cell's output, in order; gathered ones one after the other.
    pub fn input_artifacts(&self) -> Vec<Artifact> {
        let mut artifacts = Vec::new();
        for (input, (digest, _)) in self.cell.inputs.iter().zip(&self.around.inputs) {
            match (&input.source, digest) {
                (Source::Path(_), _) => {}
                (_, InputDigest::One(artifact)) => artifacts.push(*artifact),
                (_, InputDigest::Many(members)) => artifacts.extend(members.iter().map(|(_, artifact)| *artifact)),
            }
        }
        artifacts
    }
}

/// The tag of a cell in the index.
pub fn tag(pipeline: &Pipeline, cell: CellId) -> CellTag {
    CellTag::new(&pipeline.name, &pipeline.cell_name(cell))
}

fn surroundings<'a, 'o>(
    context: &Context<'a>,
    cell: &'a Cell,
    outputs: impl Fn(CellId) -> Option<&'o [Artifact]>,
) -> Result<Surroundings<'a>, Unprepared> {
    let output = |producer: CellId, name: &str| -> Option<Artifact> {
        let artifacts = outputs(producer)?;
        artifacts.get(output_index(context.pipeline, producer, name)?).copied()
    };
    let mut upstream = Vec::new();
    let mut inputs = Vec::with_capacity(cell.inputs.len());
    for input in &cell.inputs {
        let digest = match &input.source {
            Source::Path(path) => match context.sources.get(path) {
                Ok(snapshot) => InputDigest::One(snapshot.artifact),
                Err(message) => return Err(Unprepared::Path(message)),
            },
            Source::Cell { cell: producer, output: name } => match output(*producer, name) {
                Some(artifact) => InputDigest::One(artifact),
                None => {
                    upstream.push(*producer);
                    continue;
                }
            },
            Source::Gathered { members, output: name } => {
                let mut found = Vec::with_capacity(members.len());
                for (label, producer) in members {
                    match output(*producer, name) {
                        Some(artifact) => found.push((&**label, artifact)),
                        None => upstream.push(*producer),
                    }
                }
                InputDigest::Many(found)
            }
        };
        inputs.push((digest, Cow::Owned(extension(context.pipeline, &input.source))));
    }
    if !upstream.is_empty() {
        return Err(Unprepared::Upstream(upstream));
    }
    Ok(Surroundings { inputs, programs: context.sources.programs(&cell.task), device: device(context, cell) })
}

/// The device class that a cell computes on.
fn device(context: &Context<'_>, cell: &Cell) -> &'static str {
    let resources = &context.pipeline.stages[cell.stage as usize].policy.resources;
    if resources.get("gpu").is_some_and(|&amount| amount > 0) { "gpu" } else { "cpu" }
}

/// The position of the output called `name` among those of `producer`.
pub fn output_index(pipeline: &Pipeline, producer: CellId, name: &str) -> Option<usize> {
    pipeline.cells[producer].outputs.iter().position(|output| &*output.name == name)
}

/// The extension, with its dot, under which a command finds an input: programs choose formats by it.
pub fn extension(pipeline: &Pipeline, source: &Source) -> String {
    let path = match source {
        Source::Path(path) => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
        Source::Cell { cell, output } => output_path(pipeline, *cell, output),
        Source::Gathered { members, output } => {
            members.first().map_or("", |(_, cell)| output_path(pipeline, *cell, output))
        }
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    name.get(1..).and_then(|tail| tail.find('.')).map_or(String::new(), |dot| name[dot + 1..].to_owned())
}

fn output_path<'a>(pipeline: &'a Pipeline, cell: CellId, output: &str) -> &'a str {
    output_index(pipeline, cell, output).map_or("", |i| &pipeline.cells[cell].outputs[i].path)
}
