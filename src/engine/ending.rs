//! How a command ended, for people: what its exit code means, the end of its log, whether the disk is full.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;

use super::executor::{Exit, Usage};
use crate::text;

/// Less than this many free bytes is a full disk: a write of any size fails.
const FULL: u64 = 256 * 1024;

/// How many lines of a log are shown, and how many characters of each.
const LINES: usize = 12;
const WIDTH: usize = 600;

/// What an exit other than 0 means, in one sentence; `tail` are the last lines of the log.
pub(super) fn describe(exit: Exit, usage: Usage, tail: &[String]) -> String {
    match exit {
        Exit::Signal(number) => format!("killed by {}{}", signal_name(number), hint(number, usage)),
        Exit::Code(code @ 126) => match blamed(tail, &["Permission denied", "cannot execute", "Exec format error"]) {
            Some(program) => format!("exited with code {code}: `{program}` cannot be executed"),
            None => format!("exited with code {code}: a program cannot be executed"),
        },
        Exit::Code(code @ 127) => match blamed(tail, &["not found", "No such file or directory"]) {
            Some(program) if program.contains(' ') => {
                format!(
                    "exited with code {code}: `{program}` was not found; a value is one word, `${{...:raw}}` makes it several"
                )
            }
            Some(program) => format!("exited with code {code}: `{program}` was not found"),
            None => format!("exited with code {code}: a program was not found"),
        },
        Exit::Code(code) => match Signal::try_from(code - 128) {
            Ok(signal) if code > 128 => format!(
                "exited with code {code}: a program that it ran was killed by {}{}",
                signal.as_str(),
                hint(code - 128, usage)
            ),
            _ => format!("exited with code {code}"),
        },
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// Half a sentence about the usual cause of a signal.
fn hint(number: i32, usage: Usage) -> String {
    let why = match Signal::try_from(number) {
        Ok(Signal::SIGKILL) => {
            // A process counts what this one had when it was forked; a peak no higher than ours says nothing of it.
            let ours = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().max(0) as u64 * 1024);
            let peak = usage.peak_memory as f64 / f64::from(1 << 20);
            return match usage.peak_memory > ours {
                true => format!(", often because memory ran out (its largest process had {peak:.0} MiB at its peak)"),
                false => ", often because memory ran out".to_owned(),
            };
        }
        Ok(Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGILL | Signal::SIGFPE) => "it crashed",
        Ok(Signal::SIGABRT) => "it gave up by itself, often after an assertion",
        Ok(Signal::SIGPIPE) => {
            "it wrote to a pipe whose reader had ended, as `yes | head -1` does; read all, or let it end well: `{ yes || true; } | head -1`"
        }
        Ok(Signal::SIGINT) => "it was interrupted",
        Ok(Signal::SIGTERM) => "it was asked to stop",
        Ok(Signal::SIGXCPU) => "its limit of processor time",
        Ok(Signal::SIGTTIN | Signal::SIGTTOU) => {
            "it asked for a terminal, which cells do not have; give it what it asks for by `env:` or an input"
        }
        Ok(Signal::SIGXFSZ) => "a file grew over its limit",
        _ => return String::new(),
    };
    format!(": {why}")
}

/// The program that a shell's last complaint of this sort names: `sh: line 1: NAME: not found`.
fn blamed<'a>(tail: &'a [String], complaints: &[&str]) -> Option<&'a str> {
    tail.iter().rev().find_map(|line| {
        let (before, complaint) = line.rsplit_once(": ")?;
        let before = match complaints.iter().any(|known| complaint.contains(known)) {
            true => before,
            false => return None,
        };
        let name = before.rsplit_once(": ").map_or(before, |(_, name)| name);
        (!name.is_empty()).then_some(name)
    })
}

/// The last lines of a log as a terminal would show them; the log itself keeps every byte.
pub(super) fn tail(path: &Path) -> Vec<String> {
    const BYTES: u64 = 64 * 1024;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text.split('\n').map(|line| cut(&text::settled(line))).collect();
    while lines.last().is_some_and(|line| line.trim().is_empty()) {
        lines.pop();
    }
    lines.split_off(lines.len().saturating_sub(LINES))
}

