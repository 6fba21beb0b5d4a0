//! `report`: gathered scores to a table in every format; and drawing a stored table again.
//!
//! Scores are JSON as `evaluate` writes it, or a CSV log as `train` writes it: its last line counts.

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
    continues: &[],
    secrets: 0,
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
    #[error("{} holds no scores: neither a JSON object nor a CSV log with numbers in its last line", path.display())]
    NoLog { path: std::path::PathBuf },
    #[error("the report holds no {TABLE}")]
    NoTable,
}

/// What `evaluate`, or any command that wants to be in a table, writes.
#[derive(Debug, Deserialize)]
struct Scores {
    metrics: Map<String, Value>,
    #[serde(default)]
    remarks: Vec<String>,
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
            let (metrics, remarks) = read(path)?;
            let (input, labels) = (input.name.clone(), labels.clone());
            records.push(Record { input, labels, metrics, cost: None, remarks });
        }
    }
    let table = report::build(&config, &Records::new(records).averaged(&config.averaged))?;
    Ok(report::write(&table, output(job, "report")?)?)
}

/// Metrics by name, and what the reader of a table must know of them.
type Read = (Vec<(String, f64)>, Vec<String>);

/// What a file of scores holds.
fn read(path: &Path) -> Result<Read, ReportInputError> {
    let named = |path: &Path| path.to_owned();
    let text =
        std::fs::read_to_string(path).map_err(|source| ReportInputError::Unreadable { path: named(path), source })?;
    if !text.trim_start().starts_with('{') {
        let found = last_line(&text).ok_or_else(|| ReportInputError::NoLog { path: named(path) })?;
        return Ok((found, Vec::new()));
    }
    let Scores { metrics, remarks } =
        serde_json::from_str(&text).map_err(|source| ReportInputError::NoScores { path: named(path), source })?;
    let metrics = metrics.into_iter().map(|(name, value)| (name, value.as_f64().unwrap_or(f64::NAN))).collect();
    Ok((metrics, remarks))
}

/// Names and numbers of the last line of a CSV file with a heading, empty fields left out.
fn last_line(text: &str) -> Option<Vec<(String, f64)>> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let (names, last) = (lines.next()?.split(','), lines.next_back()?.split(','));
    let filled = names.zip(last).filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_line_counts_without_its_empty_fields() {
        let found = last_line("epoch,loss,noise,gap\n1,0.5,2.5,\n2,-0.25,,1e-3\n");
        let expected = [("epoch", 2.0), ("loss", -0.25), ("gap", 1e-3)].map(|(name, value)| (name.to_owned(), value));
        assert_eq!(found, Some(expected.to_vec()));
        for text in ["", "epoch,loss\n", "epoch,loss\n1,low\n", "not a table"] {
            assert_eq!(last_line(text), None, "{text:?}");
        }
    }
}
