//! Stage definitions: files below `stages/` that give a kind, a command or another definition documented, checked
//! parameters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use walkdir::WalkDir;

use super::command::{
    Files, Run, check_exists, check_name, check_path, is_path, output_names, read_env, read_outputs, read_secrets,
    user_path,
};
use super::interpolate::{Found, Reference, Scope, descend, resolve};
use super::kinds::{Kind, Kinds};
use super::model::{Replaced, Task};
use super::presets::Presets;
use super::problem::{Problem, Report, Span, suggest};
use super::schema::{Fields, mismatch};
use super::shell::Shell;
use super::trust;
use super::yaml::{self, Data, Entry, Node};

/// The keys of a definition, besides those that only a kind or only a command has.
pub(super) const KEYS: [&str; 4] = ["kind", "run", "uses", "params"];

/// Finds, reads and keeps definitions.
pub(super) struct Definitions<'k> {
    kinds: &'k Kinds,
    embedded: &'k [(&'k str, &'k str)],
    /// The nearest `stages/` at or above the pipeline, within its project.
    folder: Option<PathBuf>,
    replaced: Vec<Replaced>,
    read: BTreeMap<String, Option<Rc<Definition<'k>>>>,
    /// Those that are being read, each for the one before it.
    open: Vec<String>,
}

/// One definition.
pub(super) struct Definition<'k> {
    pub(super) name: String,
    params: Fields,
    body: Body<'k>,
}

/// What a definition runs.
pub(super) enum Body<'k> {
    /// A kind, and what its parameters are made of if that is not the definition's own parameters.
    Kind(&'k Kind, Option<Node>),
    /// A command.
    Run(Command),
    /// Another definition, with defaults for its parameters.
    Uses(Rc<Definition<'k>>, Presets),
}

/// A command whose text is looked up again for every set of parameters.
pub(super) struct Command {
    run: Node,
    shell: Option<Shell>,
    env: Option<Node>,
    secrets: Vec<Arc<str>>,
    out: Option<Node>,
    /// Names that the stage must give.
    pub(super) inputs: Vec<Arc<str>>,
    /// Files of the definition's own, below its folder.
    pub(super) own: Vec<(Arc<str>, PathBuf)>,
    outputs: Vec<Arc<str>>,
}

/// A definition with its parameters: what cells do.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) task: Task,
    /// Names and paths of the outputs.
    pub(super) outputs: Vec<(Arc<str>, String)>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) secrets: Vec<Arc<str>>,
}

