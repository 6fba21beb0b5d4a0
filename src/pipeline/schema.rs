//! The schema language in which a stage definition declares its parameters.
//!
//! ```yaml
//! epochs:  { type: int, default: 12, range: [1, null], doc: passes over the images }
//! test:    { type: string, required: false, one_of: [paired_t, wilcoxon] }
//! rates:   { type: list, of: float, default: [] }
//! batch:   { type: map, fields: { classes: { type: int }, per_class: { type: int, default: 4 } } }
//! loss:    { type: union, variants: { contrastive: { pos_margin: { type: float, default: 0.0 } } } }
//! ```
//!
//! Types: `any`, `bool`, `int`, `float`, `string`, `size` (`8GiB`, becomes bytes), `duration` (`90s`, becomes seconds),
//! `seed` (a whole number, or a list of them such as `[${fold}, ${run}]`), `list` of one type, `map` of fields, and
//! `union`: a mapping whose key `kind` names the variant whose fields it has; the variant's bare name is short for
//! `{ kind: name }`. A parameter is required unless it has a `default` or says `required: false`. A `range` includes
//! both ends; null leaves an end open; `above` and `below` are ends that are not included. A `unit` says what a number
//! counts or measures.

use serde_json::Number;

use super::problem::{Problem, Report, Span, listed, nearest, suggest};
use super::spelling::{Wanted, instead};
use super::yaml::{Data, Entry, Node};
use crate::settings::{Bounds, Fault, Look, Readable, Setting, SettingType, Settings, Wrong};

pub(super) use crate::settings::TAG;

pub(super) const TYPES: [&str; 11] =
    ["any", "bool", "int", "float", "string", "size", "duration", "seed", "list", "map", "union"];

/// The parameters of a definition.
pub(super) type Fields = Settings<Node>;

impl Readable for Node {
    fn look(&self) -> Look<'_, Self> {
        match &self.data {
            Data::Null => Look::Null,
            Data::Bool(value) => Look::Bool(*value),
            Data::Number(number) => Look::Number(number),
            Data::Text(text) => Look::Text(text),
            Data::List(items) => Look::List(items),
            Data::Map(_) => Look::Map,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.entries().iter().map(|entry| (entry.key.as_str(), &entry.value))
    }
}

impl Settings<Node> {
    /// Reads a mapping from names to schemas; what is wrong with it, or with a default in it, goes to the report.
    pub(super) fn read(node: &Node, report: &mut Report) -> Self {
        if !matches!(node.data, Data::Map(_) | Data::Null) {
            report.add(mismatch(node, "parameters", "a mapping from names to their types"));
        }
        let read = |entry: &Entry| {
            let setting = Setting::read(&entry.value, report)?;
            if let Some(default) = &setting.default {
                for fault in setting.check(default, &entry.key) {
                    report.add(problem(&fault, default.span));
                }
            }
            Some((entry.key.clone(), setting))
        };
        Settings(node.entries().iter().filter_map(read).collect())
    }

    /// The default of a field, as it is written.
    pub(super) fn default_of(&self, name: &str) -> Option<&Node> {
        self.get(name)?.default.as_ref()
    }

    /// Checks a mapping and fills in what it leaves out. `missing` is where a missing parameter is reported.
    pub(super) fn resolve(&self, node: &Node, missing: Span, report: &mut Report) -> Option<Node> {
        let faults = self.check(node);
        for fault in &faults {
            report.add(problem(fault, if std::ptr::eq(fault.at, node) { missing } else { fault.at.span }));
        }
        faults.is_empty().then(|| Node::new(node.span, Data::Map(self.filled(node))))
    }

    /// The entries of a checked mapping, in the order of the settings, with those that it leaves out.
    fn filled(&self, node: &Node) -> Vec<Entry> {
        let fill = |(name, setting): &(String, Setting<Node>)| {
            let given = node.entries().iter().find(|entry| entry.key == *name);
            let given = given.filter(|entry| setting.required || entry.value.data != Data::Null);
            let value = setting.canonical(given.map(|entry| &entry.value).or(setting.default.as_ref())?);
            Some(Entry { key: name.clone(), key_span: given.map_or(value.span, |entry| entry.key_span), value })
        };
        self.0.iter().filter_map(fill).collect()
    }
}

