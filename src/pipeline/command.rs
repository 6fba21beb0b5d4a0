//! What `run:` stages and `run:` definitions share: the command, its outputs, its environment and its secrets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::interpolate::{Found, Reference, Scope, Text, bind_text, is_name};
use super::model::Task;
use super::problem::{Problem, Report, Span, nearest, suggest};
use super::schema::mismatch;
use super::script;
use super::shell::Shell;
use super::yaml::{Data, Node};

/// A command: a string for the shell or a list without one.
#[derive(Debug)]
pub(super) enum Run {
    Shell(script::Draft),
    Program(Vec<Text>),
}

impl Run {
    /// Reads `run:`, whose text is for `shell`, or for the shell that is found where it names none.
    pub(super) fn read(node: &Node, shell: Option<Shell>, scope: &mut dyn Scope, report: &mut Report) -> Option<Run> {
        let empty = || Problem::new("empty_run", node.span, "`run` has no command");
        match &node.data {
            Data::Text(text) if text.trim().is_empty() => {
                report.add(empty());
                None
            }
            Data::Text(_) => {
                let shell = shell.or_else(|| super::shell::default(node.span, report))?;
                script::Draft::read(node, shell, scope, report).map(Run::Shell)
            }
            Data::List(items) if items.is_empty() => {
                report.add(empty());
                None
            }
            Data::List(items) => {
                let words: Vec<Option<Text>> =
                    items.iter().map(|item| bind_text(item, "a word of `run`", scope, report)).collect();
                words.into_iter().collect::<Option<_>>().map(Run::Program)
            }
            _ => {
                report.add(mismatch(node, "run", "a command line, or a list of a program and its arguments"));
                None
            }
        }
    }

    /// The command at one point.
    pub(super) fn task(&self, point: &[u32]) -> Task {
        match self {
            Run::Shell(script) => Task::Shell(script.fill(point)),
            Run::Program(words) => Task::Program(words.iter().map(|word| word.fill(point)).collect()),
        }
    }

    /// Adds the axes that it mentions.
    pub(super) fn mentions(&self, axes: &mut BTreeSet<usize>) {
        match self {
            Run::Shell(script) => script.mentions(axes),
            Run::Program(words) => words.iter().for_each(|word| word.mentions(axes)),
        }
    }
}

/// One output of a command.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) name: Arc<str>,
    pub(super) path: Text,
}

/// The names below `out:`, for references to them.
pub(super) fn output_names(node: Option<&Node>) -> Vec<Arc<str>> {
    match node.map(|node| &node.data) {
        Some(Data::List(items)) => items.iter().filter_map(Node::scalar).map(Arc::from).collect(),
        Some(Data::Map(entries)) => entries.iter().map(|entry| entry.key.as_str().into()).collect(),
        _ => Vec::new(),
    }
}

/// Reads `out:` of a command: a mapping from names to paths, or a list of names that are their own paths.
pub(super) fn read_outputs(node: Option<&Node>, at: Span, scope: &mut dyn Scope, report: &mut Report) -> Vec<Out> {
    let mut outputs = Vec::new();
    let pairs: Vec<(String, Span, &Node)> = match node.map(|node| (&node.data, node)) {
        Some((Data::List(items), _)) => {
            items.iter().map(|item| (item.scalar().unwrap_or_default(), item.span, item)).collect()
        }
        Some((Data::Map(entries), _)) => {
            entries.iter().map(|entry| (entry.key.clone(), entry.key_span, &entry.value)).collect()
        }
        Some((Data::Null, _)) | None => Vec::new(),
        Some((_, other)) => {
            report.add(mismatch(other, "out", "a mapping from names to paths"));
            return outputs;
        }
    };
    if pairs.is_empty() {
        let problem = Problem::new("no_output", at, "a command must declare what it writes");
        report.add(problem.label("expected `out: { name: path }` next to it"));
    }
    let listed = node.is_some_and(|node| matches!(node.data, Data::List(_)));
    for (name, span, path) in pairs {
        // A list names files, so its names may have dots.
        if !listed {
            check_name(&name, "an output", span, report);
        }
        if let Some(path) = bind_text(path, "the path of an output", scope, report) {
            if let Some(constant) = path.constant() {
                check_path(constant, path.span, report);
            }
            outputs.push(Out { name: name.into(), path });
        }
    }
    outputs
}

/// Refuses a path that does not stay inside the cell's folder.
pub(super) fn check_path(path: &str, span: Span, report: &mut Report) -> bool {
    let good = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !good {
        let problem = Problem::new("bad_path", span, format!("`{path}` cannot be the path of an output"));
        report.add(problem.label("expected a relative path without `.` and `..`, such as `scores/all.csv`"));
    }
    good
}

