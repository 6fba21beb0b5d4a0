//! The training loop.

use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value};

use super::checkpoint::Checkpoint;
use super::config::{BatchNorm, Config, Group, NotFinite};
use super::error::TrainError;
use super::learner::Learner;
use super::loader::{Ahead, Batches, Prepared, ahead};
use super::log::{EpochLog, peak_memory};
use super::measure::measure;
use super::mode::{Averages, MeanFields};
use super::parameters::{LossParameter, Problem, check, start};
use super::precision::Precision;
use super::selection::{HeldOut, Leave, score};
use super::state;
use crate::data::augment::Variation;
use crate::data::crop::Size;
use crate::data::images::{EvalImages, ImageError, Images};
use crate::data::sampler::Sampler;
use crate::loss::memory::Memory;
use crate::loss::{Batch, Gradients as LossGradients, Loss};
use crate::nn::weights::WeightFile;
use crate::nn::{
    self, Architecture, Backend, COLOURS, Dropout, Map as NetworkMap, Model, NamedTensor, Part, Recording, Shape,
    Statistics, Training, buffer, embed, embed_batch,
};

/// The images a network is trained on.
#[derive(Debug, Clone, Copy)]
pub struct TrainSet<'a> {
    /// With `augment: { kind: roll }` all of one size, `height x width`. Their labels are below `classes`.
    pub images: &'a dyn Images,
    /// Rows of the network's input.
    pub height: usize,
    /// Columns of the network's input.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
}

impl<'a> TrainSet<'a> {
    /// Rows and columns of the network's input.
    fn size(&self) -> Size {
        // Refused before where they are not as small as that.
        [self.height, self.width].map(|side| side.try_into().unwrap_or(u32::MAX))
    }

    /// The images as an evaluation sees them.
    pub(super) fn for_evaluation(&self, config: &Config) -> EvalImages<'a> {
        EvalImages::new(self.images, self.size(), config.evaluation_short_side)
    }
}

/// What training leaves.
#[derive(Debug, Clone)]
pub struct Trained<B: Backend> {
    /// The network.
    pub model: Model<B>,
    /// The loss's matrices, in the loss's order.
    pub loss_parameters: Vec<LossParameter>,
    /// The epoch that they are from, counted from 1; 0 if they are untrained.
    pub epoch: u32,
    /// What ended the training before its time, where the settings let it end so.
    pub not_finite: Option<String>,
    /// The score of the network before its first step, where the settings ask for it.
    pub untrained: Option<f64>,
}

/// Where a training keeps its state after each epoch, and goes on from it.
#[derive(Debug, Clone, Copy)]
pub struct Keep<'a> {
    /// The file.
    pub path: &'a Path,
    /// What must be equal for a training to go on, beside its [`Config`], images and starting weights: the loss.
    pub settings: &'a Map<String, Value>,
}

/// What a training starts from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// Weights for the backbone; those of the seed if absent.
    pub weights: Option<&'a WeightFile>,
    /// The state of an earlier attempt, or of a shorter run, if there is one.
    pub keep: Option<Keep<'a>>,
    /// Images to score it on, if the settings say so.
    pub held_out: Option<HeldOut<'a>>,
}

