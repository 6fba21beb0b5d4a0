//! Stages joined to each other: their definitions, their order, their axes.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::axes::{AxisSpec, MAX_CELLS, Rules};
use super::definition::{self, Definition, Definitions};
use super::grid::Grid;
use super::kinds::Inputs;
use super::problem::{Problem, Report, suggest};
use super::stages::{Body, Draft, Gather, Origin};

/// A stage with what it needs to know of others.
pub(super) struct Linked<'k> {
    pub(super) draft: Draft,
    /// Its axes, ascending.
    pub(super) axes: Vec<usize>,
    /// For each input, the axes that it is gathered over, if it is gathered.
    pub(super) gathered: Vec<Option<Vec<usize>>>,
    pub(super) variants: Variants<'k>,
    /// The names of its outputs; nothing if they are not known, because its definition is wrong.
    pub(super) outputs: Option<Vec<Arc<str>>>,
}

/// The definitions that a stage uses: one, or one for each value of the axes in `uses:`.
pub(super) struct Variants<'k> {
    grid: Grid,
    definitions: Vec<Option<Rc<Definition<'k>>>>,
}

impl<'k> Variants<'k> {
    /// The definition at a point.
    pub(super) fn at(&self, point: &[u32]) -> Option<&Rc<Definition<'k>>> {
        self.definitions.get(self.grid.index(point))?.as_ref()
    }

    fn each(&self) -> impl Iterator<Item = &Rc<Definition<'k>>> {
        self.definitions.iter().flatten()
    }
}

/// Joins the stages. The second answer is their order: every stage after those that it reads, ties as in the file.
pub(super) fn link<'k>(
    drafts: Vec<Draft>,
    axes: &[AxisSpec],
    rules: &Rules,
    definitions: &mut Definitions<'k>,
    report: &mut Report,
) -> (Vec<Linked<'k>>, Vec<usize>) {
    let mut stages: Vec<Linked> = drafts
        .into_iter()
        .map(|draft| {
            let variants = find_variants(&draft, axes, rules, definitions, report);
            let outputs = outputs(&draft, &variants, report);
            Linked { axes: Vec::new(), gathered: Vec::new(), outputs, variants, draft }
        })
        .collect();
    for stage in &stages {
        check_inputs(stage, &stages, report);
    }
    let order = order(&stages, report);
    for &index in &order {
        let (axes, gathered) = axes_of(&stages[index], &stages, axes, report);
        stages[index].axes = axes;
        stages[index].gathered = gathered;
    }
    (stages, order)
}

fn find_variants<'k>(
    draft: &Draft,
    axes: &[AxisSpec],
    rules: &Rules,
    definitions: &mut Definitions<'k>,
    report: &mut Report,
) -> Variants<'k> {
    let mut mentioned = BTreeSet::new();
    let Some(Body::Uses { name, .. }) = &draft.body else {
        return Variants { grid: Grid::new([], axes), definitions: Vec::new() };
    };
    name.mentions(&mut mentioned);
    let mentioned: Vec<usize> = mentioned.into_iter().collect();
    let grid = Grid::new(mentioned.iter().copied(), axes);
    if grid.len() > MAX_CELLS {
        let title = format!("`uses` names {} definitions", grid.len());
        report.add(Problem::new("too_many_cells", name.span, title));
        return Variants { grid, definitions: Vec::new() };
    }
    let filter = rules.on(&mentioned);
    let mut found = Vec::with_capacity(grid.len() as usize);
    grid.each(&mut vec![0; axes.len()], |point| {
        let kept = filter.keeps(point);
        found.push(if kept { definitions.get(&name.fill(point), name.span, report) } else { None });
    });
    Variants { grid, definitions: found }
}

