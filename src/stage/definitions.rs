//! The stage definitions of the built-in kinds, written from the declarations of their parameters.
//!
//! `stages/KIND.yaml` is generated and checked in, so that a reader finds documented YAML. A test fails where a file differs
//! from its declaration; `MEANFIELD_BLESS=1 cargo test --lib definitions` rewrites the files.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{download, embed, evaluate, loss_cost, neighbours, search};
use crate::data::preprocess::PreprocessConfig;
use crate::settings::Settings;
use crate::{report, train};

/// A definition that only passes its parameters on to a kind.
struct Generated {
    kind: &'static str,
    description: &'static str,
    /// What a reader of the file should know.
    about: &'static str,
    parameters: &'static Settings<Value>,
}

fn generated() -> Vec<Generated> {
    let definition = |kind, description, about, parameters| Generated { kind, description, about, parameters };
    vec![
        definition(
            "download",
            "Fetch a file from its mirrors, verify it, extract it",
            "Fetches a file, or several, verifies them, and extracts those that are archives. The output is a folder.",
            Settings::of::<download::Fetch>(),
        ),
        definition(
            "preprocess",
            "Decode, resize and split a data set",
            "A data set as one memory-mapped file, with its split (docs/data.md). Images are PNG, JPEG, GIF, BMP or WebP.",
            Settings::of::<PreprocessConfig>(),
        ),
        definition(
            "train",
            "Train an embedding model with a metric-learning loss",
            "Trains a backbone with a metric-learning loss on the train split. Outputs: `model` (weights as safetensors with \
             PyTorch's names) and `epochs` (one CSV line per epoch: loss, learning rates and what `measure` and `validate` ask \
             for). The same seed gives the same bits for any number of threads. The numbers of an input `suggestion`, of a \
             search, replace parameters.",
            Settings::of::<train::Config>(),
        ),
        definition(
            "embed",
            "Embed images, by a model or as raw pixels",
            "Vectors of the images of one split: of a trained model, or without a model of the raw pixels. An image that does \
             not have the size of the network's input is resized by its short side, and its centre is cropped.",
            Settings::of::<embed::Parameters>(),
        ),
        definition(
            "evaluate",
            "Compute metrics of vectors",
            "Exact retrieval: cosine similarity, a query never finds itself; queries without a match are left out. nmi, ami and \
             f1 compare the classes of the queries with k-means clusters of them, as many as there are classes. `queries` is a \
             table with one row per query.",
            Settings::of::<evaluate::Parameters>(),
        ),
        definition(
            "neighbours",
            "Show queries and their nearest images",
            "Query images, each with the images nearest to it, as a picture and as one HTML page. `images` are those that \
             `vectors` were made of, of the same split.",
            Settings::of::<neighbours::Parameters>(),
        ),
        definition(
            "loss_cost",
            "Measure time and memory of a loss",
            "One step of a loss, forward and backward, on random embeddings and class vectors, on the CPU: step_ms (median), \
             floor_ms (the time of its products alone at the machine's rate) and step_mib. This is a measurement: it differs \
             from machine to machine.",
            Settings::of::<loss_cost::Parameters>(),
        ),
        definition(
            "search",
            "Suggest settings by the scores of earlier ones",
            "One step of a search: the values that trial number `at` tries, or the best that were tried. It reads `past`, the \
             scores of trials (of `evaluate`, or the `epochs` of `train`, whose best line counts), and `tried`, their \
             suggestions; over other gathered axes than the trials', such as folds, it takes the mean. `train` takes \
             `suggestion`. docs/protocols.md shows a whole search.",
            Settings::of::<search::Parameters>(),
        ),
        definition(
            "report",
            "Compare scores in a table",
            "Gathered scores as one comparison table: terminal, CSV, Markdown, JSON and an HTML page with a plot. Scores are \
             JSON as `evaluate` writes it, or the `epochs` of `train`, of which the last line counts.",
            Settings::of::<report::Config>(),
        ),
    ]
}

impl Generated {
    fn yaml(&self) -> String {
        let mut text = String::new();
        let generated = "Generated from the declaration of the parameters in Rust: change that, not this file.";
        for paragraph in [generated, self.about] {
            for line in wrapped(paragraph, 118) {
                let _ = writeln!(text, "# {line}");
            }
        }
        let _ = writeln!(text, "description: {}", scalar(&Value::from(self.description)));
        let _ = writeln!(text, "kind: {}\nparams:", self.kind);
        block(&mut text, &self.parameters.definition(), 2);
        text
    }
}

/// The widest line.
const WIDTH: usize = 120;

/// Entries of a mapping, each on a line where it fits.
fn block(text: &mut String, map: &Map<String, Value>, indent: usize) {
    let blank = " ".repeat(indent);
    for (key, value) in map {
        let flow = format!("{blank}{key}: {}", flow(value));
        let folds = value.as_str().is_some_and(|value| key == "doc" && value.contains(' '));
        match value {
            Value::Object(inner) if !inner.is_empty() && (flow.len() > WIDTH || nests(inner)) => {
                let _ = writeln!(text, "{blank}{key}:");
                block(text, inner, indent + 2);
            }
            Value::String(long) if folds && flow.len() > WIDTH => {
                let _ = writeln!(text, "{blank}{key}: >-");
                for line in wrapped(long, WIDTH - indent - 2) {
                    let _ = writeln!(text, "{blank}  {line}");
                }
            }
            _ => {
                let _ = writeln!(text, "{flow}");
            }
        }
    }
}

/// Whether a mapping holds settings below itself.
fn nests(map: &Map<String, Value>) -> bool {
    ["fields", "variants"].iter().any(|key| map.contains_key(*key))
        || map.values().any(|value| value.as_object().is_some_and(|inner| inner.contains_key("type") || nests(inner)))
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        other => scalar(other),
    }
}

/// A scalar, quoted where YAML would read something else.
fn scalar(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => {
            // YAML 1.1 takes `1e-8` for text.
            let number = number.to_string();
            return match number.split_once('e') {
                Some((digits, power)) if !digits.contains('.') => format!("{digits}.0e{power}"),
                _ => number,
            };
        }
        other => return other.to_string(),
    };
    let plain = text.chars().next().is_some_and(|first| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_alphanumeric() || " _-./()+'*;=".contains(c))
        && !text.contains(" -")
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if plain { text.clone() } else { Value::from(text.as_str()).to_string() }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::text::assert_committed;

    #[test]
    fn the_definitions_of_kinds_are_what_the_declarations_say() {
        for definition in generated() {
            let path = format!("{}/stages/{}.yaml", env!("CARGO_MANIFEST_DIR"), definition.kind);
            let yaml = definition.yaml();
            assert_committed(Path::new(&path), &yaml, "definitions");
            let read: Value = serde_yaml::from_str(&yaml).unwrap();
            let written = Value::Object(definition.parameters.definition());
            assert_eq!(plain(&read["params"]), plain(&written), "{path}");
        }
    }

    /// Numbers of one type, as YAML does not distinguish all that JSON does.
    fn plain(value: &Value) -> Value {
        match value {
            Value::Number(number) => number.as_f64().into(),
            Value::Array(items) => items.iter().map(plain).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
            other => other.clone(),
        }
    }
}
