//! `train`: a network from the train split, with its log of epochs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::device::{self, Work};
use super::groups::Groups;
use super::pretrained::Pretrained;
use super::{HELD, JobError, Report, hold, input, output, parameters, parsed, problems, required, suggestion};
use crate::data::augment::Variation;
use crate::data::images::EvalImages;
use crate::data::shard::ImageSet;
use crate::data::split::Split;
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::loss::Loss;
use crate::loss::registry::LossSpec;
use crate::nn::Backend;
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};
use crate::train::{
    CheckpointError, Config, EpochLog, HeldOut, Keep, Leave, Measured, SelectOn, Start, TrainError, TrainSet, Validate,
    train,
};

pub(super) const KIND: Kind = Kind {
    name: "train",
    version: 5,
    inputs: Inputs::Named(&[
        InputSpec { name: "images", required: true },
        InputSpec { name: "weights", required: false },
        InputSpec { name: "suggestion", required: false },
    ]),
    outputs: &[("model", "model.safetensors"), ("epochs", "epochs.csv")],
    publish: false,
    continues: &["epochs"],
    secrets: 0,
    check,
};

/// The loss among the parameters, which groups of the images ask and answer, and the rest.
pub(super) fn split(map: &Map<String, Value>) -> (Map<String, Value>, Groups, Map<String, Value>) {
    let mut rest = map.clone();
    let loss = rest.shift_remove("loss").into_iter().map(|loss| ("loss".to_owned(), loss)).collect();
    let mut group = |name: &str| {
        let validate = rest.get_mut("validate")?.as_object_mut()?;
        Some(validate.shift_remove(name)?.as_str()?.to_owned())
    };
    let groups = Groups { query: group("query"), gallery: group("gallery") };
    (loss, groups, rest)
}

#[derive(Debug, Deserialize)]
struct WithLoss {
    loss: LossSpec,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    let (loss, groups, rest) = split(map);
    let mut found = match parsed::<Config>(&rest) {
        Ok(config) => problems(config.check()),
        Err(found) => found,
    };
    let lone = groups.check().into_iter();
    found.extend(problems(lone.map(|(missing, message)| (format!("validate.{missing}"), message)).collect()));
    match parsed::<WithLoss>(&loss) {
        Ok(WithLoss { loss }) => {
            let faults = loss.check().into_iter().map(|(field, message)| (format!("loss.{field}"), message));
            found.extend(problems(faults.collect()));
            if let (Ok(config), Ok(loss)) = (parsed::<Config>(&rest), loss.build::<f32>()) {
                found.extend(problems(config.check_loss(&*loss)));
            }
        }
        Err(faults) => found.extend(faults),
    }
    found
}

/// A training, whatever the device.
struct Training<'a> {
    config: &'a Config,
    data: TrainSet<'a>,
    loss: &'a dyn Loss<f32>,
    start: Start<'a>,
    on_epoch: &'a mut dyn FnMut(&EpochLog),
}

impl Work for Training<'_> {
    /// The bytes of the weight file, and what ended the training before its time.
    type Output = Result<(Vec<u8>, Option<String>), JobError>;

    fn on<B: Backend>(self, device: &B) -> Self::Output {
        let Self { config, data, loss, start, on_epoch } = self;
        let trained = match train(device, config, &data, loss, start, on_epoch) {
            // The state of another training, or a broken one: this one begins anew and replaces it.
            Err(TrainError::Checkpoint(error)) if error.is_useless() => {
                tracing::warn!("begins anew: {error}");
                if let Some(keep) = start.keep {
                    fs_err::remove_file(keep.path)?;
                }
                train(device, config, &data, loss, start, on_epoch)?
            }
            // That of a run of another length, which may go further yet: this one begins anew beside it.
            Err(TrainError::Checkpoint(error @ (CheckpointError::Total(_) | CheckpointError::Beyond { .. }))) => {
                tracing::info!("begins anew: {error}");
                let own = start.keep.map(|keep| {
                    let path = keep.path.with_file_name(format!("checkpoint-{}.safetensors", config.epochs));
                    (path, keep.settings)
                });
                let keep = own.as_ref().map(|(path, settings)| Keep { path, settings });
                train(device, config, &data, loss, Start { keep, ..start }, on_epoch)?
            }
            other => other?,
        };
        if let (Some(validate), Some(score)) = (config.validate, trained.untrained) {
            let title = validate.metric.title();
            let left = if trained.epoch == 0 { "and is what is left" } else { "which counts as epoch 0" };
            tracing::info!("the untrained network has a {} {title} of {score:.4}, {left}", validate.on.name());
        }
        let remark = config.validate.and_then(remark).map(|remark| (REMARK.to_owned(), remark));
        let metadata: BTreeMap<String, String> = remark.into_iter().collect();
        Ok((trained.model.to_safetensors_with(device, metadata)?, trained.not_finite))
    }
}

/// The key of a weight file's metadata that holds what the reader of a table must know. `embed` hands it on with the
/// vectors, `evaluate` with the scores.
pub(super) const REMARK: &str = "remark";

/// What the reader of a table must know of a network: that it was selected by what the table reports.
fn remark(validate: Validate) -> Option<String> {
    let selects = validate.on == SelectOn::Test && (validate.keep == Leave::Best || validate.patience.is_some());
    let title = validate.metric.title();
    selects.then(|| match validate.keep {
        Leave::Best => format!("selected on the test split by its best {title} epoch"),
        Leave::Last => format!("trained for as long as its {title} on the test split grew"),
    })
}