/// The outputs of a stage, which all definitions that it uses must share.
fn outputs(draft: &Draft, variants: &Variants, report: &mut Report) -> Option<Vec<Arc<str>>> {
    let Some(Body::Uses { name, .. }) = &draft.body else {
        let Some(Body::Run { out, .. }) = &draft.body else { return None };
        return Some(out.iter().map(|out| out.name.clone()).collect());
    };
    let mut each = variants.each();
    let first = each.next()?;
    let outputs = first.outputs();
    for other in each {
        if other.outputs() != outputs || gathers(other) != gathers(first) {
            let title = format!("`{}` and `{}` cannot stand in one stage", first.name, other.name);
            let problem = Problem::new("mixed_definitions", name.span, title);
            report.add(problem.label("expected definitions with the same outputs that gather alike"));
        }
    }
    Some(outputs)
}

fn gathers(definition: &Definition) -> bool {
    matches!(definition.runs(), definition::Body::Kind(kind, _) if matches!(kind.inputs, Inputs::Gathered))
}

/// Checks the names of inputs against the definition, and the outputs that they refer to.
fn check_inputs(stage: &Linked, stages: &[Linked], report: &mut Report) {
    let draft = &stage.draft;
    for input in &draft.inputs {
        if let Some(Origin::Stage { stage: from, output: Some(output), .. }) = &input.from
            && let Some(known) = &stages[*from].outputs
            && !known.contains(output)
        {
            let title = format!("stage `{}` has no output `{output}`", stages[*from].draft.name);
            let problem = Problem::new("unknown_output", input.span, title);
            let problem = problem.related(stages[*from].draft.span, "the stage");
            report.add(problem.help(suggest(output, known.iter().map(|name| &**name))));
        }
    }
    let Some(Body::Uses { name, .. }) = &draft.body else { return };
    for definition in stage.variants.each() {
        let inputs: Vec<(&str, bool)> = match definition.runs() {
            definition::Body::Uses(..) => continue,
            definition::Body::Run(command) => command.inputs.iter().map(|name| (&**name, true)).collect(),
            definition::Body::Kind(kind, _) => match kind.inputs {
                Inputs::Named(inputs) => inputs.iter().map(|input| (input.name, input.required)).collect(),
                Inputs::Gathered => {
                    if draft.inputs.is_empty() {
                        let title = format!("`{}` needs at least one input", definition.name);
                        report.add(Problem::new("missing_input", name.span, title).label("expected `in:` beside it"));
                    }
                    continue;
                }
            },
        };
        for input in &draft.inputs {
            if !inputs.iter().any(|(known, _)| *known == &*input.name) {
                let title = format!("`{}` has no input `{}`", definition.name, input.name);
                let problem = Problem::new("unknown_input", input.name_span, title);
                report.add(problem.help(suggest(&input.name, inputs.iter().map(|(name, _)| *name))));
            }
            let kind = matches!(definition.runs(), definition::Body::Kind(..));
            if kind && matches!(&input.from, Some(Origin::Stage { gather: Some(_), .. })) {
                let title = format!("`{}` takes one cell as `{}`, and cannot gather", definition.name, input.name);
                report.add(Problem::new("bad_input", input.span, title));
            }
        }
        for (required, _) in inputs.iter().filter(|(_, required)| *required) {
            if !draft.inputs.iter().any(|input| &*input.name == *required) {
                let title = format!("`{}` needs the input `{required}`", definition.name);
                let problem = Problem::new("missing_input", name.span, title);
                report.add(problem.label(format!("expected `in: {{ {required}: ... }}` beside it")));
            }
        }
    }
}

/// The stages that an input entry of `stage` names, each once.
pub(super) fn reads(stage: &Draft) -> BTreeSet<usize> {
    let stages = stage.inputs.iter().filter_map(|input| match input.from {
        Some(Origin::Stage { stage, .. }) => Some(stage),
        _ => None,
    });
    stages.collect()
}

