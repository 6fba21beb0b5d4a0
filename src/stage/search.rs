//! `search`: the next values to try, or the best that were tried, from the scores of trials.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::job::{JobError, output, parameters, parsed, problems};
use super::report::without_nan;
use super::suggestion::{self, Suggestion};
use crate::engine::execute::{KindInput, KindJob};
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};
use crate::search::{Search, Space, Trial, Values, best};
use crate::table::csv;
use crate::text::{self, for_a_spreadsheet};

pub(super) const KIND: Kind = Kind {
    name: "search",
    version: 2,
    inputs: Inputs::Gathered { reserved: &[] },
    outputs: &[("suggestion", "suggestion.json"), ("trials", "trials.csv")],
    publish: false,
    continues: &[],
    secrets: 0,
    check,
};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Pick {
    #[default]
    Next,
    Best,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Parameters {
    /// Values to try next, or the best of those that were tried.
    #[serde(default)]
    pick: Pick,
    /// Name of the score, of which more is better; a trial whose score is not a number has 0.
    #[serde(default = "validation_map_at_r")]
    objective: String,
    /// 0-based number of the trial, such as ${trial}.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    at: Option<u32>,
    /// Axes along which to run independent searches, such as ${dataset}: an axis that it mentions has a search for each value.
    #[serde(default, rename = "apart")]
    #[schemars(extend("x-type" = "any"))]
    _apart: Option<Value>,
    #[serde(flatten)]
    search: Search,
}

fn validation_map_at_r() -> String {
    "validation_map_at_r".to_owned()
}

#[derive(Debug, Error)]
enum SearchError {
    #[error("a search reads `past`, the scores of trials, and `tried`, their suggestions, and nothing else; found {}", found.join(", "))]
    Inputs { found: Vec<String> },
    #[error("`tried` must be gathered over one axis, that of the trials; found {}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    Axis { found: Vec<String> },
    #[error("there are scores of {axis}={trial}, and no suggestion: `tried` must gather what `past` gathers")]
    NotTried { axis: String, trial: String },
    #[error("{} has no score `{objective}`; it has {}", path.display(), known.join(", "))]
    NoScore { path: std::path::PathBuf, objective: String, known: Vec<String> },
    #[error("no trial has a score yet, so none is the best")]
    NoTrial,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    let told: Parameters = match parsed(map) {
        Ok(told) => told,
        Err(found) => return found,
    };
    let mut found = problems(told.search.check());
    if told.pick == Pick::Next && told.at.is_none() {
        let message = "is missing: the next values are those of a trial, such as `at: ${trial}`".to_owned();
        found.push(ParameterProblem { path: vec!["at".to_owned()], message });
    }
    found
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let Parameters { pick, objective, at, search, .. } = parameters(&job.parameters)?;
    let (names, trials) = gather(&job.inputs, &objective)?;
    let values = match pick {
        Pick::Next => search.suggest(at.unwrap_or_default(), &trials.iter().map(Tried::trial).collect::<Vec<_>>()),
        Pick::Best => {
            let scored: Vec<Trial> = trials.iter().map(Tried::trial).collect();
            let place = best(&scored).ok_or(SearchError::NoTrial)?;
            tracing::info!(
                "the best of {} trials is {}, with a score of {}",
                scored.len(),
                names[place],
                scored[place].score
            );
            scored[place].values.clone()
        }
    };
    let suggestion = Suggestion {
        values: values.iter().map(|(name, value)| (name.clone(), number(&search.space, name, *value))).collect(),
    };
    fs_err::write(output(job, "suggestion")?, format!("{:#}\n", serde_json::to_value(&suggestion)?))?;
    fs_err::write(output(job, "trials")?, table(&search.space, &names, &trials)?)?;
    Ok(())
}

/// Whole numbers are written without a point: integer parameters accept nothing else.
fn number(space: &Space, name: &str, value: f64) -> Value {
    if space.is_integer(name) { json!(value as i64) } else { json!(value) }
}

/// One trial with the scores of its cells.
struct Tried {
    values: Values,
    scores: Vec<f64>,
}

impl Tried {
    /// The mean of the scores; 0 if one of them is not a number, or there is none.
    fn trial(&self) -> Trial {
        let mean = self.scores.iter().sum::<f64>() / self.scores.len() as f64;
        Trial { values: self.values.clone(), score: if mean.is_finite() { mean } else { 0.0 } }
    }

    /// Standard deviation of that mean, from two scores on.
    fn standard_error(&self) -> Option<f64> {
        let (n, mean) = (self.scores.len() as f64, self.scores.iter().sum::<f64>() / self.scores.len() as f64);
        let squares = self.scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        Some((squares / (n - 1.0) / n).sqrt()).filter(|error| error.is_finite() && n > 1.0)
    }
}

/// The trials that have scores, in their order, with their names.
fn gather(inputs: &[KindInput], objective: &str) -> Result<(Vec<String>, Vec<Tried>), JobError> {
    let mut found: Vec<String> = inputs.iter().map(|input| input.name.clone()).collect();
    found.sort_unstable();
    if found != ["past", "tried"] {
        return Err(SearchError::Inputs { found }.into());
    }
    let of = |name: &'static str| inputs.iter().filter(move |input| input.name == name).flat_map(|input| &input.items);
    let (mut axis, mut names, mut trials) = (None, Vec::new(), Vec::<Tried>::new());
    for (labels, path) in of("tried") {
        let [(name, value)] = &labels[..] else {
            let found = labels.iter().map(|(name, _)| name.clone()).collect();
            return Err(SearchError::Axis { found }.into());
        };
        axis = Some(name);
        let values = suggestion::read(path)?.values.into_iter();
        let values = values.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
        names.push(value.clone());
        trials.push(Tried { values, scores: Vec::new() });
    }
    for (labels, path) in of("past") {
        let label = labels.iter().find(|(name, _)| Some(name) == axis);
        let place = label.and_then(|(_, value)| names.iter().position(|known| known == value));
        let Some(place) = place else {
            let (axis, trial) = label.or(labels.first()).cloned().unwrap_or_default();
            return Err(SearchError::NotTried { axis, trial }.into());
        };
        trials[place].scores.push(score(path, objective)?);
    }
    let scored: Vec<bool> = trials.iter().map(|trial| !trial.scores.is_empty()).collect();
    let (mut keep, mut keep_too) = (scored.iter(), scored.iter());
    names.retain(|_| keep.next().is_some_and(|keep| *keep));
    trials.retain(|_| keep_too.next().is_some_and(|keep| *keep));
    Ok((names, trials))
}

/// A score among those of `evaluate`, or the greatest in the log of a training; NaN if it is not a number anywhere.
fn score(path: &Path, objective: &str) -> Result<f64, JobError> {
    let text = text::read(path)?;
    let missing =
        |known: Vec<String>| SearchError::NoScore { path: path.to_owned(), objective: objective.to_owned(), known };
    if text.trim_start().starts_with('{') {
        let document: Value = serde_json::from_str(&without_nan(&text))?;
        let metrics = document.get("metrics").and_then(Value::as_object).cloned().unwrap_or_default();
        let value = metrics.get(objective).ok_or_else(|| missing(metrics.keys().cloned().collect()))?;
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        return Ok(number.unwrap_or(f64::NAN));
    }
    let mut rows = csv::rows(&text, None)?.into_iter().filter(|row| !row.is_blank());
    let names = rows.next().map_or_else(Vec::new, |row| row.fields);
    let column = names.iter().position(|name| name == objective).ok_or_else(|| missing(names.clone()))?;
    let fields =
        rows.filter_map(|mut row| row.fields.get_mut(column).map(std::mem::take)).filter(|field| !field.is_empty());
    let values: Vec<f64> = fields.map(|field| field.parse().unwrap_or(f64::NAN)).collect();
    let lost = values.is_empty() || values.iter().any(|value| value.is_nan());
    Ok(if lost { f64::NAN } else { values.into_iter().fold(f64::NEG_INFINITY, f64::max) })
}

/// The trials as CSV, one per line: name, score, its standard error over the cells, values.
fn table(space: &Space, names: &[String], trials: &[Tried]) -> Result<Vec<u8>, JobError> {
    let columns: Vec<&String> = space.0.keys().collect();
    let text = |text: &str| for_a_spreadsheet(text).into_owned();
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let heading = ["trial", "score", "standard_error", "cells"].into_iter().map(text);
    writer.write_record(heading.chain(columns.iter().map(|name| text(name))))?;
    for (name, tried) in names.iter().zip(trials) {
        let error = tried.standard_error().map_or(String::new(), |error| error.to_string());
        let start = [text(name), tried.trial().score.to_string(), error, tried.scores.len().to_string()];
        let value = |column: &&String| tried.values.get(*column).map_or(String::new(), |value| value.to_string());
        writer.write_record(start.into_iter().chain(columns.iter().map(value)))?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn what_a_search_is_told_is_checked() {
        let space = json!({ "loss.alpha": { "range": [0.01, 100], "scale": "log" } });
        let paths =
            |value: Value| check(&told(value)).into_iter().map(|found| found.path.join(".")).collect::<Vec<_>>();
        let good = json!({ "pick": "next", "objective": "rp", "at": 3, "space": space, "method": "tpe", "startup": 2, "seed": 0 });
        assert_eq!(paths(good), Vec::<String>::new());
        assert_eq!(paths(json!({ "pick": "next", "objective": "rp", "space": space })), ["at"]);
        assert_eq!(paths(json!({ "pick": "best", "objective": "rp", "space": space })), Vec::<String>::new());
        assert_eq!(paths(json!({ "pick": "best", "objective": "rp", "space": {} })), ["space"]);
    }

    #[test]
    fn a_trial_is_the_mean_of_its_cells_and_one_that_is_no_number_counts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let label = |trial: &str, fold: Option<&str>| {
            let trial = ("trial".to_owned(), trial.to_owned());
            std::iter::once(trial).chain(fold.map(|fold| ("fold".to_owned(), fold.to_owned()))).collect::<Vec<_>>()
        };
        let tried = ["0", "1", "2"].map(|trial| {
            (label(trial, None), file(&format!("s{trial}"), &format!(r#"{{ "values": {{ "n": {trial} }} }}"#)))
        });
        let log = "epoch,loss,validation_map_at_r\n";
        let past = [
            (label("0", Some("0")), file("a", &format!("{log}1,2.5,0.5\n2,2,\n3,1,0.25\n"))),
            (label("0", Some("1")), file("b", r#"{ "metrics": { "validation_map_at_r": 0.75 } }"#)),
            (label("1", Some("0")), file("c", &format!("{log}1,2.5,0.875\n2,NaN,NaN\n"))),
            (label("1", Some("1")), file("d", r#"{ "metrics": { "validation_map_at_r": 0.5 } }"#)),
        ];
        let inputs = |past: &[(Vec<(String, String)>, std::path::PathBuf)]| {
            let input = |name: &str, items| KindInput { name: name.to_owned(), items };
            vec![input("past", past.to_vec()), input("tried", tried.to_vec())]
        };
        let (names, trials) = gather(&inputs(&past), "validation_map_at_r").unwrap();
        let scores: Vec<f64> = trials.iter().map(|tried| tried.trial().score).collect();
        // The third has no score yet.
        assert_eq!((names.join(" ").as_str(), &scores[..]), ("0 1", &[0.625, 0.0][..]));
        assert_eq!(trials[0].standard_error(), Some(0.125));
        let space: Space = serde_json::from_value(json!({ "n": { "range": [0, 5], "scale": "integer" } })).unwrap();
        let expected = "trial,score,standard_error,cells,n\n0,0.625,0.125,2,0\n1,0,,2,1\n";
        assert_eq!(String::from_utf8(table(&space, &names, &trials).unwrap()).unwrap(), expected);
        assert_eq!(number(&space, "n", 3.0).to_string(), "3");
        let refused = |inputs: &[KindInput], objective: &str| gather(inputs, objective).err().unwrap().to_string();
        assert!(
            refused(&inputs(&past), "loss_").contains("has no score `loss_`; it has epoch, loss, validation_map_at_r")
        );
        assert!(refused(&inputs(&past)[..1], "rp").ends_with("found past"));
        let stranger = (label("7", None), past[0].1.clone());
        assert!(refused(&inputs(&[stranger]), "loss").contains("scores of trial=7, and no suggestion"));
    }
}
