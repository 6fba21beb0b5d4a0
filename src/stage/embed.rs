//! `embed`: vectors of the images of one split, by a trained model or as raw pixels.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::device::{self, Work};
use super::train::REMARK;
use super::vectors::{self, Vectors};
use super::{JobError, Report, input, output, parameters, parsed, required};
use crate::data::shard::{ImageSet, Item, raw_pixel_vectors};
use crate::data::split::Split;
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::nn::weights::WeightFile;
use crate::nn::{Backend, Model, embed};
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "embed",
    version: 1,
    inputs: Inputs::Named(&[
        InputSpec { name: "images", required: true },
        InputSpec { name: "model", required: false },
    ]),
    outputs: &[("vectors", "vectors.safetensors")],
    publish: false,
    continues: &[],
    check,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    split: Split,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    parsed::<Parameters>(map).err().unwrap_or_default()
}

/// Embedding by a network, whatever the device.
struct Embedding<'a> {
    weights: &'a Path,
    pixels: &'a [u8],
}

impl Work for Embedding<'_> {
    /// The vectors and their length.
    type Output = Result<(Vec<f32>, usize), JobError>;

    fn on<B: Backend>(self, device: &B) -> Self::Output {
        let model = Model::open(device, self.weights)?;
        Ok((embed(device, &model, self.pixels)?, model.architecture.dim))
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let Parameters { split } = parameters(&job.parameters)?;
    let images = ImageSet::open(required(job, "images")?)?;
    let view = images.split(split);
    let total = view.len() as u64;
    report(&Progress { done: 0, total, unit: "image".to_owned(), figures: Vec::new() });
    let (values, dim) = match input(job, "model") {
        Some(path) => device::run(Embedding { weights: path, pixels: view.pixels })??,
        None => (raw_pixel_vectors(&view), view.size * view.size * 3),
    };
    let mut group_names: Vec<String> = view.items.iter().map(group).collect();
    group_names.sort_unstable();
    group_names.dedup();
    let position = |item: &Item| group_names.binary_search(&group(item)).unwrap_or_default() as u32;
    let groups = view.items.iter().map(position).collect();
    let remarks = input(job, "model").map(remarks).transpose()?.unwrap_or_default();
    let found = Vectors { vectors: values, dim, labels: view.labels.to_vec(), groups, group_names, remarks };
    vectors::write(&found, output(job, "vectors")?)
}

/// What the weight file says that the reader of a table must know.
fn remarks(weights: &Path) -> Result<Vec<String>, JobError> {
    Ok(WeightFile::open(weights)?.metadata().get(REMARK).cloned().into_iter().collect())
}

fn group(item: &Item) -> String {
    item.group.clone().unwrap_or_default()
}
