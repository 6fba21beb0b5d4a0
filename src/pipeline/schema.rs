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
//! `seed` (a whole number, or a list of them such as `[${fold}, ${run}]`), `list` of one type, `map` of fields, and `union`: a mapping whose key `kind` says which variant's fields it has; the
//! variant's bare name is short for `{ kind: name }`. A parameter is required unless it has a `default` or says
//! `required: false`. A `range` includes both ends; null leaves an end open.

use serde_json::Number;

use super::problem::{Problem, Report, Span, listed, suggest};
use super::spelling::{Wanted, instead};
use super::yaml::{Data, Entry, Node};

/// The key of a union that names the variant.
pub(super) const TAG: &str = "kind";

const TYPES: [&str; 11] = ["any", "bool", "int", "float", "string", "size", "duration", "seed", "list", "map", "union"];

/// What one value must be.
#[derive(Debug)]
pub(super) struct Schema {
    of: Type,
    range: Option<(Option<f64>, Option<f64>)>,
    one_of: Vec<Node>,
    default: Option<Node>,
    required: bool,
    doc: Option<String>,
}

#[derive(Debug)]
enum Type {
    Any,
    Bool,
    Int,
    Float,
    String,
    Size,
    Duration,
    Seed,
    List(Box<Schema>),
    Map(Fields),
    Union(Vec<(String, Fields)>),
}

/// The fields of a mapping, in the order in which resolved parameters have them.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, Schema)>);

impl Fields {
    /// Reads a mapping from names to schemas; what is wrong with it, or with a default in it, goes to the report.
    pub(super) fn read(node: &Node, report: &mut Report) -> Fields {
        if !matches!(node.data, Data::Map(_) | Data::Null) {
            report.add(mismatch(node, "parameters", "a mapping from names to their types"));
        }
        let read = |entry: &Entry| {
            let schema = Schema::read(&entry.value, report)?;
            if let Some(default) = &schema.default {
                schema.check(default, &entry.key, report);
            }
            Some((entry.key.clone(), schema))
        };
        Fields(node.entries().iter().filter_map(read).collect())
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The default of a field, as it is written.
    pub(super) fn default_of(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(known, _)| known == name)?.1.default.as_ref()
    }

    /// Checks a mapping and fills in what it leaves out. `path` is empty or ends in a dot; `missing` is where a missing
    /// field is reported.
    pub(super) fn check(&self, node: &Node, path: &str, missing: Span, report: &mut Report) -> Option<Node> {
        let mut complete = true;
        for entry in node.entries() {
            if !self.names().any(|name| name == entry.key) {
                let title = format!("there is no parameter `{path}{}`", entry.key);
                let problem = Problem::new("unknown_parameter", entry.key_span, title);
                report.add(problem.help(suggest(&entry.key, self.names())));
                complete = false;
            }
        }
        let mut entries = Vec::with_capacity(self.0.len());
        for (name, schema) in &self.0 {
            let given = node.entries().iter().find(|entry| entry.key == *name);
            let given = given.filter(|entry| schema.required || entry.value.data != Data::Null);
            let path = format!("{path}{name}");
            let value = match (given, &schema.default) {
                (Some(entry), _) => schema.check(&entry.value, &path, report),
                (None, Some(default)) => schema.check(default, &path, report),
                (None, None) if schema.required => {
                    let problem = Problem::new("missing_parameter", missing, format!("parameter `{path}` is missing"));
                    let problem = problem.label(format!("expected `{path}`, {}", schema.expected()));
                    report.add(problem.help(schema.doc.as_ref().map(|doc| format!("{path}: {doc}"))));
                    None
                }
                (None, None) => continue,
            };
            match value {
                Some(value) => {
                    let key_span = given.map_or(value.span, |entry| entry.key_span);
                    entries.push(Entry { key: name.clone(), key_span, value });
                }
                None => complete = false,
            }
        }
        complete.then(|| Node::new(node.span, Data::Map(entries)))
    }
}

