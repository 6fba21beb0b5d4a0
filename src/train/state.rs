//! What a training keeps between epochs, and how it goes on from it.

use serde_json::{Map, Value};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::config::Config;
use super::error::TrainError;
use super::run::{Run, Setup, TrainSet};
use super::selection::HeldOut;
use crate::data::images::digest;
use crate::loss::memory::Memory;
use crate::nn::{Backend, Model};

/// What must be equal for a training to go on: `more`, all that it was told, its images and the weights it started from.
pub(super) fn settings<B: Backend>(
    config: &Config,
    more: &Map<String, Value>,
    data: &TrainSet<'_>,
    held_out: Option<&HeldOut<'_>>,
    model: &Model<B>,
    device: &B,
) -> Map<String, Value> {
    let mut settings = match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    settings.extend(more.clone());
    let mut weights = blake3::Hasher::new();
    for tensor in model.tensors() {
        device.read(&tensor.value, |values| {
            for chunk in values.chunks(1 << 12) {
                weights.update(&chunk.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            }
        });
    }
    let sizes = [data.height, data.width, data.classes];
    settings.insert("images".into(), format!("{sizes:?} {}", digest(data.images).to_hex()).into());
    if let (Some(_), Some(HeldOut { images, parts })) = (config.validate, held_out) {
        let parts = blake3::hash(format!("{parts:?}").as_bytes()).to_hex();
        settings.insert("held-out images".into(), format!("{} {parts}", digest(images.images()).to_hex()).into());
    }
    settings.insert("starting weights".into(), weights.finalize().to_hex().to_string().into());
    settings
}

/// The counter that holds the bits of the untrained network's score.
const UNTRAINED: &str = "untrained score";

impl<B: Backend> Run<B> {
    /// All that the next epoch depends on.
    pub fn checkpoint(&self, device: &B, settings: Map<String, Value>) -> Checkpoint {
        let mut checkpoint = Checkpoint { epoch: self.log.len() as u32, settings, ..Checkpoint::default() };
        checkpoint.log = self.log.iter().filter_map(|log| serde_json::to_value(log).ok()).collect();
        for tensor in self.model.tensors() {
            let values = device.read(&tensor.value, <[f32]>::to_vec);
            checkpoint.tensors.insert(format!("model/{}", tensor.name), values);
        }
        for matrix in &self.loss_parameters {
            checkpoint.tensors.insert(format!("loss/{}", matrix.parameter.name), matrix.values.clone());
        }
        for (index, values) in self.best.iter().flatten().enumerate() {
            checkpoint.tensors.insert(format!("best/{index}"), values.clone());
        }
        if let Some(score) = self.untrained {
            checkpoint.counters.insert(UNTRAINED.into(), score.to_bits());
        }
        let (rows, labels, next) = self.memory.parts();
        checkpoint.tensors.insert("memory/rows".into(), rows.to_vec());
        // Bit patterns: a class is a whole number.
        checkpoint.tensors.insert("memory/labels".into(), labels.iter().map(|&label| f32::from_bits(label)).collect());
        checkpoint.counters.insert("memory next".into(), next as u64);
        checkpoint.tensors.insert("begun".into(), self.begun.iter().map(|&begun| f32::from(u8::from(begun))).collect());
        self.learner.save(device, &mut checkpoint);
        checkpoint
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, setup: &Setup<'_, B>, mut checkpoint: Checkpoint) -> Result<(), TrainError> {
        for tensor in self.model.tensors_mut() {
            let values = checkpoint.take(&format!("model/{}", tensor.name), tensor.len())?;
            setup.device.write(&mut tensor.value, |to| to.copy_from_slice(&values));
        }
        for matrix in &mut self.loss_parameters {
            matrix.values = checkpoint.take(&format!("loss/{}", matrix.parameter.name), matrix.values.len())?;
        }
        if checkpoint.tensors.contains_key("best/0") {
            let lengths: Vec<usize> = self.weights(setup.device).iter().map(Vec::len).collect();
            let take = |(index, len)| checkpoint.take(&format!("best/{index}"), len);
            self.best = Some(lengths.into_iter().enumerate().map(take).collect::<Result<_, _>>()?);
        }
        self.untrained = checkpoint.counters.get(UNTRAINED).map(|&bits| f64::from_bits(bits));
        let len = |checkpoint: &Checkpoint, name: &str| checkpoint.tensors.get(name).map_or(0, Vec::len);
        let (rows, labels) = (len(&checkpoint, "memory/rows"), len(&checkpoint, "memory/labels"));
        let rows = checkpoint.take("memory/rows", rows)?;
        let labels = checkpoint.take("memory/labels", labels)?.into_iter().map(f32::to_bits).collect();
        let next = checkpoint.counters.get("memory next").map_or(0, |&next| next as usize);
        self.memory = Memory::of(rows, labels, next);
        self.begun = checkpoint.take("begun", self.begun.len())?.into_iter().map(|begun| begun != 0.0).collect();
        self.learner.restore(setup.device, &mut checkpoint)?;
        let log = std::mem::take(&mut checkpoint.log);
        self.log = log.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().unwrap_or_default();
        if self.log.len() as u32 != checkpoint.epoch {
            return Err(CheckpointError::Log { epoch: checkpoint.epoch }.into());
        }
        Ok(checkpoint.finish()?)
    }
}
