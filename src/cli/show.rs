//! `meanfield show`: the resolved parameters, inputs and outputs of cells, and where the outputs are.

use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::execute::log_path;
use crate::engine::fingerprint::hidden;
use crate::engine::plan::Decision;
use crate::pipeline::model::{CellId, Source, Task};
use crate::text::escaped;

/// Print the resolved parameters, inputs and outputs of cells
///
/// For each selected cell, prints its kind or command with every parameter resolved, the cells and files it reads, its
/// declared environment, its key, and where its outputs, its log and its published files are, as YAML or JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield show quickstart 'model[dataset=glyphs,loss=proxy_anchor,seed=0]'
  meanfield show quickstart table --json")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Print one JSON document instead of YAML
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let plan = project.plan(false)?;
    let mut cells = Map::new();
    for &cell in &project.selected {
        let decision = plan.decisions[cell].as_ref();
        cells.insert(project.pipeline.cell_name(cell), describe(&project, cell, decision));
    }
    if args.json {
        writeln!(ui.out, "{:#}", Value::Object(cells))?;
    } else {
        let text = serde_yaml::to_string(&cells).map_err(|error| Failure::broken(error.to_string()))?;
        for line in text.lines() {
            writeln!(ui.out, "{}", escaped(line))?;
        }
    }
    project.close()
}

fn describe(project: &Project, id: CellId, decision: Option<&Decision>) -> Value {
    let pipeline = &project.pipeline;
    let cell = &pipeline.cells[id];
    let mut shown = Map::new();
    match &cell.task {
        Task::Kind { name, version, parameters, .. } => {
            shown.insert("kind".into(), json!(&**name));
            shown.insert("version".into(), json!(version));
            shown.insert("with".into(), Value::Object(Map::clone(parameters)));
        }
        Task::Shell(script) => {
            shown.insert("run".into(), json!(script.text));
            if !script.values.is_empty() {
                shown.insert("values".into(), json!(script.values));
            }
            shown.insert("shell".into(), json!(&*script.shell));
        }
        Task::Program(words) => drop(shown.insert("run".into(), json!(words))),
    }
    if !cell.inputs.is_empty() {
        let inputs = cell.inputs.iter().map(|input| {
            let source = match &input.source {
                Source::Cell { cell, output } => json!(format!("{}.{output}", pipeline.cell_name(*cell))),
                Source::Gathered { members, output } => {
                    members.iter().map(|(_, cell)| format!("{}.{output}", pipeline.cell_name(*cell))).collect()
                }
                Source::Path(path) => json!(path),
            };
            (input.name.to_string(), source)
        });
        shown.insert("in".into(), Value::Object(inputs.collect()));
    }
    if !cell.env.is_empty() {
        let env = cell.env.iter().map(|(name, value)| (name.clone(), json!(hidden(value))));
        shown.insert("env".into(), Value::Object(env.collect()));
    }
    if !cell.secrets.is_empty() {
        shown.insert("secrets".into(), cell.secrets.iter().map(|name| json!(&**name)).collect());
    }
    let stage = pipeline.stage_of(id);
    if !stage.policy.resources.is_empty() {
        shown.insert("resources".into(), json!(stage.policy.resources));
    }
    let outputs = cell.outputs.iter().enumerate().map(|(i, output)| {
        let mut place = Map::new();
        place.insert("path".into(), json!(output.path));
        if let Some(path) = &output.publish {
            place.insert("published".into(), json!(project.reports.join(path)));
        }
        if let Some(Decision::Cached { outputs, .. }) = decision
            && let Some(artifact) = outputs.get(i)
        {
            place.insert("digest".into(), json!(artifact.digest.to_string()));
            place.insert("bytes".into(), json!(artifact.size));
            place.insert("stored".into(), json!(project.store.blobs.path(&artifact.digest)));
        }
        (output.name.to_string(), Value::Object(place))
    });
    shown.insert("out".into(), Value::Object(outputs.collect()));
    if let Some(Decision::Cached { key, .. } | Decision::Run { key, .. }) = decision {
        shown.insert("key".into(), json!(key.to_string()));
        let log = log_path(&project.store.logs(), key);
        if log.is_file() {
            shown.insert("log".into(), json!(log));
        }
    }
    Value::Object(shown)
}
