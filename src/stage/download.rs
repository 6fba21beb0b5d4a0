//! `download`: files from their mirrors, or a generated image set; the output is a folder.

use std::path::Path;

use fs_err as fs;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use ureq::http::HeaderValue;

use super::job::{JobError, JobMismatch, Report, output, parsed, problems};
use super::pretrained::{ABOUT, About};
use crate::data::archive::{UnpackLimits, unpack};
use crate::data::download::{DownloadConfig, DownloadError, authorization, download};
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
    secrets: 1,
    check,
};

/// What is asked for.
enum Wanted {
    Generate(GeneratorSpec),
    /// The first file and those of `more`, the message where no URL gives one, and what to write next to them.
    Fetch(Vec<Wish>, Option<String>, Option<About>),
}

/// One file: unpacked within the limits, or kept as it is.
struct Wish {
    config: DownloadConfig,
    limits: Option<UnpackLimits>,
}

/// A download that failed, and what its definition says of fetching the file by hand.
#[derive(Debug, Error)]
#[error("{failure}\n{by_hand}")]
struct ByHand {
    failure: DownloadError,
    by_hand: String,
}

/// The parameters of a download.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Fetch {
    #[serde(flatten)]
    file: File,
    /// Maximum number of extracted files and folders.
    #[serde(default = "ten_million")]
    #[schemars(range(min = 1))]
    max_entries: u64,
    /// Maximum size of a file without a `size`, and of what is extracted from it; the default is 1 TiB.
    #[serde(default = "tebibyte")]
    #[schemars(extend("x-type" = "size"))]
    max_bytes: u64,
    #[serde(flatten)]
    patience: Patience,
    /// Further files for the same folder.
    #[serde(default)]
    more: Vec<Further>,
    /// About weights: what their tensors do not say; `train` reads it from about.json next to the file.
    about: Option<About>,
    /// Message shown when no mirror works.
    by_hand: Option<String>,
}

/// Where a file is, and what it is known to be.
#[derive(Debug, Deserialize, JsonSchema)]
struct File {
    /// Mirrors (https, http, file), tried in this order.
    urls: Vec<String>,
    /// SHA-256 of the file in hexadecimal.
    sha256: Option<String>,
    /// BLAKE3 of the file in hexadecimal.
    blake3: Option<String>,
    /// MD5 of the file in hexadecimal, where the authors publish nothing better.
    md5: Option<String>,
    /// Size of the file in bytes.
    #[schemars(extend("x-type" = "size"))]
    size: Option<u64>,
    /// Whether the file is a tar, tar.gz or zip archive to extract; otherwise it is kept under its own name.
    #[serde(default = "yes")]
    unpack: bool,
}

/// How patiently a file is fetched.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct Patience {
    /// Time to wait for a connection and for the next bytes; 60 if not given.
    #[schemars(range(min = 1, max = 86_400), extend("x-unit" = "seconds"))]
    timeout_s: Option<u64>,
    /// Bytes per second below which a server is given up; 1024 if not given, 0 accepts any.
    #[schemars(extend("x-type" = "size"))]
    min_rate: Option<u64>,
    /// Further attempts at one URL after a failure that may pass; 4 if not given.
    #[schemars(range(min = 0, max = 100))]
    retries: Option<u32>,
    /// Pause before the first further attempt, doubled before each later one; 1000 if not given.
    #[schemars(range(min = 0, max = 60_000), extend("x-unit" = "milliseconds"))]
    backoff_ms: Option<u64>,
}

/// A further file. Limits and patience that it does not give are those of the first.
#[derive(Debug, Deserialize, JsonSchema)]
struct Further {
    #[serde(flatten)]
    file: File,
    /// As above.
    #[schemars(range(min = 1))]
    max_entries: Option<u64>,
    /// As above.
    #[schemars(extend("x-type" = "size"))]
    max_bytes: Option<u64>,
    #[serde(flatten)]
    patience: Patience,
}

fn ten_million() -> u64 {
    10_000_000
}

fn tebibyte() -> u64 {
    1 << 40
}

