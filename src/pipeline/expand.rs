//! Stages to cells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::axes::{AxisSpec, Filter, MAX_CELLS, Rules};
use super::command::{check_path, user_path};
use super::definition::{Applied, Body as DefinitionBody};
use super::grid::Grid;
use super::link::{Group, Linked};
use super::model::{Cell, CellId, Input, Output, Source, Task};
use super::problem::{Problem, Report, Span};
use super::stages::{Body, Origin};

/// A pipeline may have this many edges between cells.
const MAX_EDGES: u64 = 20_000_000;

/// File systems take names of 255 bytes; what is gathered gets an extension, what is published a `.NAME.published` next to it.
const MAX_NAME: usize = 240;

/// A path below a cell's folder or the reports may have this many bytes; with that folder's own, systems take 4,096.
const MAX_PATH: usize = 1024;

/// Marks a point without a cell.
const NO_CELL: u32 = u32::MAX;

/// The context in which the cells of all stages are created.
pub(super) struct Expansion<'a> {
    /// The pipeline's name.
    pub(super) name: &'a str,
    /// The folder that relative paths start from.
    pub(super) folder: &'a Path,
    pub(super) axes: &'a [AxisSpec],
    pub(super) rules: &'a Rules,
    pub(super) stages: &'a [Linked<'a>],
    /// The stages in the order of their cells, and which of them take turns.
    pub(super) groups: &'a [Group],
    /// The same without the turns.
    pub(super) order: &'a [usize],
}

/// The cells of one stage by the number of their point.
struct Table {
    grid: Grid,
    cells: Vec<u32>,
}

