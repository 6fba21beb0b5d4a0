//! Planner, scheduler and store together against a small model of what they promise: random pipelines, random edits
//! and losses between runs.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use proptest::prelude::*;

use super::event::{Event, Observer};
use super::executor::{Executor, Exit, Job, Sign, Stop, Usage};
use super::journal::{self, Journal, Line};
use super::leftovers::Leftovers;
use super::outcome::{Options, Outcome};
use super::plan::{Context, Decision, needed, plan};
use super::resources::Capacities;
use super::run::run;
use super::sources::Sources;
use crate::pipeline::kinds::Kinds;
use crate::pipeline::load;
use crate::pipeline::model::{CellId, Pipeline};
use crate::store::Store;
use crate::store::digest::Digest;

/// A stage computes `(add + sum of its inputs) mod modulus`, so that edits are often cut off.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub add: u32,
    pub modulus: u32,
    /// Whether it has a cell for each value of the axis, if nothing that it reads gives it the axis already.
    pub axis: bool,
    /// Which of the files it reads.
    pub file: Option<usize>,
    /// Which earlier stages it reads, and whether it gathers them.
    pub reads: Vec<(usize, bool)>,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    pub stages: Vec<Stage>,
    pub files: Vec<u32>,
    pub axis: u32,
    /// Things that must not matter: the prefix of stage names, and a comment.
    pub prefix: &'static str,
    pub comment: u32,
}

#[derive(Debug, Clone)]
enum Edit {
    File(usize, u32),
    Add(usize, u32),
    Axis(u32),
    Rename(bool),
    Comment(u32),
    /// The outputs of a cell are taken from the store, or altered there.
    Damage(usize, bool),
    Nothing,
}

fn stage(at: usize) -> impl Strategy<Value = Stage> {
    let reads = prop::collection::vec((0..at.max(1), any::<bool>()), 0..3);
    (0..5u32, 1..4u32, any::<bool>(), prop::option::of(0..2usize), reads).prop_map(
        move |(add, modulus, axis, file, mut reads)| {
            reads.sort_unstable();
            reads.dedup_by_key(|read| read.0);
            Stage { add, modulus, axis, file, reads: if at == 0 { vec![] } else { reads } }
        },
    )
}

fn world() -> impl Strategy<Value = World> {
    (1..6usize)
        .prop_flat_map(|count| ((0..count).map(stage).collect::<Vec<_>>(), prop::collection::vec(0..6u32, 2)))
        .prop_map(|(stages, files)| World { stages, files, axis: 2, prefix: "s", comment: 0 })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..2usize, 0..6u32).prop_map(|(file, value)| Edit::File(file, value)),
        (0..6usize, 0..5u32).prop_map(|(stage, add)| Edit::Add(stage, add)),
        (1..4u32).prop_map(Edit::Axis),
        any::<bool>().prop_map(Edit::Rename),
        any::<u32>().prop_map(Edit::Comment),
        (0..12usize, any::<bool>()).prop_map(|(cell, delete)| Edit::Damage(cell, delete)),
        Just(Edit::Nothing),
    ]
}

impl World {
    fn has_axis(&self, stage: usize) -> bool {
        let stage = &self.stages[stage];
        stage.axis || stage.reads.iter().any(|&(read, gather)| !gather && self.has_axis(read))
    }

    fn gathers(&self, reader: usize, read: usize) -> bool {
        self.has_axis(read) && !self.has_axis(reader)
    }

    fn yaml(&self) -> String {
        let mut text = format!("name: model  # {}\naxes: {{ v: 0..{} }}\nstages:\n", self.comment, self.axis);
        if !(0..self.stages.len()).any(|at| self.has_axis(at)) {
            text = text.replace(&format!("axes: {{ v: 0..{} }}\n", self.axis), "");
        }
        for (at, stage) in self.stages.iter().enumerate() {
            let v = if self.has_axis(at) { "${v}" } else { "-" };
            let mut inputs = Vec::new();
            inputs.extend(stage.file.map(|file| format!("file: ./f{file}")));
            for &(read, _) in &stage.reads {
                let from = format!("{}{read}", self.prefix);
                inputs.push(match self.gathers(at, read) {
                    true => format!("i{read}: {{ from: {from}, gather: all }}"),
                    false => format!("i{read}: {from}"),
                });
            }
            let (prefix, Stage { add, modulus, .. }) = (self.prefix, stage);
            let run = format!("[mix, '{at}', '{v}', '{add}', '{modulus}', '${{out.o}}']");
            let inputs = inputs.join(", ");
            writeln!(text, "  {prefix}{at}: {{ run: {run}, in: {{ {inputs} }}, out: {{ o: '{at}/{v}' }} }}").unwrap();
        }
        text
    }