fn yes() -> bool {
    true
}

/// What the parameters ask for: `generate` alone, or a download.
fn wanted(map: &Map<String, Value>) -> Result<Wanted, Vec<ParameterProblem>> {
    if let Some(spec) = map.get("generate") {
        let Value::Object(spec) = spec else { return Err(problems(vec![("generate", "is not a mapping".to_owned())])) };
        return Ok(Wanted::Generate(parsed(spec)?));
    }
    let Fetch { file, max_entries, max_bytes, patience, more, about, by_hand } = parsed(map)?;
    let further = more.into_iter().map(|further| {
        let (own, first) = (further.patience, patience.clone());
        let patience = Patience {
            timeout_s: own.timeout_s.or(first.timeout_s),
            min_rate: own.min_rate.or(first.min_rate),
            retries: own.retries,
            backoff_ms: own.backoff_ms,
        };
        let (entries, bytes) = (further.max_entries.unwrap_or(max_entries), further.max_bytes.unwrap_or(max_bytes));
        further.file.wish(entries, bytes, patience)
    });
    let further: Vec<Wish> = further.collect();
    let wishes = std::iter::once(file.wish(max_entries, max_bytes, patience)).chain(further).collect();
    Ok(Wanted::Fetch(wishes, by_hand.map(|text| text.trim_end().to_owned()), about))
}

impl File {
    /// `bytes` limits both the download and what is extracted from it.
    fn wish(self, entries: u64, bytes: u64, patience: Patience) -> Wish {
        let File { urls, sha256, blake3, md5, size, unpack } = self;
        let known = DownloadConfig::default();
        let config = DownloadConfig {
            urls,
            sha256,
            blake3,
            md5,
            size,
            retries: patience.retries.unwrap_or(known.retries),
            backoff_ms: patience.backoff_ms.unwrap_or(known.backoff_ms),
            timeout_s: patience.timeout_s.unwrap_or(known.timeout_s),
            token: None,
            min_rate: patience.min_rate.unwrap_or(known.min_rate),
            max_bytes: bytes,
        };
        Wish { config, limits: unpack.then(|| UnpackLimits { entries, bytes, ..UnpackLimits::default() }) }
    }
}

/// Problems of file `index`, of which the first has its parameters at the top and the others in `more`.
fn within(index: usize, mut found: Vec<ParameterProblem>) -> Vec<ParameterProblem> {
    if let Some(place) = index.checked_sub(1) {
        for problem in &mut found {
            problem.path.splice(0..0, ["more".to_owned(), place.to_string()]);
        }
    }
    found
}

fn check(map: &Map<String, Value>) -> Vec<ParameterProblem> {
    match wanted(map) {
        Ok(Wanted::Generate(spec)) => problems(spec.check()),
        Ok(Wanted::Fetch(wishes, ..)) => {
            let of_wish = |(i, wish): (usize, &Wish)| {
                let mut found = problems(wish.config.check());
                let limits = wish.limits.as_ref().map(UnpackLimits::check).unwrap_or_default();
                // Of the same bytes, the download says it.
                found.extend(problems(limits.into_iter().filter(|(field, _)| field != "bytes").collect()));
                within(i, found)
            };
            wishes.iter().enumerate().flat_map(of_wish).collect()
        }
        Err(found) => found,
    }
}

