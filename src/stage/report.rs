//! `report`: gathered scores to a table in every format; and drawing a stored table again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{JobError, output, parameters, parsed, problems};
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};
use crate::pipeline::model::{CellId, Pipeline, Task};
use crate::report::{self, Config, Record, Records, Table};
use crate::store::tree::Node;
use crate::store::{Artifact, Store};

pub(super) const KIND: Kind = Kind {
    name: "report",
    version: 1,
    inputs: Inputs::Gathered,
    outputs: &[("report", "report")],
    publish: true,
    check,
};

/// The file of a report that every other can be drawn from.
const TABLE: &str = "table.json";

#[derive(Debug, Error)]
enum ReportInputError {
    #[error("cannot read the scores {}: {source}", path.display())]
    Unreadable { path: std::path::PathBuf, source: std::io::Error },
    #[error("{} holds no scores (a JSON object with `metrics`): {source}", path.display())]
    NoScores { path: std::path::PathBuf, source: serde_json::Error },
    #[error("the report holds no {TABLE}")]
    NoTable,
}

/// What `evaluate`, or any command that wants to be in a table, writes.
#[derive(Debug, Deserialize)]
struct Scores {
    metrics: Map<String, Value>,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    match parsed::<Config>(map) {
        Ok(config) => problems(config.check()),
        Err(found) => found,
    }
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let config: Config = parameters(&job.parameters)?;
    let mut records = Vec::new();
    for input in &job.inputs {
        for (labels, path) in &input.items {
            let Scores { metrics } = read(path)?;
            let metrics = metrics.iter().map(|(name, value)| (name.clone(), value.as_f64().unwrap_or(f64::NAN)));
            records.push(Record {
                input: input.name.clone(),
                labels: labels.clone(),
                metrics: metrics.collect(),
                cost: None,
            });
        }
    }
    let table = report::build(&config, &Records::new(records))?;
    Ok(report::write(&table, output(job, "report")?)?)
}

fn read(path: &Path) -> Result<Scores, ReportInputError> {
    let text = std::fs::read(path).map_err(|source| ReportInputError::Unreadable { path: path.to_owned(), source })?;
    serde_json::from_slice(&text).map_err(|source| ReportInputError::NoScores { path: path.to_owned(), source })
}

/// Whether a cell makes tables.
pub fn makes_tables(pipeline: &Pipeline, cell: CellId) -> bool {
    matches!(&pipeline.cells[cell.0 as usize].task, Task::Kind { name, .. } if &**name == KIND.name)
}

/// How to write a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// For a terminal of that many columns, or of any width.
    Text {
        color: bool,
        width: Option<usize>,
    },
    Markdown,
    Csv,
    Json,
}

/// Draws the table among the stored `outputs` of a cell that makes tables.
pub fn render_table(store: &Store, outputs: &[Artifact], format: TableFormat) -> Result<String, JobError> {
    let trees: Vec<_> = outputs.iter().map(|output| store.blobs.tree(&output.digest)).collect::<Result<_, _>>()?;
    let files: BTreeMap<&str, Node> =
        trees.iter().flat_map(|tree| &tree.entries).map(|entry| (entry.path.as_str(), entry.node)).collect();
    let Some(Node::File { digest, .. }) = files.get(TABLE) else { return Err(ReportInputError::NoTable.into()) };
    let text = String::from_utf8(store.blobs.read(digest)?)?;
    let table = Table::from_json(&text)?;
    Ok(match format {
        TableFormat::Text { color, width } => report::text::render(&table, report::text::Style { ansi: color, width }),
        TableFormat::Markdown => report::markdown::render(&table),
        TableFormat::Csv => report::csv::cells(&table)?,
        TableFormat::Json => text,
    })
}
