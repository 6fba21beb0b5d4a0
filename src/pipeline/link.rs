//! Stages joined to each other: their definitions, their order, their axes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::axes::{AxisSpec, MAX_CELLS, Rules};
use super::definition::{self, Definition, Definitions};
use super::grid::Grid;
use super::kinds::{Inputs, Kind};
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

/// Stages that read each other in a cycle which the earlier cells of an axis break; or, mostly, a single stage.
pub(super) struct Group {
    /// Every stage after those that it reads the same cells of.
    pub(super) stages: Vec<usize>,
    /// The axis, one value of which all stages make their cells for before the next.
    pub(super) axis: Option<usize>,
}

/// Links the stages. The second result is their order: every group after those that it reads, ties as in the file.
pub(super) fn link<'k>(
    drafts: Vec<Draft>,
    axes: &[AxisSpec],
    rules: &Rules,
    definitions: &mut Definitions<'k>,
    report: &mut Report,
) -> (Vec<Linked<'k>>, Vec<Group>) {
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
    let mut groups = order(&stages, report);
    for &index in groups.iter().flat_map(|group| &group.stages) {
        stages[index].axes = axes_of(&stages[index], &stages, axes, report);
    }
    // What is gathered of earlier cells depends on stages that come later.
    for index in 0..stages.len() {
        stages[index].gathered = gathered(&stages[index], &stages, axes, report);
    }
    for group in &mut groups {
        group.axis = turns(group, &stages, axes, report);
    }
    (stages, groups)
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
            let title = format!("`{}` and `{}` cannot be used in one stage", first.name, other.name);
            let problem = Problem::new("mixed_definitions", name.span, title);
            report.add(problem.label("expected definitions with the same outputs that gather alike"));
        }
    }
    Some(outputs)
}

fn gathers(definition: &Definition) -> bool {
    matches!(definition.runs(), definition::Body::Kind(kind, _) if matches!(kind.inputs, Inputs::Gathered { .. }))
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
                Inputs::Gathered { .. } => {
                    if draft.inputs.is_empty() {
                        let title = format!("`{}` needs at least one input", definition.name);
                        report.add(Problem::new("missing_input", name.span, title).label("expected `in:` next to it"));
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
        let secrets = &draft.secrets;
        if let definition::Body::Kind(kind, _) = definition.runs()
            && secrets.names.len() > kind.secrets
        {
            let takes = if kind.secrets == 0 { "no secrets" } else { "one secret" };
            let title = format!("`{}` takes {takes}", definition.name);
            report.add(Problem::new("misplaced_key", secrets.span, title));
        }
        for (required, _) in inputs.iter().filter(|(_, required)| *required) {
            if !draft.inputs.iter().any(|input| &*input.name == *required) {
                let title = format!("`{}` needs the input `{required}`", definition.name);
                let problem = Problem::new("missing_input", name.span, title);
                report.add(problem.label(format!("expected `in: {{ {required}: ... }}` next to it")));
            }
        }
    }
}

/// The stages that an input entry of `stage` names, each once, except those of which it reads earlier cells.
pub(super) fn reads(stage: &Draft) -> BTreeSet<usize> {
    let stages = stage.inputs.iter().filter_map(|input| match input.from {
        Some(Origin::Stage { stage, earlier: None, .. }) => Some(stage),
        _ => None,
    });
    stages.collect()
}

/// The stages of which `stage` reads earlier cells, each once.
pub(super) fn recalls(stage: &Draft) -> BTreeSet<usize> {
    let stages = stage.inputs.iter().filter_map(|input| match input.from {
        Some(Origin::Stage { stage, earlier: Some(_), .. }) => Some(stage),
        _ => None,
    });
    stages.collect()
}

/// Every group of stages after those that it reads. Stages in a cycle that nothing breaks are reported.
fn order(stages: &[Linked], report: &mut Report) -> Vec<Group> {
    let (mut reading, mut all): (DiGraphMap<usize, ()>, DiGraphMap<usize, ()>) = Default::default();
    for (index, stage) in stages.iter().enumerate() {
        reading.add_node(index);
        all.add_node(index);
        for from in reads(&stage.draft) {
            reading.add_edge(from, index, ());
            all.add_edge(from, index, ());
        }
        for from in recalls(&stage.draft) {
            all.add_edge(from, index, ());
        }
    }
    for members in tarjan_scc(&reading) {
        if members.len() > 1 || reading.contains_edge(members[0], members[0]) {
            report.add(cycle(&members.into_iter().collect(), stages));
        }
    }
    let mut groups: Vec<BTreeSet<usize>> =
        tarjan_scc(&all).into_iter().map(|members| members.into_iter().collect()).collect();
    groups.sort_unstable();
    let mut group_of = vec![0; stages.len()];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&stage| group_of[stage] = number);
    }
    let mut between: DiGraphMap<usize, ()> = DiGraphMap::new();
    for group in 0..groups.len() {
        between.add_node(group);
    }
    for (from, to, ()) in all.all_edges().filter(|(from, to, ())| group_of[*from] != group_of[*to]) {
        between.add_edge(group_of[from], group_of[to], ());
    }
    let inside = |group: usize| {
        let mut graph: DiGraphMap<usize, ()> = DiGraphMap::new();
        for &stage in &groups[group] {
            graph.add_node(stage);
        }
        for (from, to, ()) in
            reading.all_edges().filter(|(from, to, ())| group_of[*from] == group && group_of[*to] == group)
        {
            graph.add_edge(from, to, ());
        }
        Group { stages: sorted(&graph), axis: None }
    };
    sorted(&between).into_iter().map(inside).collect()
}