    /// Every cell by (stage, axis value), with everything that it is made from and its content.
    pub(super) fn cells(&self) -> BTreeMap<(usize, Option<u32>), Made> {
        let mut cells: BTreeMap<(usize, Option<u32>), Made> = BTreeMap::new();
        for (at, stage) in self.stages.iter().enumerate() {
            let values: Vec<Option<u32>> =
                if self.has_axis(at) { (0..self.axis).map(Some).collect() } else { vec![None] };
            for v in values {
                let mut reads = Vec::new();
                for &(read, _) in &stage.reads {
                    let wanted = |other: Option<u32>| self.gathers(at, read) || other.is_none() || other == v;
                    reads.extend(cells.keys().copied().filter(|(s, other)| *s == read && wanted(*other)));
                }
                let mut inputs: Vec<(String, String)> =
                    stage.file.map(|file| ("file".into(), self.files[file].to_string())).into_iter().collect();
                inputs.extend(reads.iter().map(|read| (format!("{read:?}"), cells[read].content.clone())));
                let sum: u32 = inputs.iter().map(|(_, content)| number(content)).sum();
                let shown = v.map_or("-".to_owned(), |v| v.to_string());
                let content = format!("{at} {shown}:{}", (stage.add + sum) % stage.modulus);
                let key = format!("{at} {shown} {} {} {inputs:?}", stage.add, stage.modulus);
                cells.insert((at, v), Made { reads, key, content });
            }
        }
        cells
    }
}

#[derive(Debug)]
pub(super) struct Made {
    reads: Vec<(usize, Option<u32>)>,
    key: String,
    pub content: String,
}

fn number(content: &str) -> u32 {
    content.rsplit(':').next().unwrap().trim().parse().unwrap()
}

/// What the store must hold, and the three answers of a plan.
#[derive(Debug, Default)]
struct Model {
    done: HashSet<String>,
    stored: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Cached,
    Run,
    May,
}

impl Model {
    fn plan(&self, world: &World) -> Vec<Answer> {
        let cells = world.cells();
        let mut answers: BTreeMap<(usize, Option<u32>), Answer> = BTreeMap::new();
        for (id, made) in &cells {
            let known = made.reads.iter().all(|read| answers[read] == Answer::Cached);
            let answer = match (known, self.has(made)) {
                (false, _) => Answer::May,
                (true, true) => Answer::Cached,
                (true, false) => Answer::Run,
            };
            answers.insert(*id, answer);
        }
        answers.into_values().collect()
    }

    fn has(&self, made: &Made) -> bool {
        self.done.contains(&made.key) && self.stored.contains(&made.content)
    }

    /// How many cells are executed.
    fn run(&mut self, world: &World) -> usize {
        let mut executed = 0;
        for made in world.cells().into_values() {
            if !self.has(&made) {
                executed += 1;
                self.done.insert(made.key);
                self.stored.insert(made.content);
            }
        }
        executed
    }
}

/// Does a cell's work in this process, and counts.
#[derive(Default)]
struct Adder(Mutex<usize>);

impl Executor for Adder {
    type Ticket = ();

    fn submit(&self, job: &Job) -> std::io::Result<()> {
        *self.0.lock().unwrap() += 1;
        let word = |at: usize| job.arguments[at].to_str().unwrap().to_owned();
        let mut sum = word(2).parse::<u32>().unwrap();
        for item in walkdir::WalkDir::new(job.folder.join("in")).follow_links(true).into_iter().flatten() {
            if item.file_type().is_file() {
                sum += number(&fs::read_to_string(item.path())?);
            }
        }
        let result = sum % word(3).parse::<u32>().unwrap();
        fs::write(job.folder.join(word(4)), format!("{} {}:{result}", word(0), word(1)))
    }

    fn wait(&self, (): &(), _: &mut dyn FnMut(Sign)) -> std::io::Result<Exit> {
        Ok(Exit::Code(0))
    }

    fn cancel(&self, (): &(), _: Stop) {}

    fn collect(&self, (): &()) -> Usage {
        Usage::default()
    }
}

struct Nobody;

