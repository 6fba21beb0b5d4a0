//! The journal of a run: JSON lines, each appended by one write. Each ends with a check of itself; a damaged one is left out
//! and counted.
//!
//! Enough to answer what ran, why, for how long, with how much memory, how it ended and from which command. A run holds the
//! lock of its journal as long as it lives: a journal without a last line and without a holder is that of a killed run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EngineError;
use super::event::Completion;
use super::executor::Usage;
use crate::store::StoreError;
use crate::store::files::{self, For};
use crate::store::lock::lock_for_a_moment;
use crate::text::chain;

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
    Cell(CellLine),
    /// The last line; a journal without it belongs to a run that is still running or was killed.
    End {
        ended: String,
        seconds: f64,
        executed: usize,
        cached: usize,
        failed: usize,
        skipped: usize,
        interrupted: bool,
        /// What stopped the run itself, such as a store that cannot be written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// How a cell of a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellLine {
    /// Its name.
    pub cell: String,
    /// Its key; none for one that failed before its inputs were known. Earlier versions wrote zeros for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub outcome: CellOutcome,
    /// Why it ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// Wall time.
    pub seconds: f64,
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Bytes of its largest process.
    #[serde(default)]
    pub peak_memory: u64,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl CellLine {
    /// A line about a cell of which nothing else is known; its outcome is to be set.
    pub fn new(cell: String) -> CellLine {
        CellLine {
            cell,
            key: None,
            outcome: CellOutcome::Failed,
            why: Vec::new(),
            seconds: 0.0,
            cpu_seconds: 0.0,
            peak_memory: 0,
            attempts: 0,
            failure: None,
        }
    }

    /// With what its program used.
    pub(super) fn with(self, usage: Usage) -> CellLine {
        CellLine { cpu_seconds: usage.cpu.as_secs_f64(), peak_memory: usage.peak_memory, ..self }
    }
}

/// The ways in which a cell of a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellOutcome {
    Executed,
    UpToDate,
    Shared,
    Failed,
}

impl From<Completion> for CellOutcome {
    fn from(completion: Completion) -> CellOutcome {
        match completion {
            Completion::Executed => CellOutcome::Executed,
            Completion::UpToDate => CellOutcome::UpToDate,
            Completion::Shared => CellOutcome::Shared,
        }
    }
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
            Ok(file) => {
                // Held until the file is closed. A reader that looks for a holder has it for a moment.
                lock_for_a_moment(&file, &path)?;
                Ok(Journal { path, file })
            }
            Err(source) => Err(EngineError::Journal { path, source }),
        }
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Line) -> Result<(), EngineError> {
        let write = || (&self.file).write_all(&seal(serde_json::to_vec(line)?));
        write().map_err(|source| EngineError::Journal { path: self.path.clone(), source })
    }
}

/// A name for a run that starts now: sorts by time, and two at once differ.
pub fn run_name(now: jiff::Timestamp) -> String {
    format!("{}-{}", now.strftime("%Y%m%dT%H%M%S.%3fZ"), std::process::id())
}

/// What encloses the check at the end of a line.
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
    /// Whether its run is still running: something holds its lock. On a network file system, another machine's run is seen
    /// as far as locks are.
    pub running: bool,
    /// What is wrong with it.
    pub damage: Option<String>,
}

/// All journals of `folder`, oldest first. A line that cannot be read is left out: it is damaged, or a later version's. With
/// `mend`, damaged lines are blanked and what is not a journal is moved to `rescued/`, so that they are reported once.
pub fn read_all(folder: &Path, mend: bool) -> Result<Vec<Past>, StoreError> {
    let paths = paths(folder)?;
    let mut all = Vec::with_capacity(paths.len());
    for path in paths {
        let mut past = Past { path, lines: Vec::new(), running: false, damage: None };
        match read(&past.path) {
            Ok(content) => {
                if mend {
                    blank(&past.path, &content.damaged);
                }
                let count = content.damaged.len();
                past.damage = (count > 0).then(|| format!("damaged lines: {count}; left out"));
                (past.lines, past.running) = (content.lines, content.running);
            }
            Err(StoreError::Foreign { what, .. }) if mend => {
                let moved = files::set_aside(folder.parent().unwrap_or(folder), &past.path)?;
                past.damage = Some(format!("{what}, expected a journal; moved to {}", moved.display()));
            }
            Err(StoreError::Foreign { what, .. }) => past.damage = Some(format!("{what}, expected a journal")),
            // One that its owner keeps private.
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => continue,
            Err(error) => past.damage = Some(chain(&error)),
        }
        all.push(past);
    }
    Ok(all)
}

/// The lines of the journals of `folder`, newest first, each read when it is asked for; what cannot be read is left out.
pub fn newest_first(folder: &Path) -> impl Iterator<Item = Vec<Line>> + use<> {
    let paths = paths(folder).unwrap_or_default();
    paths.into_iter().rev().filter_map(|path| Some(read(&path).ok()?.lines))
}

