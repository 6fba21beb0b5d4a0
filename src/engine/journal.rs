//! The journal of a run: JSON lines, appended one write a line, read with a torn last line dropped.
//!
//! Enough to answer what ran, why, for how long, with how much memory, how it ended and from which command.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EngineError;

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
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            (&self.file).write_all(&text)
        };
        write().map_err(|source| EngineError::Journal { path: self.path.clone(), source })
    }
}

/// A name for a run that starts now: sorts by time, and two at once differ.
pub fn run_name(now: jiff::Timestamp) -> String {
    format!("{}-{}", now.strftime("%Y%m%dT%H%M%S.%3fZ"), std::process::id())
}

/// All journals of `folder`, oldest first, but for those that their owners keep to themselves. A line that cannot be read is
/// left out: it was torn, or a later version's.
pub fn read_all(folder: &Path) -> std::io::Result<Vec<Vec<Line>>> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(items) => items.filter_map(|item| Some(item.ok()?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort_unstable();
    let read = |path: &PathBuf| -> std::io::Result<Vec<Line>> {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    };
    let others = |read: &std::io::Result<_>| matches!(read, Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied);
    paths.iter().map(read).filter(|read| !others(read)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_a_torn_one_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let end = Line::End {
            ended: "now".into(),
            seconds: 1.0,
            executed: 1,
            cached: 2,
            failed: 0,
            skipped: 0,
            interrupted: false,
        };
        let mut journal = Journal::create(folder.path(), "r").unwrap();
        journal.write(&end).unwrap();
        let mut file = OpenOptions::new().append(true).open(folder.path().join("r.jsonl")).unwrap();
        file.write_all(b"{\"event\":\"end\",\"ended\":\"n").unwrap();
        assert_eq!(read_all(folder.path()).unwrap(), [[end]]);
        assert_eq!(read_all(&folder.path().join("none")).unwrap(), Vec::<Vec<Line>>::new());
    }
}
