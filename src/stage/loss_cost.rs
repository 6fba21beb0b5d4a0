//! `loss_cost`: seconds and memory of one step of a loss, as scores that `report` reads.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::job::{JobError, output, parameters, parsed, problems};
use crate::engine::execute::KindJob;
use crate::loss::cost::{Cost, measure};
use crate::loss::registry::LossSpec;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "loss_cost",
    version: 1,
    inputs: Inputs::Named(&[]),
    outputs: &[("scores", "scores.json")],
    publish: false,
    continues: &[],
    secrets: 0,
    check,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    loss: LossSpec,
    batch: usize,
    classes: usize,
    dim: usize,
    seconds: f64,
    /// Which of several equal measurements.
    #[serde(rename = "repetition")]
    _repetition: u64,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    match parsed::<Parameters>(map) {
        Ok(Parameters { loss, .. }) => {
            problems(loss.check().into_iter().map(|(field, message)| (format!("loss.{field}"), message)).collect())
        }
        Err(found) => found,
    }
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let Parameters { loss, batch, classes, dim, seconds, .. } = parameters(&job.parameters)?;
    let Cost { median_ms, floor_ms, bytes, .. } = measure(&loss, [batch, classes, dim], seconds)?;
    let mut metrics = json!({ "step_ms": median_ms, "floor_ms": floor_ms });
    if let Some(bytes) = bytes {
        metrics["step_mib"] = json!(bytes as f64 / f64::from(1 << 20));
    }
    Ok(fs_err::write(output(job, "scores")?, format!("{:#}\n", json!({ "metrics": metrics })))?)
}
