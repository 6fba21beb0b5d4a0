//! `evaluate`: metrics of vectors, as one small JSON object, and a table with one row per query.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use smart_default::SmartDefault;
use thiserror::Error;

use super::groups::Groups;
use super::job::{JobError, output, parameters, parsed, problems, required};
use super::vectors::{self, Part};
use crate::engine::execute::KindJob;
use crate::eval::clustering::clustering;
use crate::eval::metric::Metric;
use crate::eval::{Average, Options, Ties, per_query, retrieval};
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "evaluate",
    version: 3,
    inputs: Inputs::Named(&[InputSpec { name: "vectors", required: true }]),
    outputs: &[("scores", "scores.json"), ("queries", "queries.parquet")],
    publish: false,
    continues: &[],
    secrets: 0,
    check,
};

#[derive(Debug, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    /// Metrics: p1, rp, map_at_r, mrr, map, nmi, ami, f1, and r@K (Recall@K) for any K.
    #[default(["map_at_r", "p1", "rp"].map(str::to_owned).to_vec())]
    metrics: Vec<String>,
    /// Group of the images used as queries; required with `gallery`.
    query: Option<String>,
    /// Group of the images used as gallery.
    gallery: Option<String>,
    /// Which of two equally near images ranks first: that of the lower index, or that of the query's class (the official rule
    /// of In-Shop).
    ties: Ties,
    /// Average over queries, or over classes, which then count the same.
    average: Average,
    /// Random seed for k-means.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991u64))]
    seed: u64,
}

const METRICS: &str = "p1, rp, map_at_r, mrr, map, nmi, ami, f1, or r@K such as r@10";

#[derive(Debug, Error)]
enum EvaluateError {
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
        found.push(("metrics".to_owned(), format!("is empty, expected at least one of {METRICS}")));
    }
    for (i, name) in parameters.metrics.iter().enumerate() {
        if Metric::parse(name).is_none() {
            found.push((format!("metrics.{i}"), format!("is `{name}`, expected {METRICS}")));
        }
    }
    found.extend(Groups { query: parameters.query, gallery: parameters.gallery }.check());
    problems(found)
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let Parameters { metrics, query, gallery, ties, average, seed } = parameters(&job.parameters)?;
    let all = vectors::read(required(job, "vectors")?)?;
    let (asked, searched) = Groups { query, gallery }.of_vectors(&all)?;
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
    let average_precision = wanted.iter().any(|(_, metric)| *metric == Metric::MeanAveragePrecision);
    let options = Options { recall_at, ties, average, average_precision };
    let found = retrieval(asked.labelled(), searched.as_ref().map(Part::labelled), &options)?;
    let clusters = wanted.iter().any(|(_, metric)| metric.of_clusters());
    let clusters = clusters.then(|| clustering(asked.labelled(), seed)).transpose()?;
    let mut scores = Map::new();
    for (name, metric) in wanted {
        let value = metric.value(&found, clusters.as_ref());
        scores.insert(name.clone(), json!(value.ok_or_else(|| EvaluateError::NoValue { metric: name.clone() })?));
    }
    let mut document = json!({ "metrics": scores, "queries": found.queries, "without_match": found.without_match });
    if !all.rows.remarks.is_empty() {
        document["remarks"] = json!(all.rows.remarks);
    }
    fs_err::write(output(job, "scores")?, format!("{document:#}\n"))?;
    let rows = per_query::Rows {
        positions: &asked.positions,
        labels: &asked.labels,
        class_names: &all.rows.class_names,
        recall_at: &options.recall_at,
    };
    Ok(per_query::write(output(job, "queries")?, &found.per_query, rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_known_by_name_and_wrong_ones_refused_at_their_place() {
        assert_eq!(Metric::parse("r@10"), Some(Metric::RecallAt(10)));
        for name in ["r@0", "r@", "r@-1", "P1", "nmi "] {
            assert_eq!(Metric::parse(name), None, "{name}");
        }
        let Value::Object(map) =
            json!({ "metrics": ["p1", "mp"], "query": "noto", "ties": "index", "average": "classes", "seed": 0 })
        else {
            panic!("an object")
        };
        let paths: Vec<Vec<String>> = check(&map).into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, [vec!["metrics".to_owned(), "1".to_owned()], vec!["gallery".to_owned()]]);
    }
}
