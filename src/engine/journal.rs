//! The journal of a run: JSON lines, appended one write a line. Each ends with a check of itself; a damaged one is left out
//! and counted.
//!
//! Enough to answer what ran, why, for how long, with how much memory, how it ended and from which command.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::store::StoreError;
use crate::store::files::{self, For};

/// What a journal is, in its first line.
pub const FORMAT: &str = "meanfield journal 1";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Run {
        /// Its identifier, which sorts by time.
        run: String,
        /// When it started, RFC 3339.
        started: String,
        /// The pipeline's name and file.
        pipeline: String,
        file: PathBuf,
        /// The command line, as words.
        command: Vec<String>,
        /// Version of the program.
        version: String,
        /// [`FORMAT`]; nothing in journals of earlier versions.
        #[serde(default)]
        format: String,
    },
    /// A cell that was not simply up to date.
    Cell {
        cell: String,
        key: String,
        /// `executed`, `up_to_date`, `shared`, `failed` or `skipped`.
        outcome: String,
        /// Why it ran.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        why: Vec<String>,
        seconds: f64,
        #[serde(default)]
        cpu_seconds: f64,
        #[serde(default)]
        peak_memory: u64,
        #[serde(default)]
        attempts: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// The last line; a journal without it belongs to a run that goes on or was killed.
    End {
        ended: String,
        seconds: f64,
        executed: usize,
        cached: usize,
        failed: usize,
        skipped: usize,
        interrupted: bool,
    },
}

/// A journal being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Starts the journal of the run called `run` in `folder`.
    pub fn create(folder: &Path, run: &str) -> Result<Journal, EngineError> {
        let path = folder.join(format!("{run}.jsonl"));
        let open = || {
            std::fs::create_dir_all(folder)?;
            OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)
        };
        match open() {
            Ok(file) => Ok(Journal { path, file }),
            Err(source) => Err(EngineError::Journal { path, source }),
        }
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Line) -> Result<(), EngineError> {
        let write = || {
            (&self.file).write_all(&seal(serde_json::to_vec(line)?))
        };
        write().map_err(|source| EngineError::Journal { path: self.path.clone(), source })
    }
}

/// A name for a run that starts now: sorts by time, and two at once differ.
pub fn run_name(now: jiff::Timestamp) -> String {
    format!("{}-{}", now.strftime("%Y%m%dT%H%M%S.%3fZ"), std::process::id())
}

/// What stands around the check at the end of a line.
const SEAL: (&[u8], &[u8]) = (b",\"check\":\"", b"\"}");

/// A line of JSON with its check as the last member, and a line end.
fn seal(mut json: Vec<u8>) -> Vec<u8> {
    json.pop();
    let check = check(&json);
    for part in [SEAL.0, &check, SEAL.1, b"\n"] {
        json.extend_from_slice(part);
    }
    json
}

fn check(bytes: &[u8]) -> [u8; 16] {
    let mut check = [0; 16];
    check.copy_from_slice(&blake3::hash(bytes).to_hex().as_bytes()[..16]);
    check
}

/// Whether a line has the check that its bytes ask for.
fn is_sealed(line: &[u8]) -> bool {
    let sealed = || {
        let rest = line.strip_suffix(SEAL.1)?;
        let (rest, found) = rest.split_last_chunk::<16>()?;
        Some(check(rest.strip_suffix(SEAL.0)?) == *found)
    };
    sealed().unwrap_or(false)
}

/// A journal that was read.
#[derive(Debug)]
pub struct Past {
    /// Its file.
    pub path: PathBuf,
    /// Its whole lines.
    pub lines: Vec<Line>,
    /// What is wrong with it.
    pub damage: Option<String>,
}