pub(super) fn run(job: &KindJob, report: Report<'_>) -> Result<(), JobError> {
    let data = output(job, "data")?;
    fs::create_dir_all(data)?;
    let wanted = wanted(&job.parameters).map_err(|found| {
        JobMismatch::Parameters(found.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "))
    })?;
    match wanted {
        Wanted::Generate(spec) => {
            generate(&spec, data)?;
        }
        Wanted::Fetch(wishes, by_hand, about) => {
            if let Some(about) = about {
                fs::write(data.join(ABOUT), serde_json::to_vec(&about)?)?;
            }
            let token = token(job)?;
            for mut wish in wishes {
                wish.config.token.clone_from(&token);
                fetch(&wish, job, data, report).map_err(|error| with_hint(error, by_hand.as_deref()))?;
            }
        }
    }
    Ok(())
}

/// The stage's secret as the servers receive it.
fn token(job: &KindJob) -> Result<Option<HeaderValue>, JobError> {
    let Some(name) = job.secrets.first() else { return Ok(None) };
    let secret = std::env::var(name).map_err(|_| format!("the secret {name} is not set, or is no text"))?;
    let token =
        authorization(&secret).map_err(|_| format!("the secret {name} has characters that no header can hold"))?;
    Ok(Some(token))
}

/// Adds what the definition says of fetching by hand to a failure of every URL.
fn with_hint(error: JobError, by_hand: Option<&str>) -> JobError {
    match (error.downcast::<DownloadError>(), by_hand) {
        (Ok(failure), Some(by_hand)) if matches!(*failure, DownloadError::EveryUrlFailed { .. }) => {
            Box::new(ByHand { failure: *failure, by_hand: by_hand.to_owned() })
        }
        (Ok(failure), _) => failure,
        (Err(other), _) => other,
    }
}

/// Fetches one file, and adds it, or what is extracted from it, to `data`.
fn fetch(wish: &Wish, job: &KindJob, data: &Path, report: Report<'_>) -> Result<(), JobError> {
    let mut progress = |done: u64, total: Option<u64>| {
        let total = total.unwrap_or(0);
        report(&Progress { done, total, unit: "byte".to_owned(), figures: Vec::new() });
    };
    // Next to the output, on the same file system: unpacked from there, or moved in under its own name.
    let fetched_to = data.with_file_name("fetched");
    let fetched = download(&wish.config, &job.resume, &fetched_to, &mut progress)?;
    if !wish.config.pins_content() {
        let sha256 = &fetched.verified.sha256;
        tracing::info!("no digest is declared for {}; to pin this file: sha256: {sha256}", fetched.url);
    }
    let Some(limits) = &wish.limits else {
        return add(&fetched_to, &data.join(file_name(&fetched.url)));
    };
    let room = data.with_file_name("unpacked");
    unpack(&fetched_to, &fetched.url, &room, limits)?;
    fs::remove_file(&fetched_to)?;
    for entry in fs::read_dir(&room)? {
        let entry = entry?;
        add(&entry.path(), &data.join(entry.file_name()))?;
    }
    fs::remove_dir(&room)?;
    Ok(())
}

/// Moves `from` to `to`, which no earlier file may have taken.
fn add(from: &Path, to: &Path) -> Result<(), JobError> {
    if to.exists() {
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(format!("two of the files bring {name:?}; fetch them in two stages").into());
    }
    fs::rename(from, to)?;
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
    fn problems_of_further_files_are_named_by_their_place() {
        let paths = |text: &str| -> Vec<Vec<String>> {
            check(&serde_json::from_str(text).unwrap()).into_iter().map(|problem| problem.path).collect()
        };
        let wrong =
            r#"{"urls": ["file:///a"], "md5": "x", "more": [{"urls": ["file:///b"]}, {"urls": [], "max_bytes": 0}]}"#;
        assert_eq!(paths(wrong), [vec!["md5"], vec!["more", "1", "urls"], vec!["more", "1", "max_bytes"]]);
        assert_eq!(
            paths(r#"{"urls": ["file:///a"], "more": [{"url": "file:///b"}]}"#),
            [["more", "0", "url"], ["more", "0", "urls"]]
        );
        assert_eq!(paths(r#"{"urls": ["file:///a"], "more": 1}"#), [["more"]]);
        assert!(paths(r#"{"urls": ["file:///a"], "more": [], "by_hand": "Fetch it."}"#).is_empty());
    }

    #[test]
    fn a_file_keeps_the_name_in_its_url() {
        assert_eq!(file_name("https://example.org/a/b.csv?x=/c#d"), "b.csv");
        assert_eq!(file_name("https://example.org/"), "example.org");
        assert_eq!(file_name("file:"), "file");
    }
}