impl Schema {
    fn read(node: &Node, report: &mut Report) -> Option<Schema> {
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
            "any" => Type::Any,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "float" => Type::Float,
            "string" => Type::String,
            "size" => Type::Size,
            "duration" => Type::Duration,
            "seed" => Type::Seed,
            "list" => {
                keys.push("of");
                Type::List(Box::new(Schema::read(needed(node, "of", report)?, report)?))
            }
            "map" => {
                keys.push("fields");
                Type::Map(Fields::read(needed(node, "fields", report)?, report))
            }
            "union" => {
                keys.push("variants");
                let variants = needed(node, "variants", report)?.entries();
                let read = |entry: &Entry| (entry.key.clone(), Fields::read(&entry.value, report));
                Type::Union(variants.iter().map(read).collect())
            }
            _ => {
                let problem = Problem::new("unknown_type", name_span, format!("there is no type `{name}`"));
                report.add(problem.help(suggest(name, TYPES)));
                return None;
            }
        };
        if matches!(of, Type::Int | Type::Float) {
            keys.push("range");
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
        let doc = node.get("doc").and_then(|doc| match doc.scalar() {
            Some(doc) => Some(doc.trim().to_owned()),
            None => {
                report.add(mismatch(doc, "doc", "a text"));
                None
            }
        });
        let default = node.get("default").cloned();
        let required = match node.get("required").map(|node| (&node.data, node)) {
            Some((Data::Bool(required), _)) => *required,
            Some((_, other)) => {
                report.add(mismatch(other, "required", "true or false"));
                false
            }
            None => default.is_none(),
        };
        let range = node.get("range").and_then(|node| read_range(node, report));
        Some(Schema { of, range, one_of, default, required, doc })
    }

    /// Checks one value and gives it in its canonical form, defaults filled in.
    fn check(&self, node: &Node, path: &str, report: &mut Report) -> Option<Node> {
        let value = match (&self.of, &node.data) {
            (Type::Any, _) | (Type::Bool, Data::Bool(_)) | (Type::String, Data::Text(_)) => node.clone(),
            (Type::Int, Data::Number(number)) if !number.is_f64() => node.clone(),
            (Type::Float, Data::Number(number)) => Node::new(node.span, Data::Number(float(number)?)),
            (Type::Size, Data::Number(number)) if number.is_u64() => node.clone(),
            (Type::Size, Data::Text(text)) => {
                let bytes = parse_size::parse_size(text).ok().or_else(|| refuse(node, path, self, report))?;
                Node::new(node.span, Data::Number(bytes.into()))
            }
            (Type::Duration, Data::Text(text)) => {
                let time = humantime::parse_duration(text).ok().or_else(|| refuse(node, path, self, report))?;
                Node::new(node.span, Data::Number(Number::from_f64(time.as_secs_f64())?))
            }
            (Type::Seed, Data::Number(number)) if number.is_u64() => node.clone(),
            (Type::Seed, Data::List(items)) if !items.is_empty() => {
                let whole = |item: &Node| matches!(&item.data, Data::Number(number) if number.is_u64());
                match items.iter().position(|item| !whole(item)) {
                    Some(index) => return refuse(&items[index], &format!("{path}.{index}"), self, report),
                    None => node.clone(),
                }
            }
            (Type::List(schema), Data::List(items)) => {
                let check = |(index, item): (usize, &Node)| schema.check(item, &format!("{path}.{index}"), report);
                let checked: Vec<Option<Node>> = items.iter().enumerate().map(check).collect();
                Node::new(node.span, Data::List(checked.into_iter().collect::<Option<_>>()?))
            }
            (Type::Map(fields), Data::Map(_)) => fields.check(node, &format!("{path}."), node.span, report)?,
            (Type::Union(variants), Data::Map(_) | Data::Text(_)) => check_union(variants, node, path, report)?,
            _ => return refuse(node, path, self, report),
        };
        self.check_range(node, &value, path, report)?;
        if !self.one_of.is_empty() && !self.one_of.iter().any(|allowed| same(&allowed.data, &value.data)) {
            let known: Vec<String> = self.one_of.iter().filter_map(Node::scalar).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let title = format!("`{path}` cannot be {}", node.described());
            let problem =
                Problem::new("not_one_of", node.span, title).label(format!("expected one of {}", listed(&known)));
            let near =
                node.scalar().and_then(|text| super::problem::nearest(&text, known.iter().copied()).map(str::to_owned));
            report.add(problem.help(near.map(|near| format!("did you mean `{near}`?"))));
            return None;
        }
        Some(value)
    }

