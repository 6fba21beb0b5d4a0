//! The training loop.

use std::time::Instant;

use dfdx::prelude::*;
use thiserror::Error;

use super::config::Config;
use super::measure::{Measured, measure};
use super::mode::{Averages, MeanFields};
use super::moments::Optimiser;
use crate::data::augment::BatchId;
use crate::data::random::stream;
use crate::data::sampler::{Sampler, SamplerError};
use crate::loss::memory::Memory;
use crate::loss::{Batch, Gradients as LossGradients, Init, Loss, LossError, Parameter};
use crate::nn::{self, AdamWStep, Architecture, Backend, Matrix, Model, Recording, download, embed, normalise};

/// The images a network is trained on.
#[derive(Debug, Clone, Copy)]
pub struct TrainSet<'a> {
    /// `N x height x width x 3`.
    pub pixels: &'a [u8],
    /// `N` classes, each below `classes`.
    pub labels: &'a [u32],
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
}

/// What an epoch was like.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochLog {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean of the loss over the epoch's steps.
    pub mean_loss: f64,
    /// The network's learning rate.
    pub learning_rate: f64,
    /// The learning rate of the loss's parameters.
    pub loss_learning_rate: f64,
    /// Seconds that the epoch took.
    pub seconds: f64,
    /// Training images a second.
    pub images_per_second: f64,
    /// The most memory that the process has held so far, in bytes, where the system tells.
    pub peak_memory: Option<u64>,
    /// What was measured after it, where the settings ask for that.
    pub measured: Option<Measured>,
}

/// A matrix that the loss learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LossParameter {
    /// Its name, shape and start.
    pub parameter: Parameter,
    /// `rows x cols`, row-major.
    pub values: Vec<f32>,
}

/// What training leaves.
#[derive(Debug, Clone)]
pub struct Trained<B: Backend> {
    /// The network.
    pub model: Model<B>,
    /// The loss's matrices, in the loss's order.
    pub loss_parameters: Vec<LossParameter>,
}

/// Why training could not start or go on. Epochs and steps count from 1.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Settings out of range: (path of the field, message).
    #[error("invalid training settings: {}", .0.iter().map(|(path, message)| format!("{path} {message}")).collect::<Vec<_>>().join("; "))]
    Config(Vec<(String, String)>),
    /// Pixels and labels that do not belong together.
    #[error("{pixels} bytes of pixels are not {labels} RGB images of {height}x{width}")]
    Data { pixels: usize, labels: usize, height: usize, width: usize },
    /// No batch can be drawn.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// Fewer images than a batch has.
    #[error("{images} images make no epoch of batches of {batch}; set steps_per_epoch")]
    NoSteps { images: usize, batch: usize },
    /// The network failed.
    #[error(transparent)]
    Network(#[from] nn::Error),
    /// The loss has no value.
    #[error("epoch {epoch}, step {step}: {source}")]
    Loss { epoch: u32, step: u32, source: LossError },
    /// The loss has no value on a batch that is measured.
    #[error("measuring after epoch {epoch}: {source}")]
    Measure { epoch: u32, source: LossError },
    /// The loss, or a gradient of it, is NaN or infinite.
    #[error("epoch {epoch}, step {step}: the {what} is not finite; lower the learning rates or look at the data")]
    NotFinite { epoch: u32, step: u32, what: String },
    /// The loss returned a gradient of the wrong length.
    #[error("the loss gave {found} gradient elements for its {what}, expected {expected}")]
    LossGradient { what: String, found: usize, expected: usize },
    /// A parameter of the network has no part in the embeddings.
    #[error("no gradient reaches the parameter {parameter}")]
    NoGradient { parameter: String },
}

