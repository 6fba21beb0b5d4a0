//! Why an attempt at a URL failed, whether another one may help, and what the user can do.

use std::io;

use crate::data::checksum::Mismatch;
use crate::format::Known;

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
    /// A redirect that is not followed.
    #[error("{0}")]
    Redirect(String),
    #[error("the answer ended after {received} of {announced} bytes")]
    Cut { received: u64, announced: u64 },
    /// Fewer bytes than `min_rate` asks for.
    #[error("{bytes} bytes came in {seconds} s, expected at least {min_rate} a second")]
    Slow { bytes: u64, seconds: u64, min_rate: u64 },
    /// A part of the file that does not follow the bytes that are there.
    #[error("the answer is a part of the file that was not asked for: it {0}")]
    WrongRange(String),
    /// Compressed on the way, where no digest says whether that is meant.
    #[error("the answer is encoded ({0}), which was not asked for")]
    Encoded(String),
    /// Neither a length nor chunks, where no digest or size says what is missing.
    #[error("the answer does not say where it ends, so that a cut would not be noticed")]
    NoEnd,
    /// More than `max_bytes`.
    #[error("the answer has {} bytes, more than max_bytes: {limit}", announced.map_or_else(|| "too many".to_owned(), |n| n.to_string()))]
    TooLarge { announced: Option<u64>, limit: u64 },
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
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Reason::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            Reason::Transport(_) | Reason::Cut { .. } | Reason::Slow { .. } => true,
            Reason::BadUrl(_)
            | Reason::Insecure(_)
            | Reason::Redirect(_)
            | Reason::WrongRange(_)
            | Reason::Encoded(_)
            | Reason::NoEnd
            | Reason::TooLarge { .. }
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
            Reason::Redirect(_) => "give the address that it leads to, or declare the file's sha256",
            Reason::Transport(_) | Reason::Cut { .. } => "check the network; the next attempt resumes here",
            Reason::Slow { .. } => "add a mirror, or lower min_rate; the next attempt resumes here",
            Reason::WrongRange(_) => "its server does not keep to HTTP: add a mirror",
            Reason::Encoded(_) | Reason::NoEnd => {
                "declare the sha256 of the file as the server sends it, or add a mirror"
            }
            Reason::TooLarge { .. } => "raise max_bytes if the file is meant to be this large",
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

impl From<ureq::Error> for Reason {
    fn from(error: ureq::Error) -> Reason {
        match error {
            ureq::Error::BadUri(message) => Reason::BadUrl(message),
            ureq::Error::TooManyRedirects => Reason::Redirect("too many redirects".to_owned()),
            ureq::Error::RedirectFailed => Reason::Redirect("a redirect that leads nowhere".to_owned()),
            ureq::Error::RequireHttpsOnly(url) => Reason::Redirect(format!(
                "a redirect from https to {url:?}, which does not protect the file on its way"
            )),
            refused @ (ureq::Error::Tls(_) | ureq::Error::Rustls(_)) => Reason::Insecure(refused.to_string()),
            // A certificate that is not trusted comes as an error of the stream.
            ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                Reason::Insecure(error.to_string())
            }
            other => Reason::Transport(other.to_string()),
        }
    }
}