/// Every stage after those that it reads. Stages in a cycle are reported and stand last.
fn order(stages: &[Linked], report: &mut Report) -> Vec<usize> {
    let mut graph: DiGraphMap<usize, ()> = DiGraphMap::new();
    for (index, stage) in stages.iter().enumerate() {
        graph.add_node(index);
        for from in reads(&stage.draft) {
            graph.add_edge(from, index, ());
        }
    }
    for members in tarjan_scc(&graph) {
        if members.len() > 1 || graph.contains_edge(members[0], members[0]) {
            report.add(cycle(&members.into_iter().collect(), stages));
        }
    }
    let mut waiting: Vec<usize> =
        (0..stages.len()).map(|index| graph.neighbors_directed(index, Direction::Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..stages.len()).filter(|&index| waiting[index] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(stages.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for reader in graph.neighbors(index) {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    order.extend((0..stages.len()).filter(|&index| waiting[index] > 0));
    order
}

/// One way around a strongly connected set of stages, starting at its first stage in the file that lies on it.
fn cycle(members: &BTreeSet<usize>, stages: &[Linked]) -> Problem {
    let source = |index: usize| reads(&stages[index].draft).into_iter().find(|from| members.contains(from));
    let mut way: Vec<usize> = members.first().copied().into_iter().collect();
    while let Some(next) = way.last().and_then(|&last| source(last)) {
        if let Some(start) = way.iter().position(|&index| index == next) {
            way.drain(..start);
            break;
        }
        way.push(next);
    }
    let first = way.iter().position(|index| Some(index) == way.iter().min()).unwrap_or(0);
    way.rotate_left(first);
    way.push(way[0]);
    let names: Vec<String> = way.iter().map(|&index| format!("`{}`", stages[index].draft.name)).collect();
    let draft = &stages[way[0]].draft;
    let input =
        draft.inputs.iter().find(|input| matches!(input.from, Some(Origin::Stage { stage, .. }) if stage == way[1]));
    let title = format!("stages read each other in a circle: {}", names.join(" reads "));
    let problem = Problem::new("cycle", input.map_or(draft.span, |input| input.span), title);
    problem.label("expected a stage that does not depend on this one")
}

/// The axes of a stage, and those that each input is gathered over.
fn axes_of(
    stage: &Linked,
    stages: &[Linked],
    specs: &[AxisSpec],
    report: &mut Report,
) -> (Vec<usize>, Vec<Option<Vec<usize>>>) {
    let by_kind = stage.variants.each().next().is_some_and(|definition| gathers(definition));
    let gather = |written: &Option<Gather>| written.clone().or(by_kind.then_some(Gather::All));
    let mut axes = stage.draft.mentions();
    for input in &stage.draft.inputs {
        let Some(Origin::Stage { stage: from, gather: written, .. }) = &input.from else { continue };
        let theirs = &stages[*from].axes;
        match gather(written) {
            None => axes.extend(theirs),
            Some(Gather::All) => {}
            Some(Gather::Axes(over)) => {
                for axis in over.iter().filter(|axis| !theirs.contains(axis)) {
                    let (name, from) = (&specs[*axis].name, &stages[*from].draft.name);
                    let problem = Problem::new(
                        "unknown_axis",
                        input.span,
                        format!("stage `{from}` has no axis `{name}` to gather"),
                    );
                    report.add(problem.help(suggest(name, theirs.iter().map(|axis| &*specs[*axis].name))));
                }
                axes.extend(theirs.iter().filter(|axis| !over.contains(axis)));
            }
        }
    }
    let over = |input: &super::stages::InputDraft| {
        let Some(Origin::Stage { stage: from, gather: written, .. }) = &input.from else { return None };
        let theirs = stages[*from].axes.iter().copied();
        gather(written).map(|gather| match gather {
            Gather::All => theirs.filter(|axis| !axes.contains(axis)).collect(),
            Gather::Axes(over) => theirs.filter(|axis| over.contains(axis)).collect(),
        })
    };
    let gathered = stage.draft.inputs.iter().map(over).collect();
    (axes.into_iter().collect(), gathered)
}
