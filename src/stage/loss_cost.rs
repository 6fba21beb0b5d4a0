//! `loss_cost`: seconds and memory of one step of a loss, as scores that `report` reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use smart_default::SmartDefault;

use super::job::{JobError, output, parameters, parsed, problems};
use crate::engine::execute::KindJob;
use crate::loss::cost::{Cost, measure};
use crate::loss::registry::LossSpec;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};
use crate::settings::{Fault, Setting};

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

#[derive(Debug, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    /// A loss as `train` has it, such as { kind: contrastive }.
    #[schemars(with = "Value", extend("x-type" = "any", "x-required" = true))]
    loss: LossSpec,
    /// Samples of a batch.
    #[default = 128]
    #[schemars(range(min = 1, max = 1_000_000))]
    batch: usize,
    /// Number of classes.
    #[default = 100]
    #[schemars(range(min = 1, max = 100_000_000))]
    classes: usize,
    /// Embedding dimension.
    #[default = 512]
    #[schemars(range(min = 1, max = 65536))]
    dim: usize,
    /// Time to repeat the step for, at least five times.
    #[default = 0.5]
    #[schemars(range(min = 0, max = 3600), extend("x-unit" = "seconds"))]
    seconds: f64,
    /// Distinguishes equal measurements, such as ${repetition}.
    #[serde(rename = "repetition")]
    #[schemars(range(min = 0))]
    _repetition: u64,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    let faults = map.get("loss").map_or(Vec::new(), |loss| Setting::of::<LossSpec>().check(loss, "loss"));
    if !faults.is_empty() {
        return problems(faults.iter().map(Fault::message).collect());
    }
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
