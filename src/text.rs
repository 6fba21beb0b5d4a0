//! Text files that other tools wrote: one reader, so that a byte order mark, UTF-16 or CRLF means the same everywhere.
//!
//! A spreadsheet on Windows writes UTF-8 with a byte order mark, PowerShell's `>` writes UTF-16, and both end lines with
//! CRLF. All of these are read. Any other encoding is refused with the line that shows it: a guess would change names
//! silently.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::format::{self, Known};

/// The content of the text file at `path`, without its byte order mark. Line ends stay as they are; [`str::lines`] takes
/// both kinds.
///
/// # Errors
/// The file system's, and [`ErrorKind::InvalidData`] with what is wrong and what to do: another encoding, by line and
/// byte; a NUL byte; a file that is not text but something known (a Git-LFS pointer, a web page, an archive). Both name the
/// path.
pub fn read(path: &Path) -> io::Result<String> {
    let refused = |message| io::Error::new(ErrorKind::InvalidData, format!("{}: {message}", path.display()));
    decode(&fs_err::read(path)?).map_err(refused)
}

/// [`read`] for messages that name the path themselves: its errors do not.
pub fn read_unnamed(path: &Path) -> io::Result<String> {
    decode(&std::fs::read(path)?).map_err(|message| io::Error::new(ErrorKind::InvalidData, message))
}

/// [`read`] of bytes that are in memory.
///
/// # Errors
/// What is wrong and what to do.
pub fn decode(bytes: &[u8]) -> Result<String, String> {
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest)?,
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        _ => match format::recognise(bytes) {
            // These are, or may be, text.
            None | Some(Known::Empty | Known::Pnm | Known::Xml) => utf8(bytes)?,
            Some(known) => return Err(format!("it is {known}, not text{}", known.advice())),
        },
    };
    match text.find('\0') {
        Some(at) => Err(format!(
            "line {} has a NUL byte: it is not text, or UTF-16 without a byte order mark; save it as UTF-8",
            line(&text[..at])
        )),
        None => Ok(text),
    }
}

/// An error and its sources, joined by `: `: whole, since no error repeats the text of its source.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Untrusted text on one line of a terminal: control characters, and those that change the direction of writing, as
/// their escapes.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts_on_terminals) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match acts_on_terminals(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// [`escaped`], for a cell of a CSV file. A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage
/// return: such a text, unless it is a number, begins with a `'`, which spreadsheets take for "this is text".
pub fn for_a_spreadsheet(text: &str) -> Cow<'_, str> {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number(text) {
        true => Cow::Owned(format!("'{}", escaped(text))),
        false => escaped(text),
    }
}

/// Whether a text is a finite number, as `-0.5` and `+1e-3` are.
fn is_number(text: &str) -> bool {
    text.parse().is_ok_and(f64::is_finite)
}

fn acts_on_terminals(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A line as a terminal would have left it: escape sequences and control characters taken out, and of what carriage
/// returns write over each other, as progress bars do, the last.
pub fn settled(line: &str) -> String {
    let mut states = line.split('\r').rev().map(plain);
    states.find(|state| !state.trim().is_empty()).unwrap_or_default()
}

/// Without escape sequences and control characters; a tab is four blanks.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: up to its final character.
                Some('[') => drop(chars.find(|c| ('@'..='~').contains(c))),
                // OSC and other strings: up to BEL or ESC \\.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                // One more character for those that have an intermediate one.
                Some(' '..='/') => drop(chars.next()),
                _ => {}
            },
            '\u{9b}' => drop(chars.find(|c| ('@'..='~').contains(c))),
            '\t' => out.push_str("    "),
            '\u{8}' => drop(out.pop()),
            c if acts_on_terminals(c) => {}
            c => out.push(c),
        }
    }
    out
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| {
        let at = error.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        format!("it is not UTF-8 text: line {line} has the byte 0x{:02x}; save it as UTF-8", bytes[at])
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text: Option<String> = char::decode_utf16(units.iter().map(|pair| unit(*pair))).collect::<Result<_, _>>().ok();
    match text {
        Some(text) if rest.is_empty() => Ok(text),
        _ => Err("it begins as UTF-16 and does not continue so; save it as UTF-8".to_owned()),
    }
}

fn line(before: &str) -> usize {
    1 + before.matches('\n').count()
}

/// Asserts that the committed file at `path` is `content`, which the program generates; with `MEANFIELD_BLESS` set it is
/// written anew. `tests` is the filter that selects the caller's test.
#[cfg(test)]
pub(crate) fn assert_committed(path: &std::path::Path, content: &str, tests: &str) {
    if std::env::var_os("MEANFIELD_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let path = path.display();
    assert!(
        found == content,
        "{path} differs from what the program generates: MEANFIELD_BLESS=1 cargo test --lib {tests}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_both_forms_of_utf16_are_read() {
        let utf16 = |unit: fn(u16) -> [u8; 2]| "\u{feff}Grüße\r\n".encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        for bytes in ["Grüße\r\n".into(), "\u{feff}Grüße\r\n".into(), utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)]
        {
            assert_eq!(decode(&bytes).as_deref(), Ok("Grüße\r\n"));
        }
        assert_eq!(decode(b"").as_deref(), Ok(""));
    }

    #[test]
    fn what_acts_on_terminals_or_spreadsheets_is_shown_and_does_not_act() {
        assert_eq!(escaped("a\u{1b}[2J\tb\u{202e}c\u{200f}\u{9b}é損"), "a\\u{1b}[2J\\tb\\u{202e}c\\u{200f}\\u{9b}é損");
        for formula in ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-inf", "-"] {
            let shown = for_a_spreadsheet(formula);
            assert!(shown.starts_with('\'') && !shown.chars().any(char::is_control), "{shown}");
        }
        for text in ["-0.5", "+1e-3", "-1", "a=1", "", "'", "contrastive"] {
            assert_eq!(for_a_spreadsheet(text), text);
        }
    }

    #[test]
    fn other_encodings_and_other_files_are_refused_with_their_place() {
        for (bytes, part) in [
            (&b"a\nGr\xfc\xdfe\n"[..], "line 2 has the byte 0xfc"),
            (b"\xff\xfea", "UTF-16"),
            (b"a\n\0b", "line 2 has a NUL byte"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
            (b"<!DOCTYPE html>\n<html>", "web page"),
        ] {
            let message = decode(bytes).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