impl Expansion<'_> {
    /// All cells, in order. Problems that only a cell can have go to the report.
    pub(super) fn cells(&self, report: &mut Report) -> Vec<Cell> {
        if !self.check_counts(report) {
            return Vec::new();
        }
        let mut cells = Vec::new();
        let mut tables: Vec<Option<Table>> = self.stages.iter().map(|_| None).collect();
        let mut position = 0;
        for group in self.groups {
            let mut makers: Vec<Maker> = Vec::with_capacity(group.stages.len());
            for &index in &group.stages {
                let stage = &self.stages[index];
                let grid = Grid::new(stage.axes.iter().copied(), self.axes);
                let none = vec![NO_CELL; grid.len() as usize];
                tables[index] = Some(Table { grid, cells: none });
                makers.push(Maker::new(self, stage, index, position));
                position += 1;
            }
            // One turn for each value of the axis, or one for all.
            let turns = group.axis.map_or(1, |axis| self.axes[axis].names.len() as u32);
            for turn in 0..turns {
                for maker in &mut makers {
                    maker.turn(group.axis.map(|axis| (axis, turn)), &mut tables, &mut cells, report);
                }
            }
            makers.iter().for_each(|maker| maker.check_kept(report));
        }
        self.check_published(&cells, report);
        self.check_lengths(&cells, report);
        cells
    }

    /// Refuses pipelines that exceed the limits, before anything is built.
    fn check_counts(&self, report: &mut Report) -> bool {
        let count = |stage: &Linked| Grid::new(stage.axes.iter().copied(), self.axes).len();
        let total = self.stages.iter().map(count).fold(0, u64::saturating_add);
        let Some(largest) = self.stages.iter().max_by_key(|stage| count(stage)) else { return true };
        if total > MAX_CELLS {
            let title = format!("the pipeline has {total} cells, more than {MAX_CELLS}");
            let axes: Vec<String> = largest
                .axes
                .iter()
                .map(|&axis| format!("{} {}", self.axes[axis].names.len(), self.axes[axis].name))
                .collect();
            let label = format!("{} of them are this stage's: {}", count(largest), axes.join(" x "));
            report.add(Problem::new("too_many_cells", largest.draft.span, title).label(label));
            return false;
        }
        for stage in self.stages {
            for (input, over) in stage.draft.inputs.iter().zip(&stage.gathered) {
                let over = over.iter().flatten().copied();
                let edges = count(stage).saturating_mul(Grid::new(over, self.axes).len());
                if edges > MAX_EDGES {
                    let title = format!("input `{}` gathers {edges} cells in all, more than {MAX_EDGES}", input.name);
                    report.add(Problem::new("too_many_cells", input.span, title));
                    return false;
                }
            }
        }
        true
    }

    /// Refuses two cells that would put their outputs at one place below the reports folder.
    fn check_published(&self, cells: &[Cell], report: &mut Report) {
        let mut owners: FxHashMap<&str, &Cell> = FxHashMap::default();
        let published = || {
            let outputs = cells.iter().flat_map(|cell| cell.outputs.iter().enumerate().map(move |out| (cell, out)));
            outputs.filter_map(|(cell, (number, output))| Some((cell, number, output.publish.as_ref()?.to_str()?)))
        };
        let mut clash = |(cell, number): (&Cell, usize), other: &Cell, path: &str| {
            // Outputs of one cell have been compared already, with the paths that they have there.
            if std::ptr::eq(cell, other) {
                return;
            }
            let name = |cell: &Cell| &self.stages[self.order[cell.stage as usize]].draft.name;
            let title = match cell.stage == other.stage {
                true => format!("two cells of stage `{}` would both write `{path}`", name(cell)),
                false => format!("stages `{}` and `{}` would both write `{path}`", name(other), name(cell)),
            };
            let is_it = |output: &Output| output.publish.as_deref().is_some_and(|own| own == Path::new(path));
            let theirs = self.output_span(other, other.outputs.iter().position(is_it).unwrap_or(0));
            let ours = self.output_span(cell, number);
            let problem = Problem::new("path_conflict", ours.max(theirs), title).label("expected a path of its own");
            report.add(if ours == theirs { problem } else { problem.related(ours.min(theirs), "written here too") });
        };
        for (cell, number, path) in published() {
            if let Some(other) = owners.insert(path, cell) {
                clash((cell, number), other, path);
            }
        }
        for (cell, number, path) in published() {
            for (slash, _) in path.match_indices('/') {
                if let Some(&other) = owners.get(&path[..slash]) {
                    clash((cell, number), other, &path[..slash]);
                }
            }
        }
    }

    /// Refuses outputs and inputs whose files could not be named, the first of each stage.
    fn check_lengths(&self, cells: &[Cell], report: &mut Report) {
        let mut refused = BTreeSet::new();
        for cell in cells {
            let outputs = cell.outputs.iter().enumerate().flat_map(|(number, output)| {
                let published = output.publish.as_deref().and_then(Path::to_str);
                [Some(&*output.path), published].into_iter().flatten().map(move |path| (path, Some(number)))
            });
            let labels = cell.inputs.iter().flat_map(|input| match &input.source {
                Source::Gathered { members, .. } => members.as_slice(),
                _ => &[],
            });
            let inputs = cell.inputs.iter().map(|input| &*input.name).chain(labels.map(|(label, _)| &**label));
            let fits = |path: &str| path.len() <= MAX_PATH && path.split('/').all(|name| name.len() <= MAX_NAME);
            let Some((path, output)) = outputs.chain(inputs.map(|name| (name, None))).find(|(path, _)| !fits(path))
            else {
                continue;
            };
            if refused.insert(cell.stage) {
                let draft = &self.stages[self.order[cell.stage as usize]].draft;
                let long = path.split('/').find(|name| name.len() > MAX_NAME).unwrap_or(path);
                let begin: String = long.chars().take(40).collect();
                let title =
                    format!("stage `{}` would need a file named `{begin}...`, {} bytes long", draft.name, long.len());
                let span = output.map_or(draft.span, |number| self.output_span(cell, number));
                let label = format!("a name may have {MAX_NAME} bytes, a path {MAX_PATH}");
                report.add(Problem::new("name_too_long", span, title).label(label));
            }
        }
    }

    fn output_span(&self, cell: &Cell, number: usize) -> Span {
        let draft = &self.stages[self.order[cell.stage as usize]].draft;
        match &draft.body {
            Some(Body::Run { out, .. }) => out.get(number).map_or(draft.span, |out| out.path.span),
            _ => draft.span,
        }
    }
}

