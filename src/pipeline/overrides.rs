//! `--set a.b=c`, and `cases`, groups of such changes in the file that the value of a parameter picks: applied before
//! anything is looked up.

use std::path::Path;

use super::axes::{AxisSpec, Rules, pick};
use super::problem::{Problem, Report, Span, suggest};
use super::schema::mismatch;
use super::yaml::{self, Data, Entry, Node};

/// A flag that keeps only some values of an axis.
pub(super) struct Restriction {
    axis: String,
    place: Span,
    values: Node,
}

/// One change: a dotted target and its value.
struct Change {
    target: String,
    place: Span,
    value: Node,
}

/// Applies the cases that parameters pick, then every flag, to the tree of the file; changes of axes are returned, to
/// be applied once the axes are known.
pub(super) fn apply(root: &mut Node, overrides: &[(String, String)], report: &mut Report) -> Vec<Restriction> {
    let mut flags = Vec::new();
    for (target, value) in overrides {
        let source = report.source(Path::new("--set"), format!("{target}={value}").into());
        let place = Span { source, start: 0, end: target.len() as u32 };
        let value = match value.trim() {
            "" => Some(Node::new(place, Data::Null)),
            _ => yaml::parse_from(report, source, target.len() + 1),
        };
        flags.extend(value.map(|value| Change { target: target.clone(), place, value }));
    }
    let (mut restrictions, mut removed) = (Vec::new(), Vec::new());
    for case in picked(root, &flags, report) {
        change(root, case, &mut restrictions, &mut removed, report);
    }
    // What a flag says of an axis replaces what a case does.
    restrictions.retain(|case: &Restriction| flags.iter().all(|flag| flag.target != format!("axes.{}", case.axis)));
    for flag in flags {
        change(root, flag, &mut restrictions, &mut removed, report);
    }
    restrictions
}

/// The changes of the cases that parameters pick, as the flags set those parameters.
fn picked(root: &Node, flags: &[Change], report: &mut Report) -> Vec<Change> {
    let Some(cases) = root.get("cases") else { return Vec::new() };
    if !matches!(cases.data, Data::Map(_)) {
        report.add(mismatch(
            cases,
            "cases",
            "a mapping from parameters to the changes that each of their values makes",
        ));
        return Vec::new();
    }
    let mut found = Vec::new();
    for Entry { key, key_span, value: choices } in cases.entries() {
        let written = root.get("params").and_then(|params| params.get(key));
        let Some(written) = written else {
            let names = root.get("params").map_or_else(Vec::new, |params| params.child_names());
            let problem = Problem::new("unknown_parameter", *key_span, format!("there is no parameter `{key}`"));
            report.add(problem.help(suggest(key, names.iter().map(String::as_str))));
            continue;
        };
        let flag = flags.iter().rev().find(|flag| flag.target.strip_prefix("params.").unwrap_or(&flag.target) == key);
        let chosen = flag.map_or(written, |flag| &flag.value);
        let name = chosen.scalar().unwrap_or_default();
        let Some(changes) = choices.get(&name) else {
            let title = format!("`{key}` is {}, which has no case", chosen.described());
            let names = choices.child_names();
            report.add(
                Problem::new("unknown_case", chosen.span, title).help(suggest(&name, names.iter().map(String::as_str))),
            );
            continue;
        };
        if !matches!(changes.data, Data::Map(_) | Data::Null) {
            report.add(mismatch(changes, "a case", "a mapping from what `--set` can name to values"));
        }
        found.extend(changes.entries().iter().map(|entry| Change {
            target: entry.key.clone(),
            place: entry.key_span,
            value: entry.value.clone(),
        }));
    }
    found
}

/// Applies one change; `removed` are the stages that changes have removed: two changes may remove the same one.
fn change(
    root: &mut Node,
    change: Change,
    restrictions: &mut Vec<Restriction>,
    removed: &mut Vec<String>,
    report: &mut Report,
) {
    let Change { target, place, value } = change;
    let names: Vec<&str> = target.split('.').collect();
    let done = match names.as_slice() {
        ["axes", axis] => {
            restrictions.push(Restriction { axis: (*axis).to_owned(), place, values: value });
            Ok(())
        }
        ["stages", stage] if value.data == Data::Null && removed.iter().any(|name| name == stage) => Ok(()),
        ["stages", stage] => {
            removed.extend((value.data == Data::Null).then(|| (*stage).to_owned()));
            set_stage(root, stage, value, place)
        }
        ["stages", stage, "in", input] => set_input(root, stage, input, value, place),
        // A parameter may still be at its default.
        ["stages", stage, rest @ ..] if rest.first() == Some(&"with") => {
            stage_mut(root, stage, place).and_then(|stage| set_below(stage, rest, value, place))
        }
        ["params", rest @ ..] if !rest.is_empty() => set_existing(root, rest, value, place),
        rest => set_existing(root, rest, value, place),
    };
    if let Err(problem) = done {
        report.add(*problem);
    }
}

