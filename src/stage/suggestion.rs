//! What a search passes to a training: values for some of its parameters, by name.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::job::JobError;
use crate::pipeline::kinds::ParameterProblem;

/// The content of `suggestion.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Suggestion {
    /// Numbers by the path of the parameter: `loss.alpha`, `loss_learning_rate`.
    pub values: BTreeMap<String, Value>,
}

/// A suggestion for something that is not there.
#[derive(Debug, Error)]
#[error("the suggestion is for `{path}`, which is no parameter here; there are {}", known.join(", "))]
struct Unknown {
    path: String,
    known: Vec<String>,
}

/// A suggestion that the kind refuses.
#[derive(Debug, Error)]
#[error("the suggestion cannot be used: {}", .0.iter().map(|p| format!("`{}` {}", p.path.join("."), p.message)).collect::<Vec<_>>().join("; "))]
pub(super) struct Refused(pub Vec<ParameterProblem>);

/// Reads a suggestion.
pub(super) fn read(path: &Path) -> Result<Suggestion, JobError> {
    Ok(serde_json::from_slice(&fs_err::read(path)?)?)
}

/// Replaces parameters, which must exist and be numbers, by the suggestion in the file at `path`.
pub(super) fn apply(path: &Path, parameters: &mut Map<String, Value>) -> Result<(), JobError> {
    for (path, value) in read(path)?.values {
        let known = numbers("", parameters);
        if !known.contains(&path) {
            return Err(Unknown { path, known }.into());
        }
        tracing::info!("{path}: {value}, as suggested");
        let mut names = path.split('.');
        let first = names.next().and_then(|first| parameters.get_mut(first));
        if let Some(place) = first.and_then(|first| names.try_fold(first, |at, name| at.get_mut(name))) {
            *place = value;
        }
    }
    Ok(())
}

/// The paths of all numbers.
fn numbers(prefix: &str, map: &Map<String, Value>) -> Vec<String> {
    let paths = map.iter().flat_map(|(name, value)| match value {
        Value::Object(inner) => numbers(&format!("{prefix}{name}."), inner),
        Value::Number(_) => vec![format!("{prefix}{name}")],
        _ => Vec::new(),
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_take_the_place_of_numbers_that_are_there_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suggestion.json");
        let apply = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let Value::Object(mut told) = json!({ "loss": { "kind": "triplet", "margin": 0.1 }, "rate": 1.0 }) else {
                panic!("an object")
            };
            super::apply(&path, &mut told).map(|()| Value::Object(told)).map_err(|error| error.to_string())
        };
        let found = apply(r#"{ "values": { "loss.margin": 0.25, "rate": 3 } }"#).unwrap();
        assert_eq!(found, json!({ "loss": { "kind": "triplet", "margin": 0.25 }, "rate": 3 }));
        for path in ["loss.alpha", "loss.kind", "loss", "margin", "rate.x"] {
            let error = apply(&format!(r#"{{ "values": {{ "{path}": 1 }} }}"#)).unwrap_err();
            assert!(error.contains(&format!("`{path}`")) && error.ends_with("there are loss.margin, rate"), "{error}");
        }
        assert!(apply("{ \"value\": {} }").is_err());
    }
}