/// Removes what a training left that was killed while it wrote: files that are no checkpoint under its name.
fn sweep(folder: &Path) -> std::io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let name = entry?.file_name();
        let whole = name.to_str().is_some_and(|name| name.starts_with("checkpoint") && name.ends_with(".safetensors"));
        if !whole && name != HELD {
            fs_err::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

pub(super) fn split_of(on: SelectOn) -> Split {
    match on {
        SelectOn::Validation => Split::Validation,
        SelectOn::Test => Split::Test,
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let mut told = job.parameters.clone();
    if let Some(path) = input(job, "suggestion") {
        suggestion::apply(path, &mut told)?;
        let found = check(&told);
        if !found.is_empty() {
            return Err(suggestion::Refused(found).into());
        }
    }
    let (loss, groups, rest) = split(&told);
    let mut config: Config = parameters(&rest)?;
    let loss_settings = loss.clone();
    let WithLoss { loss } = parameters(&loss)?;
    let loss = loss.build::<f32>()?;
    let pretrained = input(job, "weights").map(Pretrained::open).transpose()?;
    // Before the images, if their size is known without them.
    let crop = (config.augment.kind == Variation::Crop).then_some(config.augment.size as usize);
    if let Some(pretrained) = &pretrained {
        config.pixels = pretrained.normalisation(&config)?;
        pretrained.check(&config, crop)?;
    }
    let images = ImageSet::open(required(job, "images")?)?;
    let view = images.split(Split::Train);
    let size = config.augment.size([view.size as u32; 2]);
    if let Some(pretrained) = &pretrained
        && let Some(found) = pretrained.check(&config, Some(size[0] as usize))?
    {
        tracing::info!("starts from weights of a file: {found}; pixels: {}", config.normalisation().name());
    }
    let [height, width] = size.map(|side| side as usize);
    let data = TrainSet { images: &view, height, width, classes: view.class_names.len() };
    let held_out = config.validate.map(|validate| images.split(split_of(validate.on)));
    let parts = held_out.as_ref().map(|view| groups.of_images(view.items)).transpose()?.flatten();
    let held_out = held_out.as_ref().map(|view| HeldOut {
        images: EvalImages::new(view, size, config.evaluation_short_side),
        parts: parts.as_ref().map(|(asked, searched)| (&asked[..], &searched[..])),
    });
    // No times here: the file is an output, and equal trainings have equal outputs. Times are in the cell's log.
    let mut epochs = String::from("epoch,loss,learning_rate,loss_learning_rate");
    if config.measure.is_some() {
        Measured::NAMES.iter().for_each(|name| epochs.extend([",", name]));
    }
    if let Some(validate) = config.validate {
        epochs.extend([",", validate.on.name(), "_", &String::from(validate.metric)]);
    }
    epochs.push('\n');
    let mut on_epoch = |log: &EpochLog| {
        let EpochLog { epoch, mean_loss, learning_rate, loss_learning_rate, seconds, images_per_second, .. } = *log;
        let mebibytes = log.step_memory >> 20;
        let _ = write!(epochs, "{epoch},{mean_loss},{learning_rate},{loss_learning_rate}");
        let mut told = String::new();
        if let Some(bytes) = log.device_memory {
            let _ = write!(told, ", {} MiB in use on the GPU", bytes >> 20);
        }
        if let Some(scale) = log.loss_scale {
            let _ = write!(told, ", loss scale {}, {} steps skipped", scale.factor, scale.skipped);
        }
        if config.measure.is_some() {
            for (name, value) in Measured::NAMES.iter().zip(log.measured.map(|m| m.values()).unwrap_or_default()) {
                // The field of what has no value, or none after this epoch, stays empty.
                epochs.push(',');
                if let Some(value) = value {
                    let _ = write!(epochs, "{value}");
                    let _ = write!(told, ", {name} {value:.4}");
                }
            }
        }
        if let Some(validate) = config.validate {
            epochs.push(',');
            if let Some(score) = log.score {
                let _ = write!(epochs, "{score}");
                let _ = write!(told, ", {} {} {score:.4}", validate.on.name(), validate.metric.title());
            }
        }
        epochs.push('\n');
        tracing::info!(
            "epoch {epoch}/{}: loss {mean_loss:.5}, rate {learning_rate:e}, loss rate {loss_learning_rate:e}, \
             {seconds:.2} s, {images_per_second:.0} images/s, {:.1} % of it waiting for images, \
             {mebibytes} MiB a step{told}",
            config.epochs,
            100.0 * log.waiting
        );
        report(&Progress {
            done: u64::from(epoch),
            total: u64::from(config.epochs),
            unit: "epoch".to_owned(),
            figures: vec![("loss".to_owned(), mean_loss), ("rate".to_owned(), learning_rate)],
        });
    };
    let _held = hold(&job.resume, "a training")?;
    sweep(&job.resume)?;
    let checkpoint = job.resume.join("checkpoint.safetensors");
    let keep = Keep { path: &checkpoint, settings: &loss_settings };
    let start = Start { weights: pretrained.as_ref().map(|pretrained| &pretrained.file), keep: Some(keep), held_out };
    let training = Training { config: &config, data, loss: &*loss, start, on_epoch: &mut on_epoch };
    let (weights, not_finite) = device::run(training)??;
    if let Some(why) = not_finite {
        tracing::warn!("ends here: {why}");
        // The last line counts, wherever the log is read.
        let fields = epochs.lines().next().map_or(0, |heading| heading.split(',').count());
        let last = epochs.lines().count();
        let _ = writeln!(epochs, "{last}{}", ",NaN".repeat(fields.saturating_sub(1)));
    }
    fs_err::write(output(job, "model")?, weights)?;
    fs_err::write(output(job, "epochs")?, epochs)?;
    Ok(())
}