/// Keeps the values that the flags name.
pub(super) fn restrict(axes: &mut [AxisSpec], rules: &mut Rules, restrictions: &[Restriction], report: &mut Report) {
    for restriction in restrictions {
        let Some(index) = axes.iter().position(|axis| *axis.name == *restriction.axis) else {
            let title = format!("there is no axis `{}`", restriction.axis);
            let problem = Problem::new("unknown_axis", restriction.place, title);
            report.add(problem.help(suggest(&restriction.axis, axes.iter().map(|axis| &*axis.name))));
            continue;
        };
        let before = report.count();
        let keep = pick(&axes[index], &restriction.values, report);
        if !keep.contains(&true) && report.count() == before {
            let title = format!("axis `{}` would have no values", restriction.axis);
            report.add(Problem::new("empty_axis", restriction.place, title));
        }
        // A flag that is wrong does not make the file look wrong.
        if report.count() == before {
            axes[index].restrict(&keep);
            rules.restrict(index, &keep);
        }
    }
}

/// Replaces a value below `params`, which must be there.
fn set_existing(root: &mut Node, names: &[&str], value: Node, place: Span) -> Result<(), Box<Problem>> {
    let mut node = child_mut(root, "params");
    let mut known = node.as_ref().map_or_else(Vec::new, |params| params.child_names());
    for (depth, name) in names.iter().enumerate() {
        let next = node.take().and_then(|node| child_mut(node, name));
        let Some(next) = next else {
            let written = names[..=depth].join(".");
            let problem = Problem::new("unknown_parameter", place, format!("there is no parameter `{written}` to set"));
            let help = suggest(name, known.iter().map(String::as_str));
            let other = "also to be set: `axes.NAME` and `stages.NAME.with.KEY`".to_owned();
            return Err(Box::new(problem.help(help.or(Some(other)))));
        };
        known = next.child_names();
        node = Some(next);
    }
    if let Some(node) = node {
        *node = value;
    }
    Ok(())
}

/// The stage of that name.
fn stage_mut<'a>(root: &'a mut Node, stage: &str, place: Span) -> Result<&'a mut Node, Box<Problem>> {
    let known = child_mut(root, "stages").map_or_else(Vec::new, |stages| stages.child_names());
    child_mut(root, "stages").and_then(|stages| child_mut(stages, stage)).ok_or_else(|| {
        let problem = Problem::new("unknown_stage", place, format!("there is no stage `{stage}`"));
        Box::new(problem.help(suggest(stage, known.iter().map(String::as_str))))
    })
}

/// Adds a stage, replaces it, or removes it if the value is null.
fn set_stage(root: &mut Node, stage: &str, value: Node, place: Span) -> Result<(), Box<Problem>> {
    match value.data {
        Data::Map(_) => set_below(root, &["stages", stage], value, place),
        Data::Null => {
            stage_mut(root, stage, place)?;
            if let Some(Node { data: Data::Map(stages), .. }) = child_mut(root, "stages") {
                stages.retain(|entry| entry.key != stage);
            }
            Ok(())
        }
        _ => {
            let title = format!("a stage cannot be set to {}", value.described());
            let problem = Problem::new("wrong_type", value.span, title);
            Err(Box::new(problem.label("expected a stage, or nothing, which removes it")))
        }
    }
}

/// Sets an input of a stage, or removes it if the value is null.
fn set_input(root: &mut Node, stage: &str, input: &str, value: Node, place: Span) -> Result<(), Box<Problem>> {
    if value.data == Data::Null {
        if let Some(Node { data: Data::Map(inputs), .. }) = child_mut(stage_mut(root, stage, place)?, "in") {
            inputs.retain(|entry| entry.key != input);
        }
        return Ok(());
    }
    set_below(stage_mut(root, stage, place)?, &["in", input], value, place)
}

/// Sets the value at a path of keys, creating the mappings on the way that do not exist.
fn set_below(mut node: &mut Node, names: &[&str], value: Node, place: Span) -> Result<(), Box<Problem>> {
    for name in names.iter().copied() {
        if node.data == Data::Null {
            node.data = Data::Map(Vec::new());
        }
        let described = node.described();
        let Data::Map(entries) = &mut node.data else {
            let title = format!("`{name}` cannot be set below {described}");
            let related = node.span;
            return Err(Box::new(Problem::new("wrong_type", place, title).related(related, "this is not a mapping")));
        };
        let index = match entries.iter().position(|entry| entry.key == name) {
            Some(index) => index,
            None => {
                let value = Node::new(place, Data::Null);
                entries.push(Entry { key: name.to_owned(), key_span: place, value });
                entries.len() - 1
            }
        };
        node = &mut entries[index].value;
    }
    *node = value;
    Ok(())
}

fn child_mut<'a>(node: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    match &mut node.data {
        Data::Map(entries) => entries.iter_mut().find(|entry| entry.key == name).map(|entry| &mut entry.value),
        Data::List(items) => name.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
        _ => None,
    }
}
