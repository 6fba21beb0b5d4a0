//! The stage kinds: the only door between the engine and the learning half.
//!
//! A kind is a thin bridge. [`kinds`] declares them to the pipeline, [`run_job`] runs one in a process of its own: it
//! reads the job that the engine wrote, calls one room of the other half, and writes the outputs. What a kind writes
//! depends on its parameters and inputs alone: no clock, no host, no thread count.

mod concat;
mod device;
mod download;
mod embed;
mod evaluate;
mod files;
mod groups;
mod loss_cost;
mod neighbours;
mod preprocess;
mod pretrained;
mod report;
mod search;
mod suggestion;
mod train;
mod vectors;
mod work;

use std::error::Error;
use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

pub use self::files::FileChecks;
pub use self::report::{TableFormat, makes_tables, render_table};
pub use self::work::Works;
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Kinds, ParameterProblem};

/// Anything that ends a job.
pub type JobError = Box<dyn Error + Send + Sync>;

/// Somebody who is told how far a job has come.
pub type Report<'a> = &'a mut dyn FnMut(&Progress);

/// A job that does not fit its kind: the engine and the kinds disagree, or somebody wrote a job file by hand.
#[derive(Debug, Error)]
enum JobMismatch {
    #[error("{} is not a job", path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("there is no stage kind `{0}`")]
    Kind(String),
    #[error("the job has no input `{0}`")]
    Input(&'static str),
    #[error("the job has no output `{0}`")]
    Output(&'static str),
    #[error("the job's parameters: {0}")]
    Parameters(String),
}

/// Stage definitions that come with the program, as (name, text). Files of the user's with the same name win.
pub const DEFINITIONS: &[(&str, &str)] = &[
    ("download", include_str!("../../stages/download.yaml")),
    ("download/glyphs", include_str!("../../stages/download/glyphs.yaml")),
    ("download/textures", include_str!("../../stages/download/textures.yaml")),
    ("download/miniature", include_str!("../../stages/download/miniature.yaml")),
    ("download/cub", include_str!("../../stages/download/cub.yaml")),
    ("download/cars196", include_str!("../../stages/download/cars196.yaml")),
    ("download/sop", include_str!("../../stages/download/sop.yaml")),
    ("download/inshop", include_str!("../../stages/download/inshop.yaml")),
    ("preprocess", include_str!("../../stages/preprocess.yaml")),
    ("train", include_str!("../../stages/train.yaml")),
    ("train/traditional", include_str!("../../stages/train/traditional.yaml")),
    ("train/traditional/cub", include_str!("../../stages/train/traditional/cub.yaml")),
    ("train/traditional/cub_resnet50", include_str!("../../stages/train/traditional/cub_resnet50.yaml")),
    ("train/traditional/cars196", include_str!("../../stages/train/traditional/cars196.yaml")),
    ("train/traditional/cars196_resnet50", include_str!("../../stages/train/traditional/cars196_resnet50.yaml")),
    ("train/traditional/sop", include_str!("../../stages/train/traditional/sop.yaml")),
    ("train/traditional/inshop", include_str!("../../stages/train/traditional/inshop.yaml")),
    ("train/mlrc", include_str!("../../stages/train/mlrc.yaml")),
    ("embed", include_str!("../../stages/embed.yaml")),
    ("evaluate", include_str!("../../stages/evaluate.yaml")),
    ("neighbours", include_str!("../../stages/neighbours.yaml")),
    ("loss_cost", include_str!("../../stages/loss_cost.yaml")),
    ("weights/bn_inception", include_str!("../../stages/weights/bn_inception.yaml")),
    ("weights/resnet50", include_str!("../../stages/weights/resnet50.yaml")),
    ("weights/vit_small_16_augreg", include_str!("../../stages/weights/vit_small_16_augreg.yaml")),
    ("weights/vit_small_16_deit", include_str!("../../stages/weights/vit_small_16_deit.yaml")),
    ("weights/vit_small_16_dino", include_str!("../../stages/weights/vit_small_16_dino.yaml")),
    ("report", include_str!("../../stages/report.yaml")),
    ("search", include_str!("../../stages/search.yaml")),
    ("search/mlrc", include_str!("../../stages/search/mlrc.yaml")),
    ("search/mlrc/cub", include_str!("../../stages/search/mlrc/cub.yaml")),
    ("search/mlrc/cars196", include_str!("../../stages/search/mlrc/cars196.yaml")),
    ("search/mlrc/sop", include_str!("../../stages/search/mlrc/sop.yaml")),
    ("concat", include_str!("../../stages/concat.yaml")),
];

/// Every kind.
pub fn kinds() -> Kinds {
    Kinds(vec![
        download::KIND,
        preprocess::KIND,
        train::KIND,
        embed::KIND,
        evaluate::KIND,
        neighbours::KIND,
        loss_cost::KIND,
        concat::KIND,
        search::KIND,
        report::KIND,
    ])
}

/// Runs the job in the file at `path`.
pub fn run_job(path: &Path, report: Report<'_>) -> Result<(), JobError> {
    let text = fs_err::read(path)?;
    let malformed = |source| JobMismatch::Malformed { path: path.to_owned(), source };
    let job: KindJob = serde_json::from_slice(&text).map_err(malformed)?;
    match job.kind.as_str() {
        "download" => download::run(&job, report),
        "preprocess" => preprocess::run(&job, report),
        "train" => train::run(&job, report),
        "embed" => embed::run(&job, report),
        "evaluate" => evaluate::run(&job),
        "concat" => concat::run(&job),
        "search" => search::run(&job),
        "loss_cost" => loss_cost::run(&job),
        "neighbours" => neighbours::run(&job),
        "report" => report::run(&job),
        other => Err(JobMismatch::Kind(other.to_owned()).into()),
    }
}

/// The one path of an input that is not gathered; `None` if the pipeline does not give it.
fn input<'a>(job: &'a KindJob, name: &str) -> Option<&'a Path> {
    let input = job.inputs.iter().find(|input| input.name == name)?;
    input.items.first().map(|(_, path)| path.as_path())
}