/// Makes the cells of one stage.
struct Maker<'a> {
    expansion: &'a Expansion<'a>,
    stage: &'a Linked<'a>,
    /// Its position in the file, and in the order of the cells.
    index: usize,
    position: u32,
    /// How many points the rules have kept.
    kept: u64,
    /// For a stage that uses a definition: what its cells do, by the axes that this depends on.
    grid: Grid,
    applied: Vec<Option<Option<Rc<Applied>>>>,
    /// For each gathered input, its axes and the label of each of their points.
    labels: Vec<Option<(Grid, Vec<Arc<str>>)>>,
    /// For each output of a command, whether its path differs for every cell of the stage.
    published: Vec<bool>,
}

impl<'a> Maker<'a> {
    fn new(expansion: &'a Expansion<'a>, stage: &'a Linked<'a>, index: usize, position: u32) -> Maker<'a> {
        let mut mentioned = BTreeSet::new();
        let mut published = Vec::new();
        match &stage.draft.body {
            Some(Body::Uses { name, with, .. }) => {
                name.mentions(&mut mentioned);
                with.mentions(&mut mentioned);
            }
            Some(Body::Run { out, .. }) => {
                for out in out {
                    let mut axes = BTreeSet::new();
                    out.path.mentions(&mut axes);
                    published.push(stage.axes.iter().all(|axis| axes.contains(axis)));
                }
            }
            None => {}
        }
        let grid = Grid::new(mentioned, expansion.axes);
        let applied = vec![None; grid.len() as usize];
        let labels = stage.gathered.iter().map(|over| over.as_ref().map(|over| expansion.labels(over))).collect();
        Maker { expansion, stage, index, position, kept: 0, grid, applied, labels, published }
    }

    /// Makes the cells at one value of an axis, or all of them.
    fn turn(
        &mut self,
        at: Option<(usize, u32)>,
        tables: &mut [Option<Table>],
        cells: &mut Vec<Cell>,
        report: &mut Report,
    ) {
        let axes = self.expansion.axes;
        let all = Grid::new(self.stage.axes.iter().copied(), axes);
        let free = self.stage.axes.iter().copied().filter(|axis| at.is_none_or(|(fixed, _)| fixed != *axis));
        let filter: Filter = self.expansion.rules.on(&self.stage.axes);
        let mut start = vec![0; axes.len()];
        if let Some((axis, value)) = at {
            start[axis] = value;
        }
        Grid::new(free, axes).each(&mut start, |point| {
            if !filter.keeps(point) {
                return;
            }
            self.kept += 1;
            if let Some(cell) = self.cell(all.coordinates(point), point, tables, report) {
                if let Some(table) = &mut tables[self.index] {
                    table.cells[all.index(point)] = cells.len() as u32;
                }
                cells.push(cell);
            }
        });
    }

    fn check_kept(&self, report: &mut Report) {
        let points = Grid::new(self.stage.axes.iter().copied(), self.expansion.axes).len();
        if self.kept == 0 && points > 0 {
            let title = format!("`include` and `exclude` leave stage `{}` no cell", self.stage.draft.name);
            report.add(Problem::new("no_cells", self.stage.draft.span, title));
        }
    }

    fn cell(
        &mut self,
        coordinates: Box<[u32]>,
        point: &[u32],
        tables: &[Option<Table>],
        report: &mut Report,
    ) -> Option<Cell> {
        let draft = &self.stage.draft;
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        let mut secrets = draft.secrets.names.clone();
        let (task, outputs) = match &draft.body {
            Some(Body::Uses { .. }) => {
                let applied = self.applied(point, report)?;
                env.clone_from(&applied.env);
                secrets.extend(applied.secrets.iter().filter(|name| !draft.secrets.names.contains(name)).cloned());
                let publish = self.publishes(point).then(|| self.published_folder(point));
                // An only output takes the place of the folder that several would share.
                let alone = applied.outputs.len() == 1;
                let place = |folder: &String, path: &str| match alone {
                    true => PathBuf::from(folder),
                    false => PathBuf::from(format!("{folder}/{path}")),
                };
                let output = |(name, path): &(Arc<str>, String)| Output {
                    name: name.clone(),
                    path: path.clone(),
                    publish: publish.as_ref().map(|folder| place(folder, path)),
                };
                (applied.task.clone(), applied.outputs.iter().map(output).collect::<Vec<_>>())
            }
            Some(Body::Run { run, out }) => {
                let mut outputs = Vec::with_capacity(out.len());
                for (out, published) in out.iter().zip(&self.published) {
                    let path = out.path.fill(point);
                    if out.path.constant().is_none() && !check_path(&path, out.path.span, report) {
                        return None;
                    }
                    let publish = published.then(|| PathBuf::from(format!("{}/{path}", self.expansion.name)));
                    outputs.push(Output { name: out.name.clone(), path, publish });
                }
                (run.task(point), outputs)
            }
            None => return None,
        };
        self.check_own_paths(&outputs, report);
        if let Task::Shell(script) = &task {
            let path = |name: &str| {
                let name = name.strip_prefix("out.")?;
                outputs.iter().find(|output| *output.name == *name).map(|output| format!("out/{}", output.path))
            };
            if let Err(message) = script.fill(path) {
                report.add(Problem::new("not_a_word", draft.span, message).label("in the command of this stage"));
            }
        }
        env.extend(draft.env.iter().map(|(name, text)| (name.clone(), text.fill(point))));
        if let Some(name) = secrets.iter().find(|name| env.contains_key(&***name)) {
            let title = format!("stage `{}` has `{name}` both as a secret and in `env`", draft.name);
            let problem = Problem::new("secret_in_env", draft.span, title);
            report.add(problem.label("expected one of them: what `env` holds is part of the key"));
        }
        let inputs = self.inputs(point, tables, report);
        Some(Cell { stage: self.position, coordinates, task, inputs, outputs, env, secrets })
    }

    /// Refuses two outputs of one cell where one is the other or is below it.
    fn check_own_paths(&self, outputs: &[Output], report: &mut Report) {
        for (number, output) in outputs.iter().enumerate() {
            for (earlier, other) in outputs[..number].iter().enumerate() {
                if below(&output.path, &other.path) || below(&other.path, &output.path) {
                    let span = |number: usize| match &self.stage.draft.body {
                        Some(Body::Run { out, .. }) => out[number].path.span,
                        _ => self.stage.draft.span,
                    };
                    let title =
                        format!("outputs `{}` and `{}` would both write `{}`", other.name, output.name, output.path);
                    let problem = Problem::new("path_conflict", span(number), title);
                    let problem = problem.label("expected a path of its own");
                    let same = span(number) == span(earlier);
                    report.add(if same { problem } else { problem.related(span(earlier), "written here too") });
                }
            }
        }
    }

    fn applied(&mut self, point: &[u32], report: &mut Report) -> Option<Rc<Applied>> {
        let Some(Body::Uses { with, with_span, .. }) = &self.stage.draft.body else { return None };
        let variant = self.stage.variants.at(point)?;
        let slot = &mut self.applied[self.grid.index(point)];
        slot.get_or_insert_with(|| {
            let before = report.count();
            let applied = variant.apply(&with.fill(point), *with_span, report).map(Rc::new);
            report.used_at(before, *with_span, &format!("stage `{}` takes it here", self.stage.draft.name));
            applied
        })
        .clone()
    }

    fn publishes(&self, point: &[u32]) -> bool {
        let variant = self.stage.variants.at(point);
        variant.is_some_and(|variant| matches!(variant.runs(), DefinitionBody::Kind(kind, _) if kind.publish))
    }

    /// Where a kind's outputs are published: `pipeline/stage`, then `axis=value,...` if it has axes.
    fn published_folder(&self, point: &[u32]) -> String {
        let mut folder = format!("{}/{}", self.expansion.name, self.stage.draft.name);
        if !self.stage.axes.is_empty() {
            folder.push('/');
            folder.push_str(&self.expansion.label(&self.stage.axes, point));
        }
        folder
    }

    /// The inputs of a cell. One that is wrong has been reported and is left out, so that the cell's other problems
    /// are found too.
    fn inputs(&self, point: &[u32], tables: &[Option<Table>], report: &mut Report) -> Vec<Input> {
        let draft = &self.stage.draft;
        let mut inputs = Vec::with_capacity(draft.inputs.len());
        if let Some(DefinitionBody::Run(command)) = self.stage.variants.at(point).map(|variant| variant.runs()) {
            let own = command.own.iter();
            inputs.extend(own.map(|(name, path)| Input { name: name.clone(), source: Source::Path(path.clone()) }));
        }
        for (input, labels) in draft.inputs.iter().zip(&self.labels) {
            let source = match &input.from {
                Some(Origin::Path(text)) => Some(Source::Path(user_path(self.expansion.folder, &text.fill(point)))),
                Some(Origin::Stage { stage, output, earlier, .. }) => {
                    let before = earlier.as_ref().map(|earlier| (earlier.axis, earlier.end(point[earlier.axis])));
                    let table = tables[*stage].as_ref();
                    let output = output.as_ref().or_else(|| self.expansion.stages[*stage].outputs.as_ref()?.first());
                    let source = table
                        .zip(output)
                        .and_then(|(table, output)| cells_of(table, output.clone(), labels.as_ref(), before, point));
                    source.inspect(|source| {
                        let none = matches!(source, Source::Gathered { members, .. } if members.is_empty());
                        // A stage without any cell has been reported itself; the first value has none before it.
                        let any = |table: &Table| table.cells.iter().any(|&cell| cell != NO_CELL);
                        if none && earlier.is_none() && tables[*stage].as_ref().is_some_and(any) {
                            let title = format!("a cell of stage `{}` finds nothing to gather", draft.name);
                            let label = "`include` and `exclude` leave it no cell of this stage";
                            report.add(Problem::new("no_cells", input.span, title).label(label));
                        }
                    })
                }
                None => None,
            };
            inputs.extend(source.map(|source| Input { name: input.name.clone(), source }));
        }
        inputs
    }
}

