//! `stages:` as they are written: every name looked up, axis values still open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::axes::AxisSpec;
use super::command::{
    Files, Out, Run, Secrets, check_exists, check_name, is_path, output_names, read_env, read_outputs, read_secrets,
};
use super::interpolate::{AxisField, Found, Reference, Scope, Template, Text, bind, bind_text, descend};
use super::model::Policy;
use super::params::{Params, unknown};
use super::policy::{check_demand, read_resources, read_retry, read_timeout};
use super::problem::{Problem, Report, Span, suggest};
use super::schema::mismatch;
use super::shell::Shell;
use super::yaml::{Data, Entry, Node};

pub(super) const KEYS: [&str; 12] =
    ["uses", "run", "shell", "in", "with", "out", "env", "secrets", "resources", "retry", "timeout", "description"];

/// A stage as it is written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    pub(super) span: Span,
    pub(super) description: Option<String>,
    pub(super) body: Option<Body>,
    pub(super) inputs: Vec<InputDraft>,
    pub(super) env: Vec<(String, Text)>,
    pub(super) secrets: Secrets,
    pub(super) policy: Policy,
}

/// What a stage does.
#[derive(Debug)]
pub(super) enum Body {
    /// The name of a definition and its parameters.
    Uses { name: Text, with: Template, with_span: Span },
    /// A command of its own.
    Run { run: Run, out: Vec<Out> },
}

/// An entry of `in:`.
#[derive(Debug)]
pub(super) struct InputDraft {
    pub(super) name: Arc<str>,
    pub(super) name_span: Span,
    /// Where its source is written.
    pub(super) span: Span,
    /// Nothing if its source is wrong.
    pub(super) from: Option<Origin>,
}

/// Where an input comes from.
#[derive(Debug)]
pub(super) enum Origin {
    Stage { stage: usize, output: Option<Arc<str>>, gather: Option<Gather>, earlier: Option<Earlier> },
    Path(Text),
}

/// Of an axis that the reader has, the cells before its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Earlier {
    pub(super) axis: usize,
    /// Blocks of this many values of the axis, counted from the first: no value of a block is earlier than another.
    pub(super) block: u32,
}

impl Earlier {
    /// The first value, by its number, that is not earlier than `value`.
    pub(super) fn end(&self, value: u32) -> u32 {
        value / self.block * self.block
    }
}

/// Over which axes an input is gathered.
#[derive(Debug, Clone)]
pub(super) enum Gather {
    /// Those that the reader does not have.
    All,
    /// These.
    Axes(Vec<usize>),
}

impl Draft {
    /// The axes that it mentions.
    pub(super) fn mentions(&self) -> BTreeSet<usize> {
        let mut axes = BTreeSet::new();
        match &self.body {
            Some(Body::Uses { name, with, .. }) => {
                name.mentions(&mut axes);
                with.mentions(&mut axes);
            }
            Some(Body::Run { run, out }) => {
                run.mentions(&mut axes);
                out.iter().for_each(|out| out.path.mentions(&mut axes));
            }
            None => {}
        }
        self.env.iter().for_each(|(_, text)| text.mentions(&mut axes));
        for input in &self.inputs {
            if let Some(Origin::Path(path)) = &input.from {
                path.mentions(&mut axes);
            }
        }
        axes
    }
}

/// What stages are read with.
pub(super) struct Context<'a> {
    pub(super) params: &'a Node,
    pub(super) axes: &'a [AxisSpec],
    /// The names of all stages, in the order of the file.
    pub(super) stages: Vec<&'a str>,
    /// The folder that relative paths start from.
    pub(super) folder: &'a Path,
    pub(super) capacity: &'a BTreeMap<String, u64>,
    /// The shell that the pipeline names.
    pub(super) shell: Option<Shell>,
}