impl Setting<Node> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        // `of: float` is short for `of: { type: float }`.
        let (name, name_span) = match &node.data {
            Data::Text(name) => (name.as_str(), node.span),
            Data::Map(_) => match node.get("type") {
                Some(Node { data: Data::Text(name), span }) => (name.as_str(), *span),
                Some(other) => {
                    report.add(mismatch(other, "type", "the name of a type"));
                    return None;
                }
                None => {
                    let problem = Problem::new("missing_key", node.span, "a parameter needs its `type`");
                    report.add(problem.help(format!("types are {}", listed(&TYPES))));
                    return None;
                }
            },
            _ => {
                report.add(mismatch(node, "a parameter", "its type, or a mapping that has one"));
                return None;
            }
        };
        let mut keys = vec!["type", "default", "required", "doc", "one_of"];
        let of = match name {
            "any" => SettingType::Any,
            "bool" => SettingType::Bool,
            "int" => SettingType::Int,
            "float" => SettingType::Float,
            "string" => SettingType::String,
            "size" => SettingType::Size,
            "duration" => SettingType::Duration,
            "seed" => SettingType::Seed,
            "list" => {
                keys.push("of");
                SettingType::List(Box::new(Setting::read(needed(node, "of", report)?, report)?))
            }
            "map" => {
                keys.push("fields");
                SettingType::Map(Settings::read(needed(node, "fields", report)?, report))
            }
            "union" => {
                keys.push("variants");
                let variants = needed(node, "variants", report)?.entries();
                let read = |entry: &Entry| (entry.key.clone(), Settings::read(&entry.value, report));
                SettingType::Union(variants.iter().map(read).collect())
            }
            _ => {
                let problem = Problem::new("unknown_type", name_span, format!("there is no type `{name}`"));
                report.add(problem.help(suggest(name, TYPES)));
                return None;
            }
        };
        if matches!(of, SettingType::Int | SettingType::Float) {
            keys.extend(["range", "above", "below", "unit"]);
        }
        for entry in node.entries().iter().filter(|entry| !keys.contains(&entry.key.as_str())) {
            let title = format!("a parameter of type `{name}` has no key `{}`", entry.key);
            let problem = Problem::new("unknown_key", entry.key_span, title);
            report.add(problem.help(suggest(&entry.key, keys.iter().copied())));
        }
        let one_of = match node.get("one_of").map(|node| (&node.data, node)) {
            Some((Data::List(items), _)) => items.clone(),
            Some((_, other)) => {
                report.add(mismatch(other, "one_of", "a list of values"));
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut text = |key: &str| {
            let text = node.get(key)?;
            if text.scalar().is_none() {
                report.add(mismatch(text, key, "a text"));
            }
            Some(text.scalar()?.trim().to_owned())
        };
        let (doc, unit) = (text("doc"), text("unit"));
        let default = node.get("default").cloned();
        let required = match node.get("required").map(|node| (&node.data, node)) {
            Some((Data::Bool(required), _)) => *required,
            Some((_, other)) => {
                report.add(mismatch(other, "required", "true or false"));
                false
            }
            None => default.is_none(),
        };
        let (least, most) = node.get("range").and_then(|node| read_range(node, report)).unwrap_or_default();
        let mut bound = |key: &str| match node.get(key).map(|node| (&node.data, node)) {
            Some((Data::Number(number), _)) => number.as_f64(),
            Some((_, other)) => {
                report.add(mismatch(other, key, "a number"));
                None
            }
            None => None,
        };
        let bounds = Bounds { least, most, above: bound("above"), below: bound("below") };
        Some(Setting { of, bounds, one_of, default, required, doc, unit })
    }

    /// A checked value in its canonical form, defaults filled in.
    fn canonical(&self, node: &Node) -> Node {
        let data = match (&self.of, &node.data) {
            (SettingType::Float, Data::Number(number)) => Data::Number(float(number)),
            (SettingType::Size, Data::Text(text)) => {
                parse_size::parse_size(text).map_or(Data::Null, |bytes| Data::Number(bytes.into()))
            }
            (SettingType::Duration, Data::Text(text)) => humantime::parse_duration(text)
                .ok()
                .and_then(|time| Number::from_f64(time.as_secs_f64()))
                .map_or(Data::Null, Data::Number),
            (SettingType::List(of), Data::List(items)) => {
                Data::List(items.iter().map(|item| of.canonical(item)).collect())
            }
            (SettingType::Map(settings), _) => Data::Map(settings.filled(node)),
            (SettingType::Union(variants), data) => {
                let tag = if let Data::Text(_) = data { Some(node) } else { node.get(TAG) };
                let variant =
                    tag.and_then(|tag| variants.iter().find(|(name, _)| tag.data == Data::Text(name.clone())));
                let tag = tag.map(|tag| Entry { key: TAG.to_owned(), key_span: tag.span, value: tag.clone() });
                let rest = variant.map_or_else(Vec::new, |(_, settings)| settings.filled(node));
                Data::Map(tag.into_iter().chain(rest).collect())
            }
            (_, data) => data.clone(),
        };
        Node::new(node.span, data)
    }
}

