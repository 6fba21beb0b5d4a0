//! Fetching one file from a list of mirrors, resumed after a cut and verified before it is put in place.
//!
//! Bytes go to a `.part` file in a directory that outlives the process. Beside it, a `.json` file says which URL they
//! come from and the validator (ETag or Last-Modified) that the server gave. A later attempt asks for the rest with
//! `Range` and `If-Range` (RFC 9110, sections 13.1.5 and 14.2), so a file that changed meanwhile comes whole.

mod agent;
mod part;
mod source;
mod token;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, HeaderValue, header};

use self::part::{Origin, Part, Resume};
use self::source::Source;
pub use self::token::authorization;
use super::Problem;
use super::checksum::{Expected, Mismatch, Verified, Verifier};
use crate::format::{self, Known};

const BUFFER: usize = 1 << 16;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where a file is found, what it is known to be, and how patiently to fetch it.
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
            if let Err(Reason::BadUrl(message)) = Source::parse(url) {
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
        problems
    }

    fn expected(&self) -> Expected {
        Expected { sha256: self.sha256.clone(), blake3: self.blake3.clone(), md5: self.md5.clone(), size: self.size }
    }
}

/// A file that is in place and met every expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The mirror that gave it.
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
    EveryUrlFailed { failures: Vec<Failure> },

    /// Nothing to trust.
    #[error("{} holds no certificate in PEM form; correct or unset SSL_CERT_FILE", path.display())]
    NoCertificate { path: PathBuf },

    /// The local file system refused; no other mirror would help.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl DownloadError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DownloadError {
        let path = path.to_path_buf();
        move |source| DownloadError::Io { operation, path, source }
    }
}

/// What one mirror answered last.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {reason} (attempts: {attempts}); {}", reason.way_out())]
pub struct Failure {
    pub url: String,
    pub attempts: u32,
    pub reason: Reason,
}

/// Why one attempt at one URL failed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("{0}")]
    BadUrl(String),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("{0}")]
    Transport(String),
    #[error("no secure connection: {0}")]
    Insecure(String),
    #[error("the answer ended after {received} of {announced} bytes")]
    Cut { received: u64, announced: u64 },
    #[error("{0}")]
    Mismatch(#[from] Mismatch),
    #[error("cannot read the file: {0}")]
    Unreadable(io::Error),
    /// In place of the file.
    #[error("the answer is {0}")]
    Other(Known),
}

impl Reason {
    /// Whether the same request may succeed a little later.
    fn may_pass(&self) -> bool {
        match self {
            Reason::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            Reason::Transport(_) | Reason::Cut { .. } => true,
            Reason::BadUrl(_)
            | Reason::Insecure(_)
            | Reason::Mismatch(_)
            | Reason::Unreadable(_)
            | Reason::Other(_) => false,
        }
    }

    fn way_out(&self) -> &'static str {
        match self {
            Reason::BadUrl(_) => "correct the URL",
            Reason::Status(401 | 403) => {
                "it needs permission: name a variable with your token below `secrets:` of the stage, or fetch the file by hand and give its file:/// URL"
            }
            Reason::Status(404 | 410) => "it is not there: correct the URL or add a mirror",
            Reason::Status(_) => "try again later or add a mirror",
            Reason::Insecure(_) => {
                "if your network has certificates of its own, name their PEM file in the variable SSL_CERT_FILE"
            }
            Reason::Transport(_) | Reason::Cut { .. } => "check the network; the next attempt goes on from here",
            Reason::Mismatch(_) => {
                "the publisher may have replaced the file: once you trust the new one, expect what was found"
            }
            Reason::Unreadable(_) => "check the path and its permissions",
            Reason::Other(Known::LfsPointer) => "give the address of the file itself, or clone it with Git LFS",
            Reason::Other(_) => {
                "it may ask for a login, warn or say that the file has gone: open the URL in a browser, fetch the file by \
                 hand and give its file:/// URL"
            }
        }
    }
}