/// Trains a network; `on_epoch` is told of every epoch when it is over, and at the start of those that an earlier attempt has
/// behind it.
///
/// The result is a function of config, data, loss and starting weights alone: the same bits whatever the number of threads, and
/// wherever the training was interrupted and went on.
pub fn train<B: Backend>(
    device: &B,
    config: &Config,
    data: &TrainSet<'_>,
    loss: &dyn Loss<f32>,
    start: Start<'_>,
    on_epoch: &mut dyn FnMut(&EpochLog),
) -> Result<Trained<B>, TrainError> {
    let mut mistakes = config.check();
    mistakes.extend(config.check_loss(loss));
    if !mistakes.is_empty() {
        return Err(TrainError::Config(mistakes));
    }
    let mixed = (config.precision == Precision::Mixed).then(|| {
        let message = "mixed needs a GPU, whose products in half precision are faster: ask for one, or leave it out";
        device.mixed().ok_or_else(|| TrainError::Config(vec![("precision".into(), message.into())]))
    });
    let mixed = mixed.transpose()?;
    let device = mixed.as_ref().unwrap_or(device);
    let (labels, size) = (data.images.labels(), data.size());
    if config.augment.kind == Variation::Roll {
        let other = (0..labels.len()).map(|index| (index, data.images.image(index)));
        let mut other = other.filter(|(_, image)| image.encoded || image.size != size);
        if let Some((index, image)) = other.next() {
            return Err(ImageError::Size { index, found: image.size, wanted: size }.into());
        }
    }
    if let Some(validate) = config.validate
        && start.held_out.is_none_or(|held_out| held_out.images.is_empty())
    {
        return Err(TrainError::NothingHeldOut { on: validate.on.name() });
    }
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
        size,
        normaliser: config.normalisation().pixels().normaliser(),
    };
    let setup = Setup { device, config, data, loss, batches: &batches, steps, held_out: start.held_out };
    let mut run = Run::begin(&setup, start.weights)?;
    let settings = start
        .keep
        .map(|keep| state::settings(config, keep.settings, data, start.held_out.as_ref(), &run.model, device));
    if let (Some(keep), Some(settings)) = (start.keep, &settings)
        && let Some(checkpoint) = Checkpoint::read(keep.path, settings, config.schedule.depends_on_total())?
    {
        run.restore(&setup, checkpoint)?;
        run.log.iter().for_each(&mut *on_epoch);
    }
    if run.log.is_empty() {
        run.score_untrained(&setup)?;
    }
    let first = run.log.len() as u64;
    let order =
        (first..u64::from(config.epochs)).flat_map(|epoch| (0..u64::from(steps)).map(move |step| (epoch, step)));
    let not_finite =
        ahead(&batches, order, |ahead| go_on(&setup, &mut run, settings.as_ref(), start.keep, ahead, on_epoch))?;
    let mut epoch = run.log.len() as u32;
    if let (Some(best), Some(left)) = (run.best.take(), run.left(config)) {
        run.set_weights(device, &best);
        epoch = left;
    }
    buffer::release();
    let Run { model, loss_parameters, untrained, .. } = run;
    Ok(Trained { model, loss_parameters, epoch, not_finite, untrained })
}

/// The epochs that are left. Returns what ended the training before its time, where the settings let it end so.
fn go_on<B: Backend>(
    setup: &Setup<'_, B>,
    run: &mut Run<B>,
    settings: Option<&Map<String, Value>>,
    keep: Option<Keep<'_>>,
    ahead: &mut Ahead,
    on_epoch: &mut dyn FnMut(&EpochLog),
) -> Result<Option<String>, TrainError> {
    let Setup { device, config, .. } = *setup;
    while (run.log.len() as u32) < config.epochs && !run.is_over(config) {
        let before = (config.not_finite == Some(NotFinite::Stop)).then(|| run.weights(device));
        let log = match (run.epoch(setup, run.log.len() as u32, ahead), before) {
            (Err(error), Some(before)) if error.is_not_finite() => {
                run.set_weights(device, &before);
                return Ok(Some(error.to_string()));
            }
            (log, _) => log?,
        };
        on_epoch(&log);
        run.log.push(log);
        run.remember_best(config, device);
        if let (Some(keep), Some(settings)) = (keep, settings) {
            run.checkpoint(device, settings.clone()).write(keep.path)?;
        }
    }
    Ok(None)
}

/// The embeddings (`N x dim`, row-major, unit vectors) of `images`, in evaluation mode.
pub(super) fn embeddings<B: Backend, E: From<nn::Error> + From<ImageError>>(
    device: &B,
    model: &Model<B>,
    images: &EvalImages<'_>,
) -> Result<Vec<f32>, E> {
    let (image, mut bytes, mut vectors) = (images.image_bytes(), Vec::new(), Vec::new());
    let batch = embed_batch(image);
    for begin in (0..images.len()).step_by(batch) {
        let range = begin..images.len().min(begin + batch);
        bytes.resize(range.len() * image, 0);
        images.write(range, &mut bytes)?;
        vectors.extend(embed(device, model, &bytes)?);
    }
    Ok(vectors)
}

/// What the steps of a training share.
pub(super) struct Setup<'a, B: Backend> {
    pub device: &'a B,
    pub config: &'a Config,
    pub data: &'a TrainSet<'a>,
    pub loss: &'a dyn Loss<f32>,
    pub batches: &'a Batches<'a>,
    /// Steps of an epoch.
    pub steps: u32,
    pub held_out: Option<HeldOut<'a>>,
}

/// A batch after its forward pass.
pub(super) struct Drawn<B: Backend> {
    pub labels: Vec<u32>,
    /// The embeddings on the host.
    pub values: Vec<f32>,
    pub embeddings: NetworkMap<B, Recording<B>>,
}