/// A fault with its place; a missing parameter is reported at `missing`.
fn problem(fault: &Fault<'_, Node>, missing: Span) -> Problem {
    let at = fault.at;
    let (code, span, help) = match &fault.wrong {
        Wrong::Unknown { key, known } => {
            let entry = at.entries().iter().find(|entry| entry.key == *key);
            ("unknown_parameter", entry.map_or(at.span, |entry| entry.key_span), suggest(key, known.iter().copied()))
        }
        Wrong::Missing(setting) => {
            ("missing_parameter", missing, setting.doc.as_ref().map(|doc| format!("{}: {doc}", fault.path)))
        }
        Wrong::Type(setting) => {
            let wanted = match setting.of {
                SettingType::Bool => Some(Wanted::Bool),
                SettingType::Int => Some(Wanted::Int),
                SettingType::Float => Some(Wanted::Float),
                SettingType::String => Some(Wanted::Text),
                _ => None,
            };
            ("wrong_type", at.span, wanted.and_then(|wanted| instead(at, wanted)))
        }
        Wrong::NotFinite(_) | Wrong::Range(_) => ("out_of_range", at.span, None),
        Wrong::NotOneOf(setting) => {
            let words = setting.words();
            let near = at.scalar().and_then(|text| nearest(&text, words.iter().map(String::as_str)).map(str::to_owned));
            ("not_one_of", at.span, near.map(|near| format!("did you mean `{near}`?")))
        }
        Wrong::NoTag { .. } => ("missing_parameter", at.span, None),
        Wrong::UnknownTag { tag, known } => ("not_one_of", at.span, suggest(tag, known.iter().copied())),
    };
    let problem = Problem::new(code, span, fault.title()).help(help);
    match fault.label() {
        Some(label) => problem.label(label),
        None => problem,
    }
}

/// The problem of a value that is not what its place takes.
pub(super) fn mismatch(node: &Node, path: &str, expected: &str) -> Problem {
    let what = if path.contains(' ') { path.to_owned() } else { format!("`{path}`") };
    let problem = Problem::new("wrong_type", node.span, format!("{what} must be {expected}"));
    problem.label(format!("found {}", node.described()))
}

fn needed<'a>(node: &'a Node, key: &str, report: &mut Report) -> Option<&'a Node> {
    let found = node.get(key);
    if found.is_none() {
        report.add(Problem::new("missing_key", node.span, format!("this type needs its `{key}`")));
    }
    found
}

fn read_range(node: &Node, report: &mut Report) -> Option<(Option<f64>, Option<f64>)> {
    let end = |node: &Node| match &node.data {
        Data::Null => Some(None),
        Data::Number(number) => number.as_f64().map(Some),
        _ => None,
    };
    if let Data::List(items) = &node.data
        && let [low, high] = items.as_slice()
        && let (Some(low), Some(high)) = (end(low), end(high))
    {
        return Some((low, high));
    }
    report.add(mismatch(node, "range", "a list of two numbers, null for an open end"));
    None
}

/// The number as a float, so that `1` and `1.0` are one value.
fn float(number: &Number) -> Number {
    number.as_f64().and_then(Number::from_f64).unwrap_or_else(|| number.clone())
}

#[cfg(test)]
mod tests;
