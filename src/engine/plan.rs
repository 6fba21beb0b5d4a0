//! What `run` will do, as a value.
//!
//! [`decide`] answers for one cell whose inputs are known. The plan asks it for every cell before anything runs, the
//! scheduler asks it again when the inputs of the others have become known: one function, so that a plan cannot
//! promise what a run does not do.

use std::borrow::Cow;
use std::collections::HashSet;

use rayon::prelude::*;

use super::fingerprint::{self, Change, InputDigest, Surroundings};
use super::sources::Sources;
use crate::pipeline::model::{Cell, CellId, Pipeline, Source};
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
    /// It runs if the cells it reads, which run first, come out different.
    May { upstream: Vec<CellId> },
    /// It cannot run: an input file cannot be read or used.
    Blocked { message: String },
}

/// Why a cell runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// No cell of that name was seen before.
    New,
    /// Its key changed; these fields did.
    Changed(Vec<Change>),
    /// Its key was seen, but no result is there: it failed or was stopped.
    Unfinished,
    /// A stored object of its result is gone or altered.
    Damaged { digest: Digest, damage: Damage },
    /// The user asked for it.
    Forced,
}

impl Reason {
    /// In words, one line a changed field.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::New => vec!["new".to_owned()],
            Self::Changed(changes) => changes.iter().map(Change::to_string).collect(),
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
    /// One for each cell of the pipeline; `None` for those that were not asked for and that nothing asked for needs.
    pub decisions: Vec<Option<Decision>>,
    /// The cells that were asked for to run in any case.
    pub forced: HashSet<CellId>,
}

/// How many cells of a plan fall under each answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
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

impl Plan {
    /// The counts of the answers.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for decision in self.decisions.iter().flatten() {
            match decision {
                Decision::Cached { .. } => counts.cached += 1,
                Decision::Run { .. } => counts.run += 1,
                Decision::May { .. } => counts.may += 1,
                Decision::Blocked { .. } => counts.blocked += 1,
            }
        }
        counts
    }

    /// The cells in the plan with their answers, in order.
    pub fn cells(&self) -> impl Iterator<Item = (CellId, &Decision)> {
        let answers = self.decisions.iter().enumerate();
        answers.filter_map(|(i, decision)| Some((CellId(i as u32), decision.as_ref()?)))
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
pub fn needed(pipeline: &Pipeline, wanted: &[CellId]) -> Vec<bool> {
    let cells = &pipeline.cells;
    let mut needed = vec![false; cells.len()];
    wanted.iter().for_each(|cell| needed[cell.0 as usize] = true);
    // A cell stands after its inputs: one pass from the end reaches everything.
    for i in (0..cells.len()).rev() {
        if needed[i] {
            reads(&cells[i]).for_each(|input| needed[input.0 as usize] = true);
        }
    }
    needed
}

/// Plans `wanted` and everything that it needs. Cells in `forced` run even if they are up to date.
pub fn plan(context: &Context<'_>, wanted: &[CellId], forced: HashSet<CellId>) -> Result<Plan, StoreError> {
    let cells = &context.pipeline.cells;
    let needed = needed(context.pipeline, wanted);
    let mut decisions: Vec<Option<Decision>> = Vec::with_capacity(cells.len());
    // Neighbours of one stage do not read each other, unless the stage reads earlier cells of itself.
    let apart = |stage: u32| context.pipeline.stages[stage as usize].recalls.contains(&(stage as usize));
    for stage in cells.chunk_by(|a, b| a.stage == b.stage && !apart(a.stage)) {
        let first = decisions.len();
        let known = &decisions;
        let answer = |i: usize| -> Result<Option<Decision>, StoreError> {
            let id = CellId((first + i) as u32);
            if !needed[first + i] {
                return Ok(None);
            }
            let outputs = |cell: CellId| match &known[cell.0 as usize] {
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
    let cell = &context.pipeline.cells[id.0 as usize];
    let around = match surroundings(context, cell, outputs) {
        Ok(around) => around,
        Err(Unknown::Upstream(upstream)) => return Ok(Decision::May { upstream }),
        Err(Unknown::Path(message)) => return Ok(Decision::Blocked { message }),
    };
    let key = fingerprint::key(cell, &around);
    if forced {
        return Ok(Decision::Run { key, reason: Reason::Forced });
    }
    let Some(outputs) = context.store.index.outputs(&key) else {
        let reason = reason(context, id, cell, &around, key);
        return Ok(Decision::Run { key, reason });
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

/// The fields of the key of `id` for people, and its lineage, if its inputs are known.
pub fn fields<'o>(
    context: &Context<'_>,
    id: CellId,
    outputs: impl Fn(CellId) -> Option<&'o [Artifact]>,
) -> Option<(Vec<(String, String)>, Digest)> {
    let cell = &context.pipeline.cells[id.0 as usize];
    let around = surroundings(context, cell, outputs).ok()?;
    Some((fingerprint::explain(cell, &around), fingerprint::lineage(cell, &around)))
}

/// The tag of a cell in the index.
pub fn tag(pipeline: &Pipeline, cell: CellId) -> CellTag {
    CellTag::new(&pipeline.name, &pipeline.cell_name(cell))
}

fn reason(context: &Context<'_>, id: CellId, cell: &Cell, around: &Surroundings<'_>, key: Digest) -> Reason {
    let index = &context.store.index;
    match index.last_key(tag(context.pipeline, id)) {
        None => Reason::New,
        Some(last) if last == key => Reason::Unfinished,
        Some(last) => match index.origin(&last) {
            Some(origin) => Reason::Changed(fingerprint::changes(&origin.fields, &fingerprint::explain(cell, around))),
            None => Reason::Unfinished,
        },
    }
}

enum Unknown {
    Upstream(Vec<CellId>),
    Path(String),
}

fn surroundings<'a, 'o>(
    context: &Context<'a>,
    cell: &'a Cell,
    outputs: impl Fn(CellId) -> Option<&'o [Artifact]>,
) -> Result<Surroundings<'a>, Unknown> {
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
                Err(message) => return Err(Unknown::Path(message)),
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
        return Err(Unknown::Upstream(upstream));
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
    pipeline.cells[producer.0 as usize].outputs.iter().position(|output| &*output.name == name)
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
    output_index(pipeline, cell, output).map_or("", |i| &pipeline.cells[cell.0 as usize].outputs[i].path)
}