/// Every node after those that have an edge to it, smaller ones first; those in a cycle come last.
fn sorted(graph: &DiGraphMap<usize, ()>) -> Vec<usize> {
    let mut waiting: BTreeMap<usize, usize> =
        graph.nodes().map(|node| (node, graph.neighbors_directed(node, Direction::Incoming).count())).collect();
    let mut ready: BTreeSet<usize> = waiting.iter().filter(|(_, count)| **count == 0).map(|(node, _)| *node).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(node) = ready.pop_first() {
        waiting.remove(&node);
        order.push(node);
        for reader in graph.neighbors(node) {
            if let Some(count) = waiting.get_mut(&reader) {
                *count -= 1;
                if *count == 0 {
                    ready.insert(reader);
                }
            }
        }
    }
    order.extend(waiting.into_keys());
    order
}

/// The axis by whose values the stages of a group take turns; nothing if none of them reads earlier cells of another. A
/// cycle that the axis does not break is reported.
fn turns(group: &Group, stages: &[Linked], specs: &[AxisSpec], report: &mut Report) -> Option<usize> {
    let earlier =
        group.stages.iter().flat_map(|&index| &stages[index].draft.inputs).find_map(|input| match &input.from {
            Some(Origin::Stage { stage, earlier: Some(earlier), .. }) if group.stages.contains(stage) => {
                Some(earlier.axis)
            }
            _ => None,
        });
    let axis = earlier?;
    let name = &specs[axis].name;
    for &index in &group.stages {
        let stage = &stages[index];
        for (input, over) in stage.draft.inputs.iter().zip(&stage.gathered) {
            let Some(Origin::Stage { stage: from, earlier, .. }) = &input.from else { continue };
            if !group.stages.contains(from) {
                continue;
            }
            let wrong = match earlier {
                Some(earlier) if earlier.axis != axis => {
                    Some(format!("reads earlier cells of `{}`", specs[earlier.axis].name))
                }
                Some(_) => None,
                None if over.as_ref().is_some_and(|over| over.contains(&axis)) => {
                    Some(format!("gathers `{name}` itself"))
                }
                None if !stage.axes.contains(&axis) => Some(format!("has no axis `{name}`")),
                None => None,
            };
            if let Some(wrong) = wrong {
                let title = format!(
                    "dependency cycle between stages that `{name}` must break, but `{}` {wrong}",
                    stage.draft.name
                );
                report.add(Problem::new("cycle", input.span, title));
            }
        }
    }
    Some(axis)
}