/// Whether an input is written as a path.
pub(super) fn is_path(text: &str) -> bool {
    ["./", "../", "/"].iter().any(|start| text.starts_with(start))
}

/// A path, relative to the folder of the file that names it.
pub(super) fn user_path(folder: &Path, path: &str) -> PathBuf {
    let mut below = path;
    while let Some(rest) = below.strip_prefix("./") {
        below = rest.trim_start_matches('/');
    }
    match below {
        // The folder of the file itself, which `join` would give a slash at its end, or no name at all.
        "" if folder == Path::new("") => PathBuf::from("."),
        "" => folder.to_owned(),
        _ => folder.join(below),
    }
}

/// Refuses a path that does not exist.
pub(super) fn check_exists(folder: &Path, path: &str, span: Span, report: &mut Report) {
    let full = user_path(folder, path);
    if full.exists() {
        return;
    }
    let siblings = full.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let mut siblings: Vec<String> =
        siblings.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    siblings.sort();
    let name = full.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let near = nearest(name, siblings.iter().map(String::as_str));
    let help = near.map(|near| format!("did you mean `{}{near}`?", path.strip_suffix(name).unwrap_or_default()));
    let problem = Problem::new("missing_file", span, format!("there is no file or folder `{path}`"));
    report.add(problem.label("expected a path from this file's folder").help(help));
}

/// Refuses a name that references could not use.
pub(super) fn check_name(name: &str, what: &str, span: Span, report: &mut Report) -> bool {
    if !is_name(name) {
        let problem = Problem::new("bad_name", span, format!("`{name}` cannot name {what}"));
        report.add(problem.label("expected letters, digits, `_` or `-`"));
    }
    is_name(name)
}

/// Reads `env:`.
pub(super) fn read_env(node: Option<&Node>, scope: &mut dyn Scope, report: &mut Report) -> Vec<(String, Text)> {
    let Some(node) = node else { return Vec::new() };
    if !matches!(node.data, Data::Map(_) | Data::Null) {
        report.add(mismatch(node, "env", "a mapping from names to values"));
    }
    let mut variables = Vec::new();
    for entry in node.entries() {
        check_variable(&entry.key, entry.key_span, report);
        let what = format!("the variable `{}`", entry.key);
        if entry.value.data == Data::Null {
            let help = format!("to pass on what the environment holds, write `secrets: [{}]`", entry.key);
            report.add(mismatch(&entry.value, &what, "a text").help(help));
            continue;
        }
        if let Some(text) = bind_text(&entry.value, &what, scope, report) {
            variables.push((entry.key.clone(), text));
        }
    }
    variables
}

/// Refuses a name that no environment variable can have.
fn check_variable(name: &str, span: Span, report: &mut Report) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(allowed) || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        let problem = Problem::new("bad_name", span, format!("`{name}` cannot name an environment variable"));
        report.add(problem.label("expected letters, digits or `_`, no digit first"));
    }
}

/// The names below `secrets:`.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    pub(super) names: Vec<Arc<str>>,
    pub(super) span: Span,
}

/// Reads `secrets:`, a list of names of variables.
pub(super) fn read_secrets(node: Option<&Node>, report: &mut Report) -> Secrets {
    let Some(node) = node else { return Secrets::default() };
    let Data::List(items) = &node.data else {
        report.add(mismatch(node, "secrets", "a list of names of environment variables, such as [HF_TOKEN]"));
        return Secrets::default();
    };
    let mut names: Vec<Arc<str>> = Vec::with_capacity(items.len());
    for item in items {
        let Data::Text(name) = &item.data else {
            report.add(mismatch(item, "a secret", "the name of an environment variable; its value is written nowhere"));
            continue;
        };
        check_variable(name, item.span, report);
        if !names.iter().any(|known| **known == **name) {
            names.push(name.as_str().into());
        }
    }
    Secrets { names, span: node.span }
}

/// The inputs and outputs that `${in.NAME}` and `${out.NAME}` can name in a command.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) inputs: &'a [Arc<str>],
    pub(super) outputs: &'a [Arc<str>],
}

impl Files<'_> {
    /// Keeps a reference to a file in the text; nothing if it refers to something else.
    pub(super) fn lookup(&self, reference: &Reference, report: &mut Report) -> Option<Option<Found>> {
        let (noun, known) = match reference.path[0].as_str() {
            "in" => ("input", self.inputs),
            "out" => ("output", self.outputs),
            _ => return None,
        };
        // An output of a list may have dots in its name.
        let name = reference.path[1..].join(".");
        if known.iter().any(|known| **known == *name) {
            return Some(Some(Found::Kept));
        }
        let problem = Problem::new("unknown_name", reference.span, format!("there is no {noun} `{name}` here"));
        report.add(problem.help(suggest(&name, known.iter().map(|name| &**name))));
        Some(None)
    }
}
