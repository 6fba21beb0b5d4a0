//! Fetching one file from a list of mirrors, resumed after a cut and verified before it is put in place.
//!
//! Bytes go to a `.part` file in a directory that outlives the process. Beside it, a `.json` file says which URL they
//! come from and the validator (ETag or Last-Modified) that the server gave. A later attempt asks for the rest with
//! `Range` and `If-Range` (RFC 9110, sections 13.1.5 and 14.2), so a file that changed meanwhile comes whole.

mod part;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, header};

use self::part::{Origin, Part, Resume};
use super::Problem;
use super::checksum::{Expected, Mismatch, Verified, Verifier};

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
        }
    }
}

impl DownloadConfig {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.expected().check();
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
    #[error("the answer ended after {received} of {announced} bytes")]
    Cut { received: u64, announced: u64 },
    #[error("{0}")]
    Mismatch(#[from] Mismatch),
    #[error("cannot read the file: {0}")]
    Unreadable(io::Error),
}

impl Reason {
    /// Whether the same request may succeed a little later.
    fn may_pass(&self) -> bool {
        match self {
            Reason::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            Reason::Transport(_) | Reason::Cut { .. } => true,
            Reason::BadUrl(_) | Reason::Mismatch(_) | Reason::Unreadable(_) => false,
        }
    }

    fn way_out(&self) -> &'static str {
        match self {
            Reason::BadUrl(_) => "correct the URL",
            Reason::Status(401 | 403) => "it needs permission: fetch the file by hand and give its file:/// URL",
            Reason::Status(404 | 410) => "it is not there: correct the URL or add a mirror",
            Reason::Status(_) => "try again later or add a mirror",
            Reason::Transport(_) | Reason::Cut { .. } => "check the network; the next attempt goes on from here",
            Reason::Mismatch(_) => {
                "the publisher may have replaced the file: once you trust the new one, expect what was found"
            }
            Reason::Unreadable(_) => "check the path and its permissions",
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

/// Where a URL points.
enum Source {
    File(PathBuf),
    Http { loopback: bool },
}

impl Source {
    fn parse(url: &str) -> Result<Source, Reason> {
        let bad = |message: &str| Reason::BadUrl(message.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("expected https://, http:// or file:///"))?;
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(bad("a file URL needs an absolute path: file:///folder/name"));
                }
                let bytes = percent_decoded(path).ok_or_else(|| bad("% must be followed by two hexadecimal digits"))?;
                Ok(Source::File(OsString::from_vec(bytes).into()))
            }
            "http" | "https" => {
                let uri: ureq::http::Uri = url.parse().map_err(|e| Reason::BadUrl(format!("{e}")))?;
                let host = uri.host().unwrap_or_default();
                if host.is_empty() {
                    return Err(bad("it names no host"));
                }
                Ok(Source::Http { loopback: matches!(host, "localhost" | "127.0.0.1" | "[::1]") })
            }
            other => Err(bad(&format!("the scheme {other:?} is not supported, expected https, http or file"))),
        }
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits =
                std::str::from_utf8(tail.get(..2)?).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    Some(bytes)
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
            other => Reason::Transport(other.to_string()),
        };
        let mut request = self.agent(loopback).get(url).header(header::ACCEPT_ENCODING, "identity");
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
            return Err(self.wrong_size(total).into());
        }
        let whole = total.or(self.expected.size);
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
                Err(mismatch.into())
            }
        }
    }

    fn wrong_size(&self, found: u64) -> Reason {
        let expected = self.expected.size.map_or_else(|| "what was announced".to_owned(), |n| n.to_string());
        Reason::Mismatch(Mismatch { what: "size", expected, found: found.to_string() })
    }

    fn agent(&self, loopback: bool) -> ureq::Agent {
        let patience = Some(Duration::from_secs(self.config.timeout_s));
        let mut builder = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience);
        if loopback {
            // A proxy cannot reach this machine's own servers.
            builder = builder.proxy(None);
        }
        builder.build().new_agent()
    }
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
mod tests {
    use std::collections::VecDeque;
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// How the server answers one request.
    #[derive(Debug, Clone)]
    enum Answer {
        /// As RFC 9110 says, `Range` and `If-Range` included.
        Properly,
        /// Announces everything, sends only so many bytes, and hangs up.
        Cut(usize),
        /// As a cut, but the connection stays open and silent.
        Stall(usize),
        /// Sends the whole file whatever range was asked for.
        Whole,
        /// Sends the whole file without saying how long it is.
        WithoutLength,
        /// A range other than the one asked for.
        WrongRange,
        Status(u16),
        /// Changes the file and its tag, then answers properly.
        Changed(Vec<u8>),
    }