/// A failed attempt: this URL's fault, or this machine's.
enum Stop {
    Url(Reason),
    Local(DownloadError),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Stop::Url(reason)
    }
}

impl From<Mismatch> for Stop {
    fn from(mismatch: Mismatch) -> Self {
        Stop::Url(Reason::Mismatch(mismatch))
    }
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Self {
        Stop::Local(error)
    }
}

/// Fetches one file to `destination`, whose folder exists.
///
/// `part_dir` keeps the bytes of an unfinished download for the next call with the same URLs and expectations; one
/// process at a time may use it for them. `progress` is told (bytes so far, bytes in all if known) as they arrive.
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
    fs::create_dir_all(part_dir).map_err(DownloadError::io("create", part_dir))?;
    let mut fetch = Fetch { config, expected: config.expected(), part: Part::new(config, part_dir), progress };
    let mut failures = Vec::new();
    for url in &config.urls {
        match fetch.all_attempts(url)? {
            Ok(verified) => {
                fetch.part.publish(destination)?;
                return Ok(Fetched { url: url.clone(), verified });
            }
            Err(failure) => failures.push(failure),
        }
    }
    Err(DownloadError::EveryUrlFailed { failures })
}

/// One call of [`download`].
struct Fetch<'a> {
    config: &'a DownloadConfig,
    expected: Expected,
    part: Part,
    progress: &'a mut dyn FnMut(u64, Option<u64>),
}

