//! The training loop.

use std::time::Instant;

use dfdx::prelude::*;
use thiserror::Error;

use super::config::Config;
use super::measure::{Measured, measure};
use super::mode::{Averages, MeanFields};
use super::optimiser::Optimiser;
use crate::data::augment::BatchId;
use crate::data::random::stream;
use crate::data::sampler::{Sampler, SamplerError};
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
    let mut bytes = Vec::new();
    let mut unchecked = true;
    let setup = Setup { device, config, data, loss, sampler };
    // Steps that moved the network and the loss's parameters, and classes that a moving average has begun for.
    let (mut network_steps, mut loss_steps, mut begun) = (0, 0, vec![false; classes]);
    // Every step allocates the same tensors: dfdx reuses them instead of asking the system for fresh memory.
    device.try_enable_cache().map_err(nn::Error::device("keeping memory for reuse"))?;
    for epoch in 0..config.epochs {
        let begin = Instant::now();
        let scale = config.schedule(epoch);
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
            let value = loss.evaluate(batch, classes, &matrices, &mut gradients).map_err(at)?;
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
        let deviation = match parameter.init {
            Init::Normal => 1.0,
            Init::KaimingNormalFanOut => (2.0 / parameter.rows as f64).sqrt(),
        };
        let values = (0..parameter.rows * parameter.cols).map(|_| (deviation * random.normal()) as f32).collect();
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

    fn config(fields: &str) -> Config {
        let text =
            r#"{"dim": 8, "epochs": 2, "steps_per_epoch": 4, "batch": {"classes": 4, "per_class": 4}, "seed": 9"#;
        serde_json::from_str(&format!("{text}{fields}}}")).unwrap()
    }

    fn trained(loss: &str, config: &Config) -> (Trained<Cpu>, Vec<EpochLog>) {
        let (pixels, labels) = images();
        let data = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
        let loss = LossSpec::named(loss).unwrap().build::<f32>().unwrap();
        let mut logs = Vec::new();
        let trained = train(&Cpu::default(), config, &data, &*loss, &mut |log| logs.push(log.clone())).unwrap();
        (trained, logs)
    }

    /// The bits of the embeddings of all images and of the loss's matrices.
    fn bits(trained: &Trained<Cpu>) -> Vec<u32> {
        let vectors = embed(&Cpu::default(), &trained.model, &images().0).unwrap();
        vectors.iter().chain(trained.loss_parameters.iter().flat_map(|p| &p.values)).map(|x| x.to_bits()).collect()
    }

    /// The network and the mean fields as the settings of [`config`] start them.
    fn beginning() -> (Model<Cpu>, Vec<f32>) {
        let architecture = Architecture { backbone: config("").backbone, dim: 8, height: 16, width: 16 };
        let loss = LossSpec::named("mean_field_contrastive").unwrap().build::<f32>().unwrap();
        let mut fields = start(loss.parameters(4, 8), 9);
        (Model::new(&Cpu::default(), architecture, 9).unwrap(), fields.remove(0).values)
    }

    fn parameters(model: &Model<Cpu>) -> Vec<f32> {
        let learned = model.tensors().filter(|tensor| tensor.kind == nn::Kind::Parameter);
        learned.flat_map(|tensor| tensor.file_order()).collect()
    }

    #[test]
    fn a_training_has_the_same_bits_on_any_number_of_threads() {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let all = [
                    "",
                    r#", "mean_fields": {"kind": "class_means", "every": 1}, "measure": {"batches": 3}"#,
                    r#", "mean_fields": {"kind": "moving_average", "momentum": 0.9}"#,
                ];
                all.map(|fields| {
                    let (trained, logs) = trained("mean_field_class_wise_multi_similarity", &config(fields));
                    let logged: Vec<_> = logs.iter().map(|log| (log.mean_loss.to_bits(), log.measured)).collect();
                    (bits(&trained), logged)
                })
            })
        };
        let one = on(1);
        for threads in [2, 4, 7] {
            assert!(on(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn each_mode_moves_what_it_says() {
        let (network, fields) = beginning();
        let run = |mode: &str| trained("mean_field_contrastive", &config(&format!(r#", "mean_fields": {mode}"#))).0;
        let joint = run(r#"{"kind": "joint"}"#);
        assert!(bits(&joint) == bits(&trained("mean_field_contrastive", &config("")).0));
        assert!(joint.loss_parameters[0].values != fields && parameters(&joint.model) != parameters(&network));
        let frozen = run(r#"{"kind": "frozen"}"#);
        assert!(frozen.loss_parameters[0].values == fields && parameters(&frozen.model) != parameters(&network));
        // Turns longer than the training: the network's never comes.
        let turns = run(r#"{"kind": "alternating", "steps": 8}"#);
        assert!(turns.loss_parameters[0].values != fields && parameters(&turns.model) == parameters(&network));
        let later = run(r#"{"kind": "frozen", "after": 1}"#);
        let one = trained("mean_field_contrastive", &Config { epochs: 1, ..config("") }).0;
        assert!(later.loss_parameters == one.loss_parameters && later.loss_parameters != joint.loss_parameters);
        let turns = run(r#"{"kind": "alternating", "steps": 4}"#);
        assert!(parameters(&turns.model) != parameters(&network));
    }

    #[test]
    fn class_means_are_the_averages_of_the_embeddings() {
        let (pixels, labels) = images();
        let (network, _) = beginning();
        let averages = Averages::new(&embed(&Cpu::default(), &network, &pixels).unwrap(), &labels, 4, 8);
        let expected: Vec<f32> = averages.rows.iter().map(|&x| x as f32).collect();
        // Both epochs have the averages of the start.
        let fields = r#", "mean_fields": {"kind": "class_means", "every": 2}"#;
        let (found, _) = trained("mean_field_contrastive", &config(fields));
        assert_eq!(found.loss_parameters[0].values, expected);
        let fields = r#", "mean_fields": {"kind": "class_means", "every": 1}"#;
        let (found, _) = trained("mean_field_contrastive", &config(fields));
        assert_ne!(found.loss_parameters[0].values, expected);
        // A moving average of averages of unit vectors is no longer than 1, whatever the vectors were at the start.
        let fields = r#", "mean_fields": {"kind": "moving_average", "momentum": 0.99}"#;
        let (found, _) = trained("mean_field_contrastive", &config(fields));
        for field in found.loss_parameters[0].values.chunks(8) {
            let length = field.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!(0.5 < length && length <= 1.0 + 1e-5, "{length}");
        }
    }

    #[test]
    fn measuring_leaves_no_trace_in_the_training() {
        let smooth = ["mean_field_class_wise_multi_similarity", "mean_field_binomial_deviance"];
        for loss in smooth.into_iter().chain(["proxy_anchor", "class_wise_multi_similarity"]) {
            let (plain, _) = trained(loss, &config(""));
            let (measured, logs) = trained(loss, &config(r#", "measure": {"every": 2, "batches": 3}"#));
            assert!(bits(&plain) == bits(&measured), "{loss}");
            assert_eq!(logs[0].measured, None);
            let Measured { field_angle, spread, parent_gap, noise, parent_noise } = logs[1].measured.unwrap();
            assert!((0.0..=1.0).contains(&spread) && noise.is_some_and(|noise| noise > 0.0), "{loss}: {:?}", logs[1]);
            let pairs = loss.starts_with("mean_field");
            assert_eq!((parent_gap.is_some(), parent_noise.is_some()), (pairs, pairs), "{loss}");
            assert_eq!(field_angle.is_some(), loss != "class_wise_multi_similarity", "{loss}");
        }
    }

    #[test]
    fn a_mode_that_the_loss_has_no_vectors_for_is_refused() {
        let (pixels, labels) = images();
        let data = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
        let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
        let config = config(r#", "mean_fields": {"kind": "frozen"}"#);
        let error = train(&Cpu::default(), &config, &data, &*loss, &mut |_| {}).err().unwrap().to_string();
        assert!(error.contains("mean_fields needs a loss with one vector for each class"), "{error}");
    }

    #[test]
    fn every_loss_learns_a_set_that_is_easy() {
        for loss in LossSpec::NAMES {
            let (_, logs) = trained(loss, &Config { epochs: 6, ..config("") });
            assert!(logs[5].mean_loss < logs[0].mean_loss, "{loss}: {logs:?}");
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