impl<B: Backend> Setup<'_, B> {
    /// Embeds the batch of (epoch, step) as `at_epoch` trains.
    pub fn forward(
        &self,
        model: &mut Model<B>,
        at_epoch: u32,
        (epoch, step): (u64, u64),
        prepared: Prepared,
    ) -> Result<Drawn<B>, nn::Error> {
        let TrainSet { height, width, .. } = *self.data;
        let Config { seed, dropout, .. } = *self.config;
        let Prepared { images, values } = prepared;
        let shape = Shape { images: images.len(), rows: height, columns: width, channels: COLOURS };
        let x = self.device.map(values, shape)?;
        let training = Training {
            backbone: self.config.learns(Group::Backbone, at_epoch),
            statistics: match self.config.batch_norm {
                BatchNorm::Batch => Statistics::Batch,
                BatchNorm::Frozen => Statistics::Running { learn: false },
                BatchNorm::FrozenStatistics => Statistics::Running { learn: true },
            },
            dropout: (dropout > 0.0).then_some(Dropout { rate: dropout, seed, epoch, step }),
        };
        let embeddings = model.forward_train(self.device, x, training)?;
        let labels = self.data.images.labels();
        let labels = images.iter().map(|&image| labels[image]).collect();
        Ok(Drawn { labels, values: B::download(&embeddings), embeddings })
    }
}

/// All that a training leaves, on the host: the network's tensors in their order, then the loss's matrices.
pub(super) type Weights = Vec<Vec<f32>>;

/// A training under way.
pub(super) struct Run<B: Backend> {
    pub model: Model<B>,
    pub loss_parameters: Vec<LossParameter>,
    pub learner: Learner<B>,
    pub memory: Memory<f32>,
    /// Classes that a moving average has begun for.
    pub begun: Vec<bool>,
    pub log: Vec<EpochLog>,
    /// The score before the first step.
    pub untrained: Option<f64>,
    /// The weights of the best epoch, where it is what the training leaves.
    pub best: Option<Weights>,
    /// Whether it was seen that every parameter has a gradient.
    checked: bool,
    gradients: LossGradients<f32>,
}

