//! One answer, read on its own thread, so that every wait has a timeout.

use std::io::{ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::RequestBuilder;
use ureq::http::header::{self, HeaderMap, HeaderName};
use ureq::typestate::WithoutBody;

use super::DownloadConfig;
use super::part::Origin;
use super::reason::FetchError;

const BUFFER: usize = 1 << 16;

/// Pieces that are read ahead of the consumer.
const AHEAD: usize = 8;

/// Steps to an answer that may each take the patience of a download: names and connections, redirects, the header.
const STEPS: u32 = 3;

/// What precedes the content of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// `Content-Length`, if the content has no other end.
    pub(super) length: Option<u64>,
}

/// `Content-Range: bytes 100-199/200`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Size of the whole file.
    pub(super) total: u64,
}

impl Head {
    fn text(&self, name: HeaderName) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    /// What a part that begins with this answer came from.
    pub(super) fn origin(&self, url: &str) -> Origin {
        Origin {
            url: url.to_owned(),
            etag: self.text(header::ETAG),
            last_modified: self.text(header::LAST_MODIFIED),
            date: self.text(header::DATE),
            total: self.length,
        }
    }

    /// What was done to the content without being asked for: `gzip`, say.
    pub(super) fn encoding(&self) -> Option<String> {
        let words = |name: HeaderName, plain: &'static str| {
            let values = self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
            let words: Vec<String> =
                values.flat_map(|v| v.split(',').map(|w| w.trim().to_owned()).collect::<Vec<_>>()).collect();
            words.into_iter().find(|word| !word.is_empty() && !word.eq_ignore_ascii_case(plain))
        };
        words(header::CONTENT_ENCODING, "identity").or_else(|| words(header::TRANSFER_ENCODING, "chunked"))
    }

    /// Whether a lost connection can be distinguished from the end.
    pub(super) fn says_where_it_ends(&self) -> bool {
        self.length.is_some() || self.headers.contains_key(header::TRANSFER_ENCODING)
    }

    /// The range that this answer gives of a file that `origin` started, if it is what follows the first `offset` bytes of
    /// the same file; else half a sentence with the reason.
    pub(super) fn continues(&self, origin: &Origin, offset: u64) -> Result<Range, String> {
        let kind = self.text(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        if kind.starts_with("multipart/byteranges") {
            return Err("has several ranges".to_owned());
        }
        let text = self.text(header::CONTENT_RANGE).ok_or("does not say which range it is")?;
        let range = Range::parse(&text).ok_or_else(|| format!("has the range {text:?}"))?;
        if range.first != offset {
            return Err(format!("begins at byte {}, not {offset}", range.first));
        }
        if let Some(total) = origin.total.filter(|total| *total != range.total) {
            return Err(format!("is of a file of {} bytes, not {total}", range.total));
        }
        let length = range.last - range.first + 1;
        if let Some(found) = self.length.filter(|found| *found != length) {
            return Err(format!("has {found} bytes, not the {length} of its range"));
        }
        if self.encoding().is_some() {
            return Err("is encoded".to_owned());
        }
        // RFC 9110, 15.3.7: what has an ETag gives it with every range, and may leave out the rest.
        let (etag, modified) = (self.text(header::ETAG), self.text(header::LAST_MODIFIED));
        if etag != origin.etag {
            return Err("has another ETag".to_owned());
        }
        if modified.is_some() && modified != origin.last_modified {
            return Err("has another Last-Modified".to_owned());
        }
        Ok(range)
    }
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let range = Range { first: number(first)?, last: number(last)?, total: number(total)? };
        let fits = range.first <= range.last && range.last < range.total;
        (unit.eq_ignore_ascii_case("bytes") && fits).then_some(range)
    }
}

/// The content of an answer or a file, piece by piece.
pub(super) struct Pieces(Receiver<Result<Vec<u8>, FetchError>>);

impl Pieces {
    /// Reads `reader` ahead.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn of(
        reader: impl Read + Send + 'static,
        failed: fn(std::io::Error) -> FetchError,
    ) -> std::io::Result<Pieces> {
        let (sender, receiver) = sync_channel(AHEAD);
        std::thread::Builder::new().spawn(move || read(reader, &sender, failed))?;
        Ok(Pieces(receiver))
    }

    /// The next bytes, none at the end; `None` if nothing comes within `wait`.
    fn next(&self, wait: Duration) -> Option<Result<Vec<u8>, FetchError>> {
        match self.0.recv_timeout(wait) {
            Ok(piece) => Some(piece),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(FetchError::Transport("its reader ended".to_owned()))),
        }
    }

    /// The first bytes, for a message.
    pub(super) fn start(&self, wait: Duration) -> Vec<u8> {
        self.next(wait).and_then(Result::ok).unwrap_or_default()
    }
}

