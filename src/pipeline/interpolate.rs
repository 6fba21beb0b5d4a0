//! `${...}`: looking names up, and nothing else.
//!
//! ```text
//! text      = (character | "$${" | reference)*        "$${" means "${"
//! reference = "${" name ("." name)* (":raw")? "}"     a name of digits is also an index into a list
//! name      = (letter | digit | "_" | "-")+
//! ```
//!
//! A scalar that is exactly one reference becomes the value itself, of whatever type; inside other text the value must
//! be a scalar. `:raw` has a meaning in a shell's text only, see [`super::script`]. [`bind`] looks every name up once and
//! leaves a [`Template`] in which only axis values are open, so that [`Template::fill`] cannot fail and costs little for
//! each of a hundred thousand cells.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::problem::{Problem, Report, Span, suggest};
use super::yaml::{Data, Entry, Node};

/// Ends a reference whose value is inserted as it is.
pub(super) const RAW: &str = ":raw";

/// A `${...}` as it is written.
pub(super) struct Reference {
    /// Its names: `["loss", "kind"]`.
    pub(super) path: Vec<String>,
    /// Whether a shell's text takes its value as it is, and not as one word.
    pub(super) raw: bool,
    /// Where it is.
    pub(super) span: Span,
}

impl Reference {
    /// As it is written, such as `${loss.kind}`.
    pub(super) fn written(&self) -> String {
        if self.raw { self.written_raw() } else { self.name() }
    }

    /// As it is written without `:raw`.
    pub(super) fn name(&self) -> String {
        format!("${{{}}}", self.path.join("."))
    }

    /// As it is written with `:raw`.
    pub(super) fn written_raw(&self) -> String {
        format!("${{{}:raw}}", self.path.join("."))
    }
}

/// The value of a reference.
pub(super) enum Found {
    Value(Node),
    Axis(AxisField),
    /// The reference stays in the text: the engine fills it in.
    Kept,
}

/// An axis, or a field of its values, for each of its values.
#[derive(Debug, Clone)]
pub(super) struct AxisField {
    pub(super) axis: usize,
    /// What it is as a whole value.
    pub(super) nodes: Arc<[Node]>,
    /// What it is inside text; nothing if it is not a scalar.
    pub(super) texts: Option<Arc<[Arc<str>]>>,
}

/// The names that can be looked up at some place.
pub(super) trait Scope {
    /// The value of the reference. If nothing, the problem is in the report.
    fn lookup(&mut self, reference: &Reference, report: &mut Report) -> Option<Found>;
}

/// A value in which only axis values are open.
#[derive(Debug, Clone)]
pub(super) enum Template {
    Value(Node),
    Axis(AxisField),
    Text(Text),
    List(Span, Vec<Template>),
    Map(Span, Vec<(String, Span, Template)>),
}

/// A text in which only axis values are open.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) span: Span,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(String),
    Axis(usize, Arc<[Arc<str>]>),
}

impl Template {
    /// The value at one point; `point` has an index for every axis of the pipeline.
    pub(super) fn fill(&self, point: &[u32]) -> Node {
        match self {
            Template::Value(node) => node.clone(),
            Template::Axis(field) => field.nodes[point[field.axis] as usize].clone(),
            Template::Text(text) => Node::new(text.span, Data::Text(text.fill(point))),
            Template::List(span, items) => {
                Node::new(*span, Data::List(items.iter().map(|item| item.fill(point)).collect()))
            }
            Template::Map(span, entries) => {
                let entries = entries.iter().map(|(key, key_span, value)| Entry {
                    key: key.clone(),
                    key_span: *key_span,
                    value: value.fill(point),
                });
                Node::new(*span, Data::Map(entries.collect()))
            }
        }
    }

    /// Adds the axes that it mentions.
    pub(super) fn mentions(&self, axes: &mut BTreeSet<usize>) {
        match self {
            Template::Value(_) => {}
            Template::Axis(field) => {
                axes.insert(field.axis);
            }
            Template::Text(text) => text.mentions(axes),
            Template::List(_, items) => items.iter().for_each(|item| item.mentions(axes)),
            Template::Map(_, entries) => entries.iter().for_each(|(_, _, value)| value.mentions(axes)),
        }
    }
}

