//! `download`: a file from its mirrors, or a generated image set; a folder comes out.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use super::{JobError, Report, output, parameters, parsed, problems};
use crate::data::archive::{UnpackLimits, unpack};
use crate::data::download::{DownloadConfig, download};
use crate::data::generate::{GeneratorSpec, generate};
use crate::engine::event::Progress;
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "download",
    version: 1,
    inputs: Inputs::Named(&[]),
    outputs: &[("data", "data")],
    publish: false,
    continues: &[],
    check,
};

/// What is asked for.
enum Wanted {
    Generate(GeneratorSpec),
    /// Unpacked within the limits, or kept as it is.
    Fetch(DownloadConfig, Option<UnpackLimits>),
}

/// Splits the parameters: `generate` alone, or those of a download beside those of unpacking.
fn wanted(map: &Map<String, Value>) -> Result<Wanted, Vec<ParameterProblem>> {
    let mut map = map.clone();
    if let Some(spec) = map.get("generate") {
        let Value::Object(spec) = spec else { return Err(problems(vec![("generate", "is not a mapping".to_owned())])) };
        return Ok(Wanted::Generate(parsed(spec)?));
    }
    let mut limits = Map::new();
    for (outer, inner) in [("max_entries", "entries"), ("max_bytes", "bytes")] {
        if let Some(value) = map.shift_remove(outer) {
            limits.insert(inner.to_owned(), value);
        }
    }
    let keep = map.shift_remove("unpack") == Some(Value::Bool(false));
    let limits = if keep { None } else { Some(parsed(&limits)?) };
    Ok(Wanted::Fetch(parsed(&map)?, limits))
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    match wanted(map) {
        Ok(Wanted::Generate(spec)) => problems(spec.check()),
        Ok(Wanted::Fetch(config, limits)) => {
            let mut found = problems(config.check());
            found.extend(problems(limits.map(|limits| limits.check()).unwrap_or_default()));
            found
        }
        Err(found) => found,
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let data = output(job, "data")?;
    match wanted(&job.parameters).or_else(|_| parameters(&job.parameters).map(|config| Wanted::Fetch(config, None)))? {
        Wanted::Generate(spec) => {
            fs::create_dir_all(data)?;
            generate(&spec, data)?;
        }
        Wanted::Fetch(config, limits) => {
            fs::create_dir_all(data)?;
            let mut progress = |done: u64, total: Option<u64>| {
                let total = total.unwrap_or(0);
                report(&Progress { done, total, unit: "byte".to_owned(), figures: Vec::new() });
            };
            // Beside the output, on one file system: unpacked from there, or moved in under its own name.
            let fetched_to = data.with_file_name("fetched");
            let fetched = download(&config, &job.resume, &fetched_to, &mut progress)?;
            match limits {
                Some(limits) => {
                    unpack(&fetched_to, data, &limits)?;
                }
                None => fs::rename(&fetched_to, data.join(file_name(&fetched.url)))?,
            }
        }
    }
    Ok(())
}

/// The last part of a URL's path.
fn file_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.filter(|name| !name.contains(':')).unwrap_or("file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_the_name_in_its_url() {
        assert_eq!(file_name("https://example.org/a/b.csv?x=/c#d"), "b.csv");
        assert_eq!(file_name("https://example.org/"), "example.org");
        assert_eq!(file_name("file:"), "file");
    }
}