/// Trains a network from scratch; `on_epoch` is told of every epoch when it is over.
///
/// The result is a function of the arguments alone: the same bits whatever the number of threads.
pub fn train<B: Backend>(
    device: &B,
    config: &Config,
    data: &TrainSet<'_>,
    loss: &dyn Loss<f32>,
    on_epoch: &mut dyn FnMut(&EpochLog),
) -> Result<Trained<B>, TrainError> {
    let mut mistakes = config.check();
    mistakes.extend(config.check_loss(loss));
    if !mistakes.is_empty() {
        return Err(TrainError::Config(mistakes));
    }
    let TrainSet { pixels, labels, height, width, classes } = *data;
    let image = height * width * 3;
    if image == 0 || pixels.len() != labels.len() * image {
        return Err(TrainError::Data { pixels: pixels.len(), labels: labels.len(), height, width });
    }
    let sampler = Sampler::new(labels, classes, config.batch.classes, config.batch.per_class, config.seed)?;
    let batch_len = sampler.batch_len();
    let steps = config.steps_per_epoch.unwrap_or((labels.len() / batch_len) as u32);
    if steps == 0 {
        return Err(TrainError::NoSteps { images: labels.len(), batch: batch_len });
    }
    let architecture = Architecture { backbone: config.backbone, dim: config.dim, height, width };
    let mut model = Model::new(device, architecture, config.seed)?;
    let mut loss_parameters = start(loss.parameters(classes, config.dim), config.seed);
    let mut optimiser = Optimiser::new();
    let mut gradients = LossGradients::default();
    let mut memory = Memory::default();
    let mut bytes = Vec::new();
    let mut unchecked = true;
    let setup = Setup { device, config, data, loss, sampler };
    // Steps that moved the network and the loss's parameters, and classes that a moving average has begun for.
    let (mut network_steps, mut loss_steps, mut begun) = (0, 0, vec![false; classes]);
    // Every step allocates the same tensors: dfdx reuses them instead of asking the system for fresh memory.
    device.try_enable_cache().map_err(nn::Error::device("keeping memory for reuse"))?;
    for epoch in 0..config.epochs {
        let begin = Instant::now();
        let scale = config.rate_factor(epoch);
        let (learning_rate, loss_learning_rate) = (config.learning_rate * scale, config.loss_learning_rate * scale);
        let mode = config.mean_fields.in_epoch(epoch);
        if mode.averages_at(epoch) {
            let averages = Averages::new(&embed(device, &model, pixels)?, labels, classes, config.dim);
            averages.draw(&mut loss_parameters[0].values, |_| 0.0);
        }
        let mut total = 0.0;
        for step in 0..steps {
            let at = (u64::from(epoch), u64::from(step));
            let Drawn { labels, values, embeddings } = setup.draw(&mut model, at, &mut bytes)?;
            let batch = Batch { embeddings: &values, labels: &labels, dim: config.dim };
            let matrices: Vec<&[f32]> = loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
            let at = |source| TrainError::Loss { epoch: epoch + 1, step: step + 1, source };
            let value = loss.step(&mut memory, batch, classes, &matrices, &mut gradients).map_err(at)?;
            check(value, &gradients, &loss_parameters, values.len()).map_err(|problem| match problem {
                Problem::NotFinite(what) => TrainError::NotFinite { epoch: epoch + 1, step: step + 1, what },
                Problem::Length(error) => error,
            })?;
            total += f64::from(value);

            let (move_network, move_loss) = mode.moves(epoch * steps + step);
            if move_network {
                network_steps += 1;
                let moving = gradients.embeddings.iter().any(|&element| element != 0.0);
                let mut tape = backward(device, embeddings, &gradients.embeddings)?;
                let (weight_decay, clip) = (config.weight_decay, config.clip as f32);
                let step = AdamWStep { learning_rate, weight_decay, clip, step: network_steps };
                optimiser.step_network(device, &mut model, &mut tape, step, unchecked && moving)?;
                unchecked &= !moving;
            }
            if move_loss {
                loss_steps += 1;
                let step = AdamWStep {
                    learning_rate: loss_learning_rate,
                    weight_decay: config.loss_weight_decay,
                    clip: f32::INFINITY,
                    step: loss_steps,
                };
                for (matrix, gradient) in loss_parameters.iter_mut().zip(&gradients.parameters) {
                    optimiser.step_loss(matrix.parameter.name, &mut matrix.values, gradient, step);
                }
            }
            if let MeanFields::MovingAverage { momentum, .. } = mode {
                let averages = Averages::new(&values, &labels, classes, config.dim);
                averages.draw(&mut loss_parameters[0].values, |class| if begun[class] { momentum } else { 0.0 });
                averages.present().for_each(|(class, _)| begun[class] = true);
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        let measured = match config.measure.filter(|measure| (epoch + 1).is_multiple_of(measure.every)) {
            Some(wanted) => {
                let matrices: Vec<&[f32]> = loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
                Some(measure(&setup, &model, &matrices, wanted.batches, epoch + 1)?)
            }
            None => None,
        };
        on_epoch(&EpochLog {
            epoch: epoch + 1,
            mean_loss: total / f64::from(steps),
            learning_rate,
            loss_learning_rate,
            seconds,
            images_per_second: f64::from(steps) * batch_len as f64 / seconds,
            peak_memory: peak_memory(),
            measured,
        });
    }
    device.try_disable_cache().map_err(nn::Error::device("releasing memory"))?;
    Ok(Trained { model, loss_parameters })
}

/// What the steps of a training share.
pub(super) struct Setup<'a, B: Backend> {
    pub device: &'a B,
    pub config: &'a Config,
    pub data: &'a TrainSet<'a>,
    pub loss: &'a dyn Loss<f32>,
    pub sampler: Sampler,
}

/// A batch after its forward pass.
pub(super) struct Drawn<B: Backend> {
    pub labels: Vec<u32>,
    /// The embeddings on the host.
    pub values: Vec<f32>,
    pub embeddings: Matrix<B, Recording<B>>,
}

impl<B: Backend> Setup<'_, B> {
    /// Draws the batch of (epoch, step), varies its images and embeds them in training mode. `bytes` is kept from one
    /// batch to the next.
    pub fn draw(
        &self,
        model: &mut Model<B>,
        (epoch, step): (u64, u64),
        bytes: &mut Vec<u8>,
    ) -> Result<Drawn<B>, nn::Error> {
        let TrainSet { pixels, labels, height, width, .. } = *self.data;
        let images = self.sampler.batch(epoch, step);
        bytes.resize(images.len() * height * width * 3, 0);
        let id = BatchId { seed: self.config.seed, epoch, step };
        self.config.augment.batch(id, pixels, (height, width), &images, bytes);
        let x = self
            .device
            .upload(&normalise(bytes), (images.len(), height, width, 3))
            .map_err(nn::Error::device("uploading a batch"))?;
        let embeddings = model.forward_train(self.device, x)?;
        let labels = images.iter().map(|&image| labels[image]).collect();
        Ok(Drawn { labels, values: download(&embeddings), embeddings })
    }
}

