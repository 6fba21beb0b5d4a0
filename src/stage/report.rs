//! `report`: gathered scores to a table in every format; and drawing a stored table again.
//!
//! Scores are JSON as `evaluate` writes it, or a CSV log as `train` writes it: its last line counts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::job::{JobError, output, parameters, parsed, problems};
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};
use crate::pipeline::model::{CellId, Pipeline, Task};
use crate::report::text::Style;
use crate::report::{self, Config, METRIC, Record, Records, Table};
use crate::store::tree::Node;
use crate::store::{Artifact, Store};
use crate::table::csv;
use crate::text;

pub(super) const KIND: Kind = Kind {
    name: "report",
    version: 3,
    inputs: Inputs::Gathered { reserved: &[METRIC] },
    outputs: &[("report", "report")],
    publish: true,
    continues: &[],
    secrets: 0,
    check,
};

#[derive(Debug, Error)]
enum ReportInputError {
    #[error(transparent)]
    Unreadable(#[from] std::io::Error),
    #[error("{} does not hold scores (a JSON object with `metrics`)", path.display())]
    NoScores { path: std::path::PathBuf, source: serde_json::Error },
    #[error("{} does not hold scores: neither a JSON object nor a CSV log, a heading and a line of values below it", path.display())]
    NoLog { path: std::path::PathBuf },
    #[error("{}: the metric `{metric}` is {found}, expected a number; choose the table's `metrics:` without it, or write a number", path.display())]
    NoNumber { path: std::path::PathBuf, metric: String, found: String },
    #[error("the report holds no {0}")]
    NoTable(&'static str),
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
            let (metrics, remarks) = read(path, config.metrics.as_deref())?;
            let (input, labels) = (input.name.clone(), labels.clone());
            records.push(Record { input, labels, metrics, remarks });
        }
    }
    let table = report::build(&config, &Records::new(&records)?.averaged(&config.averaged)?)?;
    Ok(report::write(&table, output(job, "report")?)?)
}

/// Metrics by name, and what the reader of a table must know of them.
type Read = (Vec<(String, f64)>, Vec<String>);

/// The content of a file of scores. A value that is not a number is an error, unless the table has `wanted` metrics and
/// it is not one of these.
fn read(path: &Path, wanted: Option<&[String]>) -> Result<Read, ReportInputError> {
    let text = text::read(path)?;
    let no_number = |metric: &str, found: String| {
        let unwanted = wanted.is_some_and(|wanted| !wanted.iter().any(|name| name == metric));
        let (path, metric) = (path.to_owned(), metric.to_owned());
        if unwanted { Ok(()) } else { Err(ReportInputError::NoNumber { path, metric, found }) }
    };
    let mut metrics = Vec::new();
    if !text.trim_start().starts_with('{') {
        for (name, field) in last_line(&text).ok_or_else(|| ReportInputError::NoLog { path: path.to_owned() })? {
            match field.parse() {
                Ok(value) => metrics.push((name, value)),
                Err(_) => no_number(&name, format!("`{field}`"))?,
            }
        }
        return Ok((metrics, Vec::new()));
    }
    let Scores { metrics: values, remarks } = serde_json::from_str(&without_nan(&text))
        .map_err(|source| ReportInputError::NoScores { path: path.to_owned(), source })?;
    for (name, value) in values {
        let number = match &value {
            Value::Null => Some(f64::NAN),
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        match number {
            Some(number) => metrics.push((name, number)),
            None => no_number(&name, value.to_string())?,
        }
    }
    Ok((metrics, remarks))
}

/// JSON as Python writes it, which has words for numbers that are not finite: outside of texts they become `null`.
pub(super) fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (part, piece) in text_parts(text) {
        match part {
            Part::Text => out += piece,
            Part::Other => {
                out += &piece.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null")
            }
        }
    }
    out
}

/// Whether a piece of JSON is a quoted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Text,
    Other,
}

/// The quoted texts of JSON and what is between them.
fn text_parts(json: &str) -> Vec<(Part, &str)> {
    let (mut parts, mut start, mut part, mut escaped) = (Vec::new(), 0, Part::Other, false);
    for (at, byte) in json.bytes().enumerate() {
        match (part, byte) {
            (Part::Text, _) if std::mem::take(&mut escaped) => {}
            (Part::Text, b'\\') => escaped = true,
            (Part::Text, b'"') => {
                parts.push((part, &json[start..=at]));
                (start, part) = (at + 1, Part::Other);
            }
            (Part::Other, b'"') => {
                parts.push((part, &json[start..at]));
                (start, part) = (at, Part::Text);
            }
            _ => {}
        }
    }
    parts.push((part, &json[start..]));
    parts
}

