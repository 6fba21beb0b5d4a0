//! `params:`: named values that may refer to each other.

use super::interpolate::{Found, Reference, Scope, resolve};
use super::problem::{Problem, Report, Span, nearest, suggest};
use super::yaml::{Data, Node};

/// Looks up every reference between the parameters. A cycle is reported and becomes null.
pub(super) fn resolve_params(raw: &Node, report: &mut Report) -> Node {
    resolve(raw, &mut Between { raw, path: Vec::new() }, report)
}

/// Looks up `${params...}` among parameters that are not resolved yet.
struct Between<'a> {
    raw: &'a Node,
    /// The references that led here.
    path: Vec<(String, Span)>,
}

impl Scope for Between<'_> {
    fn lookup(&mut self, reference: &Reference, report: &mut Report) -> Option<Found> {
        let raw = self.raw;
        let target = find(raw, reference, report)?;
        if let Some(start) = self.path.iter().position(|(_, span)| *span == reference.span) {
            let circle = &mut self.path[start..];
            // Every way into the cycle finds it; reported from one place, it is reported once.
            let first = circle.iter().enumerate().min_by_key(|(_, (_, span))| *span).map_or(0, |(index, _)| index);
            circle.rotate_left(first);
            let names: Vec<&str> = circle.iter().chain(circle.first()).map(|(name, _)| name.as_str()).collect();
            let title = format!("dependency cycle between parameters: {}", names.join(" -> "));
            report
                .add(Problem::new("cycle", circle[0].1, title).label("expected a value that does not lead back here"));
            return None;
        }
        self.path.push((reference.path.join("."), reference.span));
        let value = resolve(target, self, report);
        self.path.pop();
        Some(Found::Value(value))
    }
}

fn find<'a>(raw: &'a Node, reference: &Reference, report: &mut Report) -> Option<&'a Node> {
    match reference.path.split_first() {
        Some((first, rest)) if first == "params" => super::interpolate::descend(raw, rest, reference, report),
        _ => {
            let title = format!("`{}` cannot be looked up here", reference.written());
            let problem = Problem::new("unknown_name", reference.span, title);
            report.add(problem.label("only `${params...}` is allowed among the parameters"));
            None
        }
    }
}

/// The names that a place outside of stages can look up: the parameters.
pub(super) struct Params<'a>(pub(super) &'a Node);

impl Scope for Params<'_> {
    fn lookup(&mut self, reference: &Reference, report: &mut Report) -> Option<Found> {
        match reference.path.split_first() {
            Some((first, rest)) if first == "params" => {
                super::interpolate::descend(self.0, rest, reference, report).cloned().map(Found::Value)
            }
            _ => {
                report.add(unknown(reference, &["params"], self.0).label("only `${params...}` is allowed here"));
                None
            }
        }
    }
}

/// The problem of a reference whose first name is none of `known`.
pub(super) fn unknown(reference: &Reference, known: &[&str], params: &Node) -> Problem {
    let first = &reference.path[0];
    let problem = Problem::new("unknown_name", reference.span, format!("unknown name `{}`", reference.written()));
    if params.get(first).is_some() {
        return problem.help(format!("did you mean `${{params.{}}}`?", reference.path.join(".")));
    }
    let help = suggest(first, known.iter().copied()).unwrap_or_default();
    if nearest(first, known.iter().copied()).is_some() {
        return problem.help(help);
    }
    problem.help(format!("{help}; write `$${{` for a `${{` that is not the pipeline's"))
}

/// The parameters of a pipeline that has none.
pub(super) fn none(span: Span) -> Node {
    Node::new(span, Data::Map(Vec::new()))
}