impl<B: Backend> Run<B> {
    fn begin(setup: &Setup<'_, B>, weights: Option<&WeightFile>) -> Result<Self, TrainError> {
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
            learner: Learner::new(optimiser, setup.config.precision),
            memory: Memory::default(),
            begun: vec![false; classes],
            log: Vec::new(),
            untrained: None,
            best: None,
            checked: false,
            gradients: LossGradients::default(),
        })
    }

    /// Whether no epoch is to follow those that are over, by their scores.
    fn is_over(&self, config: &Config) -> bool {
        config.validate.is_some_and(|validate| validate.is_over(self.untrained, &self.log))
    }

    /// The epoch whose network is left, as far as scores decide it.
    fn left(&self, config: &Config) -> Option<u32> {
        config.validate.filter(|validate| validate.keep == Leave::Best)?.left(self.untrained, &self.log)
    }

    /// Scores the network before its first step, where the settings ask for it.
    fn score_untrained(&mut self, setup: &Setup<'_, B>) -> Result<(), TrainError> {
        let Setup { device, config, held_out, .. } = *setup;
        let wanted = config.validate.filter(|validate| validate.untrained.is_some()).zip(held_out);
        let score = wanted.map(|(validate, images)| score(device, &self.model, images, validate.metric)).transpose();
        self.untrained = score.map_err(|source| TrainError::Score { epoch: 0, source })?;
        self.remember_best(config, device);
        Ok(())
    }

    pub fn weights(&self, device: &B) -> Weights {
        let network = self.model.tensors().map(|tensor| device.read(&tensor.value, <[f32]>::to_vec));
        network.chain(self.loss_parameters.iter().map(|matrix| matrix.values.clone())).collect()
    }

    fn set_weights(&mut self, device: &B, weights: &Weights) {
        let mut weights = weights.iter();
        for (tensor, values) in self.model.tensors_mut().zip(&mut weights) {
            device.write(&mut tensor.value, |to| to.copy_from_slice(values));
        }
        for (matrix, values) in self.loss_parameters.iter_mut().zip(weights) {
            matrix.values.clone_from(values);
        }
    }

    /// Keeps the weights if the epoch that is just over is the best so far, and the best is wanted.
    fn remember_best(&mut self, config: &Config, device: &B) {
        if self.left(config) == Some(self.log.len() as u32) {
            self.best = Some(self.weights(device));
        }
    }

    /// One epoch, counted from 0.
    fn epoch(&mut self, setup: &Setup<'_, B>, epoch: u32, ahead: &mut Ahead) -> Result<EpochLog, TrainError> {
        let Setup { device, config, data, steps, .. } = *setup;
        let begin = Instant::now();
        buffer::start_peak();
        let mode = config.mean_fields.in_epoch(epoch);
        if mode.averages_at(epoch) {
            let embeddings: Vec<f32> = embeddings::<B, TrainError>(device, &self.model, &data.for_evaluation(config))?;
            let averages = Averages::new(&embeddings, data.images.labels(), data.classes, config.dim);
            averages.draw(&mut self.loss_parameters[0].values, |_| 0.0);
        }
        let mut total = 0.0;
        for step in 0..steps {
            total += f64::from(self.step(setup, mode, epoch, step, ahead)?);
        }
        let step_memory = buffer::peak_bytes() as u64;
        let seconds = begin.elapsed().as_secs_f64();
        let waiting = ahead.waited().as_secs_f64() / seconds;
        let measured = match config.measure.filter(|measure| (epoch + 1).is_multiple_of(measure.every)) {
            Some(wanted) => {
                let matrices: Vec<&[f32]> = self.loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
                Some(measure(setup, &self.model, &matrices, wanted.batches, epoch)?)
            }
            None => None,
        };
        let due = config.validate.filter(|validate| validate.is_due(epoch + 1)).zip(setup.held_out);
        let score = due.map(|(validate, images)| score(device, &self.model, images, validate.metric)).transpose();
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
            loss_scale: self.learner.loss_scale(),
            waiting,
            measured,
            score,
        })
    }

    /// One batch and, where one is due, a step of the optimiser. Returns the loss.
    fn step(
        &mut self,
        setup: &Setup<'_, B>,
        mode: MeanFields,
        epoch: u32,
        step: u32,
        ahead: &mut Ahead,
    ) -> Result<f32, TrainError> {
        let Setup { device, config, data, loss, steps, .. } = *setup;
        let at = (u64::from(epoch), u64::from(step));
        let prepared = ahead.next(setup.batches, at)?;
        let Drawn { labels, values, embeddings } = setup.forward(&mut self.model, epoch, at, prepared)?;
        let batch = Batch { embeddings: &values, labels: &labels, dim: config.dim };
        let matrices: Vec<&[f32]> = self.loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
        let value = loss
            .step(&mut self.memory, batch, data.classes, &matrices, &mut self.gradients)
            .map_err(|source| TrainError::Loss { epoch: epoch + 1, step: step + 1, source })?;
        check(value, &self.gradients, &self.loss_parameters, values.len()).map_err(|problem| match problem {
            Problem::NotFinite(what) => TrainError::NotFinite { epoch: epoch + 1, step: step + 1, what },
            Problem::Length(error) => error,
        })?;

        let (move_network, move_loss) = mode.moves(epoch * steps + step);
        let due = config.accumulated(step, steps);
        if move_network {
            let moving = self.gradients.embeddings.iter().any(|&element| element != 0.0);
            self.learner.scale(&mut self.gradients.embeddings);
            let mut gradients = device.backward(embeddings, &self.gradients.embeddings)?;
            self.learner.gather_network(device, &self.model, &mut gradients)?;
            if moving && !self.checked {
                let backbone = config.learns(Group::Backbone, epoch);
                let frozen = |name: &str| config.batch_norm == BatchNorm::Frozen && self.model.normalises(name);
                let learns = |tensor: &NamedTensor<B>| (backbone || tensor.part == Part::Head) && !frozen(&tensor.name);
                if let Some(parameter) = self.learner.idle(device, &self.model, learns) {
                    return Err(TrainError::NoGradient { parameter });
                }
                // The backbone is looked at when it joins in.
                self.checked = backbone;
            }
            if let Some(batches) = due {
                self.learner.step_network(device, config, &mut self.model, epoch, batches)?;
            }
        }
        if move_loss {
            self.learner.gather_loss(&self.gradients.parameters);
            if let Some(batches) = due {
                self.learner.step_loss(config, &mut self.loss_parameters, epoch, batches)?;
            }
        }
        if let MeanFields::MovingAverage { momentum, .. } = mode {
            let averages = Averages::new(&values, &labels, data.classes, config.dim);
            let begun = &self.begun;
            averages.draw(&mut self.loss_parameters[0].values, |class| if begun[class] { momentum } else { 0.0 });
            averages.present().for_each(|(class, _)| self.begun[class] = true);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