impl Context<'_> {
    /// Reads one stage.
    pub(super) fn read(&self, entry: &Entry, report: &mut Report) -> Draft {
        let (name, node) = (entry.key.as_str(), &entry.value);
        check_name(name, "a stage", entry.key_span, report);
        if !matches!(node.data, Data::Map(_)) {
            report.add(mismatch(node, name, "a mapping with `uses` or `run`"));
        }
        for entry in node.entries() {
            if !KEYS.contains(&entry.key.as_str()) {
                let problem =
                    Problem::new("unknown_key", entry.key_span, format!("a stage has no key `{}`", entry.key));
                report.add(problem.help(suggest(&entry.key, KEYS)));
            }
        }
        let inputs = self.inputs(node.get("in"), report);
        let env = read_env(node.get("env"), &mut self.scope(None), report);
        let secrets = read_secrets(node.get("secrets"), report);
        let body = self.body(entry, &inputs, report);
        let mut params = Params(self.params);
        let mut constant = |key| node.get(key).map(|node| super::interpolate::resolve(node, &mut params, report));
        let (resources, retry, timeout) = (constant("resources"), constant("retry"), constant("timeout"));
        let wanted = read_resources(resources.as_ref(), report);
        if let Some(resources) = &resources {
            check_demand(resources, &wanted, self.capacity, report);
        }
        let policy = Policy {
            resources: wanted,
            retry: read_retry(retry.as_ref(), report),
            timeout: read_timeout(timeout.as_ref(), report),
        };
        let description = node.get("description");
        let description =
            description.and_then(|node| bind_text(node, "`description`", &mut Params(self.params), report));
        let description = description.map(|text| text.fill(&[]));
        Draft { name: name.into(), span: entry.key_span, description, body, inputs, env, secrets, policy }
    }

    fn body(&self, entry: &Entry, inputs: &[InputDraft], report: &mut Report) -> Option<Body> {
        let node = &entry.value;
        let refuse = |key, why: &str, report: &mut Report| {
            if let Some(entry) = node.entries().iter().find(|entry| entry.key == key) {
                let title = format!("`{key}` has no meaning here");
                report.add(Problem::new("misplaced_key", entry.key_span, title).label(why));
            }
        };
        match (node.get("uses"), node.get("run")) {
            (Some(uses), None) => {
                refuse("out", "the definition that the stage uses has its own outputs", report);
                refuse("shell", "the definition that the stage uses names its own", report);
                let name = bind_text(uses, "`uses`", &mut self.scope(None), report);
                let (with, with_span) = match node.get("with") {
                    Some(with) if matches!(with.data, Data::Map(_) | Data::Null) => (with.clone(), with.span),
                    Some(with) => {
                        report.add(mismatch(with, "with", "a mapping from parameters to values"));
                        return None;
                    }
                    None => (super::params::none(uses.span), uses.span),
                };
                // Where `with` starts says nothing about what is missing in it; what is used does.
                let missing = if node.get("with").is_some() { with_span } else { uses.span };
                let with = bind(&with, &mut self.scope(None), report);
                Some(Body::Uses { name: name?, with, with_span: missing })
            }
            (None, Some(run)) => {
                refuse("with", "only a definition has parameters; a command is written out", report);
                let outputs = output_names(node.get("out"));
                let names: Vec<Arc<str>> = inputs.iter().map(|input| input.name.clone()).collect();
                let out = read_outputs(node.get("out"), entry.key_span, &mut self.scope(None), report);
                let files = Files { inputs: &names, outputs: &outputs };
                let shell = match node.get("shell") {
                    Some(_) if matches!(run.data, Data::List(_)) => {
                        refuse("shell", "a list is run without a shell", report);
                        None
                    }
                    Some(shell) => Some(super::shell::read(shell, report)?),
                    None => self.shell.clone(),
                };
                let run = Run::read(run, shell, &mut self.scope(Some(files)), report)?;
                Some(Body::Run { run, out })
            }
            (Some(_), Some(_)) => {
                let problem = Problem::new(
                    "uses_or_run",
                    entry.key_span,
                    format!("stage `{}` has both `uses` and `run`", entry.key),
                );
                report.add(problem.label("expected exactly one of them"));
                None
            }
            (None, None) => {
                let problem =
                    Problem::new("uses_or_run", entry.key_span, format!("stage `{}` does nothing", entry.key));
                report.add(problem.label("expected `uses: DEFINITION` or `run: COMMAND`"));
                None
            }
        }
    }

    fn inputs(&self, node: Option<&Node>, report: &mut Report) -> Vec<InputDraft> {
        let Some(node) = node else { return Vec::new() };
        if !matches!(node.data, Data::Map(_) | Data::Null) {
            report.add(mismatch(node, "in", "a mapping from input names to stages or paths"));
        }
        let read = |entry: &Entry| {
            check_name(&entry.key, "an input", entry.key_span, report);
            let from = match &entry.value.data {
                Data::Map(_) => self.gathered(&entry.value, report),
                _ => self.source(&entry.value, report),
            };
            let name = entry.key.as_str().into();
            InputDraft { name, name_span: entry.key_span, span: entry.value.span, from }
        };
        node.entries().iter().map(read).collect()
    }

    /// Reads `stage`, `stage.output`, or a path.
    fn source(&self, node: &Node, report: &mut Report) -> Option<Origin> {
        let text = bind_text(node, "an input", &mut self.scope(None), report)?;
        if is_path(text.prefix()) {
            if let Some(path) = text.constant() {
                check_exists(self.folder, path, node.span, report);
            }
            return Some(Origin::Path(text));
        }
        let Some(written) = text.constant() else {
            let problem = Problem::new("bad_input", node.span, "an input cannot be chosen by an axis");
            let help = "a stage that mentions an axis has a cell for each value, and cells read their own".to_owned();
            report.add(problem.label("expected a stage, `stage.output`, or a path that begins with `./`").help(help));
            return None;
        };
        let (stage, output) = match written.split_once('.') {
            Some((stage, output)) => (stage, Some(output.into())),
            None => (written, None),
        };
        let Some(index) = self.stages.iter().position(|known| *known == stage) else {
            let title = format!("there is no stage `{stage}`");
            let problem = Problem::new("unknown_stage", node.span, title);
            let help = if written.contains(['/', '~', '.'])
                && super::problem::nearest(stage, self.stages.iter().copied()).is_none()
            {
                Some("a path of yours begins with `./`, `../` or `/`".to_owned())
            } else {
                suggest(stage, self.stages.iter().copied())
            };
            report.add(problem.help(help));
            return None;
        };
        Some(Origin::Stage { stage: index, output, gather: None, earlier: None })
    }

    /// Reads `{ from: stage, gather: all }`, `{ from: stage, gather: [axis, ...] }`, or
    /// `{ from: stage, earlier: axis, block: count }`.
    fn gathered(&self, node: &Node, report: &mut Report) -> Option<Origin> {
        const KEYS: [&str; 4] = ["from", "gather", "earlier", "block"];
        for entry in node.entries().iter().filter(|entry| !KEYS.contains(&entry.key.as_str())) {
            let problem = Problem::new("unknown_key", entry.key_span, format!("an input has no key `{}`", entry.key));
            report.add(problem.help(suggest(&entry.key, KEYS)));
        }
        let (gather, earlier) = match (node.get("from"), node.get("gather"), node.get("earlier")) {
            (Some(_), Some(over), None) => (self.gather(over, report)?, None),
            (Some(_), None, Some(axis)) => (Gather::All, Some(self.earlier(axis, node.get("block"), report)?)),
            (Some(_), Some(_), Some(earlier)) => {
                let title = "an input has either `gather` or `earlier`, which gathers too";
                report.add(Problem::new("bad_input", earlier.span, title));
                return None;
            }
            _ => {
                let title = "an input that gathers needs `from` and `gather`";
                let problem = Problem::new("missing_key", node.span, title);
                report.add(problem.label("expected `{ from: stage, gather: all }`"));
                return None;
            }
        };
        if earlier.is_none()
            && let Some(block) = node.get("block")
        {
            report.add(Problem::new("misplaced_key", block.span, "`block` is only valid together with `earlier`"));
        }
        let from = node.get("from")?;
        match self.source(from, report)? {
            Origin::Stage { stage, output, .. } => Some(Origin::Stage { stage, output, gather: Some(gather), earlier }),
            Origin::Path(_) => {
                report.add(mismatch(from, "from", "a stage: a path has no cells to gather"));
                None
            }
        }
    }

    fn gather(&self, over: &Node, report: &mut Report) -> Option<Gather> {
        match &over.data {
            Data::Text(text) if text == "all" => Some(Gather::All),
            Data::List(items) => {
                let mut axes: Vec<usize> = items.iter().filter_map(|item| self.axis(item, report)).collect();
                axes.sort_unstable();
                axes.dedup();
                Some(Gather::Axes(axes))
            }
            _ => {
                report.add(mismatch(over, "gather", "`all` or a list of axes"));
                None
            }
        }
    }

    fn earlier(&self, axis: &Node, block: Option<&Node>, report: &mut Report) -> Option<Earlier> {
        let count = |block: &Node| match &block.data {
            Data::Number(number) => {
                number.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|&count| count > 0)
            }
            _ => None,
        };
        let block = match block {
            Some(block) => count(block).or_else(|| {
                report.add(mismatch(block, "block", "a whole number from 1 upwards"));
                None
            }),
            None => Some(1),
        };
        let axis = self.axis(axis, report);
        Some(Earlier { axis: axis?, block: block? })
    }

    fn axis(&self, node: &Node, report: &mut Report) -> Option<usize> {
        let name = node.scalar().unwrap_or_default();
        let found = self.axes.iter().position(|axis| *axis.name == *name);
        if found.is_none() {
            let problem = Problem::new("unknown_axis", node.span, format!("there is no axis `{name}`"));
            report.add(problem.help(suggest(&name, self.axes.iter().map(|axis| &*axis.name))));
        }
        found
    }

    fn scope<'a>(&'a self, files: Option<Files<'a>>) -> StageScope<'a> {
        StageScope { params: self.params, axes: self.axes, files }
    }
}

