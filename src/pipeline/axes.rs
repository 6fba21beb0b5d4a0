//! `axes:`, `include:` and `exclude:`: which points there are.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use wildmatch::WildMatch;

use super::interpolate::is_name;
use super::model::{Axis, AxisValue};
use super::problem::{Problem, Report, Span, suggest};
use super::yaml::{Data, Node};

/// A pipeline may have this many cells.
pub(super) const MAX_CELLS: u64 = 1_000_000;

/// First names of references that no axis can take.
const RESERVED: [&str; 4] = ["params", "with", "in", "out"];

/// An axis as it is written, value by value.
#[derive(Debug, Clone)]
pub(super) struct AxisSpec {
    pub(super) name: Arc<str>,
    /// What cells and text call the values.
    pub(super) names: Arc<[Arc<str>]>,
    /// What `${axis}` is as a whole value.
    pub(super) nodes: Arc<[Node]>,
}

impl AxisSpec {
    /// Keeps the values that `keep` marks.
    pub(super) fn restrict(&mut self, keep: &[bool]) {
        self.names = self.names.iter().zip(keep).filter(|(_, keep)| **keep).map(|(name, _)| name.clone()).collect();
        self.nodes = self.nodes.iter().zip(keep).filter(|(_, keep)| **keep).map(|(node, _)| node.clone()).collect();
    }

    pub(super) fn to_model(&self) -> Axis {
        let values = self.names.iter().zip(self.nodes.iter());
        let values = values.map(|(name, node)| AxisValue { name: name.clone(), value: node.to_json() }).collect();
        Axis { name: self.name.clone(), values }
    }
}

/// Reads `axes:`, whose parameters are already looked up.
pub(super) fn read(node: &Node, report: &mut Report) -> Vec<AxisSpec> {
    if !matches!(node.data, Data::Map(_) | Data::Null) {
        let problem = Problem::new("wrong_type", node.span, "`axes` must be a mapping from names to values");
        report.add(problem.label(format!("expected a mapping, found {}", node.described())));
    }
    let mut axes = Vec::new();
    for entry in node.entries() {
        let name = entry.key.as_str();
        if !is_name(name) || RESERVED.contains(&name) {
            let problem = Problem::new("bad_name", entry.key_span, format!("`{name}` cannot name an axis"));
            report
                .add(problem.label("expected letters, digits, `_` or `-`, and none of `params`, `with`, `in`, `out`"));
            continue;
        }
        let values = values(name, entry.key_span, &entry.value, report);
        let (names, nodes): (Vec<_>, Vec<_>) = values.unwrap_or_default().into_iter().unzip();
        axes.push(AxisSpec { name: name.into(), names: names.into(), nodes: nodes.into() });
    }
    axes
}

fn values(axis: &str, key: Span, node: &Node, report: &mut Report) -> Option<Vec<(Arc<str>, Node)>> {
    let mut values: Vec<(Arc<str>, Node)> = Vec::new();
    let mut seen: FxHashMap<Arc<str>, Span> = FxHashMap::default();
    let mut add = |name: String, place: Span, value: Node, report: &mut Report| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        if name.is_empty() || !name.chars().all(allowed) || name.chars().all(|c| c == '.') {
            let problem = Problem::new("bad_name", place, format!("`{name}` cannot name a value of axis `{axis}`"));
            let help =
                format!("give it a name and a field: `{axis}: {{ name: {{ value: ... }} }}`, then `${{{axis}.value}}`");
            report.add(problem.label("expected letters, digits, `.`, `_`, `+` or `-`: it names files").help(help));
            return;
        }
        let name: Arc<str> = name.into();
        if let Some(&first) = seen.get(&name) {
            let problem = Problem::new("duplicate_value", place, format!("axis `{axis}` has `{name}` twice"));
            report.add(problem.label("again here").related(first, "first here"));
            return;
        }
        seen.insert(name.clone(), place);
        values.push((name, value));
    };
    match &node.data {
        Data::List(items) => {
            for item in items {
                match item.scalar() {
                    Some(name) => add(name, item.span, item.clone(), report),
                    None => {
                        let title = format!("a value of axis `{axis}` must be a scalar");
                        let problem = Problem::new("wrong_type", item.span, title);
                        let help = match item.data {
                            Data::Null => "leave it out, or put it in quotes if it is a name".to_owned(),
                            _ => format!(
                                "values with fields are written as a mapping: `{axis}: {{ name: {{ field: ... }} }}`"
                            ),
                        };
                        report.add(problem.label(format!("found {}", item.described())).help(help));
                    }
                }
            }
        }
        Data::Map(entries) => {
            for entry in entries {
                let value = match &entry.value.data {
                    Data::Null => Node::new(entry.key_span, Data::Text(entry.key.clone())),
                    Data::Map(fields) if fields.is_empty() => Node::new(entry.key_span, Data::Text(entry.key.clone())),
                    Data::Map(_) => entry.value.clone(),
                    _ => {
                        let title = format!("the fields of `{}` on axis `{axis}` must be a mapping", entry.key);
                        let problem = Problem::new("wrong_type", entry.value.span, title);
                        let help = format!("write `{}: {{ value: ... }}` and `${{{axis}.value}}`", entry.key);
                        report.add(problem.label(format!("found {}", entry.value.described())).help(help));
                        continue;
                    }
                };
                add(entry.key.clone(), entry.key_span, value, report);
            }
        }
        Data::Text(text) if Range::parse(text).is_some_and(|range| range.start.is_some() && range.end.is_some()) => {
            let (start, end) = Range::parse(text)?.bounds();
            let count = end.saturating_sub(start).max(0) as u64;
            if count > MAX_CELLS {
                let title = format!("axis `{axis}` has {count} values, more than the {MAX_CELLS} cells of a pipeline");
                report.add(Problem::new("too_many_cells", node.span, title));
                return None;
            }
            for value in start..end {
                values.push((value.to_string().into(), Node::new(node.span, Data::Number(value.into()))));
            }
        }
        Data::Null => {}
        _ => {
            let problem = Problem::new("wrong_type", node.span, format!("axis `{axis}` must be a list of values"));
            let help = "write `[a, b]`, a range such as `0..5`, or a mapping from names to fields".to_owned();
            report.add(problem.label(format!("found {}", node.described())).help(help));
            return None;
        }
    }
    let written_empty = match &node.data {
        Data::List(items) => items.is_empty(),
        Data::Map(entries) => entries.is_empty(),
        _ => values.is_empty(),
    };
    if written_empty {
        let problem = Problem::new("empty_axis", key, format!("axis `{axis}` has no values"));
        report.add(problem.label("its stages would have no cells"));
    }
    Some(values)
}

