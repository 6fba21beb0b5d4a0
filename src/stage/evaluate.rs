//! `evaluate`: retrieval metrics of vectors, as one small JSON object.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{JobError, output, parameters, parsed, problems, required, vectors};
use crate::engine::execute::KindJob;
use crate::eval::{Labelled, Options, Retrieval, retrieval};
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "evaluate",
    version: 1,
    inputs: Inputs::Named(&[InputSpec { name: "vectors", required: true }]),
    outputs: &[("scores", "scores.json")],
    publish: false,
    continues: &[],
    check,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    metrics: Vec<String>,
    query: Option<String>,
    gallery: Option<String>,
}

/// A metric by the name that a pipeline uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    PrecisionAt1,
    RPrecision,
    MapAtR,
    RecallAt(usize),
}

impl Metric {
    fn parse(name: &str) -> Option<Metric> {
        match name {
            "p1" => Some(Metric::PrecisionAt1),
            "rp" => Some(Metric::RPrecision),
            "map_at_r" => Some(Metric::MapAtR),
            _ => name.strip_prefix("r@")?.parse().ok().filter(|&k| k > 0).map(Metric::RecallAt),
        }
    }

    fn value(self, found: &Retrieval) -> Option<f64> {
        match self {
            Metric::PrecisionAt1 => Some(found.precision_at_1),
            Metric::RPrecision => Some(found.r_precision),
            Metric::MapAtR => Some(found.map_at_r),
            Metric::RecallAt(k) => found.recall_at.iter().find(|(other, _)| *other == k).map(|(_, value)| *value),
        }
    }
}

#[derive(Debug, Error)]
enum EvaluateError {
    #[error("no image has the group `{group}`; there are {}. Does preprocess say `group_by_prefix: true`?", known.join(", "))]
    Group { group: String, known: Vec<String> },
    #[error("the metric `{metric}` has no value")]
    NoValue { metric: String },
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    let parameters: Parameters = match parsed(map) {
        Ok(parameters) => parameters,
        Err(found) => return found,
    };
    let mut found = Vec::new();
    if parameters.metrics.is_empty() {
        found.push(("metrics".to_owned(), "is empty, expected at least one of p1, rp, map_at_r, r@K".to_owned()));
    }
    for (i, name) in parameters.metrics.iter().enumerate() {
        if Metric::parse(name).is_none() {
            found
                .push((format!("metrics.{i}"), format!("is `{name}`, expected p1, rp, map_at_r, or r@K such as r@10")));
        }
    }
    for (given, other, missing) in
        [(&parameters.query, &parameters.gallery, "gallery"), (&parameters.gallery, &parameters.query, "query")]
    {
        if given.is_some() && other.is_none() {
            found.push((missing.to_owned(), "is missing: queries and gallery come together".to_owned()));
        }
    }
    problems(found)
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let Parameters { metrics, query, gallery } = parameters(&job.parameters)?;
    let all = vectors::read(required(job, "vectors")?)?;
    let rows = |group: &Option<String>| {
        all.of_group(group.as_deref()).ok_or_else(|| EvaluateError::Group {
            group: group.clone().unwrap_or_default(),
            known: all.group_names.clone(),
        })
    };
    let (asked, asked_labels) = rows(&query)?;
    let searched = gallery.is_some().then(|| rows(&gallery)).transpose()?;
    let wanted: Vec<(&String, Metric)> = metrics.iter().filter_map(|name| Some((name, Metric::parse(name)?))).collect();
    let mut recall_at: Vec<usize> = wanted
        .iter()
        .filter_map(|(_, metric)| match metric {
            Metric::RecallAt(k) => Some(*k),
            _ => None,
        })
        .collect();
    recall_at.sort_unstable();
    recall_at.dedup();
    let queries = Labelled { vectors: &asked, labels: &asked_labels, dim: all.dim };
    let gallery = searched.as_ref().map(|(vectors, labels)| Labelled { vectors, labels, dim: all.dim });
    let found = retrieval(queries, gallery, &Options { recall_at })?;
    let mut scores = Map::new();
    for (name, metric) in wanted {
        let value = metric.value(&found).ok_or_else(|| EvaluateError::NoValue { metric: name.clone() })?;
        scores.insert(name.clone(), json!(value));
    }
    let mut document = json!({ "metrics": scores, "queries": found.queries, "without_match": found.without_match });
    if !all.remarks.is_empty() {
        document["remarks"] = json!(all.remarks);
    }
    std::fs::write(output(job, "scores")?, format!("{document:#}\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_known_by_name_and_wrong_ones_refused_at_their_place() {
        assert_eq!(Metric::parse("r@10"), Some(Metric::RecallAt(10)));
        for name in ["r@0", "r@", "r@-1", "P1", "map"] {
            assert_eq!(Metric::parse(name), None, "{name}");
        }
        let Value::Object(map) = json!({ "metrics": ["p1", "map"], "query": "noto" }) else { panic!("an object") };
        let paths: Vec<Vec<String>> = check(&map).into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, [vec!["metrics".to_owned(), "1".to_owned()], vec!["gallery".to_owned()]]);
    }
}
