//! The training loop.

use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value};

use super::checkpoint::Checkpoint;
use super::config::{BatchNorm, Config, Group, KeepEpoch, NotFinite};
use super::error::TrainError;
use super::forward::{EmbeddedBatch, HeldOut, Setup, TrainSet, embeddings};
use super::loader::{Batches, Prefetch};
use super::log::{EpochLog, peak_memory};
use super::measure::measure;
use super::mode::{Averages, MeanFields};
use super::parameters::{LossParameter, Problem, check};
use super::precision::Precision;
use super::selection::score;
use super::state::{TrainingState, settings};
use crate::data::augment::Variation;
use crate::data::images::ImageError;
use crate::data::sampler::Sampler;
use crate::loss::{Batch, Gradients, Loss};
use crate::nn::weights::WeightFile;
use crate::nn::{Backend, Model, NamedTensor, Part, buffer};

/// The result of a training.
#[derive(Debug, Clone)]
pub struct Trained<B: Backend> {
    /// The network.
    pub model: Model<B>,
    /// The loss's parameters, in the loss's order.
    pub loss_parameters: Vec<LossParameter>,
    /// The epoch that both are from, counted from 1; 0 if they are untrained.
    pub epoch: u32,
    /// Why the training ended early, if it diverged and the settings allow that.
    pub not_finite: Option<String>,
    /// The score of the network before its first step, if the settings ask for it.
    pub untrained: Option<f64>,
}

/// The inputs from which a training starts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// Weights for the backbone; random ones from the seed if absent.
    pub weights: Option<&'a WeightFile>,
    /// The file where the state is saved after each epoch, and from which an interrupted or a shorter run is resumed.
    pub checkpoint: Option<&'a Path>,
    /// Images for scoring the network, if the settings ask for that.
    pub held_out: Option<HeldOut<'a>>,
}

/// Trains a network. `on_epoch` receives the record of every epoch when it ends; the records of epochs before a
/// checkpoint are passed first.
///
/// The result is a function of config, data, loss and initial weights alone: the same bits on any number of threads,
/// and wherever the training was interrupted and resumed.
pub fn train<B: Backend>(
    device: &B,
    config: &Config,
    data: &TrainSet<'_>,
    start: Start<'_>,
    on_epoch: &mut dyn FnMut(&EpochLog),
) -> Result<Trained<B>, TrainError> {
    let mistakes = config.check_loss();
    if !mistakes.is_empty() {
        return Err(TrainError::Config(mistakes));
    }
    let loss = config.loss.build().map_err(|error| {
        let problems = error.problems.into_iter();
        TrainError::Config(problems.map(|(path, message)| (format!("loss.{path}"), message)).collect())
    })?;
    train_with(device, config, data, &*loss, start, on_epoch)
}

/// The same with any loss in place of the one that `config` names.
pub(super) fn train_with<B: Backend>(
    device: &B,
    config: &Config,
    data: &TrainSet<'_>,
    loss: &dyn Loss<f32>,
    start: Start<'_>,
    on_epoch: &mut dyn FnMut(&EpochLog),
) -> Result<Trained<B>, TrainError> {
    check_request(config, data, start.held_out)?;
    let mixed = (config.precision == Precision::Mixed).then(|| {
        let message = "mixed needs a GPU, whose half-precision products are faster: request one, or leave it out";
        device.mixed().ok_or_else(|| TrainError::Config(vec![("precision".into(), message.into())]))
    });
    let mixed = mixed.transpose()?;
    let device = mixed.as_ref().unwrap_or(device);
    let labels = data.images.labels();
    let sampler = Sampler::new(labels, data.classes, config.batch.draw(), config.seed)?;
    let steps = config.steps_per_epoch.unwrap_or((labels.len() / sampler.batch_len()) as u32);
    if steps == 0 {
        return Err(TrainError::NoSteps { images: labels.len(), batch: sampler.batch_len() });
    }
    let batches = Batches {
        images: data.images,
        sampler,
        augment: config.augment,
        seed: config.seed,
        size: data.size(),
        normaliser: config.normalisation().pixels().normaliser(),
    };
    let setup = Setup { device, config, data, loss, batches: &batches, steps, held_out: start.held_out };
    let mut run = Run::new(&setup, start)?;
    run.restore(on_epoch)?;
    let first = run.state.log.len() as u64;
    let remaining =
        (first..u64::from(config.epochs)).flat_map(|epoch| (0..u64::from(steps)).map(move |step| (epoch, step)));
    let not_finite = Prefetch::run(&batches, remaining, |prefetch| run.resume(prefetch, on_epoch))?;
    let epoch = run.select();
    buffer::release();
    let TrainingState { model, loss_parameters, untrained, .. } = run.state;
    Ok(Trained { model, loss_parameters, epoch, not_finite, untrained })
}