/// The files of journals, oldest first.
fn paths(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(items) => items.filter_map(|item| Some(item.ok()?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(StoreError::Io { verb: "list", path: folder.to_owned(), source }),
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort_unstable();
    Ok(paths)
}

/// Where something is in a file, and its length.
type Span = (usize, usize);

/// What a journal holds.
struct Content {
    /// Its whole lines.
    lines: Vec<Line>,
    /// Where its damaged ones are.
    damaged: Vec<Span>,
    /// Whether its lock is held.
    running: bool,
}

fn read(path: &Path) -> Result<Content, StoreError> {
    let mut bytes = Vec::new();
    let mut running = false;
    if let Some(mut file) = files::open(path, For::Reading)? {
        // Before the lines: a run that ends in between has written its last one. Closing the file releases the lock.
        running = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        file.read_to_end(&mut bytes).map_err(|source| StoreError::Io {
            verb: "read",
            path: path.to_owned(),
            source,
        })?;
    }
    let (lines, mut damaged) = parse(&bytes);
    if lines.is_empty() && !damaged.is_empty() {
        return Err(StoreError::Foreign { path: path.to_owned(), what: "a file without a line of a journal".into() });
    }
    if bytes.last() != Some(&b'\n') && damaged.last().is_none_or(|(at, length)| at + length < bytes.len()) {
        // Of a run that was killed, or cut.
        damaged.push((bytes.len(), 1));
    }
    Ok(Content { lines, damaged, running })
}

/// Overwrites what is damaged with line ends: a run may be appending to the file.
fn blank(path: &Path, damaged: &[Span]) {
    if damaged.is_empty() {
        return;
    }
    if let Ok(Some(file)) = files::open(path, For::Mending) {
        for (at, length) in damaged {
            // What cannot be blanked is reported again.
            let _ = file.write_all_at(&vec![b'\n'; *length], *at as u64);
        }
    }
}

/// As [`read`], of the bytes of a journal.
fn parse(bytes: &[u8]) -> (Vec<Line>, Vec<Span>) {
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
            error: None,
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
        let mut spoilt: Vec<Vec<u8>> = (0..whole.len())
            .map(|at| {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                bytes
            })
            .collect();
        let third = whole.len() / 3;
        spoilt.extend((1..whole.len()).filter(|at| at % third > 0).map(|at| whole[..at].to_vec()));
        spoilt.push([&whole[..], b"{\"event\":\"end\",\"ended\":\"n"].concat());
        for bytes in spoilt {
            std::fs::write(&path, &bytes).unwrap();
            let (found, damage) = read_one(folder.path(), true);
            // A line end costs both lines, and a cut what is behind it.
            assert!(damage.is_some() && found.iter().all(|line| lines.contains(line)));
            assert!(found.len() >= if bytes.len() < whole.len() { bytes.len() / third } else { 1 });
            if path.exists() {
                assert_eq!(read_one(folder.path(), false), (found, None));
            }
        }
    }

    #[test]
    fn a_journal_is_held_as_long_as_its_run_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let running = || read_all(folder.path(), false).unwrap()[0].running;
        let mut journal = Journal::create(folder.path(), "r").unwrap();
        assert!(running() && running());
        journal.write(&end(1)).unwrap();
        assert!(running());
        drop(journal);
        assert!(!running());
    }

    #[test]
    fn cells_of_journals_of_earlier_versions_are_read() {
        let line = |key: &str| {
            format!("{{\"event\":\"cell\",\"cell\":\"a\",{key}\"outcome\":\"up_to_date\",\"seconds\":1.5}}\n")
        };
        let zero = format!("\"key\":\"{}\",", "0".repeat(64));
        let (lines, damaged) = parse(format!("{}{}", line(&zero), line("")).as_bytes());
        let [Line::Cell(old), Line::Cell(new)] = &lines[..] else { panic!("{lines:?}") };
        assert!(damaged.is_empty() && old.outcome == CellOutcome::UpToDate && old.key.is_some());
        assert_eq!((&new.key, new.attempts), (&None, 0));
    }

    #[test]
    fn journals_without_checks_and_what_is_not_a_journal_are_read_and_named() {
        let room = tempfile::tempdir().unwrap();
        let folder = room.path().join("runs");
        std::fs::create_dir(&folder).unwrap();
        assert!(read_all(&folder.join("none"), false).unwrap().is_empty());
        let text = serde_json::to_string(&end(1)).unwrap();
        std::fs::write(folder.join("a.jsonl"), format!("{text}\n{text}\n")).unwrap();
        nix::unistd::mkfifo(&folder.join("b.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("a.jsonl", folder.join("c.jsonl")).unwrap();
        std::fs::write(folder.join("d.jsonl"), "mine\n").unwrap();
        for mend in [false, true] {
            let all = read_all(&folder, mend).unwrap();
            let damage: Vec<_> = all.iter().map(|past| past.damage.as_deref().unwrap_or_default()).collect();
            let expected = ["", "a named pipe, expected", "a link, expected", "a file without a line of a journal"];
            assert!(damage.iter().zip(expected).all(|(found, start)| found.starts_with(start)), "{damage:?}");
            assert_eq!(all[0].lines, [end(1), end(1)]);
        }
        assert_eq!(read_all(&folder, false).unwrap().len(), 1);
        let rescued = room.path().join("rescued/runs-d.jsonl");
        assert_eq!(std::fs::read_to_string(rescued).unwrap(), "mine\n");
    }
}