impl<'k> Definitions<'k> {
    /// Definitions for a pipeline file: from the nearest `stages/` in its project, then from `embedded`.
    pub(super) fn new(file: &Path, kinds: &'k Kinds, embedded: &'k [(&'k str, &'k str)]) -> Definitions<'k> {
        let folder = trust::definitions_of(file);
        Definitions { kinds, embedded, folder, replaced: Vec::new(), read: BTreeMap::new(), open: Vec::new() }
    }

    /// The built-in definitions alone.
    pub(super) fn built_in(kinds: &'k Kinds, embedded: &'k [(&'k str, &'k str)]) -> Definitions<'k> {
        Definitions { kinds, embedded, folder: None, replaced: Vec::new(), read: BTreeMap::new(), open: Vec::new() }
    }

    /// Those of the project's that were read in the place of built-in ones.
    pub(super) fn replaced(self) -> Vec<Replaced> {
        self.replaced
    }

    /// The definition of that name. If there is none, or it is wrong, the problem is in the report.
    pub(super) fn get(&mut self, name: &str, span: Span, report: &mut Report) -> Option<Rc<Definition<'k>>> {
        if let Some(known) = self.read.get(name) {
            return known.clone();
        }
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let names: Vec<String> = self.open[start..].iter().map(|open| format!("`{open}`")).collect();
            let title = format!("dependency cycle between definitions: {} uses `{name}`", names.join(" uses "));
            report.add(Problem::new("cycle", span, title));
            return None;
        }
        self.open.push(name.to_owned());
        let definition = self.find(name, span, report).and_then(|(source, folder)| {
            let node = yaml::parse(report, source)?;
            self.definition(name, folder, &node, report).map(Rc::new)
        });
        self.open.pop();
        self.read.insert(name.to_owned(), definition.clone());
        definition
    }

    /// The text of a definition, and the folder that contains it.
    fn find(&mut self, name: &str, span: Span, report: &mut Report) -> Option<(u32, Option<PathBuf>)> {
        let inside = !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if let Some(folder) = self.folder.as_ref().filter(|_| inside) {
            let path = folder.join(format!("{name}.yaml"));
            if path.is_file() {
                let text = super::read::read_text(&path, report)?;
                let built_in = self.embedded.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
                if built_in != Some(&*text) {
                    if let Some(refusal) = trust::refusal(folder, &path) {
                        report.add(refusal.problem(name, span));
                        return None;
                    }
                    if built_in.is_some() {
                        self.replaced.push(Replaced { name: name.to_owned(), file: path.clone() });
                    }
                }
                return Some((report.source(&path, text), path.parent().map(Path::to_owned)));
            }
        }
        if let Some((_, text)) = self.embedded.iter().find(|(known, _)| *known == name) {
            let path = PathBuf::from(format!("stages/{name}.yaml (built in)"));
            return Some((report.source(&path, (*text).into()), None));
        }
        let mut known: Vec<String> = self.embedded.iter().map(|(name, _)| (*name).to_owned()).collect();
        if let Some(folder) = &self.folder {
            for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_map(Result::ok) {
                let path = entry.path().strip_prefix(folder).unwrap_or(entry.path());
                if path.extension().is_some_and(|extension| extension == "yaml") {
                    known.push(path.with_extension("").display().to_string());
                }
            }
        }
        let problem = Problem::new("unknown_definition", span, format!("there is no stage definition `{name}`"));
        let place = self.folder.as_deref().unwrap_or(Path::new("stages")).join(format!("{name}.yaml"));
        let folder = std::env::current_dir().unwrap_or_default();
        let label = format!("expected {}", super::problem::shown_path(&place, &folder));
        report.add(problem.label(label).help(suggest(name, known.iter().map(String::as_str))));
        None
    }

    fn definition(
        &mut self,
        name: &str,
        folder: Option<PathBuf>,
        node: &Node,
        report: &mut Report,
    ) -> Option<Definition<'k>> {
        if !matches!(node.data, Data::Map(_)) {
            report.add(mismatch(node, "a stage definition", "a mapping"));
            return None;
        }
        let own: &[&str] = match (node.get("run"), node.get("uses")) {
            (Some(_), _) => &["in", "out", "env", "secrets", "shell"],
            (None, Some(_)) => &["with", "cases"],
            (None, None) => &["with"],
        };
        let keys = || KEYS.into_iter().chain(["description"]).chain(own.iter().copied());
        for entry in node.entries() {
            if !keys().any(|key| key == entry.key) {
                let title = format!("a stage definition has no key `{}`", entry.key);
                let problem = Problem::new("unknown_key", entry.key_span, title);
                report.add(problem.help(suggest(&entry.key, keys())));
            }
        }
        let empty = super::params::none(node.span);
        let params = Fields::read(node.get("params").unwrap_or(&empty), report);
        let body = match (node.get("kind"), node.get("run"), node.get("uses")) {
            (Some(kind), None, None) => {
                let Data::Text(wanted) = &kind.data else {
                    report.add(mismatch(kind, "kind", "the name of a kind"));
                    return None;
                };
                let Some(found) = self.kinds.get(wanted) else {
                    let problem = Problem::new("unknown_kind", kind.span, format!("there is no kind `{wanted}`"));
                    report.add(problem.help(suggest(wanted, self.kinds.names())));
                    return None;
                };
                Body::Kind(found, node.get("with").cloned())
            }
            (None, Some(run), None) => Body::Run(command(run, node, folder, report)),
            (None, None, Some(uses)) => {
                let Data::Text(wanted) = &uses.data else {
                    report.add(mismatch(uses, "uses", "the name of a definition"));
                    return None;
                };
                let base = self.get(wanted, uses.span, report)?;
                let names: Vec<&str> = params.names().chain(base.names()).collect();
                Body::Uses(base.clone(), Presets::read(node, &names, report))
            }
            _ => {
                let title = "a stage definition has either `kind`, `run` or `uses`";
                let problem = Problem::new("kind_or_run", node.span, title);
                report.add(problem.label("expected exactly one of them"));
                return None;
            }
        };
        Some(Definition { name: name.to_owned(), params, body })
    }
}