/// What an input that reads `output` of the cells of `table` gets at `point`: one cell, or those that it gathers, of one
/// axis only those with a value below a bound.
fn cells_of(
    table: &Table,
    output: Arc<str>,
    gathered: Option<&(Grid, Vec<Arc<str>>)>,
    before: Option<(usize, u32)>,
    point: &[u32],
) -> Option<Source> {
    let Some((grid, labels)) = gathered else {
        return Some(Source::Cell { cell: table.cell(point)?, output });
    };
    let mut members = Vec::new();
    let mut labels = labels.iter();
    grid.each(&mut point.to_vec(), |point| {
        let label = labels.next();
        if before.is_none_or(|(axis, end)| point[axis] < end) {
            members.extend(label.cloned().zip(table.cell(point)));
        }
    });
    Some(Source::Gathered { members, output })
}

impl Expansion<'_> {
    /// The points of some axes, and `axis=value,...` for each of them.
    fn labels(&self, axes: &[usize]) -> (Grid, Vec<Arc<str>>) {
        let grid = Grid::new(axes.iter().copied(), self.axes);
        let mut labels = Vec::with_capacity(grid.len() as usize);
        grid.each(&mut vec![0; self.axes.len()], |point| labels.push(self.label(axes, point).into()));
        (grid, labels)
    }

    fn label(&self, axes: &[usize], point: &[u32]) -> String {
        let mut label = String::new();
        for &axis in axes {
            if !label.is_empty() {
                label.push(',');
            }
            label.push_str(&self.axes[axis].name);
            label.push('=');
            label.push_str(&self.axes[axis].names[point[axis] as usize]);
        }
        label
    }
}

impl Table {
    fn cell(&self, point: &[u32]) -> Option<CellId> {
        self.cells.get(self.grid.index(point)).filter(|&&cell| cell != NO_CELL).map(|&cell| CellId(cell))
    }
}

/// Whether a path is another or is below it.
fn below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