/// The names that a stage can look up.
struct StageScope<'a> {
    params: &'a Node,
    axes: &'a [AxisSpec],
    files: Option<Files<'a>>,
}

impl Scope for StageScope<'_> {
    fn lookup(&mut self, reference: &Reference, report: &mut Report) -> Option<Found> {
        if let Some(found) = self.files.and_then(|files| files.lookup(reference, report)) {
            return found;
        }
        let (first, rest) = reference.path.split_first()?;
        if first == "params" {
            return descend(self.params, rest, reference, report).cloned().map(Found::Value);
        }
        if let Some(axis) = self.axes.iter().position(|axis| *axis.name == **first) {
            return self.field(axis, rest, reference, report).map(Found::Axis);
        }
        let mut known: Vec<&str> = vec!["params"];
        known.extend(self.axes.iter().map(|axis| &*axis.name));
        let problem = unknown(reference, &known, self.params);
        let files = ["in", "out"].contains(&first.as_str());
        report.add(if files { problem.label("inputs and outputs can be named in `run` only") } else { problem });
        None
    }
}

impl StageScope<'_> {
    fn field(&self, axis: usize, path: &[String], reference: &Reference, report: &mut Report) -> Option<AxisField> {
        let spec = &self.axes[axis];
        if path.is_empty() {
            return Some(AxisField { axis, nodes: spec.nodes.clone(), texts: Some(spec.names.clone()) });
        }
        let mut nodes = Vec::with_capacity(spec.nodes.len());
        for (value, name) in spec.nodes.iter().zip(spec.names.iter()) {
            let mut node = value;
            for field in path {
                let Some(child) = node.child(field) else {
                    let title = format!("`{name}` of axis `{}` has no field `{field}`", spec.name);
                    let problem = Problem::new("unknown_name", reference.span, title).related(value.span, "its fields");
                    let known = node.child_names();
                    report.add(problem.help(suggest(field, known.iter().map(String::as_str))));
                    return None;
                };
                node = child;
            }
            nodes.push(node.clone());
        }
        let texts: Option<Vec<Arc<str>>> = nodes.iter().map(|node| node.scalar().map(Arc::from)).collect();
        Some(AxisField { axis, nodes: nodes.into(), texts: texts.map(Arc::from) })
    }
}
