//! Secrets of cells: variables of this process's environment that a stage names and that are never written to disk.
//!
//! A value goes into the environment of the cell's process and nowhere else: no key, no file, no message and no
//! argument holds it. What the cell prints passes through `mask`, which puts `***` in its place.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::plan::{Decision, Plan};
use crate::pipeline::model::{CellId, Pipeline};

/// What replaces a secret.
const MASK: &[u8] = b"***";

/// A value that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(OsString);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// The value, for the environment of a process.
    pub fn value(&self) -> &OsString {
        &self.0
    }
}

/// The value of the secret called `name`: the variable of that name in this process's environment, unless it is empty.
pub fn find(name: &str) -> Option<Secret> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(Secret)
}

/// Secrets that cells of `plan` which run, or may run, need and that are not set, each with the first such cell.
pub fn missing(pipeline: &Pipeline, plan: &Plan) -> Vec<(Arc<str>, CellId)> {
    let mut missing: Vec<(Arc<str>, CellId)> = Vec::new();
    for (id, _) in plan.cells().filter(|(_, d)| matches!(d, Decision::Run { .. } | Decision::May { .. })) {
        for name in &pipeline.cells[id].secrets {
            if !missing.iter().any(|(known, _)| known == name) && find(name).is_none() {
                missing.push((name.clone(), id));
            }
        }
    }
    missing
}

/// The bytes that end what [`mask`] reads. No program writes them by chance.
#[derive(Debug)]
pub(super) struct End([u8; 32]);

impl End {
    /// One that no other call gives.
    pub(super) fn new() -> End {
        use std::hash::{BuildHasher, RandomState};
        let mut bytes = [0; 32];
        for (chunk, number) in bytes.chunks_mut(8).zip(0u8..) {
            chunk.copy_from_slice(&RandomState::new().hash_one(number).to_le_bytes());
        }
        End(bytes)
    }

    /// The bytes, to be written at once.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Copies `from` to `to` with `***` for every secret, until `from` or `end` ends it.
///
/// A secret is known by its bytes, whatever pieces they come in; where two begin at one place, the longer one is meant.
pub(super) fn mask(mut from: impl Read, mut to: impl Write, secrets: &[Secret], end: &End) -> io::Result<()> {
    // A shell's `$(...)` and most programs leave out the line end that a value read from a file may have.
    let values = secrets.iter().map(|secret| secret.0.as_bytes().trim_ascii_end()).filter(|value| !value.is_empty());
    let needles: Vec<(&[u8], bool)> = values.map(|value| (value, false)).chain([(end.bytes(), true)]).collect();
    let mut held = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut written = Ok(());
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        held.extend_from_slice(&buffer[..read]);
        let (masked, taken, ended) = masked(&held, &needles, read == 0);
        held.drain(..taken);
        // A program whose log has no room keeps running; it must not meet a closed pipe.
        written = written.and_then(|()| to.write_all(&masked));
        if ended || read == 0 {
            return written;
        }
    }
}

/// The begin of `bytes` with its needles replaced, how many bytes that was, and whether the end was met. What may be the
/// begin of a needle waits for more, unless there is none.
fn masked(bytes: &[u8], needles: &[(&[u8], bool)], last: bool) -> (Vec<u8>, usize, bool) {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let found =
            needles.iter().filter(|(needle, _)| rest.starts_with(needle)).max_by_key(|(needle, _)| needle.len());
        let longer = |needle: &[u8]| {
            needle.len() > found.map_or(0, |(found, _)| found.len())
                && rest.len() < needle.len()
                && needle.starts_with(rest)
        };
        if !last && needles.iter().any(|(needle, _)| longer(needle)) {
            break;
        }
        match found {
            Some((needle, true)) => return (out, at + needle.len(), true),
            Some((needle, false)) => {
                out.extend_from_slice(MASK);
                at += needle.len();
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    (out, at, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives its bytes in pieces of these lengths, then the rest.
    struct Pieces<'a>(&'a [u8], std::slice::Iter<'a, usize>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.next().map_or(self.0.len(), |&length| length.min(self.0.len()));
            let (piece, rest) = self.0.split_at(length.min(buffer.len()));
            buffer[..piece.len()].copy_from_slice(piece);
            self.0 = rest;
            Ok(piece.len())
        }
    }

    fn through(bytes: &[u8], pieces: &[usize], secrets: &[&str], end: &End) -> Vec<u8> {
        let secrets: Vec<Secret> = secrets.iter().map(|value| Secret(value.into())).collect();
        let mut out = Vec::new();
        mask(Pieces(bytes, pieces.iter()), &mut out, &secrets, end).unwrap();
        out
    }

    #[test]
    fn a_secret_is_masked_by_its_bytes_and_the_longer_one_wins() {
        let through = |text: &str, secrets: &[&str]| {
            String::from_utf8(through(text.as_bytes(), &[1; 99], secrets, &End::new())).unwrap()
        };
        assert_eq!(through("a tok-1 b tok-12 c tok-", &["tok-1", "tok-12"]), "a *** b *** c tok-");
        assert_eq!(through("tok-1", &["tok-1", "tok-12"]), "***");
        assert_eq!(through("aaab", &["aab"]), "a***");
        assert_eq!(through("key\n", &["key\n"]), "***\n");
        assert_eq!(format!("{:?}", Secret("key".into())), "***");
    }

    #[test]
    fn what_follows_the_end_is_not_read() {
        let end = End::new();
        let bytes = [b"tok tok", end.bytes(), b"tok"].concat();
        assert_eq!(through(&bytes, &[2; 9], &["tok"], &end), b"*** ***");
    }

    proptest! {
        /// In whatever pieces a text comes, what goes out is what the whole text would have given.
        #[test]
        fn pieces_change_nothing(
            text in "[ab]{0,40}",
            secrets in prop::collection::vec("[ab]{1,5}", 1..4),
            pieces in prop::collection::vec(1usize..6, 0..40),
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let mut expected = String::new();
            let mut rest = text.as_str();
            while let Some(first) = rest.chars().next() {
                let longest = secrets.iter().filter(|secret| rest.starts_with(**secret)).map(|secret| secret.len()).max();
                match longest {
                    Some(_) => expected.push_str("***"),
                    None => expected.push(first),
                }
                rest = &rest[longest.unwrap_or(1)..];
            }
            prop_assert_eq!(through(text.as_bytes(), &pieces, &secrets, &End::new()), expected.into_bytes());
        }
    }
}
