//! Applies the optimiser to a network and its loss's parameters: gradients accumulated over batches, states by name.

use std::collections::BTreeMap;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::config::{Config, Group};
use super::error::TrainError;
use super::optimiser::{OptimiserSpec, State, StepError, Sum, norm_factor};
use super::parameters::LossParameter;
use super::precision::{LossScale, Precision};
use crate::nn::{self, Backend, Grads, Kind, Model, NamedTensor, Native, Part};

/// The optimiser's states, and the gradients accumulated for the next step.
#[derive(Debug)]
pub(super) struct Updater<B: Backend> {
    optimiser: OptimiserSpec,
    /// States of the network's tensors, by name.
    states: BTreeMap<String, State<B::Vector>>,
    /// The device of the loss's parameters, which stay on the host whatever the network's device.
    host: Native,
    loss_states: BTreeMap<String, State<<Native as Backend>::Vector>>,
    /// In mixed precision.
    loss_scale: Option<LossScale>,
    /// Optimiser steps of each group: backbone, head, loss.
    steps: [u32; 3],
    /// Gradient sums of the network's tensors, in their order; none for tensors that do not learn.
    network: Vec<Option<B::Vector>>,
    /// Gradient sums of the loss's parameters.
    loss: Vec<Vec<f32>>,
}

/// The groups, and the names of their step counters in a checkpoint.
const GROUPS: [(Group, &str); 3] =
    [(Group::Backbone, "backbone steps"), (Group::Head, "head steps"), (Group::Loss, "loss steps")];

/// Prefix of the state names of the loss's parameters.
const LOSS: &str = "loss.";

impl<B: Backend> Updater<B> {
    /// The updater before the first step.
    pub fn new(optimiser: OptimiserSpec, precision: Precision) -> Self {
        Self {
            optimiser,
            states: BTreeMap::new(),
            host: Native::default(),
            loss_states: BTreeMap::new(),
            loss_scale: (precision == Precision::Mixed).then(LossScale::default),
            steps: [0; 3],
            network: Vec::new(),
            loss: Vec::new(),
        }
    }

    /// The loss scale, in mixed precision.
    pub fn loss_scale(&self) -> Option<LossScale> {
        self.loss_scale
    }

    /// Multiplies a batch's gradient of the embeddings by the loss scale; [`Updater::step_network`] divides by it.
    pub fn scale(&self, gradient: &mut [f32]) {
        if let Some(LossScale { factor, .. }) = self.loss_scale {
            gradient.iter_mut().for_each(|element| *element *= factor);
        }
    }