impl Text {
    /// The text at one point; `point` has an index for every axis of the pipeline.
    pub(super) fn fill(&self, point: &[u32]) -> String {
        let mut out = String::with_capacity(32);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Axis(axis, texts) => out.push_str(&texts[point[*axis] as usize]),
            }
        }
        out
    }

    /// The text before the first axis value.
    pub(super) fn prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Literal(text)) => text,
            _ => "",
        }
    }

    /// The whole text, if it mentions no axis.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Adds the axes that it mentions.
    pub(super) fn mentions(&self, axes: &mut BTreeSet<usize>) {
        for piece in &self.pieces {
            if let Piece::Axis(axis, _) = piece {
                axes.insert(*axis);
            }
        }
    }

    fn push(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Literal(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Literal(text.to_owned())),
        }
    }
}

/// Looks up every reference of a value. What cannot be found goes to the report and becomes null.
pub(super) fn bind(node: &Node, scope: &mut dyn Scope, report: &mut Report) -> Template {
    match &node.data {
        Data::Text(text) if text.contains("${") => bind_scalar(node, text, scope, report),
        Data::List(items) => {
            let items: Vec<Template> = items.iter().map(|item| bind(item, scope, report)).collect();
            if items.iter().all(|item| matches!(item, Template::Value(_))) {
                return Template::Value(Template::List(node.span, items).fill(&[]));
            }
            Template::List(node.span, items)
        }
        Data::Map(entries) => {
            let mut bound = Vec::with_capacity(entries.len());
            for entry in entries {
                if entry.key.contains("${") {
                    let problem = Problem::new("bad_reference", entry.key_span, "a key cannot hold a reference");
                    report.add(problem.label("only values are looked up"));
                }
                bound.push((entry.key.clone(), entry.key_span, bind(&entry.value, scope, report)));
            }
            if bound.iter().all(|(_, _, value)| matches!(value, Template::Value(_))) {
                return Template::Value(Template::Map(node.span, bound).fill(&[]));
            }
            Template::Map(node.span, bound)
        }
        _ => Template::Value(node.clone()),
    }
}

/// Looks up every reference of a value where no axis can be mentioned.
pub(super) fn resolve(node: &Node, scope: &mut dyn Scope, report: &mut Report) -> Node {
    bind(node, scope, report).fill(&[])
}

/// Looks up every reference of a scalar that becomes text, even where it is a single reference. `what` names it in the
/// message that refuses anything but a scalar.
pub(super) fn bind_text(node: &Node, what: &str, scope: &mut dyn Scope, report: &mut Report) -> Option<Text> {
    let Some(text) = node.scalar() else {
        let problem = Problem::new("wrong_type", node.span, format!("{what} must be a text"));
        report.add(problem.label(format!("expected a text, found {}", node.described())));
        return None;
    };
    bind_pieces(node.span, &parse(&text, node.span, report)?, scope, report)
}

fn bind_scalar(node: &Node, text: &str, scope: &mut dyn Scope, report: &mut Report) -> Template {
    let null = Template::Value(Node::new(node.span, Data::Null));
    let Some(parts) = parse(text, node.span, report) else {
        report.give_up(node.span);
        return null;
    };
    if let [Part::Reference(reference)] = parts.as_slice()
        && !reference.raw
    {
        match scope.lookup(reference, report) {
            Some(Found::Value(value)) => return Template::Value(value),
            Some(Found::Axis(field)) => return Template::Axis(field),
            Some(Found::Kept) => return Template::Value(node.clone()),
            None => {
                report.give_up(node.span);
                return null;
            }
        }
    }
    match bind_pieces(node.span, &parts, scope, report) {
        Some(text) => match text.constant() {
            Some(constant) => Template::Value(Node::new(node.span, Data::Text(constant.to_owned()))),
            None => Template::Text(text),
        },
        None => {
            report.give_up(node.span);
            null
        }
    }
}