fn command(run: &Node, node: &Node, folder: Option<PathBuf>, report: &mut Report) -> Command {
    let (mut inputs, mut own) = (Vec::new(), Vec::new());
    let given = node.get("in");
    if let Some(given) = given.filter(|given| !matches!(given.data, Data::Map(_) | Data::Null)) {
        report.add(mismatch(given, "in", "a mapping from input names to a sentence about each, or to a path"));
    }
    for entry in given.map_or(&[][..], Node::entries) {
        check_name(&entry.key, "an input", entry.key_span, report);
        let name: Arc<str> = entry.key.as_str().into();
        match (&entry.value.data, &folder) {
            (Data::Text(path), Some(folder)) if is_path(path) => {
                check_exists(folder, path, entry.value.span, report);
                own.push((name, user_path(folder, path)));
            }
            (Data::Text(_) | Data::Null, _) => inputs.push(name),
            _ => report.add(mismatch(
                &entry.value,
                &entry.key,
                "a sentence about the input, or a path such as ./tool.py",
            )),
        }
    }
    let shell = match (node.get("shell"), &run.data) {
        (Some(shell), Data::List(_)) => {
            let problem = Problem::new("misplaced_key", shell.span, "`shell` has no meaning here");
            report.add(problem.label("a list is run without a shell"));
            None
        }
        (Some(shell), _) => super::shell::read(shell, report),
        (None, _) => None,
    };
    Command {
        run: run.clone(),
        shell,
        env: node.get("env").cloned(),
        secrets: read_secrets(node.get("secrets"), report).names,
        out: node.get("out").cloned(),
        inputs,
        own,
        outputs: output_names(node.get("out")),
    }
}