fn required<'a>(job: &'a KindJob, name: &'static str) -> Result<&'a Path, JobMismatch> {
    input(job, name).ok_or(JobMismatch::Input(name))
}

/// The file in a resume folder whose lock says that a job is at work there.
const HELD: &str = "held";

/// Holds a resume folder, which is made if absent, until the file is closed: a job whose run was killed ends within a second,
/// and must not write there beside this one meanwhile.
fn hold(resume: &Path, what: &str) -> std::io::Result<std::fs::File> {
    fs_err::create_dir_all(resume)?;
    let held = fs_err::File::create(resume.join(HELD))?.into_file();
    match held.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(error),
        Err(TryLockError::WouldBlock) => {
            tracing::info!("waits for {what} of another run to end");
            held.lock()?;
        }
    }
    Ok(held)
}

fn output<'a>(job: &'a KindJob, name: &'static str) -> Result<&'a Path, JobMismatch> {
    job.outputs.get(name).map(PathBuf::as_path).ok_or(JobMismatch::Output(name))
}

/// Resolved parameters as the type that a kind works with.
fn parameters<T: DeserializeOwned>(map: &Map<String, Value>) -> Result<T, JobMismatch> {
    serde_json::from_value(Value::Object(map.clone())).map_err(|error| JobMismatch::Parameters(error.to_string()))
}

