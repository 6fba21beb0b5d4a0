//! The executor of this machine: one process group a cell, stopped as a whole.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use wait4::Wait4;

use super::executor::{Executor, Exit, Job, Sign, Stop, Usage};
use super::guard::Guard;
use super::secrets::{End, Secret, mask};

/// Runs programs as children of this process.
#[derive(Debug, Default)]
pub struct Local {
    /// The program, and its first arguments, that ends these children if this process is killed.
    guardian: Option<(PathBuf, Vec<OsString>)>,
    guard: OnceLock<Option<Guard>>,
}

/// A child.
#[derive(Debug)]
pub struct Ticket {
    group: Pid,
    child: Mutex<Child>,
    /// Once true, the group's number may belong to somebody else.
    ended: Mutex<bool>,
    usage: Mutex<Usage>,
    masked: Mutex<Option<Masked>>,
}

/// A log that a thread writes, without the secrets in what the child prints.
#[derive(Debug)]
struct Masked {
    thread: JoinHandle<()>,
    pipe: PipeWriter,
    end: Arc<End>,
}

impl Masked {
    /// Starts the thread.
    fn new(log: File, secrets: Vec<Secret>) -> io::Result<Masked> {
        let (from, pipe) = io::pipe()?;
        let end = Arc::new(End::new());
        let known = end.clone();
        // A log that cannot be written is not worth failing a cell for.
        let masked = move || drop(mask(from, log, &secrets, &known));
        let thread = std::thread::Builder::new().spawn(masked)?;
        Ok(Masked { thread, pipe, end })
    }

    /// Waits until all that the child printed is in the log. What it left running outside of its group may hold the pipe:
    /// its end is no end of the file.
    fn finish(mut self) {
        let _ = self.pipe.write_all(self.end.bytes());
        drop(self.pipe);
        let _ = self.thread.join();
    }
}

impl Local {
    /// Starts `guardian` with the first child; its last argument is the folder below which children start.
    pub fn guarded_by(guardian: (PathBuf, Vec<OsString>)) -> Local {
        Local { guardian: Some(guardian), guard: OnceLock::new() }
    }

    /// The guard of the children, which start in subfolders of `root`.
    fn guard(&self, root: &Path) -> Option<&Guard> {
        let start = || match Guard::start(self.guardian.as_ref()?, root) {
            Ok(guard) => Some(guard),
            Err(error) => {
                tracing::warn!("commands would outlive this process if it were killed: {error}");
                None
            }
        };
        self.guard.get_or_init(start).as_ref()
    }
}

impl Executor for Local {
    type Ticket = Ticket;

    fn submit(&self, job: &Job) -> io::Result<Ticket> {
        let guard = self.guard(job.folder.parent().unwrap_or(&job.folder));
        let log = File::options().create(true).append(true).mode(0o600).open(&job.log)?;
        let (log, masked) = match job.secrets.is_empty() {
            true => (OwnedFd::from(log), None),
            false => {
                let masked = Masked::new(log, job.secrets.iter().map(|(_, secret)| secret.clone()).collect())?;
                (masked.pipe.try_clone()?.into(), Some(masked))
            }
        };
        let output = if job.reports { Stdio::piped() } else { Stdio::from(log.try_clone()?) };
        let child = Command::new(&job.program)
            .args(&job.arguments)
            .env_clear()
            .envs(job.secrets.iter().map(|(name, secret)| (name, secret.value())))
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&job.folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let group = Pid::from_raw(child.id().cast_signed());
        if let Some(guard) = guard {
            guard.started(group);
        }
        let (child, masked) = (Mutex::new(child), Mutex::new(masked));
        Ok(Ticket { group, child, ended: Mutex::new(false), usage: Mutex::default(), masked })
    }

    fn wait(&self, ticket: &Ticket, sign: &mut dyn FnMut(Sign)) -> io::Result<Exit> {
        let mut child = ticket.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // A line that is not a report is not worth failing a cell for.
                if let Ok(report) = serde_json::from_str(&line) {
                    sign(Sign::Progress(report));
                }
            }
        }
        // Until it is reaped, its group's number cannot go to somebody else: see it end, stop what it left running in
        // its group, close the door for late cancels, and only then reap it.
        let ending = wait_for_end(ticket.group, sign);
        {
            let mut ended = ticket.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = killpg(ticket.group, Signal::SIGKILL);
            *ended = true;
        }
        if let Some(guard) = self.guard.get().and_then(Option::as_ref) {
            guard.ended(ticket.group);
        }
        if let Some(masked) = ticket.masked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            masked.finish();
        }
        let asked = ending?;
        let ended = child.wait4()?;
        *ticket.usage.lock().unwrap_or_else(PoisonError::into_inner) =
            Usage { cpu: ended.rusage.utime + ended.rusage.stime, peak_memory: ended.rusage.maxrss };
        Ok(match (asked, ended.status.code(), ended.status.signal()) {
            (Some(signal), ..) => Exit::Signal(signal as i32),
            (None, Some(code), _) => Exit::Code(code),
            (None, None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }

    fn cancel(&self, ticket: &Ticket, how: Stop) {
        let ended = ticket.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            let signal = if how == Stop::Ask { Signal::SIGTERM } else { Signal::SIGKILL };
            let _ = killpg(ticket.group, signal);
            // One that is stopped would not see it.
            let _ = killpg(ticket.group, Signal::SIGCONT);
        }
    }

    fn collect(&self, ticket: &Ticket) -> Usage {
        *ticket.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the first process of `group` has ended, and says when it is stopped. One that is stopped for reading from a
/// terminal, or for its settings, would be so for ever, since no cell is in the foreground: it is killed, and that signal returned.
fn wait_for_end(group: Pid, sign: &mut dyn FnMut(Sign)) -> io::Result<Option<Signal>> {
    let mut asked = None;
    loop {
        let changes = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(group), changes) {
            Ok(WaitStatus::Stopped(_, signal)) => {
                // The change of state is taken note of; the process stays.
                let _ = waitid(Id::Pid(group), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
                if matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU) {
                    asked = Some(signal);
                    let _ = killpg(group, Signal::SIGKILL);
                } else {
                    sign(Sign::Stopped(signal.as_str()));
                }
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(asked),
        }
    }
}
