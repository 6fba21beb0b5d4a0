//! Mistakes in a pipeline: where they are, what was expected, and how they are shown.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use rustc_hash::FxHashSet;

use crate::text::escaped;

/// How many problems are shown in full; the rest are counted.
const SHOWN: usize = 100;

/// A range of bytes in one of the texts that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    /// Index into the texts of [`Problems`].
    pub source: u32,
    /// First byte.
    pub start: u32,
    /// Byte after the last.
    pub end: u32,
}

impl Span {
    /// Whether `other` starts inside this range.
    pub fn contains(self, other: Span) -> bool {
        self.source == other.source && (self.start..self.end).contains(&other.start)
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A fixed word for its sort, such as `unknown_key`.
    pub code: &'static str,
    /// Where it is.
    pub span: Span,
    /// What is wrong, in one sentence.
    pub title: String,
    /// The text next to the carets: what was expected there.
    pub label: String,
    /// What to do, such as the nearest name.
    pub help: Option<String>,
    /// A second place that explains the first.
    pub related: Option<(Span, String)>,
}

impl Problem {
    /// A problem with neither label nor help.
    pub fn new(code: &'static str, span: Span, title: impl Into<String>) -> Problem {
        Problem { code, span, title: title.into(), label: String::new(), help: None, related: None }
    }

    /// Sets the text next to the carets.
    pub fn label(mut self, label: impl Into<String>) -> Problem {
        self.label = label.into();
        self
    }

    /// Sets the advice.
    pub fn help(mut self, help: impl Into<Option<String>>) -> Problem {
        self.help = help.into();
        self
    }

    /// Sets the second place.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Problem {
        self.related = Some((span, label.into()));
        self
    }
}

/// A text that was read: a file, a built-in definition, or a `--set` flag.
#[derive(Debug, Clone)]
struct Source {
    path: PathBuf,
    text: Arc<str>,
}

/// Collects the texts that are read and the problems found in them.
#[derive(Debug, Default)]
pub(super) struct Report {
    sources: Vec<Source>,
    problems: Vec<Problem>,
    seen: FxHashSet<(&'static str, Span, String)>,
    broken: FxHashSet<Span>,
}

impl Report {
    /// Registers a text, so that spans can point into it.
    pub(super) fn source(&mut self, path: &Path, text: Arc<str>) -> u32 {
        self.sources.push(Source { path: path.to_owned(), text });
        (self.sources.len() - 1) as u32
    }

    pub(super) fn text(&self, source: u32) -> Arc<str> {
        self.sources[source as usize].text.clone()
    }

    /// Records a problem, once however many cells repeat it.
    pub(super) fn add(&mut self, problem: Problem) {
        let related = problem.related.as_ref().map_or(problem.span, |(span, _)| *span);
        if self.broken.contains(&problem.span) || self.broken.contains(&related) {
            return;
        }
        if self.seen.insert((problem.code, problem.span, problem.title.clone())) {
            self.problems.push(problem);
        }
    }

    /// Reports nothing more about a value that could not be looked up: the problem with it is known.
    pub(super) fn give_up(&mut self, span: Span) {
        self.broken.insert(span);
    }

    /// Adds to the problems since `count` where their values are used, if they are written elsewhere.
    pub(super) fn used_at(&mut self, count: usize, span: Span, label: &str) {
        for problem in &mut self.problems[count..] {
            if !span.contains(problem.span) {
                problem.related.get_or_insert_with(|| (span, label.to_owned()));
            }
        }
    }

    /// Whether a problem of that sort was found.
    pub(super) fn has(&self, code: &str) -> bool {
        self.problems.iter().any(|problem| problem.code == code)
    }

    /// How many problems there are so far.
    pub(super) fn count(&self) -> usize {
        self.problems.len()
    }

    /// The value, if there is one and nothing was found; else everything that was found, by position.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        if let (Some(value), true) = (value, self.problems.is_empty()) {
            return Ok(value);
        }
        let mut problems = self.problems;
        problems.sort_by(|a, b| (a.span, a.code, &a.title).cmp(&(b.span, b.code, &b.title)));
        Err(Problems { problems, sources: self.sources })
    }
}

/// Everything that is wrong with a pipeline, by position.
#[derive(Debug)]
pub struct Problems {
    problems: Vec<Problem>,
    sources: Vec<Source>,
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Problems {
    /// The problems, in the order of their positions.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// Where a span starts: the file, and its line and column counted from 1 in characters.
    pub fn location(&self, span: Span) -> (&Path, usize, usize) {
        let source = &self.sources[span.source as usize];
        let before = source.text.get(..span.start as usize).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (&source.path, line, column)
    }

    /// All problems as excerpts with carets, then a line that counts them; with terminal colours or without.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
        let folder = std::env::current_dir().unwrap_or_default();
        let paths: Vec<String> = self.sources.iter().map(|source| shown_path(&source.path, &folder)).collect();
        let mut text = String::new();
        for problem in self.problems.iter().take(SHOWN) {
            text.push_str(&renderer.render(&[self.group(problem, &paths)]));
            text.push_str("\n\n");
        }
        let hidden = self.problems.len().saturating_sub(SHOWN);
        if hidden > 0 {
            text.push_str(&format!("{hidden} more are not shown\n\n"));
        }
        let s = if self.problems.len() == 1 { "" } else { "s" };
        let first = paths.first().map_or("", String::as_str);
        text.push_str(&format!("{} problem{s} in {first}\n", self.problems.len()));
        text
    }