impl Observer for Nobody {
    fn event(&mut self, _: &Event<'_>) {}
}

pub(super) struct Project {
    pub pipeline: Pipeline,
    pub store: Store,
    pub sources: Sources,
}

/// Reads everything again, as a new process does.
pub(super) fn open(world: &World, folder: &Path) -> Project {
    let file = folder.join("p.yaml");
    fs::write(&file, world.yaml()).unwrap();
    for (at, value) in world.files.iter().enumerate() {
        let path = folder.join(format!("f{at}"));
        if fs::read_to_string(&path).ok() != Some(value.to_string()) {
            fs::write(path, value.to_string()).unwrap();
        }
    }
    let pipeline =
        load(&file, &[], &Kinds(vec![]), &[]).unwrap_or_else(|problems| panic!("{problems}\n{}", world.yaml()));
    let store = Store::open(&folder.join("cache")).unwrap();
    let all = vec![true; pipeline.cells.len()];
    let sources = Sources::read(&pipeline, &all, folder, Leftovers::default(), &store.stat);
    Project { pipeline, store, sources }
}

fn answers(project: &Project) -> Vec<Answer> {
    let Project { pipeline, store, sources } = project;
    let all: Vec<CellId> = pipeline.cells.ids().collect();
    let plan = plan(&Context { pipeline, store, sources }, &all, HashSet::new()).unwrap();
    plan.cells()
        .map(|(_, decision)| match decision {
            Decision::Cached { .. } => Answer::Cached,
            Decision::Run { .. } => Answer::Run,
            Decision::May { .. } => Answer::May,
            Decision::Blocked { message } => panic!("{message}"),
        })
        .collect()
}

/// Runs everything; the number of programs started, and the content of every cell's output.
pub(super) fn execute(project: &Project, folder: &Path, jobs: usize, name: &str) -> (usize, Vec<String>) {
    let Project { pipeline, store, sources } = project;
    let context = Context { pipeline, store, sources };
    let all: Vec<CellId> = pipeline.cells.ids().collect();
    let plan = plan(&context, &all, HashSet::new()).unwrap();
    let options = Options {
        jobs,
        fail_fast: false,
        capacities: &Capacities::of_this_machine(),
        reports: &folder.join("reports"),
        kind_program: (folder.into(), vec![]),
        interrupts: &AtomicUsize::new(0),
        run: name,
        start: Instant::now(),
    };
    let adder = Adder::default();
    let mut journal = Journal::create(&store.journals(), name).unwrap();
    let run_line = Line::Run {
        run: name.to_owned(),
        started: String::new(),
        pipeline: pipeline.name.clone(),
        file: pipeline.file.clone(),
        command: Vec::new(),
        version: String::new(),
        format: journal::FORMAT.to_owned(),
    };
    journal.write(&run_line).unwrap();
    let Outcome { summary, outputs } = run(&context, &plan, &options, &adder, &mut journal, &mut Nobody).unwrap();
    assert_eq!(summary.executed, *adder.0.lock().unwrap());
    assert_eq!(summary.executed + summary.cached, all.len(), "{summary:?}");
    let content = |(id, decision): (CellId, &Decision)| {
        let artifact = match decision {
            Decision::Cached { outputs, .. } => outputs[0],
            _ => outputs[&id][0],
        };
        String::from_utf8(store.blobs.read(&artifact.digest).unwrap()).unwrap()
    };
    let contents = plan.cells().map(content).collect();
    (summary.executed, contents)
}

fn damage(store: &Store, content: &str, delete: bool) {
    let path = store.blobs.path(&Digest::of(content.as_bytes()));
    fs::remove_file(&path).unwrap();
    if !delete {
        fs::write(&path, content.replace(':', ";")).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any edits, the plan is what the model says, the run starts the programs that it must and no others, and
    /// every output is what a clean run would have made.
    #[test]
    fn plans_and_runs_follow_the_model(
        mut world in world(),
        edits in prop::collection::vec(edit(), 1..7),
        jobs in 1..4usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        for (round, edit) in std::iter::once(Edit::Nothing).chain(edits).enumerate() {
            match edit {
                Edit::File(file, value) => world.files[file] = value,
                Edit::Add(stage, add) => {
                    let at = stage % world.stages.len();
                    world.stages[at].add = add;
                }
                Edit::Axis(axis) => world.axis = axis,
                Edit::Rename(other) => world.prefix = if other { "t" } else { "s" },
                Edit::Comment(comment) => world.comment = comment,
                Edit::Damage(cell, delete) => {
                    let cells = world.cells();
                    let made = cells.values().nth(cell % cells.len()).unwrap();
                    // An edit of the same round of edits may have taken the cell out of the store.
                    if model.stored.remove(&made.content) {
                        damage(&Store::open(&folder.path().join("cache")).unwrap(), &made.content, delete);
                    }
                }
                Edit::Nothing => {}
            }
            let project = open(&world, folder.path());
            prop_assert_eq!(answers(&project), model.plan(&world), "round {}\n{}", round, world.yaml());
            let (executed, contents) = execute(&project, folder.path(), jobs, &format!("run{round}"));
            prop_assert_eq!(executed, model.run(&world), "round {}\n{}", round, world.yaml());
            let expected: Vec<String> = world.cells().into_values().map(|made| made.content).collect();
            prop_assert_eq!(contents, expected);
        }
    }
}

#[test]
fn what_is_not_needed_is_not_planned() {
    let none = Stage { add: 0, modulus: 2, axis: false, file: None, reads: vec![] };
    let reader = Stage { reads: vec![(0, false)], ..none.clone() };
    let stages = vec![none.clone(), reader, none];
    let world = World { stages, files: vec![], axis: 1, prefix: "s", comment: 0 };
    let folder = tempfile::tempdir().unwrap();
    let Project { pipeline, .. } = open(&world, folder.path());
    assert_eq!(*needed(&pipeline, &[CellId(1)]), [true, true, false]);
}