/// Names and values of the last line of a CSV file with a heading, empty fields left out; none if it is not one.
fn last_line(text: &str) -> Option<Vec<(String, String)>> {
    let rows = csv::rows(text, None).ok()?;
    let mut rows = rows.into_iter().filter(|row| !row.is_blank());
    let (names, last) = (rows.next()?.fields, rows.next_back()?.fields);
    let more = last.iter().skip(names.len()).any(|field| !field.is_empty());
    (!more).then(|| names.into_iter().zip(last).filter(|(_, value)| !value.is_empty()).collect())
}

/// Whether a cell makes tables.
pub fn makes_tables(pipeline: &Pipeline, cell: CellId) -> bool {
    matches!(&pipeline.cells[cell].task, Task::Kind { name, .. } if &**name == KIND.name)
}

/// Draws the table among the stored `outputs` of a cell that makes tables.
pub fn render_table(
    store: &Store,
    outputs: &[Artifact],
    format: report::Format,
    style: Style,
) -> Result<Vec<u8>, JobError> {
    let trees: Vec<_> = outputs.iter().map(|output| store.blobs.tree(&output.digest)).collect::<Result<_, _>>()?;
    let files: BTreeMap<&str, Node> =
        trees.iter().flat_map(|tree| &tree.entries).map(|entry| (entry.path.as_str(), entry.node)).collect();
    let table = report::JSON.file;
    let Some(Node::File { digest, .. }) = files.get(table) else { return Err(ReportInputError::NoTable(table).into()) };
    let text = String::from_utf8(store.blobs.read(digest)?)?;
    Ok((format.render)(&Table::from_json(&text)?, style)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, wanted: Option<&[String]>) -> Result<Vec<(String, f64)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores");
        std::fs::write(&path, text).unwrap();
        read(&path, wanted).map(|(metrics, _)| metrics).map_err(|error| text::chain(&error))
    }

    fn pairs(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn of_a_log_the_last_line_counts_without_its_empty_fields() {
        for (text, expected) in [
            (
                "epoch,loss,noise,gap\n1,0.5,2.5,\n2,-0.25,,1e-3\n",
                &[("epoch", 2.0), ("loss", -0.25), ("gap", 1e-3)][..],
            ),
            ("\u{feff}\"acc, top 1\",\"loss\"\r\n\"0.5\",\" 0.25 \"\r\n\r\n", &[("acc, top 1", 0.5), ("loss", 0.25)]),
            ("sep=;\nacc;loss\n0.5;0.25\n", &[("acc", 0.5), ("loss", 0.25)]),
            ("acc\tloss\n0.5\tinf\n", &[("acc", 0.5), ("loss", f64::INFINITY)]),
        ] {
            assert_eq!(found(text, None).unwrap(), pairs(expected), "{text:?}");
        }
        for text in ["", "epoch,loss\n", "not a table", "a\n1,2\n"] {
            assert!(found(text, None).unwrap_err().contains("does not hold scores"), "{text:?}");
        }
        let text = "model,acc\nr50,0.5\n";
        assert!(found(text, None).unwrap_err().contains("the metric `model` is `r50`, expected a number"));
        assert_eq!(found(text, Some(&["acc".to_owned()])).unwrap(), pairs(&[("acc", 0.5)]));
    }

    #[test]
    fn scores_that_python_wrote_are_read() {
        let text = "\u{feff}{\"metrics\": {\"NaN \\\" -Infinity\": 0.5, \"quoted\": \"0.25\"}, \"other\": [NaN]}\n";
        assert_eq!(found(text, None).unwrap(), pairs(&[("NaN \" -Infinity", 0.5), ("quoted", 0.25)]));
        let text = r#"{"metrics": {"a": NaN, "b": Infinity, "c": -Infinity, "d": null, "e": "nan"}}"#;
        let lost = found(text, None).unwrap();
        assert!(lost.len() == 5 && lost.iter().all(|(_, value)| value.is_nan()), "{lost:?}");
        for (text, part) in [
            (r#"{"metrics": {"a": "0,5"}}"#, "the metric `a` is \"0,5\", expected a number"),
            (r#"{"metrics": {"a": [1]}}"#, "`a` is [1]"),
            (r#"{"metrics": {"a": true}}"#, "`a` is true"),
            (r#"{"metrics": {"a": 1"#, "does not hold scores (a JSON object with `metrics`): EOF while parsing"),
            (r#"{"metrics": "NaN"#, "does not hold scores"),
        ] {
            let message = found(text, None).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
