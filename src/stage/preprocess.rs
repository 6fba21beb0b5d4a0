//! `preprocess`: a data set to one memory-mapped image set.

use serde_json::{Map, Value};

use super::job::{JobError, Report, hold, output, parameters, parsed, problems, required};
use crate::data::preprocess::{PreprocessConfig, preprocess};
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "preprocess",
    version: 3,
    inputs: Inputs::Named(&[InputSpec { name: "raw", required: true }]),
    outputs: &[("images", "images")],
    publish: false,
    continues: &[],
    secrets: 0,
    check,
};

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    match parsed::<PreprocessConfig>(map) {
        Ok(config) => problems(config.check()),
        Err(found) => found,
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let config: PreprocessConfig = parameters(&job.parameters)?;
    let mut progress = |done: usize, total: usize| {
        report(&Progress { done: done as u64, total: total as u64, unit: "image".to_owned(), figures: Vec::new() });
    };
    let _held = hold(&job.resume, "a preprocessing")?;
    let (raw, out) = (required(job, "raw")?, output(job, "images")?);
    let summary = preprocess(&config, raw, &job.resume.join("set"), out, &mut progress)?;
    for broken in &summary.broken {
        tracing::warn!("left out {}: {}", broken.path, broken.reason);
    }
    for leak in &summary.leaks {
        let places: Vec<String> = leak.images.iter().map(|i| format!("{} ({})", i.path, i.split.name())).collect();
        tracing::warn!("the same image is in two splits: {}", places.join(", "));
    }
    for unread in &summary.unread {
        tracing::warn!("left out {unread}");
    }
    tracing::info!(
        "{} images of {} classes train, {} of {} validate, {} of {} test; {} other files, {} images not in the list",
        summary.train.images,
        summary.train.classes,
        summary.validation.images,
        summary.validation.classes,
        summary.test.images,
        summary.test.classes,
        summary.ignored,
        summary.unlisted
    );
    Ok(())
}