/// Refuses settings out of range, and images that they do not fit.
fn check_request(config: &Config, data: &TrainSet<'_>, held_out: Option<HeldOut<'_>>) -> Result<(), TrainError> {
    let mistakes = config.check();
    if !mistakes.is_empty() {
        return Err(TrainError::Config(mistakes));
    }
    if config.augment.kind == Variation::Roll {
        let wanted = data.size();
        let images = (0..data.images.labels().len()).map(|index| (index, data.images.image(index)));
        if let Some((index, image)) = images.into_iter().find(|(_, image)| image.encoded || image.size != wanted) {
            return Err(ImageError::Size { index, found: image.size, wanted }.into());
        }
    }
    match &config.validate {
        Some(validate) if held_out.is_none_or(|held_out| held_out.images.is_empty()) => {
            Err(TrainError::NothingHeldOut { on: validate.on.name() })
        }
        _ => Ok(()),
    }
}

/// A training in progress.
struct Run<'a, B: Backend> {
    setup: &'a Setup<'a, B>,
    state: TrainingState<B>,
    /// Where the state is saved after each epoch, and the settings that a checkpoint there must have.
    checkpoint: Option<(&'a Path, Map<String, Value>)>,
    /// Whether every parameter is known to receive a gradient.
    checked: bool,
    gradients: Gradients<f32>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(setup: &'a Setup<'a, B>, start: Start<'a>) -> Result<Self, TrainError> {
        let Setup { device, config, data, .. } = *setup;
        let state = TrainingState::new(setup, start.weights)?;
        let checkpoint =
            start.checkpoint.map(|path| (path, settings(config, data, start.held_out.as_ref(), &state.model, device)));
        Ok(Self { setup, state, checkpoint, checked: false, gradients: Gradients::default() })
    }

    /// Continues from the checkpoint if there is one; else scores the untrained network if the settings ask for it.
    fn restore(&mut self, on_epoch: &mut dyn FnMut(&EpochLog)) -> Result<(), TrainError> {
        if let Some((path, settings)) = &self.checkpoint
            && let Some(checkpoint) = Checkpoint::read(path, settings, self.setup.config.schedule.depends_on_total())?
        {
            self.state.restore(self.setup, checkpoint)?;
            self.state.log.iter().for_each(on_epoch);
        }
        if self.state.log.is_empty() {
            self.score_untrained()?;
        }
        Ok(())
    }

    /// Trains the remaining epochs. Returns why the training ended early, if it diverged and the settings allow that.
    fn resume(
        &mut self,
        prefetch: &mut Prefetch,
        on_epoch: &mut dyn FnMut(&EpochLog),
    ) -> Result<Option<String>, TrainError> {
        let Setup { device, config, .. } = *self.setup;
        while (self.state.log.len() as u32) < config.epochs && !self.is_over() {
            let before = (config.not_finite == Some(NotFinite::Stop)).then(|| self.state.weights(device));
            let log = match (self.epoch(self.state.log.len() as u32, prefetch), before) {
                (Err(error), Some(before)) if error.is_not_finite() => {
                    self.state.set_weights(device, &before);
                    return Ok(Some(error.to_string()));
                }
                (log, _) => log?,
            };
            on_epoch(&log);
            self.state.log.push(log);
            self.remember_best();
            if let Some((path, settings)) = &self.checkpoint {
                self.state.checkpoint(device, settings.clone()).write(path)?;
            }
        }
        Ok(None)
    }

    /// Whether early stopping ends the training.
    fn is_over(&self) -> bool {
        let TrainingState { untrained, log, .. } = &self.state;
        self.setup.config.validate.as_ref().is_some_and(|validate| validate.is_over(*untrained, log))
    }

    /// The epoch to keep, if scores decide it.
    fn kept(&self) -> Option<u32> {
        let TrainingState { untrained, log, .. } = &self.state;
        let validate = self.setup.config.validate.as_ref().filter(|validate| validate.keep == KeepEpoch::Best)?;
        validate.kept(*untrained, log)
    }

    /// Copies the weights if the last epoch is the best so far, and the best is to be kept.
    fn remember_best(&mut self) {
        if self.kept() == Some(self.state.log.len() as u32) {
            self.state.best = Some(self.state.weights(self.setup.device));
        }
    }

    /// Restores the weights of the epoch to keep, and returns that epoch.
    fn select(&mut self) -> u32 {
        match (self.state.best.take(), self.kept()) {
            (Some(best), Some(epoch)) => {
                self.state.set_weights(self.setup.device, &best);
                epoch
            }
            _ => self.state.log.len() as u32,
        }
    }

    /// Scores the network before its first step, if the settings ask for it.
    fn score_untrained(&mut self) -> Result<(), TrainError> {
        let Setup { device, config, held_out, .. } = *self.setup;
        let wanted = config.validate.as_ref().filter(|validate| validate.untrained.is_some()).zip(held_out);
        let score =
            wanted.map(|(validate, images)| score(device, &self.state.model, images, validate.metric)).transpose();
        self.state.untrained = score.map_err(|source| TrainError::Score { epoch: 0, source })?;
        self.remember_best();
        Ok(())
    }

    /// One epoch, counted from 0.
    fn epoch(&mut self, epoch: u32, prefetch: &mut Prefetch) -> Result<EpochLog, TrainError> {
        let setup = self.setup;
        let Setup { device, config, data, steps, .. } = *setup;
        let begin = Instant::now();
        buffer::start_peak();
        let mode = config.mean_fields.in_epoch(epoch);
        if mode.averages_at(epoch) {
            let embeddings: Vec<f32> =
                embeddings::<B, TrainError>(device, &self.state.model, &data.for_evaluation(config))?;
            let averages = Averages::new(&embeddings, data.images.labels(), data.classes, config.dim);
            averages.move_towards(&mut self.state.loss_parameters[0].values, |_| 0.0);
        }
        let mut total = 0.0;
        for step in 0..steps {
            total += f64::from(self.step(mode, epoch, step, prefetch)?);
        }
        let step_memory = buffer::peak_bytes() as u64;
        let seconds = begin.elapsed().as_secs_f64();
        let waiting = prefetch.take_waited().as_secs_f64() / seconds;
        let measured = match config.measure.filter(|measure| (epoch + 1).is_multiple_of(measure.every)) {
            Some(wanted) => {
                let matrices: Vec<&[f32]> =
                    self.state.loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
                Some(measure(setup, &self.state.model, &matrices, wanted.batches, epoch)?)
            }
            None => None,
        };
        let due = config.validate.as_ref().filter(|validate| validate.is_due(epoch + 1)).zip(setup.held_out);
        let score = due.map(|(validate, images)| score(device, &self.state.model, images, validate.metric)).transpose();
        let score = score.map_err(|source| TrainError::Score { epoch: epoch + 1, source })?;
        Ok(EpochLog {
            epoch: epoch + 1,
            mean_loss: total / f64::from(steps),
            learning_rate: config.step(Group::Backbone, epoch, 1, 1.0).learning_rate,
            loss_learning_rate: config.step(Group::Loss, epoch, 1, 1.0).learning_rate,
            seconds,
            images_per_second: f64::from(steps) * setup.batches.sampler.batch_len() as f64 / seconds,
            peak_memory: peak_memory(),
            step_memory,
            device_memory: device.memory(),
            loss_scale: self.state.updater.loss_scale(),
            waiting,
            measured,
            score,
        })
    }

    /// Processes one batch and, if one is due, makes an optimiser step. Returns the loss.
    fn step(&mut self, mode: MeanFields, epoch: u32, step: u32, prefetch: &mut Prefetch) -> Result<f32, TrainError> {
        let setup = self.setup;
        let Setup { device, config, data, loss, steps, .. } = *setup;
        let state = &mut self.state;
        let at = (u64::from(epoch), u64::from(step));
        let prepared = prefetch.next(setup.batches, at)?;
        let EmbeddedBatch { labels, values, embeddings } = setup.forward(&mut state.model, epoch, at, prepared)?;
        let batch = Batch { embeddings: &values, labels: &labels, dim: config.dim };
        let matrices: Vec<&[f32]> = state.loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
        let value = loss
            .step(&mut state.memory, batch, data.classes, &matrices, &mut self.gradients)
            .map_err(|source| TrainError::Loss { epoch: epoch + 1, step: step + 1, source })?;
        check(value, &self.gradients, &state.loss_parameters, values.len()).map_err(|problem| match problem {
            Problem::NotFinite(what) => TrainError::NotFinite { epoch: epoch + 1, step: step + 1, what },
            Problem::Length(error) => error,
        })?;

        let (updates_network, updates_loss) = mode.updates(epoch * steps + step);
        let due = config.accumulated(step, steps);
        if updates_network {
            let has_gradient = self.gradients.embeddings.iter().any(|&element| element != 0.0);
            state.updater.scale(&mut self.gradients.embeddings);
            let mut gradients = device.backward(embeddings, &self.gradients.embeddings)?;
            state.updater.accumulate_network(device, &state.model, &mut gradients)?;
            if has_gradient && !self.checked {
                let backbone = config.learns(Group::Backbone, epoch);
                let frozen = |name: &str| config.batch_norm == BatchNorm::Frozen && state.model.normalises(name);
                let learns = |tensor: &NamedTensor<B>| (backbone || tensor.part == Part::Head) && !frozen(&tensor.name);
                if let Some(parameter) = state.updater.idle(device, &state.model, learns) {
                    return Err(TrainError::NoGradient { parameter });
                }
                // A frozen backbone is checked once it learns.
                self.checked = backbone;
            }
            if let Some(batches) = due {
                state.updater.step_network(device, config, &mut state.model, epoch, batches)?;
            }
        }
        if updates_loss {
            state.updater.accumulate_loss(&self.gradients.parameters);
            if let Some(batches) = due {
                state.updater.step_loss(config, &mut state.loss_parameters, epoch, batches)?;
            }
        }
        if let MeanFields::MovingAverage { momentum, .. } = mode {
            let averages = Averages::new(&values, &labels, data.classes, config.dim);
            let averaged = &mut state.averaged;
            averages.move_towards(
                &mut state.loss_parameters[0].values,
                |class| if averaged[class] { momentum } else { 0.0 },
            );
            averages.present().for_each(|(class, _)| averaged[class] = true);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