/// A line of bearable length: its begin and its end.
fn cut(line: &str) -> String {
    let count = line.chars().count();
    if count <= WIDTH {
        return line.to_owned();
    }
    let begin: String = line.chars().take(WIDTH / 2).collect();
    let end: String = line.chars().skip(count - WIDTH / 2).collect();
    format!("{begin} ... {} more characters ... {end}", count - WIDTH / 2 * 2)
}

/// What to do about a full disk.
pub(super) const ROOM: &str = "free some space, or keep the store elsewhere with --cache";

/// The room on the disk of a folder, as far as it explains failures.
#[derive(Debug)]
pub(super) struct Room {
    folder: PathBuf,
    /// When a cell last ended on a full disk, and what the disk lacked then: what that cell leaves behind is removed, and a cell
    /// that failed at the same time may be looked at after that.
    lacked: Mutex<Option<(Instant, String)>>,
}

impl Room {
    /// The room on the disk of `folder`.
    pub(super) fn of(folder: PathBuf) -> Room {
        Room { folder, lacked: Mutex::default() }
    }

    /// Half a sentence where the disk is full, or was so at some time since `start`, when the command started.
    pub(super) fn lack(&self, start: Instant) -> Option<String> {
        // A folder that has no room to be made is on the disk of the one above it.
        let folder = self.folder.ancestors().find(|folder| folder.is_dir())?;
        let disk = statvfs(folder).ok()?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let full = match (free < FULL, disk.files() > 0 && disk.files_available() == 0) {
            (true, _) => Some(format!("{free} bytes left")),
            (_, true) => Some("no inodes left, and can take no more files".to_owned()),
            _ => None,
        };
        let mut lacked = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        let (verb, what) = match full {
            Some(what) => {
                *lacked = Some((Instant::now(), what.clone()));
                ("has", what)
            }
            None => ("had", lacked.as_ref().filter(|(then, _)| *then >= start)?.1.clone()),
        };
        Some(format!("the disk of the store ({}) {verb} {what}", folder.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(code: i32, tail: &str) -> String {
        let usage = Usage { peak_memory: 3 << 30, ..Usage::default() };
        describe(Exit::Code(code), usage, &tail.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn exit_codes_are_explained() {
        for (code, tail, part) in [
            (137, "", "SIGKILL, often because memory ran out (its largest process had 3072 MiB"),
            (139, "", "SIGSEGV: it crashed"),
            (141, "", "SIGPIPE: it wrote to a pipe"),
            (143, "", "SIGTERM"),
            (130, "", "SIGINT"),
            (127, "bash: line 1: trian: command not found", "`trian` was not found"),
            (127, "/bin/sh: 1: trian: not found", "`trian` was not found"),
            (126, "bash: line 1: ./x: Permission denied", "`./x` cannot be executed"),
            (127, "", "a program was not found"),
        ] {
            assert!(described(code, tail).contains(part), "{}", described(code, tail));
        }
        for code in [1, 2, 128, 193, 255] {
            assert_eq!(described(code, ""), format!("exited with code {code}"));
        }
        assert!(describe(Exit::Signal(9), Usage::default(), &[]).contains("SIGKILL, often because memory"));
    }

    #[test]
    fn the_end_of_a_log_is_what_a_terminal_would_show_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let long = "x".repeat(100_000);
        std::fs::write(&log, format!("\x1b[31mred\x1b[0m\n 1%\r 50%\r100%\r\n{long}\n\n\n")).unwrap();
        let lines = tail(&log);
        assert_eq!(&lines[lines.len() - 1][..5], "xxxxx");
        assert!(lines.iter().all(|line| line.chars().count() < WIDTH + 60));
        std::fs::write(&log, "\x1b[31mred\x1b[0m \x1b]0;title\x07\n 1%\r 50%\r100%\r\nbell\x07\n".as_bytes()).unwrap();
        assert_eq!(tail(&log), ["red ", "100%", "bell"]);
        std::fs::write(&log, "").unwrap();
        assert_eq!(tail(&log), Vec::<String>::new());
    }
}