/// The loss's matrices as `seed` starts them.
fn start(parameters: Vec<Parameter>, seed: u64) -> Vec<LossParameter> {
    let begin = |(index, parameter): (usize, Parameter)| {
        let mut random = stream(seed, "loss init", 0, index as u64);
        let (mean, deviation) = match parameter.init {
            Init::Normal => (0.0, 1.0),
            Init::KaimingNormalFanOut => (0.0, (2.0 / parameter.rows as f64).sqrt()),
            Init::Constant(value) => (value, 0.0),
        };
        let values =
            (0..parameter.rows * parameter.cols).map(|_| (mean + deviation * random.normal()) as f32).collect();
        LossParameter { parameter, values }
    };
    parameters.into_iter().enumerate().map(begin).collect()
}

/// What can be wrong with what a loss returned.
enum Problem {
    NotFinite(String),
    Length(TrainError),
}

/// Checks the loss's value and gradients before anything is moved by them.
fn check(
    value: f32,
    gradients: &LossGradients<f32>,
    parameters: &[LossParameter],
    embeddings: usize,
) -> Result<(), Problem> {
    if !value.is_finite() {
        return Err(Problem::NotFinite("loss".into()));
    }
    let length = |what: &str, found, expected| match found == expected {
        true => Ok(()),
        false => Err(Problem::Length(TrainError::LossGradient { what: what.into(), found, expected })),
    };
    let finite = |what: &str, gradient: &[f32]| match gradient.iter().all(|element| element.is_finite()) {
        true => Ok(()),
        false => Err(Problem::NotFinite(format!("loss's gradient of its {what}"))),
    };
    length("embeddings", gradients.embeddings.len(), embeddings)?;
    finite("embeddings", &gradients.embeddings)?;
    length("list of parameters", gradients.parameters.len(), parameters.len())?;
    for (matrix, gradient) in parameters.iter().zip(&gradients.parameters) {
        length(matrix.parameter.name, gradient.len(), matrix.values.len())?;
        finite(matrix.parameter.name, gradient)?;
    }
    Ok(())
}

/// Takes a known gradient of the embeddings back through the network: the gradient of the scalar
/// `sum(embeddings * gradient)`, in which `gradient` is constant.
pub(super) fn backward<B: Backend>(
    device: &B,
    embeddings: Matrix<B, Recording<B>>,
    gradient: &[f32],
) -> Result<Gradients<f32, B>, nn::Error> {
    let shape = *embeddings.shape();
    let run = || {
        let gradient = device.upload(gradient, shape)?;
        embeddings.try_mul(gradient)?.try_sum::<Rank0, _>()?.try_backward()
    };
    run().map_err(nn::Error::device::<B::Err>("the backward pass"))
}

/// The most memory that this process has held, in bytes.
fn peak_memory() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let kibibytes = getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss();
    // macOS counts bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(kibibytes).ok().map(|peak| peak * unit)
}

#[cfg(test)]
mod tests;