/// Whole numbers from a start to an end; an open end includes all there are.
struct Range {
    start: Option<i64>,
    end: Option<i64>,
    inclusive: bool,
}

impl Range {
    /// Reads `0..5`, `0..=4`, `3..`, `..2`; nothing if the text is not a range.
    fn parse(text: &str) -> Option<Range> {
        let (start, end) = text.split_once("..")?;
        let (end, inclusive) = end.strip_prefix('=').map_or((end, false), |end| (end, true));
        let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        let range = Range { start: bound(start)?, end: bound(end)?, inclusive };
        (range.start.is_some() || range.end.is_some()).then_some(range)
    }

    /// First number, and the number after the last.
    fn bounds(&self) -> (i64, i64) {
        let end = self.end.unwrap_or(i64::MAX);
        (self.start.unwrap_or(i64::MIN), if self.inclusive { end.saturating_add(1) } else { end })
    }
}

/// Which values a pattern means: a name, a range over whole numbers, or a name with `*` and `?`.
pub(super) fn matching<'a>(names: impl Iterator<Item = &'a str>, pattern: &str) -> Vec<bool> {
    if let Some(range) = Range::parse(pattern) {
        let (start, end) = range.bounds();
        return names.map(|name| name.parse().is_ok_and(|value: i64| (start..end).contains(&value))).collect();
    }
    if pattern.contains(['*', '?']) {
        let wild = WildMatch::new(pattern);
        return names.map(|name| wild.matches(name)).collect();
    }
    names.map(|name| name == pattern).collect()
}

/// Reads the values that a rule or a flag names: a pattern or a list of them. One that means no value is reported.
pub(super) fn pick(axis: &AxisSpec, node: &Node, report: &mut Report) -> Vec<bool> {
    let mut picked = vec![false; axis.names.len()];
    let items = match &node.data {
        Data::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    for item in items {
        let Some(pattern) = item.scalar() else {
            let title = format!("the values of axis `{}` are named by texts", axis.name);
            let problem = Problem::new("wrong_type", item.span, title);
            report
                .add(problem.label(format!("expected a name, a range or a list of them, found {}", item.described())));
            continue;
        };
        let found = matching(axis.names.iter().map(|name| &**name), &pattern);
        if !found.contains(&true) && !axis.names.is_empty() {
            let problem =
                Problem::new("unknown_axis_value", item.span, format!("axis `{}` has no value `{pattern}`", axis.name));
            report.add(problem.help(suggest(&pattern, axis.names.iter().map(|name| &**name))));
        }
        picked.iter_mut().zip(found).for_each(|(picked, found)| *picked |= found);
    }
    picked
}

/// One entry of `include:` or `exclude:`: the values that it means on each of its axes.
#[derive(Debug)]
struct Rule(Vec<(usize, Vec<bool>)>);

impl Rule {
    fn matches(&self, point: &[u32]) -> bool {
        self.0.iter().all(|(axis, values)| values[point[*axis] as usize])
    }
}

/// `include:` and `exclude:` together.
#[derive(Debug, Default)]
pub(super) struct Rules {
    include: Vec<Rule>,
    exclude: Vec<Rule>,
}

impl Rules {
    /// Reads both lists, whose parameters are already looked up.
    pub(super) fn read(
        include: Option<&Node>,
        exclude: Option<&Node>,
        axes: &[AxisSpec],
        report: &mut Report,
    ) -> Rules {
        let mut read = |key, node: Option<&Node>| node.map_or_else(Vec::new, |node| rules(key, node, axes, report));
        Rules { include: read("include", include), exclude: read("exclude", exclude) }
    }

    /// Drops the values that a flag removed from an axis.
    pub(super) fn restrict(&mut self, axis: usize, keep: &[bool]) {
        for rule in self.include.iter_mut().chain(&mut self.exclude) {
            for (_, values) in rule.0.iter_mut().filter(|(of, _)| *of == axis) {
                let mut keep = keep.iter();
                values.retain(|_| keep.next().is_none_or(|keep| *keep));
            }
        }
    }

    /// The rules as they apply to a stage of these axes.
    pub(super) fn on(&self, axes: &[usize]) -> Filter<'_> {
        let exclude = self.exclude.iter().filter(|rule| rule.0.iter().all(|(axis, _)| axes.contains(axis))).collect();
        let shared = |rule: &Rule| {
            Rule(rule.0.iter().filter(|(axis, _)| axes.contains(axis)).map(|(axis, v)| (*axis, v.clone())).collect())
        };
        Filter { include: self.include.iter().map(shared).collect(), exclude }
    }
}

