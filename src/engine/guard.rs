//! A second process that ends the commands of a run whose own process is gone, however that ended.
//!
//! It reads a pipe that only the run can write to: which process groups have started and ended. The pipe closes with the
//! run's process, also after SIGKILL, and what is left is killed. One such process serves a whole run, so that a cell costs two short
//! writes; a signal on the death of a parent would reach only a command's first process, and would cost each cell a slower
//! start.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The end of a run's process; dropping it ends the other one.
#[derive(Debug)]
pub(super) struct Guard {
    process: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts `program`, which is to call [`watch`] with its standard input, this process's number and `folder`, below which
    /// the commands start.
    pub(super) fn start((program, arguments): &(PathBuf, Vec<OsString>), folder: &Path) -> io::Result<Guard> {
        let mut process = Command::new(program)
            .args(arguments)
            .arg(std::process::id().to_string())
            .arg(folder.canonicalize()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What a terminal sends to the run's group is not for it.
            .process_group(0)
            .spawn()?;
        let pipe = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        // A run does not wait for a guard that was suspended.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Guard { process, pipe })
    }

    /// Notes a group that has started.
    pub(super) fn started(&self, group: Pid) {
        // A run does not fail for want of its guard.
        let _ = (&self.pipe).write_all(format!("+{group}\n").as_bytes());
    }

    /// Forgets a group whose number may soon be that of other processes.
    pub(super) fn ended(&self, group: Pid) {
        let _ = (&self.pipe).write_all(format!("-{group}\n").as_bytes());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Reads `messages` until the process `run`, this one's parent, is gone, then kills the groups that have not ended, and those
/// of its children below `folder` that it had no time to name.
pub fn watch(messages: impl Read, run: u32, folder: &Path) {
    let mut groups = HashSet::new();
    for line in BufReader::with_capacity(1 << 16, Unhurried(messages)).lines().map_while(Result::ok) {
        match (line.get(..1), line.get(1..).and_then(|number| number.parse().ok())) {
            (Some("+"), Some(group)) => drop(groups.insert(group)),
            (Some("-"), Some(group)) => drop(groups.remove(&group)),
            _ => {}
        }
    }
    kill(&groups);
    // Its files are closed a moment before its children get another parent.
    while parent_id() == run {
        std::thread::sleep(Duration::from_millis(1));
    }
    let siblings = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|item| {
        let cwd = fs::read_link(item.path().join("cwd")).ok()?;
        let stat = fs::read_to_string(item.path().join("stat")).ok()?;
        // After the name, which may hold anything: state, parent, group.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(1);
        let (parent, group) = (fields.next()?, fields.next()?);
        (cwd.starts_with(folder) && parent == parent_id().to_string()).then(|| group.parse().ok())?
    });
    kill(&siblings.collect());
}

/// Reads at most every 20 ms what has come until then: two messages a cell are not worth two changes of process each.
struct Unhurried<R>(R);

impl<R: Read> Read for Unhurried<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        if read > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(read)
    }
}

fn kill(groups: &HashSet<i32>) {
    for group in groups.iter().filter(|group| **group > 1) {
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
}