/// All journals of `folder`, oldest first. A line that cannot be read is left out: it is damaged, or a later version's. With
/// `mend`, damaged lines are blanked, so that they are reported once.
pub fn read_all(folder: &Path, mend: bool) -> Result<Vec<Past>, StoreError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(items) => items.filter_map(|item| Some(item.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(StoreError::Io { verb: "list", path: folder.to_owned(), source }),
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort_unstable();
    Ok(paths.into_iter().filter_map(|path| read(path, mend)).collect())
}

/// `None` for one that its owner keeps private.
fn read(path: PathBuf, mend: bool) -> Option<Past> {
    let private = |error: &StoreError| match error {
        StoreError::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    };
    let opened = files::open(&path, For::Reading);
    if opened.as_ref().is_err_and(private) {
        return None;
    }
    let open = || -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let file = opened.map_err(|error| match error {
            StoreError::Foreign { what, .. } => format!("{what}, expected a journal"),
            other => other.to_string(),
        })?;
        file.map_or(Ok(0), |mut file| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        Ok(bytes)
    };
    let bytes = match open() {
        Ok(bytes) => bytes,
        Err(damage) => return Some(Past { path, lines: Vec::new(), damage: Some(damage) }),
    };
    let (lines, damaged) = parse(&bytes);
    let damage = match damaged.len() {
        _ if bytes.is_empty() => Some("empty".to_owned()),
        0 => None,
        1 => Some("1 line is damaged and left out".to_owned()),
        n => Some(format!("{n} lines are damaged and left out")),
    };
    if mend && let Ok(Some(file)) = files::open(&path, For::Mending) {
        for (at, length) in damaged {
            // What cannot be blanked is reported again.
            let _ = file.write_all_at(&vec![b' '; length], at as u64);
        }
    }
    Some(Past { path, lines, damage })
}

/// The lines of a journal, and where others lie that are damaged, with their lengths.
fn parse(bytes: &[u8]) -> (Vec<Line>, Vec<(usize, usize)>) {
    let mut at = 0;
    let mut spans = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        if !line.trim_ascii().is_empty() {
            spans.push((at, line));
        }
        at += line.len() + 1;
    }
    // Journals of earlier versions have no checks: what can be parsed is whole.
    let checked = spans.iter().any(|(_, line)| is_sealed(line));
    let mut lines = Vec::new();
    let mut damaged = Vec::new();
    for (at, line) in spans {
        let parsed = serde_json::from_slice(line).ok();
        let whole = if checked { is_sealed(line) } else { parsed.is_some() };
        match parsed {
            Some(line) if whole => lines.push(line),
            _ if whole => {}
            _ => damaged.push((at, line.len())),
        }
    }
    (lines, damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(executed: usize) -> Line {
        Line::End {
            ended: "now".into(),
            seconds: 1.0,
            executed,
            cached: 2,
            failed: 0,
            skipped: 0,
            interrupted: false,
        }
    }

    /// A journal of three lines.
    fn written(folder: &Path) -> (PathBuf, Vec<Line>) {
        let mut journal = Journal::create(folder, "r").unwrap();
        let lines: Vec<Line> = (0..3).map(end).collect();
        lines.iter().for_each(|line| journal.write(line).unwrap());
        (folder.join("r.jsonl"), lines)
    }

    fn read_one(folder: &Path, mend: bool) -> (Vec<Line>, Option<String>) {
        let mut all = read_all(folder, mend).unwrap();
        let Past { lines, damage, .. } = all.remove(0);
        (lines, damage)
    }

    #[test]
    fn a_flipped_bit_a_cut_and_a_torn_line_cost_a_line_and_are_reported_until_they_are_mended() {
        let folder = tempfile::tempdir().unwrap();
        let (path, lines) = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(whole.split(|b| *b == b'\n').next().unwrap()).is_ok());
        assert_eq!(read_one(folder.path(), false), (lines.clone(), None));
        let mut spoilt: Vec<Vec<u8>> = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            bytes
        }).collect();
        let third = whole.len() / 3;
        spoilt.extend((1..whole.len()).filter(|at| at % third > 1).map(|at| whole[..at].to_vec()));
        spoilt.push([&whole[..], b"{\"event\":\"end\",\"ended\":\"n"].concat());
        for bytes in spoilt {
            std::fs::write(&path, &bytes).unwrap();
            let (found, damage) = read_one(folder.path(), true);
            // A line end costs both lines, and a cut what is behind it.
            assert!(damage.is_some() && found.iter().all(|line| lines.contains(line)));
            assert!(found.len() >= if bytes.len() < whole.len() { bytes.len() / third } else { 1 });
            let (again, damage) = read_one(folder.path(), false);
            assert_eq!((again, damage), (found, None));
        }
    }

    #[test]
    fn journals_without_checks_and_what_is_no_journal_are_read_and_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_all(&folder.path().join("none"), false).unwrap().is_empty());
        let text = serde_json::to_string(&end(1)).unwrap();
        std::fs::write(folder.path().join("a.jsonl"), format!("{text}\n{text}\n")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("b.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("a.jsonl", folder.path().join("c.jsonl")).unwrap();
        let all = read_all(folder.path(), true).unwrap();
        let damage: Vec<_> = all.iter().map(|past| past.damage.as_deref()).collect();
        assert_eq!(damage, [None, Some("a named pipe, expected a journal"), Some("a link, expected a journal")]);
        assert_eq!(all[0].lines, [end(1), end(1)]);
    }
}