impl Fetch<'_> {
    /// All attempts at one URL.
    fn all_attempts(&mut self, url: &str) -> Result<Result<Verified, Failure>, DownloadError> {
        let mut pause = Duration::from_millis(self.config.backoff_ms);
        let mut attempts = 1;
        loop {
            match self.attempt(url) {
                Ok(verified) => return Ok(Ok(verified)),
                Err(Stop::Local(error)) => return Err(error),
                Err(Stop::Url(reason)) if attempts > self.config.retries || !reason.may_pass() => {
                    return Ok(Err(Failure { url: url.to_owned(), attempts, reason }));
                }
                Err(Stop::Url(reason)) => tracing::debug!(url, attempts, %reason, "trying again"),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempts += 1;
        }
    }

    fn attempt(&mut self, url: &str) -> Result<Verified, Stop> {
        match Source::parse(url)? {
            Source::File(path) => {
                let mut file = File::open(&path).map_err(Reason::Unreadable)?;
                let total = file.metadata().map_err(Reason::Unreadable)?.len();
                self.part.begin(&Origin { url: url.to_owned(), validator: None, total: Some(total) })?;
                self.receive(&mut file, Verifier::new(&self.expected), Some(total), Reason::Unreadable)
            }
            Source::Http { loopback } => {
                if let Some(resume) = self.part.resume(url, self.expected.pins_content())? {
                    match self.http(url, loopback, Some(&resume)) {
                        Err(Stop::Url(Reason::Mismatch(_) | Reason::Status(416))) => self.part.clear()?,
                        other => return other,
                    }
                }
                self.http(url, loopback, None)
            }
        }
    }

    /// One request: the whole file, or what follows the part that is there.
    fn http(&mut self, url: &str, loopback: bool, resume: Option<&Resume>) -> Result<Verified, Stop> {
        let mut verifier = Verifier::new(&self.expected);
        if let Some(resume) = resume
            && resume.origin.total == Some(resume.offset)
        {
            self.part.read_into(&mut verifier)?;
            return Ok(verifier.finish()?);
        }
        let transport = |e: ureq::Error| match e {
            ureq::Error::BadUri(message) => Reason::BadUrl(message),
            refused @ (ureq::Error::Tls(_) | ureq::Error::Rustls(_)) => Reason::Insecure(refused.to_string()),
            // A certificate that is not trusted comes as an error of the stream.
            ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                Reason::Insecure(error.to_string())
            }
            other => Reason::Transport(other.to_string()),
        };
        let mut request = agent::agent(self.config, loopback)?.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.config.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        if let Some(resume) = resume {
            request = request.header(header::RANGE, format!("bytes={}-", resume.offset));
            if let Some(validator) = &resume.origin.validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let response = request.call().map_err(transport)?;
        let (head, body) = response.into_parts();
        let total = match (head.status.as_u16(), resume) {
            (200, _) => {
                let total = body.content_length();
                self.part.begin(&Origin { url: url.to_owned(), validator: validator(&head.headers), total })?;
                total
            }
            (206, Some(resume)) => {
                // A range other than the one asked for, or of a file of another size, cannot be joined to the part.
                let range = content_range(&head.headers).filter(|range| range.0 == resume.offset);
                let Some((_, total)) = range.filter(|range| resume.origin.total.is_none_or(|t| t == range.1)) else {
                    return Err(Reason::Status(416).into());
                };
                self.part.read_into(&mut verifier)?;
                Some(total)
            }
            (status, _) => return Err(Reason::Status(status).into()),
        };
        self.receive(&mut body.into_reader(), verifier, total, |e| Reason::Transport(e.to_string()))
    }

    /// Appends the rest of the file to the part, which holds what `verifier` has seen, and verifies it.
    fn receive(
        &mut self,
        reader: &mut dyn Read,
        mut verifier: Verifier,
        total: Option<u64>,
        unreadable: impl Fn(io::Error) -> Reason,
    ) -> Result<Verified, Stop> {
        if let (Some(expected), Some(total)) = (self.expected.size, total)
            && expected != total
        {
            self.part.clear()?;
            // What came instead says more than its size; if it cannot be read, the size is told.
            let mut start = Vec::new();
            _ = reader.take(512).read_to_end(&mut start);
            return Err(stands_in(&start).map_or_else(|| self.wrong_size(total), Reason::Other).into());
        }
        let whole = total.or(self.expected.size);
        let begins = verifier.size() == 0;
        let mut stand_in = None;
        let mut file = self.part.append()?;
        let mut buffer = vec![0; BUFFER];
        (self.progress)(verifier.size(), whole);
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(unreadable(e).into()),
            };
            if begins && verifier.size() == 0 {
                stand_in = stands_in(&buffer[..read]);
            }
            file.write_all(&buffer[..read]).map_err(DownloadError::io("write", &self.part.bytes))?;
            verifier.update(&buffer[..read]);
            (self.progress)(verifier.size(), whole);
            if whole.is_some_and(|whole| verifier.size() > whole) {
                self.part.clear()?;
                return Err(self.wrong_size(verifier.size()).into());
            }
        }
        if let Some(announced) = whole.filter(|whole| verifier.size() < *whole) {
            return Err(Reason::Cut { received: verifier.size(), announced }.into());
        }
        file.sync_all().map_err(DownloadError::io("flush", &self.part.bytes))?;
        match verifier.finish() {
            Ok(verified) => Ok(verified),
            Err(mismatch) => {
                self.part.clear()?;
                Err(stand_in.map_or(Reason::Mismatch(mismatch), Reason::Other).into())
            }
        }
    }

    fn wrong_size(&self, found: u64) -> Reason {
        let expected = self.expected.size.map_or_else(|| "what was announced".to_owned(), |n| n.to_string());
        Reason::Mismatch(Mismatch { what: "size", expected, found: found.to_string() })
    }
}

/// What servers send in place of a file, if these first bytes are that.
fn stands_in(bytes: &[u8]) -> Option<Known> {
    format::recognise(bytes).filter(|known| matches!(known, Known::WebPage | Known::LfsPointer))
}

/// What `If-Range` may carry: a strong ETag, else Last-Modified.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text(header::ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned)
}

/// First byte and size of the whole file of `Content-Range: bytes 100-199/200`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()?))
}

#[cfg(test)]
mod tests;