/// One way around a strongly connected set of stages, starting at its first stage in the file.
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
    let title = format!("dependency cycle between stages: {}", names.join(" reads "));
    let problem = Problem::new("cycle", input.map_or(draft.span, |input| input.span), title);
    let problem = problem.label("expected a stage that does not depend on this one");
    problem.help("`{ from: STAGE, earlier: AXIS }` reads the cells of earlier values of an axis alone".to_owned())
}

fn gather_of(stage: &Linked, written: Option<&Gather>) -> Option<Gather> {
    let by_kind = stage.variants.each().next().is_some_and(|definition| gathers(definition));
    written.cloned().or(by_kind.then_some(Gather::All))
}

/// The axes of a stage: those that it mentions, those of its inputs that are not gathered, and those whose earlier cells it
/// reads.
fn axes_of(stage: &Linked, stages: &[Linked], specs: &[AxisSpec], report: &mut Report) -> Vec<usize> {
    let mut axes = stage.draft.mentions();
    for input in &stage.draft.inputs {
        let Some(Origin::Stage { stage: from, gather: written, earlier, .. }) = &input.from else { continue };
        if let Some(earlier) = earlier {
            axes.insert(earlier.axis);
            continue;
        }
        let theirs = &stages[*from].axes;
        match gather_of(stage, written.as_ref()) {
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
    axes.into_iter().collect()
}

/// The axes that each input of a stage is gathered over.
fn gathered(stage: &Linked, stages: &[Linked], specs: &[AxisSpec], report: &mut Report) -> Vec<Option<Vec<usize>>> {
    let mut over: Vec<Option<Vec<usize>>> = Vec::with_capacity(stage.draft.inputs.len());
    let reserved = stage.variants.each().flat_map(|definition| match definition.runs() {
        definition::Body::Kind(Kind { inputs: Inputs::Gathered { reserved }, .. }, _) => *reserved,
        _ => &[],
    });
    let reserved: Vec<&str> = reserved.copied().collect();
    for input in &stage.draft.inputs {
        let Some(Origin::Stage { stage: from, gather: written, earlier, .. }) = &input.from else {
            over.push(None);
            continue;
        };
        let theirs = stages[*from].axes.iter().copied();
        over.push(match (earlier, gather_of(stage, written.as_ref())) {
            (_, None) => None,
            (Some(earlier), _) => {
                if !stages[*from].axes.contains(&earlier.axis) {
                    let name = &specs[earlier.axis].name;
                    let title = format!("stage `{}` has no axis `{name}`, so none earlier", stages[*from].draft.name);
                    report.add(Problem::new("unknown_axis", input.span, title));
                }
                Some(theirs.filter(|axis| *axis == earlier.axis || !stage.axes.contains(axis)).collect())
            }
            (None, Some(Gather::All)) => Some(theirs.filter(|axis| !stage.axes.contains(axis)).collect()),
            (None, Some(Gather::Axes(axes))) => Some(theirs.filter(|axis| axes.contains(axis)).collect()),
        });
        let gathered: &[usize] = over.last().and_then(Option::as_deref).unwrap_or_default();
        for name in gathered.iter().map(|axis| &*specs[*axis].name).filter(|name| reserved.contains(name)) {
            let title =
                format!("`{}` gathers the axis `{name}`, a word that means something else there", stage.draft.name);
            let problem = Problem::new("reserved_axis", input.span, title).label("give that axis another name");
            report.add(problem.help(format!("reserved here: `{}`", reserved.join("`, `"))));
        }
    }
    over
}
