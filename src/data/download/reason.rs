//! Why an attempt at a URL failed, whether another one may help, and what the user can do.

use std::io;

use crate::data::checksum::Mismatch;
use crate::format::Known;

/// What one mirror answered last.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {reason} (attempts: {attempts}); {}", reason.hint())]
pub struct MirrorFailure {
    pub url: String,
    pub attempts: u32,
    pub reason: FetchError,
}

/// Why one attempt at one URL failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0}")]
    BadUrl(String),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("{0}")]
    Transport(String),
    #[error("TLS error: {0}")]
    Insecure(String),
    /// A redirect that is not followed.
    #[error("{0}")]
    Redirect(String),
    #[error("the answer ended after {received} of {announced} bytes")]
    Cut { received: u64, announced: u64 },
    /// Fewer bytes than `min_rate` asks for.
    #[error("{bytes} bytes arrived in {seconds} s, expected at least {min_rate} per second")]
    Slow { bytes: u64, seconds: u64, min_rate: u64 },
    /// A part of the file that does not follow the bytes that are there.
    #[error("the answer is a part of the file that was not asked for: it {0}")]
    WrongRange(String),
    /// Content encoding, where no digest says whether that is intended.
    #[error("the answer is encoded ({0}), which was not asked for")]
    Encoded(String),
    /// Neither a length nor chunks, where no digest or size says what is missing.
    #[error("the answer does not say where it ends, so a truncation would not be noticed")]
    NoEnd,
    /// More than `max_bytes`.
    #[error("the answer has {} bytes, more than max_bytes: {limit}", announced.map_or_else(|| "too many".to_owned(), |n| n.to_string()))]
    TooLarge { announced: Option<u64>, limit: u64 },
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("cannot read the file: {0}")]
    Unreadable(io::Error),
    /// In place of the file.
    #[error("the answer is {0}")]
    Other(Known),
}

impl FetchError {
    /// Whether the same request may succeed a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            FetchError::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            FetchError::Transport(_) | FetchError::Cut { .. } | FetchError::Slow { .. } => true,
            FetchError::BadUrl(_)
            | FetchError::Insecure(_)
            | FetchError::Redirect(_)
            | FetchError::WrongRange(_)
            | FetchError::Encoded(_)
            | FetchError::NoEnd
            | FetchError::TooLarge { .. }
            | FetchError::Mismatch(_)
            | FetchError::Unreadable(_)
            | FetchError::Other(_) => false,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            FetchError::BadUrl(_) => "correct the URL",
            FetchError::Status(401 | 403) => {
                "it needs permission: name a variable with your token below `secrets:` of the stage, or fetch the file by hand and give its file:/// URL"
            }
            FetchError::Status(404 | 410) => "it is not there: correct the URL or add a mirror",
            FetchError::Status(_) => "try again later or add a mirror",
            FetchError::Insecure(_) => {
                "if your network uses a custom certificate authority, name its PEM file in the variable SSL_CERT_FILE"
            }
            FetchError::Redirect(_) => "give the address that it leads to, or declare the file's sha256",
            FetchError::Transport(_) | FetchError::Cut { .. } => "check the network; the next attempt resumes here",
            FetchError::Slow { .. } => "add a mirror, or lower min_rate; the next attempt resumes here",
            FetchError::WrongRange(_) => "its server violates HTTP: add a mirror",
            FetchError::Encoded(_) | FetchError::NoEnd => {
                "declare the sha256 of the file as the server sends it, or add a mirror"
            }
            FetchError::TooLarge { .. } => "raise max_bytes if the file is meant to be this large",
            FetchError::Mismatch(_) => {
                "the publisher may have replaced the file: once you trust the new one, expect what was found"
            }
            FetchError::Unreadable(_) => "check the path and its permissions",
            FetchError::Other(Known::LfsPointer) => "give the address of the file itself, or clone it with Git LFS",
            FetchError::Other(_) => {
                "it may ask for a login, show a warning, or say that the file is gone: open the URL in a browser, fetch the file by \
                 hand and give its file:/// URL"
            }
        }
    }
}

impl From<ureq::Error> for FetchError {
    fn from(error: ureq::Error) -> FetchError {
        match error {
            ureq::Error::BadUri(message) => FetchError::BadUrl(message),
            ureq::Error::TooManyRedirects => FetchError::Redirect("too many redirects".to_owned()),
            ureq::Error::RedirectFailed => FetchError::Redirect("a redirect that leads nowhere".to_owned()),
            ureq::Error::RequireHttpsOnly(url) => {
                FetchError::Redirect(format!("a redirect from https to {url:?}, which is not encrypted"))
            }
            refused @ (ureq::Error::Tls(_) | ureq::Error::Rustls(_)) => FetchError::Insecure(refused.to_string()),
            // A certificate that is not trusted comes as an error of the stream.
            ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                FetchError::Insecure(error.to_string())
            }
            other => FetchError::Transport(other.to_string()),
        }
    }
}