/// Which points a stage keeps.
pub(super) struct Filter<'a> {
    include: Vec<Rule>,
    exclude: Vec<&'a Rule>,
}

impl Filter<'_> {
    /// Whether a cell at this point is kept; `point` has an index for every axis of the pipeline.
    pub(super) fn keeps(&self, point: &[u32]) -> bool {
        !self.exclude.iter().any(|rule| rule.matches(point))
            && (self.include.is_empty() || self.include.iter().any(|rule| rule.matches(point)))
    }
}

fn rules(key: &str, node: &Node, axes: &[AxisSpec], report: &mut Report) -> Vec<Rule> {
    let items = match &node.data {
        Data::List(items) => items.as_slice(),
        Data::Null => &[],
        _ => {
            let problem = Problem::new("wrong_type", node.span, format!("`{key}` must be a list of mappings"));
            report.add(problem.label(format!("expected `- {{ axis: value }}`, found {}", node.described())));
            return Vec::new();
        }
    };
    let mut rules = Vec::new();
    for item in items {
        if item.entries().is_empty() {
            let title = format!("an entry of `{key}` must name an axis and its values");
            let problem = Problem::new("wrong_type", item.span, title);
            report.add(problem.label(format!("expected `{{ axis: value }}`, found {}", item.described())));
            continue;
        }
        let mut rule = Vec::new();
        for entry in item.entries() {
            match axes.iter().position(|axis| *axis.name == *entry.key) {
                Some(axis) => rule.push((axis, pick(&axes[axis], &entry.value, report))),
                None => {
                    let title = format!("there is no axis `{}`", entry.key);
                    let problem = Problem::new("unknown_axis", entry.key_span, title);
                    report.add(problem.help(suggest(&entry.key, axes.iter().map(|axis| &*axis.name))));
                }
            }
        }
        rules.push(Rule(rule));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(pattern: &str) -> Vec<&'static str> {
        let names = ["glyphs", "textures", "-1", "2", "3", "10"];
        let found = matching(names.into_iter(), pattern);
        names.into_iter().zip(found).filter(|(_, found)| *found).map(|(name, _)| name).collect()
    }

    #[test]
    fn patterns_are_names_ranges_and_wildcards() {
        assert_eq!(matched("glyphs"), ["glyphs"]);
        assert_eq!(matched("*s"), ["glyphs", "textures"]);
        assert_eq!(matched("?"), ["2", "3"]);
        assert_eq!(matched("2..10"), ["2", "3"]);
        assert_eq!(matched("2..=10"), ["2", "3", "10"]);
        assert_eq!(matched("..3"), ["-1", "2"]);
        assert_eq!(matched("3.."), ["3", "10"]);
        assert_eq!(matched("-1..0"), ["-1"]);
        assert!(matched("..").is_empty());
        assert!(matched("1").is_empty());
    }

    #[test]
    fn a_rule_bears_on_stages_that_have_its_axes() {
        let rule = |pairs: &[(usize, [bool; 2])]| Rule(pairs.iter().map(|(a, v)| (*a, v.to_vec())).collect());
        let rules = Rules {
            exclude: vec![rule(&[(0, [true, false]), (1, [false, true])])],
            include: vec![rule(&[(1, [true, true]), (2, [true, false])])],
        };
        assert!(rules.on(&[0]).keeps(&[0, 1, 1]), "the excluding rule needs axis 1 too");
        assert!(!rules.on(&[0, 1]).keeps(&[0, 1, 0]));
        assert!(rules.on(&[0, 1]).keeps(&[1, 1, 0]));
        assert!(!rules.on(&[2]).keeps(&[0, 0, 1]), "an including rule is held to the axes that it shares");
    }
}