    struct Server {
        url: String,
        /// The `Range` header of each request so far.
        ranges: Arc<Mutex<Vec<Option<String>>>>,
    }

    /// Serves `content` under one tag; answers by `script`, then properly for ever.
    fn serve(content: &[u8], tag: Option<&str>, script: &[Answer]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut script) = (ranges.clone(), VecDeque::from(script.to_vec()));
        let (mut content, mut tag) = (content.to_vec(), tag.map(str::to_owned));
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(headers) = request(&stream) else { continue };
                let find = |name: &str| headers.iter().find(|h| h.0 == name).map(|h| h.1.clone());
                seen.lock().unwrap().push(find("range"));
                let answer = script.pop_front().unwrap_or(Answer::Properly);
                if let Answer::Changed(other) = &answer {
                    content = other.clone();
                    tag = tag.map(|tag| tag.replace("v1", "v2"));
                }
                let tag_line = tag.as_ref().map(|t| format!("ETag: {t}\r\n")).unwrap_or_default();
                let asked: Option<usize> =
                    find("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
                let unchanged = find("if-range").is_none_or(|t| Some(t) == tag);
                let (mut head, from, mut to) = match asked.filter(|_| unchanged) {
                    Some(from) if from >= content.len() => ("416 Range Not Satisfiable".to_owned(), 0, 0),
                    Some(from) => (
                        format!("206 Partial\r\nContent-Range: bytes {from}-{}/{}", content.len() - 1, content.len()),
                        from,
                        content.len(),
                    ),
                    None => ("200 OK".to_owned(), 0, content.len()),
                };
                let mut length = format!("Content-Length: {}\r\n", to - from);
                match answer.clone() {
                    Answer::Properly | Answer::Changed(_) => {}
                    Answer::Cut(n) | Answer::Stall(n) => to = to.min(from + n),
                    Answer::Whole => head = "200 OK".to_owned(),
                    Answer::WithoutLength => length.clear(),
                    Answer::WrongRange => {
                        head = format!("206 Partial\r\nContent-Range: bytes 0-{}/{}", content.len() - 1, content.len());
                    }
                    Answer::Status(status) => head = format!("{status} No"),
                }
                let from = if head.starts_with("200") || head.contains("bytes 0-") { 0 } else { from };
                if from == 0 && to == content.len() && !length.is_empty() {
                    length = format!("Content-Length: {to}\r\n");
                }
                let _ = write!(stream, "HTTP/1.1 {head}\r\n{length}{tag_line}Connection: close\r\n\r\n");
                let _ = stream.write_all(&content[from..to]);
                if let Answer::Stall(_) = answer {
                    silent.push(stream);
                }
            }
        });
        Server { url, ranges }
    }

    /// Header names in lower case, and their values.
    fn request(stream: &TcpStream) -> Option<Vec<(String, String)>> {
        let mut lines = BufReader::new(stream).lines();
        lines.next()?.ok()?;
        let mut headers = Vec::new();
        for line in lines {
            match line.ok()?.split_once(": ") {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => break,
            }
        }
        Some(headers)
    }

    fn content() -> Vec<u8> {
        (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn sha256(bytes: &[u8]) -> Option<String> {
        let mut verifier = Verifier::new(&Expected::default());
        verifier.update(bytes);
        verifier.finish().ok().map(|v| v.sha256)
    }

    fn config(urls: &[&str]) -> DownloadConfig {
        let urls = urls.iter().map(|&url| url.to_owned()).collect();
        DownloadConfig { urls, retries: 0, backoff_ms: 0, timeout_s: 5, ..DownloadConfig::default() }
    }

    struct Room(tempfile::TempDir);

    impl Room {
        fn new() -> Room {
            Room(tempfile::tempdir().unwrap())
        }

        fn fetch(&self, config: &DownloadConfig) -> Result<Fetched, DownloadError> {
            download(config, &self.0.path().join("parts"), &self.file(), &mut |_, _| {})
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("file.bin")
        }

        fn read(&self) -> Vec<u8> {
            fs::read(self.file()).unwrap()
        }

        fn parts(&self) -> Vec<u64> {
            let entries = fs::read_dir(self.0.path().join("parts")).unwrap().map(Result::unwrap);
            entries
                .filter(|e| e.path().extension().is_some_and(|x| x == "part"))
                .map(|e| e.metadata().unwrap().len())
                .collect()
        }
    }

    fn only_reason(result: Result<Fetched, DownloadError>) -> Reason {
        match result {
            Err(DownloadError::EveryUrlFailed { mut failures }) if failures.len() == 1 => failures.remove(0).reason,
            other => panic!("expected one failed URL, got {other:?}"),
        }
    }

    #[test]
    fn a_file_comes_whole_is_verified_and_leaves_no_part() {
        let (room, server) = (Room::new(), serve(&content(), None, &[]));
        let mut last = None;
        let config = DownloadConfig { sha256: sha256(&content()), size: Some(200_000), ..config(&[&server.url]) };
        let parts = room.0.path().join("parts");
        let fetched = download(&config, &parts, &room.file(), &mut |done, total| last = Some((done, total))).unwrap();
        assert_eq!(fetched.url, server.url);
        assert_eq!(Some(fetched.verified.sha256), sha256(&content()));
        assert_eq!(last, Some((200_000, Some(200_000))));
        assert_eq!(room.read(), content());
        assert_eq!(fs::read_dir(parts).unwrap().count(), 0);
    }

    #[test]
    fn a_cut_download_goes_on_in_a_later_call() {
        let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &[Answer::Cut(70_000)]));
        let config = config(&[&server.url]);
        let first = room.fetch(&config);
        assert!(matches!(only_reason(first), Reason::Cut { .. } | Reason::Transport(_)));
        assert!(!room.file().exists());
        assert_eq!(room.parts(), [70_000]);
        room.fetch(&config).unwrap();
        assert_eq!(room.read(), content());
        assert_eq!(*server.ranges.lock().unwrap(), [None, Some("bytes=70000-".to_owned())]);
    }

    #[test]
    fn a_silent_server_is_given_up_and_the_part_kept() {
        let (room, server) = (Room::new(), serve(&content(), None, &[Answer::Stall(70_000)]));
        let config = DownloadConfig { timeout_s: 1, ..config(&[&server.url]) };
        assert!(matches!(only_reason(room.fetch(&config)), Reason::Transport(_)));
        assert_eq!(room.parts(), [70_000]);
    }

    #[test]
    fn a_complete_part_of_a_killed_process_needs_no_request() {
        let (room, server) = (Room::new(), serve(&content(), None, &[Answer::Cut(150_000)]));
        let config = DownloadConfig { sha256: sha256(&content()), ..config(&[&server.url]) };
        room.fetch(&config).unwrap_err();
        Part::new(&config, &room.0.path().join("parts")).append().unwrap().write_all(&content()[150_000..]).unwrap();
        room.fetch(&config).unwrap();
        assert_eq!(room.read(), content());
        assert_eq!(server.ranges.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_changed_file_an_ignored_range_and_a_wrong_range_restart() {
        // Of the same length, so that only If-Range tells.
        let other: Vec<u8> = content().into_iter().rev().collect();
        let longer = [other.clone(), vec![1, 2, 3]].concat();
        for (answer, result) in [
            (Answer::Changed(other.clone()), &other),
            (Answer::Changed(longer.clone()), &longer),
            (Answer::Whole, &content()),
            (Answer::WrongRange, &content()),
            (Answer::Status(416), &content()),
        ] {
            let script = [Answer::Cut(70_000), answer.clone()];
            let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &script));
            room.fetch(&config(&[&server.url])).unwrap_err();
            room.fetch(&config(&[&server.url])).unwrap();
            assert!(room.read() == *result, "{answer:?}");
            assert_eq!(server.ranges.lock().unwrap()[1].as_deref(), Some("bytes=70000-"), "{answer:?}");
        }
    }

    #[test]
    fn without_a_strong_validator_only_a_digest_allows_to_resume() {
        let tag = Some("W/\"v1\"");
        for (pinned, range) in [(false, None), (true, Some("bytes=70000-".to_owned()))] {
            let (room, server) = (Room::new(), serve(&content(), tag, &[Answer::Cut(70_000)]));
            let sha256 = sha256(&content()).filter(|_| pinned);
            let config = DownloadConfig { sha256, ..config(&[&server.url]) };
            room.fetch(&config).unwrap_err();
            room.fetch(&config).unwrap();
            assert_eq!(room.read(), content());
            assert_eq!(server.ranges.lock().unwrap()[1], range);
        }
    }

    #[test]
    fn a_pinned_file_that_changed_under_a_part_is_fetched_anew() {
        // Same length, no validator: only the digest tells that the halves do not belong together.
        let other: Vec<u8> = content().into_iter().rev().collect();
        let (room, server) = (Room::new(), serve(&other, None, &[Answer::Cut(9), Answer::Changed(content())]));
        let config = DownloadConfig { sha256: sha256(&content()), ..config(&[&server.url]) };
        room.fetch(&config).unwrap_err();
        room.fetch(&config).unwrap();
        assert_eq!(room.read(), content());
        assert_eq!(*server.ranges.lock().unwrap(), [None, Some("bytes=9-".to_owned()), None]);
    }

    #[test]
    fn passing_failures_are_retried_and_lasting_ones_are_not() {
        let script = [Answer::Status(503), Answer::Cut(10), Answer::Status(429)];
        for (retries, works) in [(3, true), (2, false)] {
            let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &script));
            let config = DownloadConfig { retries, ..config(&[&server.url]) };
            assert_eq!(room.fetch(&config).is_ok(), works);
        }
        let (room, server) = (Room::new(), serve(&content(), None, &[Answer::Status(404)]));
        let config = DownloadConfig { retries: 9, ..config(&[&server.url]) };
        assert!(matches!(only_reason(room.fetch(&config)), Reason::Status(404)));
        assert_eq!(server.ranges.lock().unwrap().len(), 1);
    }

    #[test]
    fn mirrors_are_tried_in_order_and_all_failures_are_told() {
        let (gone, wrong, good) =
            (serve(&[], None, &[Answer::Status(404)]), serve(b"other", None, &[]), serve(&content(), None, &[]));
        let pinned = |urls: &[&str]| DownloadConfig { sha256: sha256(&content()), ..config(urls) };
        let room = Room::new();
        let fetched = room.fetch(&pinned(&[&gone.url, &wrong.url, &good.url])).unwrap();
        assert_eq!((fetched.url, room.read()), (good.url, content()));

        let message = Room::new().fetch(&pinned(&[&gone.url, &wrong.url])).unwrap_err().to_string();
        let (expected, found) = (sha256(&content()).unwrap(), sha256(b"other").unwrap());
        assert!(message.contains(&format!("sha256 is {found}, expected {expected}")), "{message}");
        assert!(message.contains(&wrong.url) && message.contains(&gone.url), "{message}");
    }

    #[test]
    fn a_wrong_size_is_refused_before_and_after_the_bytes() {
        for (script, size) in [
            (vec![], 199_999),
            (vec![], 200_001),
            (vec![Answer::WithoutLength], 199_999),
            (vec![Answer::WithoutLength], 200_001),
        ] {
            let (room, server) = (Room::new(), serve(&content(), None, &script));
            let config = DownloadConfig { size: Some(size), ..config(&[&server.url]) };
            let message = room.fetch(&config).unwrap_err().to_string();
            assert!(message.contains(&size.to_string()) && message.contains("200000"), "{message}");
            assert!(!room.file().exists());
        }
    }

    #[test]
    fn file_urls_are_read_verified_and_percent_decoded() {
        let room = Room::new();
        let source = room.0.path().join("with space%.bin");
        fs::write(&source, content()).unwrap();
        let url = format!("file://{}", source.display()).replace('%', "%25").replace(' ', "%20");
        room.fetch(&DownloadConfig { sha256: sha256(&content()), ..config(&[&url]) }).unwrap();
        assert_eq!(room.read(), content());
        let reason = only_reason(room.fetch(&config(&["file:///no/such/file"])));
        assert!(matches!(reason, Reason::Unreadable(_)), "{reason}");
    }

    #[test]
    fn parameters_outside_their_ranges_are_all_named() {
        let wrong = DownloadConfig {
            urls: ["ftp://host/a", "file://relative", "http://", "no", "file:///%zz"].map(String::from).to_vec(),
            retries: 101,
            backoff_ms: 60_001,
            timeout_s: 0,
            md5: Some("1".into()),
            ..DownloadConfig::default()
        };
        let fields: Vec<_> = wrong.check().into_iter().map(|(field, _)| field).collect();
        let urls = ["urls.0", "urls.1", "urls.2", "urls.3", "urls.4"];
        assert_eq!(fields[0], "md5");
        assert_eq!(fields[1..6], urls);
        assert_eq!(fields[6..], ["retries", "backoff_ms", "timeout_s"]);
        assert_eq!(DownloadConfig::default().check()[0].0, "urls");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Wherever the connection is cut, and however often, the joined file is the file.
        #[test]
        fn any_sequence_of_cuts_ends_in_the_same_bytes(cuts in prop::collection::vec(0usize..80_000, 0..5)) {
            let script: Vec<_> = cuts.iter().map(|&n| Answer::Cut(n)).collect();
            let (room, server) = (Room::new(), serve(&content(), Some("\"v1\""), &script));
            let config = DownloadConfig { retries: cuts.len() as u32, ..config(&[&server.url]) };
            room.fetch(&config).unwrap();
            prop_assert_eq!(room.read(), content());
        }
    }
}
