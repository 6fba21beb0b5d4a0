//! The training loop.

use std::time::Instant;

use dfdx::prelude::*;
use thiserror::Error;

use super::config::Config;
use super::optimiser::Optimiser;
use crate::data::augment::BatchId;
use crate::data::random::stream;
use crate::data::sampler::{Sampler, SamplerError};
use crate::loss::memory::Memory;
use crate::loss::{Batch, Gradients as LossGradients, Init, Loss, LossError, Parameter};
use crate::nn::{self, AdamWStep, Architecture, Backend, Matrix, Model, Recording, download, normalise};

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
    let mistakes = config.check();
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
    let mut bytes = vec![0; batch_len * image];
    let mut unchecked = true;
    // Every step allocates the same tensors: dfdx reuses them instead of asking the system for fresh memory.
    device.try_enable_cache().map_err(nn::Error::device("keeping memory for reuse"))?;
    for epoch in 0..config.epochs {
        let begin = Instant::now();
        let scale = config.schedule(epoch);
        let (learning_rate, loss_learning_rate) = (config.learning_rate * scale, config.loss_learning_rate * scale);
        let mut total = 0.0;
        for step in 0..steps {
            let images = sampler.batch(u64::from(epoch), u64::from(step));
            let id = BatchId { seed: config.seed, epoch: u64::from(epoch), step: u64::from(step) };
            config.augment.batch(id, pixels, (height, width), &images, &mut bytes);
            let x = device
                .upload(&normalise(&bytes), (batch_len, height, width, 3))
                .map_err(nn::Error::device("uploading a batch"))?;
            let embeddings = model.forward_train(device, x)?;

            let host = download(&embeddings);
            let batch_labels: Vec<u32> = images.iter().map(|&image| labels[image]).collect();
            let batch = Batch { embeddings: &host, labels: &batch_labels, dim: config.dim };
            let matrices: Vec<&[f32]> = loss_parameters.iter().map(|matrix| &matrix.values[..]).collect();
            let at = |source| TrainError::Loss { epoch: epoch + 1, step: step + 1, source };
            let value = loss.step(&mut memory, batch, classes, &matrices, &mut gradients).map_err(at)?;
            check(value, &gradients, &loss_parameters, host.len()).map_err(|problem| match problem {
                Problem::NotFinite(what) => TrainError::NotFinite { epoch: epoch + 1, step: step + 1, what },
                Problem::Length(error) => error,
            })?;
            total += f64::from(value);

            let moving = gradients.embeddings.iter().any(|&element| element != 0.0);
            let mut tape = backward(device, embeddings, &gradients.embeddings)?;
            let count = epoch * steps + step + 1;
            let step =
                AdamWStep { learning_rate, weight_decay: config.weight_decay, clip: config.clip as f32, step: count };
            optimiser.step_network(device, &mut model, &mut tape, step, unchecked && moving)?;
            unchecked &= !moving;
            let step = AdamWStep {
                learning_rate: loss_learning_rate,
                weight_decay: config.loss_weight_decay,
                clip: f32::INFINITY,
                step: count,
            };
            for (matrix, gradient) in loss_parameters.iter_mut().zip(&gradients.parameters) {
                optimiser.step_loss(matrix.parameter.name, &mut matrix.values, gradient, step);
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        on_epoch(&EpochLog {
            epoch: epoch + 1,
            mean_loss: total / f64::from(steps),
            learning_rate,
            loss_learning_rate,
            seconds,
            images_per_second: f64::from(steps) * batch_len as f64 / seconds,
            peak_memory: peak_memory(),
        });
    }
    device.try_disable_cache().map_err(nn::Error::device("releasing memory"))?;
    Ok(Trained { model, loss_parameters })
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
fn backward<B: Backend>(
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
mod tests {
    use super::*;
    use crate::loss::registry::LossSpec;
    use crate::nn::embed;

    /// Eight images of 16x16 in each of four classes: a class is a colour, a sample its noise.
    fn images() -> (Vec<u8>, Vec<u32>) {
        let mut random = stream(5, "test images", 0, 0);
        let labels: Vec<u32> = (0..32).map(|i| i / 8).collect();
        let mut pixels = Vec::new();
        for &label in &labels {
            for position in 0..16 * 16 * 3 {
                let base = if position % 3 == label as usize % 3 { 60.0 + 90.0 * f64::from(label / 3) } else { 30.0 };
                pixels.push((base + 40.0 * random.uniform()) as u8);
            }
        }
        (pixels, labels)
    }

    fn run(loss: &str, epochs: u32) -> (Vec<u8>, Vec<f64>) {
        let (pixels, labels) = images();
        let data = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
        let text = r#"{"dim": 8, "steps_per_epoch": 4, "batch": {"classes": 4, "per_class": 4}, "seed": 9}"#;
        let config = Config { epochs, ..serde_json::from_str(text).unwrap() };
        let loss = LossSpec::named(loss).unwrap().build::<f32>().unwrap();
        let mut losses = Vec::new();
        let trained = train(&Cpu::default(), &config, &data, &*loss, &mut |log| losses.push(log.mean_loss)).unwrap();
        let vectors = embed(&Cpu::default(), &trained.model, &pixels).unwrap();
        let mut bits: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
        bits.extend(trained.loss_parameters.iter().flat_map(|p| &p.values).flat_map(|x| x.to_le_bytes()));
        (bits, losses)
    }

    #[test]
    fn a_training_has_the_same_bits_on_any_number_of_threads() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run("mean_field_class_wise_multi_similarity", 2))
        };
        let one = on(1);
        for threads in [2, 4, 7] {
            assert!(on(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn every_loss_learns_a_set_that_is_easy() {
        for loss in LossSpec::NAMES {
            let (_, losses) = run(loss, 6);
            assert!(losses[5] < losses[0], "{loss}: {losses:?}");
        }
    }

    #[test]
    fn a_batch_that_cannot_be_drawn_and_pixels_that_do_not_fit_are_refused() {
        let (pixels, labels) = images();
        let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
        let go = |data: TrainSet<'_>| {
            train(&Cpu::default(), &Config::default(), &data, &*loss, &mut |_| {}).err().unwrap().to_string()
        };
        let whole = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
        let message = go(TrainSet { pixels: &pixels[1..], ..whole });
        assert!(message.contains("are not 32 RGB images of 16x16"), "{message}");
        let message = go(whole);
        assert!(message.contains("30") && message.contains('4'), "30 classes of 4: {message}");
    }
}