    /// Adds the network's gradients of one batch to the sums.
    pub fn accumulate_network(
        &mut self,
        device: &B,
        model: &Model<B>,
        gradients: &mut Grads<B>,
    ) -> Result<(), nn::Error> {
        self.network.resize_with(model.tensors().count(), || None);
        for (tensor, sum) in model.tensors().zip(&mut self.network) {
            if tensor.kind != Kind::Parameter {
                continue;
            }
            let gradient = device.gradient(gradients, &tensor.value)?;
            match (sum.as_mut(), gradient) {
                (Some(sum), Some(gradient)) => device.update(sum, &gradient, [], Sum)?,
                (None, Some(gradient)) => *sum = Some(gradient),
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Adds the loss's gradients of one batch to the sums.
    pub fn accumulate_loss(&mut self, gradients: &[Vec<f32>]) {
        if self.loss.len() != gradients.len() {
            self.loss = gradients.to_vec();
            return;
        }
        for (sum, gradient) in self.loss.iter_mut().zip(gradients) {
            sum.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
        }
    }

    /// The first parameter that should learn and whose accumulated gradient is absent or all zero: the embeddings do
    /// not depend on it.
    pub fn idle(&self, device: &B, model: &Model<B>, learns: impl Fn(&NamedTensor<B>) -> bool) -> Option<String> {
        let sums = model.tensors().zip(&self.network);
        let mut learning = sums.filter(|(tensor, _)| tensor.kind == Kind::Parameter && learns(tensor));
        let zero = |sum: &B::Vector| device.read(sum, |values| values.iter().all(|&x| x == 0.0));
        learning.find(|(_, sum)| sum.as_ref().is_none_or(zero)).map(|(tensor, _)| tensor.name.clone())
    }

    /// Updates the network's parameters that have gradients by their mean over `batches`; `epoch` counts from 0. In
    /// mixed precision, gradients that are not finite skip the step and lower the loss scale.
    pub fn step_network(
        &mut self,
        device: &B,
        config: &Config,
        model: &mut Model<B>,
        epoch: u32,
        batches: u32,
    ) -> Result<(), TrainError> {
        let sums = std::mem::take(&mut self.network);
        let mut scale = 1.0 / batches as f32;
        let squares = match (config.clip_norm, self.loss_scale) {
            (None, None) => 0.0,
            // Sequential, in the order of the tensors, for the same bits on any number of threads.
            _ => sums.iter().flatten().map(|sum| device.square_sum(sum)).sum::<Result<f64, _>>()?,
        };
        if let Some(loss_scale) = &mut self.loss_scale {
            scale /= loss_scale.factor;
            loss_scale.note(squares.is_finite()).ok_or(TrainError::NetworkGradient { epoch: epoch + 1 })?;
            if !squares.is_finite() {
                return Ok(());
            }
        }
        if let Some(limit) = config.clip_norm {
            scale *= norm_factor(squares.sqrt() * f64::from(scale), limit) as f32;
        }
        for (index, part) in [(0, Part::Backbone), (1, Part::Head)] {
            let learns = model.tensors().zip(&sums).any(|(tensor, sum)| tensor.part == part && sum.is_some());
            self.steps[index] += u32::from(learns);
        }
        for (tensor, sum) in model.tensors_mut().zip(sums) {
            let Some(gradient) = sum else { continue };
            let index = usize::from(tensor.part == Part::Head);
            let step = config.step(GROUPS[index].0, epoch, self.steps[index], scale);
            let state = self.states.entry(tensor.name.clone()).or_default();
            let updated = self.optimiser.step(device, step, &mut tensor.value, &gradient, state);
            updated.map_err(|source| TrainError::Optimiser { tensor: tensor.name.clone(), source })?;
        }
        Ok(())
    }

    /// Updates the loss's parameters by the mean of their gradients over `batches`.
    pub fn step_loss(
        &mut self,
        config: &Config,
        matrices: &mut [LossParameter],
        epoch: u32,
        batches: u32,
    ) -> Result<(), TrainError> {
        self.steps[2] += 1;
        let step = config.step(Group::Loss, epoch, self.steps[2], 1.0 / batches as f32);
        for (matrix, gradient) in matrices.iter_mut().zip(std::mem::take(&mut self.loss)) {
            let name = matrix.state_name();
            let state = self.loss_states.entry(name.clone()).or_default();
            let update = || {
                // The vectors take over the matrices' memory and return it.
                let mut values = self.host.adopt(std::mem::take(&mut matrix.values))?;
                let gradient = self.host.adopt(gradient)?;
                self.optimiser.step(&self.host, step, &mut values, &gradient, state)?;
                gradient.into_values();
                matrix.values = values.into_values();
                Ok::<(), StepError>(())
            };
            update().map_err(|source| TrainError::Optimiser { tensor: name, source })?;
        }
        Ok(())
    }

    /// Saves everything that the next step depends on to a checkpoint; the gradient sums are empty between epochs.
    pub fn save(&self, device: &B, checkpoint: &mut Checkpoint) {
        for (steps, (_, name)) in self.steps.iter().zip(GROUPS) {
            checkpoint.counters.insert(name.to_owned(), u64::from(*steps));
        }
        if let Some(loss_scale) = self.loss_scale {
            loss_scale.save(checkpoint);
        }
        save(device, &self.states, checkpoint);
        save(&self.host, &self.loss_states, checkpoint);
    }

    /// Restores what [`Updater::save`] saved.
    pub fn restore(&mut self, device: &B, checkpoint: &mut Checkpoint) -> Result<(), TrainError> {
        for (steps, (_, name)) in self.steps.iter_mut().zip(GROUPS) {
            *steps = checkpoint.counters.get(name).map_or(0, |&steps| steps as u32);
        }
        if let Some(loss_scale) = &mut self.loss_scale {
            loss_scale.restore(checkpoint);
        }
        let ours = |name: &String| name.starts_with("optimiser/");
        let names: Vec<String> = checkpoint.tensors.keys().filter(|name| ours(name)).cloned().collect();
        for name in names {
            let Some((tensor, vector)) = name["optimiser/".len()..].rsplit_once('/') else { continue };
            let len = checkpoint.tensors.get(&name).map_or(0, Vec::len);
            let values = checkpoint.take(&name, len)?;
            let known = match tensor.starts_with(LOSS) {
                true => self.loss_states.entry(tensor.to_owned()).or_default().set(vector, self.host.adopt(values)?),
                false => self.states.entry(tensor.to_owned()).or_default().set(vector, device.vector(&values)?),
            };
            if !known {
                return Err(CheckpointError::Unexpected(vec![name.clone()]).into());
            }
        }
        Ok(())
    }
}

/// Saves the states of tensors to a checkpoint.
fn save<B: Backend>(device: &B, states: &BTreeMap<String, State<B::Vector>>, checkpoint: &mut Checkpoint) {
    for (tensor, state) in states {
        for (vector, values) in state.vectors() {
            let values = device.read(values, <[f32]>::to_vec);
            checkpoint.tensors.insert(format!("optimiser/{tensor}/{vector}"), values);
        }
    }
}
