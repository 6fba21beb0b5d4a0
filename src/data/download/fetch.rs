//! The attempts at a URL: requests, what their answers must be, and the bytes from there to the part.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use ureq::http::header;

use super::answer::{Pace, Pieces, ask};
use super::part::{Origin, PartialFile, Resume};
use super::reason::{FetchError, MirrorFailure};
use super::room::{Disk, Room};
use super::source::UrlTarget;
use super::{DownloadConfig, DownloadError, agent};
use crate::data::checksum::{Expected, Mismatch, Verified};
use crate::format::{self, Known};

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A failed attempt: this URL's fault, or this machine's.
enum Stop {
    Url(FetchError),
    Local(DownloadError),
}

impl From<FetchError> for Stop {
    fn from(reason: FetchError) -> Self {
        Stop::Url(reason)
    }
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Self {
        Stop::Local(error)
    }
}

/// The bytes that an answer gives.
#[derive(Default)]
struct Span {
    /// Bytes in the part before it.
    from: u64,
    /// Bytes in the part after it, if the answer says so.
    until: Option<u64>,
    /// Size of the whole file, if the answer says so.
    total: Option<u64>,
    /// What was done to them, where only a digest can say that they are meant so.
    encoding: Option<String>,
}

/// One call of [`super::download`].
pub(super) struct Fetch<'a> {
    pub(super) config: &'a DownloadConfig,
    pub(super) expected: Expected,
    pub(super) part: PartialFile,
    pub(super) progress: &'a mut dyn FnMut(u64, Option<u64>),
}