fn read(
    mut reader: impl Read,
    sender: &SyncSender<Result<Vec<u8>, FetchError>>,
    failed: fn(std::io::Error) -> FetchError,
) {
    loop {
        let mut buffer = vec![0; BUFFER];
        let piece = match reader.read(&mut buffer) {
            Ok(read) => {
                buffer.truncate(read);
                Ok(buffer)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(failed(error)),
        };
        let last = !matches!(&piece, Ok(bytes) if !bytes.is_empty());
        if sender.send(piece).is_err() || last {
            return;
        }
    }
}

/// Sends a request and waits for the head of its answer, `patience` for each of a few steps.
///
/// # Errors
/// No thread can be had; within, that no answer came.
pub(super) fn ask(
    request: RequestBuilder<WithoutBody>,
    patience: Duration,
) -> std::io::Result<Result<(Head, Pieces), FetchError>> {
    let (heads, head) = sync_channel(1);
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::Builder::new().spawn(move || match request.call() {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            // Of a content without bytes the client gives no length.
            let none = || parts.headers.get(header::CONTENT_LENGTH).filter(|value| *value == "0").map(|_| 0);
            let length = body.content_length().or_else(none);
            let head = Head { status: parts.status.as_u16(), length, headers: parts.headers };
            if heads.send(Ok(head)).is_ok() {
                read(body.into_reader(), &sender, |e| FetchError::Transport(e.to_string()));
            }
        }
        Err(error) => drop(heads.send(Err(FetchError::from(error)))),
    })?;
    let wait = patience * STEPS;
    Ok(match head.recv_timeout(wait) {
        Ok(head) => head.map(|head| (head, Pieces(receiver))),
        Err(_) => Err(FetchError::Transport(format!("no answer within {} s", wait.as_secs()))),
    })
}

/// How long the download waits for bytes, in windows of its patience.
pub(super) struct Pace {
    patience: Duration,
    /// Bytes per second.
    min_rate: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(config: &DownloadConfig) -> Pace {
        Pace {
            patience: Duration::from_secs(config.timeout_s),
            min_rate: config.min_rate,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// The next bytes, none at the end. Only the time that is spent waiting counts, not that of a slow disk.
    pub(super) fn next(&mut self, pieces: &Pieces) -> Result<Vec<u8>, FetchError> {
        loop {
            let start = Instant::now();
            let piece = pieces.next(self.patience.saturating_sub(self.waited));
            self.waited += start.elapsed();
            match piece {
                Some(Ok(bytes)) if !bytes.is_empty() => {
                    self.bytes += bytes.len() as u64;
                    self.window()?;
                    return Ok(bytes);
                }
                Some(end) => return end,
                None => self.window()?,
            }
        }
    }

    /// Ends a window that has passed.
    fn window(&mut self) -> Result<(), FetchError> {
        if self.waited < self.patience {
            return Ok(());
        }
        let (bytes, seconds) = (self.bytes, self.patience.as_secs());
        (self.bytes, self.waited) = (0, Duration::ZERO);
        match bytes {
            0 => Err(FetchError::Transport(format!("nothing came for {seconds} s"))),
            slow if slow < self.min_rate.saturating_mul(seconds) => {
                Err(FetchError::Slow { bytes, seconds, min_rate: self.min_rate })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_do_not_fit_are_none() {
        assert_eq!(Range::parse("bytes 100-199/200"), Some(Range { first: 100, last: 199, total: 200 }));
        for wrong in [
            "bytes 100-200/200",
            "bytes 5-4/10",
            "bytes */200",
            "bytes 1-2/*",
            "bytes -1-2/9",
            "items 1-2/9",
            "bytes=1-2/9",
            "",
        ] {
            assert_eq!(Range::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_rest_of_the_very_file_continues_a_part() {
        let origin = Origin {
            url: String::new(),
            etag: Some("\"a\"".to_owned()),
            last_modified: Some("then".to_owned()),
            date: None,
            total: Some(200),
        };
        let honest = [("content-range", "bytes 100-199/200"), ("etag", "\"a\""), ("last-modified", "then")];
        let continues = |change: &[(&'static str, &str)], length| {
            let mut headers = HeaderMap::new();
            for (name, value) in honest.iter().chain(change) {
                match *value {
                    "" => drop(headers.remove(*name)),
                    value => drop(headers.insert(*name, value.parse().unwrap())),
                }
            }
            Head { status: 206, headers, length }.continues(&origin, 100)
        };
        assert_eq!(continues(&[], Some(100)), Ok(Range { first: 100, last: 199, total: 200 }));
        // A part of the rest is continued from its end, and a range need not have its date (RFC 9110, 15.3.7).
        assert!(continues(&[("content-range", "bytes 100-149/200"), ("last-modified", "")], None).is_ok());
        for (change, length, part) in [
            (("content-range", "bytes 99-199/200"), None, "begins at byte 99"),
            (("content-range", "bytes 100-200/201"), None, "201 bytes, not 200"),
            (("content-range", "bytes 100-199/*"), None, "range"),
            (("content-range", ""), None, "which range"),
            (("content-type", "Multipart/Byteranges; boundary=x"), None, "several"),
            (("content-encoding", "gzip"), None, "encoded"),
            (("etag", "\"b\""), None, "another ETag"),
            (("etag", ""), None, "another ETag"),
            (("last-modified", "now"), None, "another Last-Modified"),
            (("etag", "\"a\""), Some(99), "99 bytes, not the 100"),
        ] {
            let found = continues(&[change], length).unwrap_err();
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn a_window_with_too_few_bytes_ends_a_download() {
        let config = |min_rate| DownloadConfig { timeout_s: 10, min_rate, ..DownloadConfig::default() };
        let after = |bytes, min_rate| {
            let mut pace = Pace { waited: Duration::from_secs(10), bytes, ..Pace::new(&config(min_rate)) };
            pace.window()
        };
        assert!(matches!(after(0, 0), Err(FetchError::Transport(_))));
        assert!(matches!(after(9_999, 1000), Err(FetchError::Slow { bytes: 9_999, seconds: 10, .. })));
        assert!(after(10_000, 1000).is_ok());
        assert!(after(1, 0).is_ok());
    }
}
