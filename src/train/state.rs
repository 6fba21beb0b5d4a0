//! The state of a training between two steps: created, saved to a checkpoint and restored from one.

use serde_json::{Map, Value};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::config::Config;
use super::error::TrainError;
use super::forward::{HeldOut, Setup, TrainSet};
use super::log::EpochLog;
use super::parameters::{LossParameter, start};
use super::updater::Updater;
use crate::data::images::digest;
use crate::loss::memory::Memory;
use crate::nn::weights::WeightFile;
use crate::nn::{Architecture, Backend, Model};

/// The learned values of a training, on the host: the network's tensors in their order, then the loss's parameters.
pub(super) type Weights = Vec<Vec<f32>>;

/// The state on which the next step of a training depends.
pub(super) struct TrainingState<B: Backend> {
    pub model: Model<B>,
    pub loss_parameters: Vec<LossParameter>,
    pub updater: Updater<B>,
    /// The memory of a loss that uses one.
    pub memory: Memory<f32>,
    /// By class: whether its moving average has been initialised.
    pub averaged: Vec<bool>,
    /// The finished epochs.
    pub log: Vec<EpochLog>,
    /// The score before the first step.
    pub untrained: Option<f64>,
    /// The weights of the best epoch, if that is what the training keeps.
    pub best: Option<Weights>,
}

/// The counter that holds the bits of the untrained network's score.
const UNTRAINED: &str = "untrained score";

impl<B: Backend> TrainingState<B> {
    /// The state before the first step; the backbone starts from `weights` if there are any.
    pub fn new(setup: &Setup<'_, B>, weights: Option<&WeightFile>) -> Result<Self, TrainError> {
        let Config { backbone, pooling, head, dim, seed, optimiser, .. } = *setup.config;
        let TrainSet { height, width, classes, .. } = *setup.data;
        let architecture = Architecture { backbone, pooling, head, dim, height, width };
        let mut model = Model::new(setup.device, architecture, seed)?;
        model.normalisation = setup.config.normalisation();
        if let Some(weights) = weights {
            let choice = setup.config.weights.clone().unwrap_or_default();
            model.load_backbone(setup.device, weights, &choice)?;
        }
        Ok(Self {
            model,
            loss_parameters: start(setup.loss.parameters(classes, dim), seed),
            updater: Updater::new(optimiser, setup.config.precision),
            memory: Memory::default(),
            averaged: vec![false; classes],
            log: Vec::new(),
            untrained: None,
            best: None,
        })
    }

    /// A copy of the learned values.
    pub fn weights(&self, device: &B) -> Weights {
        let network = self.model.tensors().map(|tensor| device.read(&tensor.value, <[f32]>::to_vec));
        network.chain(self.loss_parameters.iter().map(|matrix| matrix.values.clone())).collect()
    }

    /// Replaces the learned values.
    pub fn set_weights(&mut self, device: &B, weights: &Weights) {
        let mut weights = weights.iter();
        for (tensor, values) in self.model.tensors_mut().zip(&mut weights) {
            device.write(&mut tensor.value, |to| to.copy_from_slice(values));
        }
        for (matrix, values) in self.loss_parameters.iter_mut().zip(weights) {
            matrix.values.clone_from(values);
        }
    }

    /// The state between two epochs, as a checkpoint.
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
        // As bit patterns: labels are integers.
        checkpoint.tensors.insert("memory/labels".into(), labels.iter().map(|&label| f32::from_bits(label)).collect());
        checkpoint.counters.insert("memory next".into(), next as u64);
        checkpoint
            .tensors
            .insert("begun".into(), self.averaged.iter().map(|&averaged| f32::from(u8::from(averaged))).collect());
        self.updater.save(device, &mut checkpoint);
        checkpoint
    }

    /// Replaces the state by that of a checkpoint.
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
        self.averaged =
            checkpoint.take("begun", self.averaged.len())?.into_iter().map(|averaged| averaged != 0.0).collect();
        self.updater.restore(setup.device, &mut checkpoint)?;
        let log = std::mem::take(&mut checkpoint.log);
        self.log = log.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().unwrap_or_default();
        if self.log.len() as u32 != checkpoint.epoch {
            return Err(CheckpointError::Log { epoch: checkpoint.epoch }.into());
        }
        Ok(checkpoint.finish()?)
    }
}

/// The settings that must be equal for a training to resume: its configuration, its images and its initial weights.
pub(super) fn settings<B: Backend>(
    config: &Config,
    data: &TrainSet<'_>,
    held_out: Option<&HeldOut<'_>>,
    model: &Model<B>,
    device: &B,
) -> Map<String, Value> {
    let mut settings = match serde_json::to_value(config) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
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
    if let (Some(_), Some(HeldOut { images, query_gallery })) = (&config.validate, held_out) {
        let parts = blake3::hash(format!("{query_gallery:?}").as_bytes()).to_hex();
        settings.insert("held-out images".into(), format!("{} {parts}", digest(images.images()).to_hex()).into());
    }
    settings.insert("starting weights".into(), weights.finalize().to_hex().to_string().into());
    settings
}