fn bind_pieces(span: Span, parts: &[Part], scope: &mut dyn Scope, report: &mut Report) -> Option<Text> {
    let mut text = Some(Text { span, pieces: Vec::new() });
    for part in parts {
        let bound = match part {
            Part::Literal(literal) => Some(Piece::Literal(literal.clone())),
            Part::Reference(reference) if reference.raw => {
                let title = format!("`{}` is only valid in the text of a shell", reference.written());
                let problem = Problem::new("bad_reference", reference.span, title);
                let help = format!("write `{}`: only a text for a shell is quoted", reference.name());
                report.add(problem.help(help));
                None
            }
            Part::Reference(reference) => text_of(reference, scope, report).map(|texts| match texts {
                Texts::Kept => Piece::Literal(reference.written()),
                Texts::One(text) => Piece::Literal(text.to_string()),
                Texts::Each(axis, texts) => Piece::Axis(axis, texts),
            }),
        };
        match (bound, &mut text) {
            (Some(Piece::Literal(literal)), Some(text)) => text.push(&literal),
            (Some(piece), Some(text)) => text.pieces.push(piece),
            _ => text = None,
        }
    }
    text
}

/// What a reference is inside text.
pub(super) enum Texts {
    One(Arc<str>),
    /// For each value of an axis.
    Each(usize, Arc<[Arc<str>]>),
    /// The engine fills it in.
    Kept,
}

/// Looks up a reference inside text. If there is none, or it is not a scalar, the problem is in the report.
pub(super) fn text_of(reference: &Reference, scope: &mut dyn Scope, report: &mut Report) -> Option<Texts> {
    match scope.lookup(reference, report)? {
        Found::Kept => Some(Texts::Kept),
        Found::Value(value) => match value.scalar() {
            Some(scalar) => Some(Texts::One(scalar.into())),
            None => {
                report.add(not_scalar(reference, &value));
                None
            }
        },
        Found::Axis(field) => match field.texts {
            Some(texts) => Some(Texts::Each(field.axis, texts)),
            None => {
                if let Some(culprit) = field.nodes.iter().find(|node| node.scalar().is_none()) {
                    report.add(not_scalar(reference, culprit));
                }
                None
            }
        },
    }
}

fn not_scalar(reference: &Reference, value: &Node) -> Problem {
    let title = format!("`{}` is {} and cannot be used inside text", reference.written(), value.described());
    Problem::new("wrong_type", reference.span, title).label("expected a scalar").related(value.span, "its value")
}

/// A part of a scalar.
pub(super) enum Part {
    Literal(String),
    Reference(Reference),
}

/// Splits a scalar at its references. What does not follow the grammar goes to the report.
pub(super) fn parse(text: &str, span: Span, report: &mut Report) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            literal.push_str(&rest[..at - 1]);
            literal.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        literal.push_str(&rest[..at]);
        let inside = &rest[at + 2..];
        let length = inside.find('}').unwrap_or(inside.len());
        let names = &inside[..length];
        let (names, raw) = names.strip_suffix(RAW).map_or((names, false), |names| (names, true));
        let closed = length < inside.len();
        let written = &rest[at..at + 2 + length + usize::from(closed)];
        let place = find(written, span, report);
        if !closed || !names.split('.').all(is_name) {
            let problem = Problem::new("bad_reference", place, format!("`{written}` is not a valid reference"));
            let expected = "expected `${name}` or `${name.field}`";
            let help = "write `$${` for a `${` that is not the pipeline's, such as the shell's".to_owned();
            report.add(problem.label(expected).help(help));
            return None;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        let path = names.split('.').map(str::to_owned).collect();
        parts.push(Part::Reference(Reference { path, raw, span: place }));
        rest = &inside[length + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Some(parts)
}

/// Where `written` first occurs inside a scalar, whatever the scalar's style.
pub(super) fn find(written: &str, span: Span, report: &Report) -> Span {
    let text = report.text(span.source);
    let inside = text.get(span.start as usize..span.end as usize).unwrap_or_default();
    match inside.find(written) {
        Some(at) => {
            let start = span.start + at as u32;
            Span { start, end: start + written.len() as u32, ..span }
        }
        None => span,
    }
}

/// Whether this can be a name in a reference.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Follows `names` below `root`; `reference` says where a missing one is reported.
pub(super) fn descend<'n>(
    root: &'n Node,
    names: &[String],
    reference: &Reference,
    report: &mut Report,
) -> Option<&'n Node> {
    let mut node = root;
    for name in names {
        match node.child(name) {
            Some(child) => node = child,
            None => {
                let known = node.child_names();
                let title = format!("unknown name `{name}` in `{}`", reference.written());
                let problem = Problem::new("unknown_name", reference.span, title);
                report.add(problem.help(suggest(name, known.iter().map(String::as_str))));
                return None;
            }
        }
    }
    Some(node)
}

#[cfg(test)]
mod tests;
