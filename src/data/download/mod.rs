//! Fetching one file from a list of mirrors, resumed after a cut and verified before it is put in place.
//!
//! Bytes go to a `.part` file in a directory that outlives the process. Next to it, a `.json` file says which URL they
//! come from and the ETag, Last-Modified and size that the server gave. A later attempt asks for the rest with `Range` and
//! `If-Range` (RFC 9110, sections 13.1.5 and 14.2) and compares all of these with the answer, so a file that changed in
//! between is fetched whole. What is verified is the finished file on the disk. The rules are in docs/downloads.md.

mod agent;
mod answer;
mod fetch;
mod part;
mod reason;
mod room;
mod source;
mod token;

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use ureq::http::HeaderValue;

use self::fetch::Fetch;
use self::part::PartialFile;
pub use self::reason::{FetchError, MirrorFailure};
use self::source::UrlTarget;
pub use self::token::authorization;
use super::Problem;
use super::checksum::{Expected, Verified};

/// Where to fetch a file, what is known of it, and the limits of patience.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DownloadConfig {
    /// Mirrors (`https://`, `http://`, `file:///`), tried in this order. At least one.
    pub urls: Vec<String>,
    /// SHA-256 in hexadecimal.
    pub sha256: Option<String>,
    /// BLAKE3 in hexadecimal.
    pub blake3: Option<String>,
    /// MD5 in hexadecimal.
    pub md5: Option<String>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Further attempts at one URL after a failure that may pass. Default 4, range `0..=100`.
    pub retries: u32,
    /// Pause before the first further attempt, in milliseconds, doubled before each later one up to a minute. Default
    /// 1000, range `0..=60000`.
    pub backoff_ms: u64,
    /// Seconds to wait for a connection, and for each next piece of an answer. Default 60, range `1..=86400`.
    pub timeout_s: u64,
    /// What the servers get as `Authorization`, see [`authorization`].
    #[serde(skip)]
    pub token: Option<HeaderValue>,
    /// The least bytes per second, on average over `timeout_s`. Default 1024; 0 for any.
    pub min_rate: u64,
    /// The most bytes where `size` is not known. Default 1 TiB, at least 1.
    pub max_bytes: u64,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        DownloadConfig {
            urls: Vec::new(),
            sha256: None,
            blake3: None,
            md5: None,
            size: None,
            retries: 4,
            backoff_ms: 1000,
            timeout_s: 60,
            token: None,
            min_rate: 1024,
            max_bytes: 1 << 40,
        }
    }
}

impl DownloadConfig {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.expected().check();
        problems.extend(token::check(self));
        let mut refuse = |field: &str, message: String| problems.push((field.to_owned(), message));
        if self.urls.is_empty() {
            refuse("urls", "is empty, expected at least one URL".to_owned());
        }
        for (i, url) in self.urls.iter().enumerate() {
            if let Err(FetchError::BadUrl(message)) = UrlTarget::parse(url) {
                refuse(&format!("urls.{i}"), format!("is {url:?}: {message}"));
            }
        }
        if !(0..=100).contains(&self.retries) {
            refuse("retries", format!("is {}, expected an integer in 0..=100", self.retries));
        }
        if !(0..=60_000).contains(&self.backoff_ms) {
            refuse("backoff_ms", format!("is {}, expected milliseconds in 0..=60000", self.backoff_ms));
        }
        if !(1..=86_400).contains(&self.timeout_s) {
            refuse("timeout_s", format!("is {}, expected seconds in 1..=86400", self.timeout_s));
        }
        if self.max_bytes == 0 {
            refuse("max_bytes", "is 0, expected at least 1".to_owned());
        }
        problems
    }

    /// Whether a digest pins the content.
    pub fn pins_content(&self) -> bool {
        self.expected().pins_content()
    }

    fn expected(&self) -> Expected {
        Expected { sha256: self.sha256.clone(), blake3: self.blake3.clone(), md5: self.md5.clone(), size: self.size }
    }
}

/// A file that is in place and met every expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The mirror that served it.
    pub url: String,
    pub verified: Verified,
}

/// A download that failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// A parameter outside its range; the same words as `check` gives.
    #[error("parameter {field} {message}")]
    Parameter { field: String, message: String },

    /// Every mirror failed.
    #[error("no URL gave the file:{}", failures.iter().map(|f| format!("\n  {f}")).collect::<String>())]
    EveryUrlFailed { failures: Vec<MirrorFailure> },

    /// No certificates.
    #[error("{} holds no certificate in PEM form; correct or unset SSL_CERT_FILE", path.display())]
    NoCertificate { path: PathBuf },

    /// The disk of the part is full, or would be.
    #[error("the disk of {} has {free} bytes left{}; free some space, or keep the store elsewhere with --cache", folder.display(), needed.map_or_else(|| ", and the server does not say how many it will send".to_owned(), |n| format!(", and the file has {n}")))]
    NoRoom { folder: PathBuf, needed: Option<u64>, free: u64 },

    /// The local file system refused; no other mirror would help. The error names the operation and the path.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A file that changed under the download, or a thread that could not be started.
    #[error("cannot {operation} {}", path.display())]
    Local { operation: &'static str, path: PathBuf, source: io::Error },
}

/// Fetches one file to `destination`, whose folder exists.
///
/// `part_dir` keeps the bytes of an unfinished download for the next call with the same URLs and expectations; of two
/// processes, the second waits a few seconds for the first and then starts over. `progress` receives (bytes so far,
/// bytes in all if known) as they arrive.
///
/// # Errors
/// [`DownloadError::EveryUrlFailed`] with the last answer of each mirror; `destination` is then untouched.
pub fn download(
    config: &DownloadConfig,
    part_dir: &Path,
    destination: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Fetched, DownloadError> {
    if let Some((field, message)) = config.check().into_iter().next() {
        return Err(DownloadError::Parameter { field, message });
    }
    fs::create_dir_all(part_dir)?;
    let mut fetch =
        Fetch { config, expected: config.expected(), part: PartialFile::claim(config, part_dir)?, progress };
    let mut failures = Vec::new();
    for url in &config.urls {
        match fetch.all_attempts(url)? {
            Ok(verified) => {
                fetch.part.publish(&verified, destination)?;
                return Ok(Fetched { url: url.clone(), verified });
            }
            Err(failure) => failures.push(failure),
        }
    }
    Err(DownloadError::EveryUrlFailed { failures })
}

#[cfg(test)]
mod tests;
