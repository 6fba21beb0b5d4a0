//! The compute of planned cells, reported before anything runs: the multiplications and additions of networks.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::job::parsed;
use super::train;
use crate::data::augment::Variation;
use crate::data::layout::Layout;
use crate::data::split::Split;
use crate::nn::{Architecture, Model, Native};
use crate::pipeline::model::{CellId, Pipeline, Source, Task};
use crate::train::Config;

/// Counts the operations of cells, each kind of network once.
#[derive(Default)]
pub struct Works {
    /// Multiplications of one image's forward pass.
    forward: HashMap<String, Option<u64>>,
}

impl Works {
    /// Operations of a cell, two for each multiplication with its addition, as if a training ran for all its epochs; nothing
    /// where the cell is neither `train` nor `embed`, or its images are not known before they exist.
    pub fn operations(&mut self, pipeline: &Pipeline, cell: CellId) -> Option<f64> {
        let (kind, parameters) = task(pipeline, cell)?;
        let images = input(pipeline, cell, "images")?;
        let counts = counts(pipeline, images)?;
        match kind {
            "train" => {
                let config = config(parameters)?;
                let forward = 2.0 * self.forward(&config, pipeline, cell)?;
                let batch = config.batch.images() as f64;
                let epoch = config.steps_per_epoch.map_or(counts[0], |steps| f64::from(steps) * batch);
                let scored = config
                    .validate
                    .as_ref()
                    .map_or(0.0, |validate| counts[train::split_of(validate.on) as usize] / f64::from(validate.every));
                // A step has the products of the forward pass three times.
                Some(f64::from(config.epochs) * (3.0 * epoch + scored) * forward)
            }
            "embed" => {
                let (_, trained) = task(pipeline, input(pipeline, cell, "model")?)?;
                let forward = 2.0 * self.forward(&config(trained)?, pipeline, cell)?;
                let split: Split = serde_json::from_value(parameters["split"].clone()).ok()?;
                Some(counts[split as usize] * forward)
            }
            _ => None,
        }
    }

    fn forward(&mut self, config: &Config, pipeline: &Pipeline, cell: CellId) -> Option<f64> {
        let side = side(config, pipeline, cell)?;
        let Config { backbone, pooling, head, dim, .. } = *config;
        let architecture = Architecture { backbone, pooling, head, dim, height: side as usize, width: side as usize };
        let work = self
            .forward
            .entry(format!("{architecture:?}"))
            .or_insert_with(|| Model::outline(&Native::default(), architecture).ok().map(|model| model.work(1)));
        work.map(|work| work as f64)
    }
}

/// Rows and columns of the images that the network of `config` sees in `cell`.
pub(super) fn side(config: &Config, pipeline: &Pipeline, cell: CellId) -> Option<u64> {
    match config.augment.kind {
        Variation::Crop => Some(u64::from(config.augment.size)),
        Variation::Roll => task(pipeline, input(pipeline, cell, "images")?)?.1["size"].as_u64(),
    }
}

/// The kind of a cell and its parameters.
pub(super) fn task(pipeline: &Pipeline, cell: CellId) -> Option<(&str, &Map<String, Value>)> {
    match &pipeline.cells[cell].task {
        Task::Kind { name, parameters, .. } => Some((name, parameters)),
        Task::Shell(_) | Task::Program(_) => None,
    }
}

fn input(pipeline: &Pipeline, cell: CellId, name: &str) -> Option<CellId> {
    let input = pipeline.cells[cell].inputs.iter().find(|input| &*input.name == name)?;
    match input.source {
        Source::Cell { cell, .. } => Some(cell),
        Source::Gathered { .. } | Source::Path(_) => None,
    }
}

/// The settings of a training.
pub(super) fn config(parameters: &Map<String, Value>) -> Option<Config> {
    parsed(parameters).ok()
}

/// Images of the three splits, by [`Split`]: as published, or as a generator makes them.
fn counts(pipeline: &Pipeline, images: CellId) -> Option<[f64; 3]> {
    let (_, parameters) = task(pipeline, images)?;
    let layout: Layout = serde_json::from_value(parameters["layout"].clone()).ok()?;
    let published = layout.published_images().filter(|_| parameters["counts"] == "published");
    let [train, test] = match published {
        Some(counts) => counts.map(|count| count as f64),
        None => {
            let (_, raw) = task(pipeline, input(pipeline, images, "raw")?)?;
            let of = |field: &str| raw.get("generate")?[field].as_f64();
            let (classes, each) = (of("classes")?, of("per_class")?);
            [(classes / 2.0).floor() * each, (classes / 2.0).ceil() * each]
        }
    };
    Some(match &parameters["split"] {
        Value::Object(rule) if rule.contains_key("mlrc") => {
            let half = (train + test) / 2.0;
            [0.75 * half, 0.25 * half, half]
        }
        _ => [train, 0.0, test],
    })
}