/// The same for a check: what is wrong, in place of the value.
fn parsed<T: DeserializeOwned>(map: &Map<String, Value>) -> Result<T, Vec<ParameterProblem>> {
    parameters(map).map_err(|error| {
        let message = match error {
            JobMismatch::Parameters(message) => message,
            other => other.to_string(),
        };
        // serde quotes the value that it refuses, and not the field that holds it.
        let refused = |value: &Value| value.as_str().is_some_and(|text| message.contains(&format!("`{text}`")));
        let path = map.iter().find(|(_, value)| refused(value)).map(|(name, _)| name.clone());
        vec![ParameterProblem { path: path.into_iter().collect(), message: format!("is refused: {message}") }]
    })
}

/// (field path, message) pairs of the learning half, with paths such as `batch.classes` or `rows[0]`.
fn problems<F: AsRef<str>>(found: Vec<(F, String)>) -> Vec<ParameterProblem> {
    let path = |field: &str| {
        field.split(['.', '[']).map(|part| part.trim_end_matches(']').to_owned()).filter(|p| !p.is_empty()).collect()
    };
    found.into_iter().map(|(field, message)| ParameterProblem { path: path(field.as_ref()), message }).collect()
}

#[cfg(test)]
mod protocols;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::fields::{Range, Value as Default};
    use crate::loss::registry::LossSpec;
    use serde_yaml::Value as Yaml;

    /// The loss section of `stages/train.yaml` says of every loss what the loss says of itself.
    #[test]
    fn the_schema_of_losses_equals_the_registry() {
        let train: Yaml =
            serde_yaml::from_str(DEFINITIONS.iter().find(|(name, _)| *name == "train").unwrap().1).unwrap();
        let variants = train["params"]["loss"]["variants"].as_mapping().unwrap();
        let names: Vec<&str> = variants.keys().map(|name| name.as_str().unwrap()).collect();
        let mut known = LossSpec::NAMES.to_vec();
        known.sort_unstable();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, known);
        for name in names {
            let fields = LossSpec::named(name).unwrap().fields().to_vec();
            let declared = variants[name].as_mapping().unwrap();
            assert_eq!(declared.len(), fields.len(), "{name}");
            for field in fields {
                let schema = &declared[field.name];
                let at = format!("{name}.{}", field.name);
                let default = match field.default {
                    Default::Number(x) => Yaml::from(x),
                    Default::Count(x) => Yaml::from(x),
                    Default::Word(x) | Default::Loss(x) => Yaml::from(x),
                };
                assert_eq!(schema["default"], default, "{at}");
                let numbers = |key: &str| -> Vec<f64> {
                    schema[key].as_sequence().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
                };
                match field.range {
                    Range::Between(low, high) => {
                        assert_eq!(
                            (schema["type"].as_str(), numbers("range")),
                            (Some("float"), vec![low, high]),
                            "{at}"
                        );
                    }
                    Range::Counts(low, high) => {
                        let range = vec![low as f64, high as f64];
                        assert_eq!((schema["type"].as_str(), numbers("range")), (Some("int"), range), "{at}");
                    }
                    Range::Words(words) => {
                        let listed: Vec<&str> =
                            schema["one_of"].as_sequence().unwrap().iter().map(|x| x.as_str().unwrap()).collect();
                        assert_eq!((schema["type"].as_str(), listed), (Some("string"), words.to_vec()), "{at}");
                    }
                    Range::Losses(names) => {
                        let wrapped = schema["variants"].as_mapping().unwrap();
                        let listed: Vec<&str> = wrapped.keys().map(|name| name.as_str().unwrap()).collect();
                        assert_eq!((schema["type"].as_str(), listed), (Some("union"), names.to_vec()), "{at}");
                        assert!(wrapped.iter().all(|(name, fields)| variants[name] == *fields), "{at}");
                    }
                }
            }
        }
    }

    #[test]
    fn field_paths_of_the_learning_half_become_parameter_paths() {
        let found = problems(vec![("batch.classes", "m".to_owned()), ("rows[0]", "m".to_owned())]);
        let paths: Vec<Vec<String>> = found.into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, [["batch", "classes"], ["rows", "0"]]);
    }
}