    fn group<'a>(&'a self, problem: &'a Problem, paths: &'a [String]) -> Group<'a> {
        let mut group = Group::with_title(Level::ERROR.primary_title(problem.title.as_str()).id(problem.code));
        let source = &self.sources[problem.span.source as usize];
        let path = paths[problem.span.source as usize].as_str();
        if source.text.is_empty() {
            group = group.element(Origin::path(path));
        } else {
            let mut snippet = Snippet::source(&*source.text).path(path).annotation(annotation(
                AnnotationKind::Primary,
                &source.text,
                problem.span,
                &problem.label,
            ));
            if let Some((span, label)) = &problem.related {
                let other = &self.sources[span.source as usize];
                let context = annotation(AnnotationKind::Context, &other.text, *span, label);
                if span.source == problem.span.source {
                    snippet = snippet.annotation(context);
                    group = group.element(snippet);
                } else {
                    let second = Snippet::source(&*other.text).path(paths[span.source as usize].as_str());
                    group = group.element(snippet).element(second.annotation(context));
                }
            } else {
                group = group.element(snippet);
            }
        }
        match &problem.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

fn annotation<'a>(kind: AnnotationKind, text: &str, span: Span, label: &'a str) -> Annotation<'a> {
    let annotation = kind.span(first_line(text, span));
    if label.is_empty() { annotation } else { annotation.label(label) }
}

/// The part of a span on its first line, at least one character wide where the line has one.
fn first_line(text: &str, span: Span) -> Range<usize> {
    let start = (span.start as usize).min(text.len());
    let rest = text.get(start..).unwrap_or_default();
    let line = rest.lines().next().unwrap_or_default();
    let wanted = (span.end as usize).saturating_sub(start).min(line.len());
    let kept = line.get(..wanted).unwrap_or(line).trim_end();
    let width = kept.len().max(line.chars().next().map_or(0, char::len_utf8));
    start..start + width
}

/// The path from `folder` if it is below it, as one line of a terminal.
pub(super) fn shown_path(path: &Path, folder: &Path) -> String {
    let path = path.strip_prefix(folder).unwrap_or(path);
    escaped(&path.strip_prefix(".").unwrap_or(path).display().to_string()).into_owned()
}

/// The candidate that a wrong name most likely meant, if one is near enough.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1).min(length.saturating_sub(1));
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Advice for a wrong name: the nearest one, else the possible ones if they are few.
pub(super) fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = nearest(name, candidates.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    match candidates.as_slice() {
        [] => None,
        some => Some(format!("known here: {}", listed(some))),
    }
}

/// Names in backquotes, the first twelve of them.
pub(super) fn listed(names: &[&str]) -> String {
    let mut text = names.iter().take(12).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 12 {
        text.push_str(&format!(" and {} more", names.len() - 12));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let names = ["epochs", "loss", "dim"];
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("Loss", names), Some("loss"));
        assert_eq!(nearest("temperature", names), None);
        assert_eq!(suggest("temperature", names).as_deref(), Some("known here: `epochs`, `loss`, `dim`"));
        assert_eq!(suggest("x", []), None);
    }

    #[test]
    fn a_span_is_shown_on_its_first_line_only() {
        let text = "ab: é  \n  c: 1\n";
        let span = |start, end| Span { source: 0, start, end };
        assert_eq!(first_line(text, span(0, 14)), 0..6, "trailing blanks go, and the two bytes of é stay");
        assert_eq!(first_line(text, span(4, 4)), 4..6, "an empty span is widened to a whole character");
        assert_eq!(first_line(text, span(99, 120)), text.len()..text.len());
    }

    #[test]
    fn a_repeated_problem_is_kept_once_and_the_order_is_that_of_the_text() {
        let mut report = Report::default();
        let source = report.source(Path::new("p.yaml"), "a: 1\nb: 2\n".into());
        for start in [5, 0, 5] {
            report.add(Problem::new("wrong_type", Span { source, start, end: start + 1 }, "wrong"));
        }
        let problems = report.finish(Some(())).unwrap_err();
        let lines: Vec<_> = problems.iter().map(|problem| problems.location(problem.span).1).collect();
        assert_eq!(lines, [1, 2]);
        assert!(problems.render(false).ends_with("2 problems in p.yaml\n"));
        assert!(problems.render(true).contains("\u{1b}["));
    }
}
