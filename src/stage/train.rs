//! `train`: trains a network on the train split, and records its epochs.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::device::{self, Work};
use super::groups::Groups;
use super::job::{HELD, JobError, Report, hold, input, output, parameters, parsed, problems, required};
use super::pretrained::Pretrained;
use super::suggestion;
use crate::data::augment::Variation;
use crate::data::images::EvalImages;
use crate::data::shard::ImageSet;
use crate::data::split::Split;
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::nn::Backend;
use crate::pipeline::kinds::{InputSpec, Inputs, Kind, ParameterProblem};
use crate::train::{
    CheckpointError, Config, EpochLog, EpochTable, HeldOut, KeepEpoch, SelectOn, Start, TrainError, TrainSet, Validate,
    summary, train,
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

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    let config: Config = match parsed(map) {
        Ok(config) => config,
        Err(found) => return found,
    };
    let lone = groups(&config).check().into_iter();
    let mut found = config.check();
    found.extend(lone.map(|(missing, message)| (format!("validate.{missing}"), message)));
    found.extend(config.check_loss());
    problems(found)
}

/// Which groups of the images are queries and gallery of the scores.
fn groups(config: &Config) -> Groups {
    let of =
        |group: fn(&Validate) -> &Option<String>| config.validate.as_ref().and_then(|validate| group(validate).clone());
    Groups { query: of(|validate| &validate.query), gallery: of(|validate| &validate.gallery) }
}

/// A training, whatever the device.
struct Training<'a> {
    config: &'a Config,
    data: TrainSet<'a>,
    start: Start<'a>,
    on_epoch: &'a mut dyn FnMut(&EpochLog),
}

impl Work for Training<'_> {
    /// The bytes of the weight file, and why the training ended early, if it did.
    type Output = Result<(Vec<u8>, Option<String>), JobError>;

    fn on<B: Backend>(self, device: &B) -> Self::Output {
        let Self { config, data, start, on_epoch } = self;
        let trained = match train(device, config, &data, start, on_epoch) {
            // The state of another training, or a damaged one: this one starts from scratch and replaces it.
            Err(TrainError::Checkpoint(error)) if error.is_useless() => {
                tracing::warn!("restarting from scratch: {error}");
                if let Some(path) = start.checkpoint {
                    fs_err::remove_file(path)?;
                }
                train(device, config, &data, start, on_epoch)?
            }
            // The state of a run of another length, which may still be extended: this one starts from scratch in its
            // own file.
            Err(TrainError::Checkpoint(error @ (CheckpointError::Total(_) | CheckpointError::Beyond { .. }))) => {
                tracing::info!("restarting from scratch: {error}");
                let name = format!("checkpoint-{}.safetensors", config.epochs);
                let own = start.checkpoint.map(|path| path.with_file_name(name));
                train(device, config, &data, Start { checkpoint: own.as_deref(), ..start }, on_epoch)?
            }
            other => other?,
        };
        if let (Some(validate), Some(score)) = (&config.validate, trained.untrained) {
            let title = validate.metric.title();
            let role = if trained.epoch == 0 { "and is the one kept" } else { "which counts as epoch 0" };
            tracing::info!("the untrained network has a {} {title} of {score:.4}, {role}", validate.on.name());
        }
        let remark = config.validate.as_ref().and_then(remark).map(|remark| (REMARK.to_owned(), remark));
        let metadata: BTreeMap<String, String> = remark.into_iter().collect();
        Ok((trained.model.to_safetensors_with(device, metadata)?, trained.not_finite))
    }
}

/// The key of a weight file's metadata that holds a remark for the reader of a table. `embed` copies it to the vectors,
/// `evaluate` to the scores.
pub(super) const REMARK: &str = "remark";

/// A remark on a network that was selected by the scores that the table reports.
fn remark(validate: &Validate) -> Option<String> {
    let selects = validate.on == SelectOn::Test && (validate.keep == KeepEpoch::Best || validate.patience.is_some());
    let title = validate.metric.title();
    selects.then(|| match validate.keep {
        KeepEpoch::Best => format!("selected on the test split by its best {title} epoch"),
        KeepEpoch::Last => format!("trained for as long as its {title} on the test split grew"),
    })
}

/// Removes what a killed training left behind: partly written files, which do not have the name of a checkpoint.
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

/// The parameters of a job, with the values of its suggestion.
fn suggested(job: &KindJob) -> Result<Map<String, Value>, JobError> {
    let mut parameters = job.parameters.clone();
    if let Some(path) = input(job, "suggestion") {
        suggestion::apply(path, &mut parameters)?;
        let found = check(&parameters);
        if !found.is_empty() {
            return Err(suggestion::Refused(found).into());
        }
    }
    Ok(parameters)
}

/// The weights to start from. They decide the normalisation of pixels where `config` does not. Checked before the images are
/// opened if the side of the network's input does not depend on them.
fn open_weights(path: &Path, config: &mut Config) -> Result<Pretrained, JobError> {
    let pretrained = Pretrained::open(path)?;
    config.pixels = pretrained.normalisation(config)?;
    let crop = (config.augment.kind == Variation::Crop).then_some(config.augment.size as usize);
    pretrained.check(config, crop)?;
    Ok(pretrained)
}

/// The state of a training after `log`.
fn progress(config: &Config, log: &EpochLog) -> Progress {
    Progress {
        done: u64::from(log.epoch),
        total: u64::from(config.epochs),
        unit: "epoch".to_owned(),
        figures: vec![("loss".to_owned(), log.mean_loss), ("rate".to_owned(), log.learning_rate)],
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let mut config: Config = parameters(&suggested(job)?)?;
    let pretrained = input(job, "weights").map(|path| open_weights(path, &mut config)).transpose()?;
    let images = ImageSet::open(required(job, "images")?)?;
    let view = images.split(Split::Train);
    let size = config.augment.size([view.size as u32; 2]);
    if let Some(pretrained) = &pretrained
        && let Some(found) = pretrained.check(&config, Some(size[0] as usize))?
    {
        tracing::info!("starts from a weight file: {found}; pixels: {}", config.normalisation().name());
    }
    let [height, width] = size.map(|side| side as usize);
    let data = TrainSet { images: &view, height, width, classes: view.class_names.len() };
    let held_out = config.validate.as_ref().map(|validate| images.split(split_of(validate.on)));
    let positions = held_out.as_ref().map(|view| groups(&config).of_images(view.items)).transpose()?.flatten();
    let held_out = held_out.as_ref().map(|view| HeldOut {
        images: EvalImages::new(view, size, config.evaluation_short_side),
        query_gallery: positions.as_ref().map(|(query, gallery)| (&query[..], &gallery[..])),
    });
    let _held = hold(&job.resume, "a training")?;
    sweep(&job.resume)?;
    let checkpoint = job.resume.join("checkpoint.safetensors");
    let weights = pretrained.as_ref().map(|pretrained| &pretrained.file);
    let start = Start { weights, checkpoint: Some(&checkpoint), held_out };
    let mut table = EpochTable::new(&config);
    let mut on_epoch = |log: &EpochLog| {
        table.push(log);
        tracing::info!("{}", summary(&config, log));
        report(&progress(&config, log));
    };
    let training = Training { config: &config, data, start, on_epoch: &mut on_epoch };
    let (weights, not_finite) = device::run(training)??;
    if let Some(reason) = not_finite {
        tracing::warn!("stops early: {reason}");
        table.push_nan();
    }
    fs_err::write(output(job, "model")?, weights)?;
    fs_err::write(output(job, "epochs")?, table.to_csv()?)?;
    Ok(())
}