impl Fetch<'_> {
    /// All attempts at one URL.
    pub(super) fn all_attempts(&mut self, url: &str) -> Result<Result<Verified, MirrorFailure>, DownloadError> {
        let mut pause = Duration::from_millis(self.config.backoff_ms);
        let mut attempts = 1;
        loop {
            match self.attempt(url) {
                Ok(verified) => return Ok(Ok(verified)),
                Err(Stop::Local(error)) => return Err(error),
                Err(Stop::Url(reason)) if attempts > self.config.retries || !reason.may_pass() => {
                    return Ok(Err(MirrorFailure { url: url.to_owned(), attempts, reason }));
                }
                Err(Stop::Url(reason)) => tracing::debug!(url, attempts, %reason, "trying again"),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempts += 1;
        }
    }

    fn attempt(&mut self, url: &str) -> Result<Verified, Stop> {
        match UrlTarget::parse(url)? {
            UrlTarget::File(path) => {
                let metadata = fs::metadata(&path).map_err(FetchError::Unreadable)?;
                if !metadata.is_file() {
                    return Err(FetchError::Unreadable(io::Error::other("it is not a regular file")).into());
                }
                let file = File::open(&path).map_err(FetchError::Unreadable)?;
                let total = Some(metadata.len());
                let origin = Origin { url: url.to_owned(), etag: None, last_modified: None, date: None, total };
                self.part.begin(&origin)?;
                let failed = |source| DownloadError::Local { operation: "start reading", path, source };
                let pieces = Pieces::of(file, FetchError::Unreadable).map_err(failed)?;
                self.receive(&pieces, &Span { until: total, total, ..Span::default() })
            }
            UrlTarget::Http { loopback } => {
                if let Some(resume) = self.part.resume(url, self.expected.pins_content())? {
                    match self.http(url, loopback, Some(&resume)) {
                        Err(Stop::Url(
                            FetchError::Mismatch(_) | FetchError::WrongRange(_) | FetchError::Status(416),
                        )) => {
                            self.part.clear()?;
                        }
                        other => return other,
                    }
                }
                self.http(url, loopback, None)
            }
        }
    }

    /// One request: the whole file, or what follows the part that is there.
    fn http(&mut self, url: &str, loopback: bool, resume: Option<&Resume>) -> Result<Verified, Stop> {
        if let Some(resume) = resume
            && resume.origin.total == Some(resume.offset)
        {
            return self.finish(resume.offset, None, None);
        }
        let pinned = self.expected.pins_content();
        let secure = !pinned && url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        let agent = agent::agent(self.config, loopback, secure)?;
        let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.config.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        if let Some(resume) = resume {
            request = request.header(header::RANGE, format!("bytes={}-", resume.offset));
            if let Some(validator) = resume.origin.validator() {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let path = self.part.bytes.clone();
        let failed = |source| DownloadError::Local { operation: "start a thread for", path, source };
        let (head, pieces) = ask(request, Duration::from_secs(self.config.timeout_s)).map_err(failed)??;
        let span = match (head.status, resume) {
            (200, _) => {
                let encoding = head.encoding();
                if let Some(encoding) = encoding.as_ref().filter(|_| !pinned) {
                    return Err(FetchError::Encoded(encoding.clone()).into());
                }
                if !(pinned || self.expected.size.is_some() || head.says_where_it_ends()) {
                    return Err(FetchError::NoEnd.into());
                }
                self.part.begin(&head.origin(url))?;
                Span { from: 0, until: head.length, total: head.length, encoding }
            }
            (206, Some(resume)) => {
                let range = head.continues(&resume.origin, resume.offset).map_err(FetchError::WrongRange)?;
                let (until, total) = (Some(range.last + 1), Some(range.total));
                Span { from: resume.offset, until, total, encoding: None }
            }
            (206, None) => {
                return Err(FetchError::WrongRange("is one, where all of it was asked for".to_owned()).into());
            }
            (status, _) => return Err(FetchError::Status(status).into()),
        };
        self.receive(&pieces, &span)
    }

    /// Appends the bytes of an answer to the part, and verifies the file.
    fn receive(&mut self, pieces: &Pieces, span: &Span) -> Result<Verified, Stop> {
        let patience = Duration::from_secs(self.config.timeout_s);
        if let (Some(expected), Some(total)) = (self.expected.size, span.total)
            && expected != total
        {
            self.part.clear()?;
            // What came instead says more than its size; if it cannot be read, the size is reported.
            let instead = stands_in(&pieces.start(patience)).map(FetchError::Other);
            let encoded = || span.encoding.clone().map(FetchError::Encoded);
            return Err(instead.or_else(encoded).unwrap_or_else(|| self.wrong_size(total)).into());
        }
        let whole = span.total.or(self.expected.size);
        let limit = self.expected.size.unwrap_or(self.config.max_bytes);
        if let Some(announced) = whole.filter(|whole| *whole > limit) {
            self.part.clear()?;
            return Err(FetchError::TooLarge { announced: Some(announced), limit }.into());
        }
        let folder = self.part.bytes.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
        let no_room = |free: u64| DownloadError::NoRoom { folder: folder.clone(), needed: whole, free };
        let mut room = Room::of(Disk::of(&folder), whole.map(|whole| whole - span.from)).map_err(no_room)?;
        let most = span.until.unwrap_or(limit).min(limit);
        let mut stand_in = None;
        let mut size = span.from;
        let mut pace = Pace::new(self.config);
        (self.progress)(size, whole);
        loop {
            let piece = pace.next(pieces)?;
            if piece.is_empty() {
                break;
            }
            if size == 0 {
                stand_in = stands_in(&piece);
            }
            size += piece.len() as u64;
            if size > most {
                self.part.clear()?;
                return Err(match whole {
                    Some(_) => self.wrong_size(size),
                    None => FetchError::TooLarge { announced: None, limit },
                }
                .into());
            }
            if let Err(free) = room.take(piece.len() as u64, || Disk::of(&folder)) {
                self.part.clear()?;
                return Err(no_room(free).into());
            }
            self.part.append(&piece)?;
            (self.progress)(size, whole);
        }
        if let Some(announced) = whole.filter(|whole| size < *whole) {
            return Err(FetchError::Cut { received: size, announced }.into());
        }
        self.finish(size, stand_in, span.encoding.clone())
    }

    /// Verifies the part, of which `size` bytes were written.
    fn finish(&mut self, size: u64, stand_in: Option<Known>, encoding: Option<String>) -> Result<Verified, Stop> {
        let found = match self.part.verify(&self.expected)? {
            Ok(verified) if verified.size == size => return Ok(verified),
            Ok(verified) => Mismatch { what: "size", expected: size.to_string(), found: verified.size.to_string() },
            Err(mismatch) => mismatch,
        };
        self.part.clear()?;
        let other = stand_in.map(FetchError::Other).or(encoding.map(FetchError::Encoded));
        Err(other.unwrap_or(FetchError::Mismatch(found)).into())
    }

    fn wrong_size(&self, found: u64) -> FetchError {
        let expected = self.expected.size.map_or_else(|| "what was announced".to_owned(), |n| n.to_string());
        FetchError::Mismatch(Mismatch { what: "size", expected, found: found.to_string() })
    }
}

/// What servers send in place of a file, if these first bytes are that.
fn stands_in(bytes: &[u8]) -> Option<Known> {
    format::recognise(bytes).filter(|known| matches!(known, Known::WebPage | Known::LfsPointer))
}