impl Definition<'_> {
    /// What it runs in the end, whatever it builds on: never [`Body::Uses`].
    pub(super) fn runs(&self) -> &Body<'_> {
        match &self.body {
            Body::Uses(base, _) => base.runs(),
            body => body,
        }
    }

    /// The names of its outputs; the first is the one that a bare stage name refers to.
    pub(super) fn outputs(&self) -> Vec<Arc<str>> {
        match &self.body {
            Body::Kind(kind, _) => kind.outputs.iter().map(|(name, _)| (*name).into()).collect(),
            Body::Run(command) => command.outputs.clone(),
            Body::Uses(base, _) => base.outputs(),
        }
    }

    /// Its name and its own parameters, then those of the definition that it builds on, and so on.
    pub(super) fn layers(&self) -> Vec<(&str, &Fields)> {
        let mut layers = vec![(self.name.as_str(), &self.params)];
        if let Body::Uses(base, _) = &self.body {
            layers.extend(base.layers());
        }
        layers
    }

    /// The names of all parameters, those of the definition that it builds on last.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.params.names().collect();
        if let Body::Uses(base, _) = &self.body {
            names.extend(base.names());
        }
        names
    }

    /// The default of a parameter, as far as it does not depend on others.
    fn default_of(&self, name: &str) -> Option<&Node> {
        self.params.default_of(name).or_else(|| match &self.body {
            Body::Uses(base, presets) => presets.default_of(name).or_else(|| base.default_of(name)),
            _ => None,
        })
    }

    /// Checks `with:` of a stage, where `missing` is the place that lacks what it lacks, and works out what cells do.
    pub(super) fn apply(&self, with: &Node, missing: Span, report: &mut Report) -> Option<Applied> {
        if let Body::Uses(base, presets) = &self.body {
            let part = |own: bool| {
                let of = |entry: &&Entry| self.params.names().any(|name| name == entry.key) == own;
                Node::new(with.span, Data::Map(with.entries().iter().filter(of).cloned().collect()))
            };
            let own = self.params.resolve(&part(true), missing, report)?;
            let resolve = |node: &Node| resolve(node, &mut self.scope(&own, None), report);
            let value = |name: &str| own.get(name).or_else(|| base.default_of(name)).cloned();
            let given = presets.fill(&part(false), resolve, value);
            return base.apply(&given, missing, report);
        }
        let parameters = self.params.resolve(with, missing, report)?;
        match &self.body {
            Body::Uses(..) => None,
            Body::Kind(kind, mapping) => {
                let mapped = match mapping {
                    Some(mapping) => {
                        let mut mapped = resolve(mapping, &mut self.scope(&parameters, None), report);
                        if let Data::Map(entries) = &mut mapped.data {
                            entries.retain(|entry| entry.value.data != Data::Null);
                        }
                        mapped
                    }
                    None => parameters,
                };
                let map = mapped.to_map();
                let problems = (kind.check)(&map);
                for problem in &problems {
                    let title = match problem.path.as_slice() {
                        [] => format!("the parameters: {}", problem.message),
                        path => format!("`{}` {}", path.join("."), problem.message),
                    };
                    let label = format!("refused by the kind `{}`", kind.name);
                    report.add(Problem::new("refused", deepest(&mapped, &problem.path, missing), title).label(label));
                }
                let outputs = kind.outputs.iter().map(|(name, path)| ((*name).into(), (*path).to_owned())).collect();
                let task = Task::Kind {
                    name: kind.name.into(),
                    version: kind.version,
                    parameters: Arc::new(map),
                    continues: kind.continues,
                };
                problems.is_empty().then_some(Applied { task, outputs, env: BTreeMap::new(), secrets: Vec::new() })
            }
            Body::Run(command) => {
                let inputs: Vec<Arc<str>> =
                    command.inputs.iter().chain(command.own.iter().map(|(name, _)| name)).cloned().collect();
                let files = Files { inputs: &inputs, outputs: &command.outputs };
                let outputs =
                    read_outputs(command.out.as_ref(), command.run.span, &mut self.scope(&parameters, None), report);
                let env = read_env(command.env.as_ref(), &mut self.scope(&parameters, None), report);
                let run =
                    Run::read(&command.run, command.shell.clone(), &mut self.scope(&parameters, Some(files)), report)?;
                let outputs: Vec<_> =
                    outputs.into_iter().map(|out| (out.name, out.path.span, out.path.fill(&[]))).collect();
                if !outputs.iter().all(|(_, span, path)| check_path(path, *span, report)) || outputs.is_empty() {
                    return None;
                }
                Some(Applied {
                    task: run.task(&[]),
                    outputs: outputs.into_iter().map(|(name, _, path)| (name, path)).collect(),
                    env: env.into_iter().map(|(name, text)| (name, text.fill(&[]))).collect(),
                    secrets: command.secrets.clone(),
                })
            }
        }
    }

    fn scope<'a>(&'a self, parameters: &'a Node, files: Option<Files<'a>>) -> With<'a> {
        With { parameters, fields: &self.params, files }
    }
}

/// The place of the last name of `path` that the parameters have.
fn deepest(parameters: &Node, path: &[String], fallback: Span) -> Span {
    let mut node = parameters;
    for name in path {
        match node.child(name) {
            Some(child) => node = child,
            None => break,
        }
    }
    if std::ptr::eq(node, parameters) { fallback } else { node.span }
}

/// The names that a definition can look up.
struct With<'a> {
    parameters: &'a Node,
    fields: &'a Fields,
    files: Option<Files<'a>>,
}

impl Scope for With<'_> {
    fn lookup(&mut self, reference: &Reference, report: &mut Report) -> Option<Found> {
        if let Some(found) = self.files.and_then(|files| files.lookup(reference, report)) {
            return found;
        }
        match reference.path.split_first() {
            Some((first, rest)) if first == "with" => {
                if let [name] = rest
                    && self.parameters.get(name).is_none()
                    && self.fields.names().any(|known| known == name)
                {
                    return Some(Found::Value(Node::new(reference.span, Data::Null)));
                }
                descend(self.parameters, rest, reference, report).cloned().map(Found::Value)
            }
            _ => {
                let files: &[&str] = if self.files.is_some() { &["with", "in", "out"] } else { &["with"] };
                let problem = super::params::unknown(reference, files, self.parameters);
                report.add(problem.label("a definition sees only its own `${with...}`"));
                None
            }
        }
    }
}
