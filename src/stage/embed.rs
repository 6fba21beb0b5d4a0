//! `embed`: vectors of the images of one split, by a trained model or as raw pixels.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use smart_default::SmartDefault;
use thiserror::Error;

use super::device::{self, Work};
use super::job::{JobError, Report, input, output, parameters, parsed, required};
use super::train::REMARK;
use super::vectors::{Rows, Writer};
use crate::data::images::{EvalImages, Images};
use crate::data::shard::{ImageSet, Item, SplitView, Store};
use crate::data::split::Split;
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::nn::weights::WeightFile;
use crate::nn::{Architecture, Backend, Model, embed, embed_batch};
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "embed",
    version: 3,
    inputs: Inputs::Named(&[
        InputSpec { name: "images", required: true },
        InputSpec { name: "model", required: false },
    ]),
    outputs: &[("vectors", "vectors.safetensors")],
    publish: false,
    continues: &[],
    secrets: 0,
    check,
};

#[derive(Debug, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    /// Split to embed.
    #[default(Split::Test)]
    split: Split,
    /// Short side that an image is resized to before its centre is cropped.
    #[default = 256]
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "pixels"))]
    short_side: u32,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    parsed::<Parameters>(map).err().unwrap_or_default()
}

#[derive(Debug, Error)]
enum EmbedError {
    #[error("vectors of raw pixels need images of one size: preprocess with `store: square`, or embed by a model")]
    Sizes,
    #[error("the set has no image in its split `{0}`; preprocess says which images are in which")]
    Empty(&'static str),
}

/// Embedding by a network, whatever the device.
struct Embedding<'a, 'r> {
    weights: &'a Path,
    images: &'a dyn Images,
    short_side: u32,
    output: &'a Path,
    rows: &'a Rows,
    report: Report<'r>,
}

impl Work for Embedding<'_, '_> {
    type Output = Result<(), JobError>;

    fn on<B: Backend>(self, device: &B) -> Self::Output {
        let model = Model::open(device, self.weights)?;
        let Architecture { dim, height, width, .. } = model.architecture;
        let images = EvalImages::new(self.images, [height as u32, width as u32], self.short_side);
        let mut writer = Writer::create(self.output, self.rows, dim)?;
        let mut pixels = Vec::new();
        for first in (0..images.len()).step_by(embed_batch(images.image_bytes())) {
            let range = first..images.len().min(first + embed_batch(images.image_bytes()));
            pixels.resize(range.len() * images.image_bytes(), 0);
            images.write(range.clone(), &mut pixels)?;
            writer.push(&embed(device, &model, &pixels)?)?;
            (self.report)(&progress(range.end, images.len()));
        }
        writer.finish()
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let Parameters { split, short_side } = parameters(&job.parameters)?;
    let images = ImageSet::open(required(job, "images")?)?;
    let view = images.split(split);
    if view.is_empty() {
        return Err(EmbedError::Empty(split.name()).into());
    }
    report(&progress(0, view.len()));
    let mut group_names: Vec<String> = view.items.iter().map(group).collect();
    group_names.sort_unstable();
    group_names.dedup();
    let position = |item: &Item| group_names.binary_search(&group(item)).unwrap_or_default() as u32;
    let rows = Rows {
        labels: view.labels.to_vec(),
        class_names: view.class_names.to_vec(),
        groups: view.items.iter().map(position).collect(),
        group_names,
        remarks: input(job, "model").map(remarks).transpose()?.unwrap_or_default(),
    };
    let output = output(job, "vectors")?;
    match input(job, "model") {
        Some(weights) => device::run(Embedding { weights, images: &view, short_side, output, rows: &rows, report })?,
        None => raw_pixels(&view, &rows, output),
    }
}

/// Every image as the vector of its pixels, less the mean image: what retrieval by raw pixels compares (by cosine, so the
/// scale does not matter; it is that of the bytes).
fn raw_pixels(view: &SplitView<'_>, rows: &Rows, output: &Path) -> Result<(), JobError> {
    if view.store != Store::Square {
        return Err(EmbedError::Sizes.into());
    }
    let dim = view.size * view.size * 3;
    let mut sums = vec![0u64; dim];
    for image in view.pixels.chunks_exact(dim) {
        sums.iter_mut().zip(image).for_each(|(sum, &value)| *sum += u64::from(value));
    }
    let means: Vec<f32> = sums.iter().map(|&sum| (sum as f64 / view.len() as f64) as f32).collect();
    let mut writer = Writer::create(output, rows, dim)?;
    for image in view.pixels.chunks_exact(dim) {
        let vector: Vec<f32> = image.iter().zip(&means).map(|(&value, mean)| f32::from(value) - mean).collect();
        writer.push(&vector)?;
    }
    writer.finish()
}

fn progress(done: usize, total: usize) -> Progress {
    Progress { done: done as u64, total: total as u64, unit: "image".to_owned(), figures: Vec::new() }
}

/// What the weight file says that the reader of a table must know.
fn remarks(weights: &Path) -> Result<Vec<String>, JobError> {
    Ok(WeightFile::open(weights)?.metadata().get(REMARK).cloned().into_iter().collect())
}

fn group(item: &Item) -> String {
    item.group.clone().unwrap_or_default()
}
