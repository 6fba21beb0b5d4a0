//! The URLs that a download understands.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::reason::FetchError;

/// Where a URL points.
pub(super) enum UrlTarget {
    File(PathBuf),
    Http { loopback: bool },
}

impl UrlTarget {
    /// Reads a URL, and says what is wrong with it.
    pub(super) fn parse(url: &str) -> Result<UrlTarget, FetchError> {
        if url.starts_with('/') {
            return Ok(UrlTarget::File(url.into()));
        }
        let bad = |message: &str| FetchError::BadUrl(message.to_owned());
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| bad("expected https://, http://, file:/// or an absolute path"))?;
        match scheme.to_ascii_lowercase().as_str() {
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(bad("a file URL needs an absolute path: file:///folder/name"));
                }
                // A path that was not encoded may hold a %, as in `100%.zip`.
                let literal = PathBuf::from(path);
                match percent_decoded(path) {
                    Some(bytes) => {
                        let decoded = PathBuf::from(OsString::from_vec(bytes));
                        Ok(UrlTarget::File(if !decoded.exists() && literal.exists() { literal } else { decoded }))
                    }
                    None if literal.exists() => Ok(UrlTarget::File(literal)),
                    None => Err(bad("% must be followed by two hexadecimal digits")),
                }
            }
            "http" | "https" => {
                let uri: ureq::http::Uri = url.parse().map_err(|e| FetchError::BadUrl(format!("{e}")))?;
                let host = uri.host().unwrap_or_default();
                if host.is_empty() {
                    return Err(bad("it names no host"));
                }
                Ok(UrlTarget::Http { loopback: matches!(host, "localhost" | "127.0.0.1" | "[::1]") })
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