    fn check_range(&self, node: &Node, value: &Node, path: &str, report: &mut Report) -> Option<()> {
        let (Some((low, high)), Data::Number(number)) = (self.range, &value.data) else { return Some(()) };
        let value = number.as_f64()?;
        if low.is_none_or(|low| value >= low) && high.is_none_or(|high| value <= high) {
            return Some(());
        }
        let written = node.scalar().unwrap_or_default();
        let title = format!("`{path}` is {written}, out of its range");
        report.add(Problem::new("out_of_range", node.span, title).label(format!("expected {}", self.expected())));
        None
    }

    /// What a value must be, for messages: "a number from 0 to 2".
    fn expected(&self) -> String {
        let noun = match &self.of {
            Type::Any => "any value",
            Type::Bool => "true or false",
            Type::Int => "a whole number",
            Type::Float => "a number",
            Type::String => "a text",
            Type::Size => "a size such as 8GiB",
            Type::Duration => "a duration such as 90s or 2h",
            Type::Seed => "a whole number from 0 upwards, or a list of such numbers",
            Type::List(_) => "a list",
            Type::Map(_) => "a mapping",
            Type::Union(_) => "a mapping with a key `kind`, or the name of a kind",
        };
        match self.range {
            Some((Some(low), Some(high))) => format!("{noun} from {low} to {high}"),
            Some((Some(low), None)) => format!("{noun} from {low} upwards"),
            Some((None, Some(high))) => format!("{noun} up to {high}"),
            _ => noun.to_owned(),
        }
    }
}

fn check_union(variants: &[(String, Fields)], node: &Node, path: &str, report: &mut Report) -> Option<Node> {
    let tag = match &node.data {
        Data::Text(_) => Some(node),
        _ => node.get(TAG),
    };
    let names = || variants.iter().map(|(name, _)| name.as_str());
    let Some(Node { data: Data::Text(name), span }) = tag else {
        let place = tag.map_or(node.span, |tag| tag.span);
        let problem = Problem::new("missing_parameter", place, format!("`{path}` does not say its `{TAG}`"));
        let known: Vec<&str> = names().collect();
        report.add(problem.label(format!("expected `{TAG}`, one of {}", listed(&known))));
        return None;
    };
    let Some((_, fields)) = variants.iter().find(|(variant, _)| variant == name) else {
        let title = format!("`{path}` has no kind `{name}`");
        report.add(Problem::new("not_one_of", *span, title).help(suggest(name, names())));
        return None;
    };
    let given = node.entries().iter().filter(|entry| entry.key != TAG).cloned().collect();
    let given = Node::new(node.span, Data::Map(given));
    let mut checked = fields.check(&given, &format!("{path}."), node.span, report)?;
    if let Data::Map(entries) = &mut checked.data {
        let value = Node::new(*span, Data::Text(name.clone()));
        entries.insert(0, Entry { key: TAG.to_owned(), key_span: *span, value });
    }
    Some(checked)
}

/// Reports a value of another type than the schema's.
fn refuse<T>(node: &Node, path: &str, schema: &Schema, report: &mut Report) -> Option<T> {
    let problem = mismatch(node, path, &schema.expected());
    let wanted = match schema.of {
        Type::Bool => Some(Wanted::Bool),
        Type::Int => Some(Wanted::Int),
        Type::Float => Some(Wanted::Float),
        Type::String => Some(Wanted::Text),
        _ => None,
    };
    report.add(problem.help(wanted.and_then(|wanted| instead(node, wanted))));
    None
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
fn float(number: &Number) -> Option<Number> {
    number.as_f64().and_then(Number::from_f64)
}

/// Equality in which `1` is `1.0`.
fn same(a: &Data, b: &Data) -> bool {
    match (a, b) {
        (Data::Number(a), Data::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
