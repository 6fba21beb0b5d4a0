//! `train`: a network from the train split, with its log of epochs.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::device::{self, Work};
use super::{JobError, Report, input, output, parameters, parsed, problems, required};
use crate::data::shard::ImageSet;
use crate::data::split::Split;
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::loss::Loss;
use crate::loss::registry::LossSpec;
use crate::nn::Backend;
use crate::nn::weights::WeightFile;
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};
use crate::train::{CheckpointError, Config, EpochLog, Keep, Measured, Start, TrainError, TrainSet, train};

pub(super) const KIND: Kind = Kind {
    name: "train",
    version: 3,
    inputs: Inputs::Named(&[
        InputSpec { name: "images", required: true },
        InputSpec { name: "weights", required: false },
    ]),
    outputs: &[("model", "model.safetensors"), ("epochs", "epochs.csv")],
    publish: false,
    continues: &["epochs"],
    check,
};

/// The loss among the parameters, and the rest.
fn split(map: &Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let mut rest = map.clone();
    let loss = rest.shift_remove("loss").into_iter().map(|loss| ("loss".to_owned(), loss)).collect();
    (loss, rest)
}

#[derive(Debug, Deserialize)]
struct WithLoss {
    loss: LossSpec,
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    let (loss, rest) = split(map);
    let mut found = match parsed::<Config>(&rest) {
        Ok(config) => problems(config.check()),
        Err(found) => found,
    };
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
    /// The bytes of the weight file.
    type Output = Result<Vec<u8>, JobError>;

    fn on<B: Backend>(self, device: &B) -> Self::Output {
        let Self { config, data, loss, start, on_epoch } = self;
        let trained = match train(device, config, &data, loss, start, on_epoch) {
            // The state of another training, or a broken one: this one begins anew and replaces it.
            Err(TrainError::Checkpoint(error)) if error.is_useless() => {
                tracing::warn!("begins anew: {error}");
                if let Some(keep) = start.keep {
                    std::fs::remove_file(keep.path)?;
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
        Ok(trained.model.to_safetensors(device)?)
    }
}

/// The file in a resume folder whose lock says that a training is at work there.
const HELD: &str = "held";

/// Removes what a training left that was killed while it wrote: files that are no checkpoint under its name.
fn sweep(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let whole = name.to_str().is_some_and(|name| name.starts_with("checkpoint") && name.ends_with(".safetensors"));
        if !whole && name != HELD {
            std::fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let (loss, rest) = split(&job.parameters);
    let config: Config = parameters(&rest)?;
    let loss_settings = loss.clone();
    let WithLoss { loss } = parameters(&loss)?;
    let loss = loss.build::<f32>()?;
    let images = ImageSet::open(required(job, "images")?)?;
    let view = images.split(Split::Train);
    let data = TrainSet {
        pixels: view.pixels,
        labels: view.labels,
        height: view.size,
        width: view.size,
        classes: view.class_names.len(),
    };
    // No times here: the file is an output, and equal trainings have equal outputs. Times are in the cell's log.
    let mut epochs = String::from("epoch,loss,learning_rate,loss_learning_rate");
    if config.measure.is_some() {
        Measured::NAMES.iter().for_each(|name| epochs.extend([",", name]));
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
        epochs.push('\n');
        tracing::info!(
            "epoch {epoch}/{}: loss {mean_loss:.5}, rate {learning_rate:e}, loss rate {loss_learning_rate:e}, \
             {seconds:.2} s, {images_per_second:.0} images/s, {mebibytes} MiB a step{told}",
            config.epochs
        );
        report(&Progress {
            done: u64::from(epoch),
            total: u64::from(config.epochs),
            unit: "epoch".to_owned(),
            figures: vec![("loss".to_owned(), mean_loss), ("rate".to_owned(), learning_rate)],
        });
    };
    let pretrained = input(job, "weights").map(WeightFile::open).transpose()?;
    std::fs::create_dir_all(&job.resume)?;
    // A training whose run was killed ends within a second; it must not write here meanwhile.
    let held = File::create(job.resume.join(HELD))?;
    if held.try_lock().is_err() {
        tracing::info!("waits for a training of another run to end");
        held.lock()?;
    }
    sweep(&job.resume)?;
    let checkpoint = job.resume.join("checkpoint.safetensors");
    let keep = Keep { path: &checkpoint, settings: &loss_settings };
    let start = Start { weights: pretrained.as_ref(), keep: Some(keep) };
    let weights = device::run(Training { config: &config, data, loss: &*loss, start, on_epoch: &mut on_epoch })??;
    std::fs::write(output(job, "model")?, weights)?;
    std::fs::write(output(job, "epochs")?, epochs)?;
    Ok(())
}
