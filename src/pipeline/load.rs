//! From a file to a checked pipeline.

use std::collections::BTreeSet;
use std::path::Path;

use super::axes::{self, Rules};
use super::definition::Definitions;
use super::expand::Expansion;
use super::interpolate::{bind_text, resolve};
use super::kinds::Kinds;
use super::link::{link, reads, recalls};
use super::model::{Pipeline, Stage};
use super::overrides;
use super::params::{Params, resolve_params};
use super::policy::read_resources;
use super::problem::{Problem, Problems, Report, Span, suggest};
use super::read::read_text;
use super::schema::mismatch;
use super::stages::Context;
use super::yaml::{self, Data, Node};

pub(super) const KEYS: [&str; 10] =
    ["name", "description", "params", "cases", "axes", "include", "exclude", "resources", "shell", "stages"];

/// Reads and checks a pipeline.
///
/// `overrides` are `--set` flags as (target, value). `kinds` are the stage kinds that the program has, and `definitions`
/// the stage definitions that are built into it, as (name, YAML text); those below the nearest `stages/` folder of the
/// file's project come first.
///
/// # Errors
/// Everything that is wrong with the file, the flags and the definitions that it uses, all at once.
pub fn load(
    file: &Path,
    overrides: &[(String, String)],
    kinds: &Kinds,
    definitions: &[(&str, &str)],
) -> Result<Pipeline, Problems> {
    let mut report = Report::default();
    let pipeline = read(file, overrides, kinds, definitions, &mut report);
    report.finish(pipeline)
}

fn read(
    file: &Path,
    overrides: &[(String, String)],
    kinds: &Kinds,
    embedded: &[(&str, &str)],
    report: &mut Report,
) -> Option<Pipeline> {
    let text = read_text(file, report)?;
    let source = report.source(file, text);
    let mut root = yaml::parse(report, source)?;
    if !matches!(root.data, Data::Map(_)) {
        report.add(mismatch(&root, "a pipeline", "a mapping with a key `stages`"));
        return None;
    }
    let restrictions = overrides::apply(&mut root, overrides, report);
    for entry in root.entries() {
        if !KEYS.contains(&entry.key.as_str()) {
            let problem = Problem::new("unknown_key", entry.key_span, format!("a pipeline has no key `{}`", entry.key));
            report.add(problem.help(suggest(&entry.key, KEYS)));
        }
    }
    let empty = super::params::none(Span { source, start: 0, end: 0 });
    let params = root.get("params").unwrap_or(&empty);
    if !matches!(params.data, Data::Map(_) | Data::Null) {
        report.add(mismatch(params, "params", "a mapping from names to values"));
    }
    let params = resolve_params(params, report);
    let constant =
        |key: &str, report: &mut Report| root.get(key).map(|node| resolve(node, &mut Params(&params), report));

    let name = pipeline_name(file, &root, &params, report);
    let description =
        root.get("description").and_then(|node| bind_text(node, "`description`", &mut Params(&params), report));
    let capacity = read_resources(constant("resources", report).as_ref(), report);
    let mut axes = axes::read(&constant("axes", report).unwrap_or(empty), report);
    let (include, exclude) = (constant("include", report), constant("exclude", report));
    let mut rules = Rules::read(include.as_ref(), exclude.as_ref(), &axes, report);
    overrides::restrict(&mut axes, &mut rules, &restrictions, report);

    let stages = root.get("stages");
    let entries = stages.map_or(&[][..], Node::entries);
    if entries.is_empty() {
        let place = stages.map_or(Span { source, start: 0, end: 0 }, |stages| stages.span);
        let problem = Problem::new("no_stages", place, "the pipeline has no stages");
        report.add(problem.label("expected `stages:` with a name for each stage"));
        return None;
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let context = Context {
        params: &params,
        axes: &axes,
        stages: entries.iter().map(|entry| entry.key.as_str()).collect(),
        folder,
        capacity: &capacity,
        shell: constant("shell", report).and_then(|node| super::shell::read(&node, report)),
    };
    let drafts = entries.iter().map(|entry| context.read(entry, report)).collect();
    let mut definitions = Definitions::new(file, kinds, embedded);
    let (linked, groups) = link(drafts, &axes, &rules, &mut definitions, report);
    let order: Vec<usize> = groups.iter().flat_map(|group| &group.stages).copied().collect();
    let (axes_of, stages_of) = (&axes, &linked);
    let expansion = Expansion {
        name: &name,
        folder,
        axes: axes_of,
        rules: &rules,
        stages: stages_of,
        groups: &groups,
        order: &order,
    };
    let cells = expansion.cells(report);
    let replaced = definitions.replaced();

    let mut position = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, &index)| position[index] = place);
    let stages = order.iter().map(|&index| {
        let stage = &linked[index];
        let places = |stages: BTreeSet<usize>| -> Vec<usize> {
            let places: BTreeSet<usize> = stages.into_iter().map(|from| position[from]).collect();
            places.into_iter().collect()
        };
        Stage {
            name: stage.draft.name.clone(),
            description: stage.draft.description.clone(),
            axes: stage.axes.clone(),
            reads: places(reads(&stage.draft)),
            recalls: places(recalls(&stage.draft)),
            policy: stage.draft.policy.clone(),
        }
    });
    Some(Pipeline {
        name,
        file: file.to_owned(),
        description: description.map(|text| text.fill(&[])),
        stages: stages.collect(),
        axes: axes.iter().map(axes::AxisSpec::to_model).collect(),
        cells: cells.into(),
        resources: capacity,
        replaced,
    })
}

/// `name:`, or the file's stem; it names a folder.
fn pipeline_name(file: &Path, root: &Node, params: &Node, report: &mut Report) -> String {
    let written = root.get("name");
    let name = match written {
        Some(node) => match bind_text(node, "`name`", &mut Params(params), report) {
            Some(text) => text.fill(&[]),
            None => return String::new(),
        },
        None => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.chars().all(allowed) || !name.contains(|c: char| c.is_ascii_alphanumeric()) {
        let place = written.map_or(Span { end: root.span.start, ..root.span }, |node| node.span);
        let problem = Problem::new("bad_name", place, format!("`{name}` cannot name a pipeline"));
        let help = written.is_none().then(|| "write a `name:`; without one it is the file's".to_owned());
        report.add(problem.label("expected letters, digits, `.`, `_` or `-`").help(help));
    }
    name
}

#[cfg(test)]
mod tests;
