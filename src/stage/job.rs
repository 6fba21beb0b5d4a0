//! The job that the engine passes to a stage kind: its inputs, outputs and parameters, and why they may not fit.

use std::error::Error;
use std::fs::TryLockError;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::ParameterProblem;
use crate::settings::{Fault, Settings};

/// Anything that ends a job.
pub type JobError = Box<dyn Error + Send + Sync>;

/// Receives a job's progress.
pub type Report<'a> = &'a mut dyn FnMut(&Progress);

/// A job that does not fit its kind: the engine and the kinds disagree, or a job file was written by hand.
#[derive(Debug, Error)]
pub(super) enum JobMismatch {
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

/// The one path of an input that is not gathered; `None` if the pipeline does not give it.
pub(super) fn input<'a>(job: &'a KindJob, name: &str) -> Option<&'a Path> {
    let input = job.inputs.iter().find(|input| input.name == name)?;
    input.items.first().map(|(_, path)| path.as_path())
}

pub(super) fn required<'a>(job: &'a KindJob, name: &'static str) -> Result<&'a Path, JobMismatch> {
    input(job, name).ok_or(JobMismatch::Input(name))
}

/// The file in a resume folder whose lock says that a job is at work there.
pub(super) const HELD: &str = "held";

/// Locks a resume folder, which is created if absent, until the file is closed: a job whose run was killed ends within
/// a second, and must not write there concurrently with this one.
pub(super) fn hold(resume: &Path, what: &str) -> std::io::Result<std::fs::File> {
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

pub(super) fn output<'a>(job: &'a KindJob, name: &'static str) -> Result<&'a Path, JobMismatch> {
    job.outputs.get(name).map(PathBuf::as_path).ok_or(JobMismatch::Output(name))
}

/// Resolved parameters as the type that a kind works with.
pub(super) fn parameters<T: DeserializeOwned>(map: &Map<String, Value>) -> Result<T, JobMismatch> {
    serde_json::from_value(Value::Object(map.clone())).map_err(|error| JobMismatch::Parameters(error.to_string()))
}

/// The same for a check: what is wrong, in place of the value.
pub(super) fn parsed<T: DeserializeOwned + JsonSchema + 'static>(
    map: &Map<String, Value>,
) -> Result<T, Vec<ParameterProblem>> {
    let values = Value::Object(map.clone());
    let faults = Settings::of::<T>().check(&values);
    if !faults.is_empty() {
        return Err(problems(faults.iter().map(Fault::message).collect()));
    }
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
pub(super) fn problems<F: AsRef<str>>(found: Vec<(F, String)>) -> Vec<ParameterProblem> {
    let path = |field: &str| {
        field.split(['.', '[']).map(|part| part.trim_end_matches(']').to_owned()).filter(|p| !p.is_empty()).collect()
    };
    found.into_iter().map(|(field, message)| ParameterProblem { path: path(field.as_ref()), message }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_paths_of_the_learning_half_become_parameter_paths() {
        let found = problems(vec![("batch.classes", "m".to_owned()), ("rows[0]", "m".to_owned())]);
        let paths: Vec<Vec<String>> = found.into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, [["batch", "classes"], ["rows", "0"]]);
    }
}
