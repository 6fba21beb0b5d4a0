//! The executor of this machine: one process group a cell, stopped as a whole.

use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use wait4::Wait4;

use super::event::Progress;
use super::executor::{Executor, Exit, Job, Stop, Usage};
use super::secrets::{End, Secret, mask};

/// Runs programs as children of this process.
#[derive(Debug, Default)]
pub struct Local;

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

impl Executor for Local {
    type Ticket = Ticket;

    fn submit(&self, job: &Job) -> io::Result<Ticket> {
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
        let (child, masked) = (Mutex::new(child), Mutex::new(masked));
        Ok(Ticket { group, child, ended: Mutex::new(false), usage: Mutex::default(), masked })
    }

    fn poll(&self, ticket: &Ticket, progress: &mut dyn FnMut(Progress)) -> io::Result<Exit> {
        let mut child = ticket.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).lines() {
                // A line that is not a report is not worth failing a cell for.
                if let Ok(report) = serde_json::from_str(&line?) {
                    progress(report);
                }
            }
        }
        // Until it is reaped, its group's number cannot go to somebody else: see it end, stop what it left running in
        // its group, close the door for late cancels, and only then reap it.
        waitid(Id::Pid(ticket.group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
        {
            let mut ended = ticket.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = killpg(ticket.group, Signal::SIGKILL);
            *ended = true;
        }
        if let Some(masked) = ticket.masked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            masked.finish();
        }
        let ended = child.wait4()?;
        *ticket.usage.lock().unwrap_or_else(PoisonError::into_inner) =
            Usage { cpu: ended.rusage.utime + ended.rusage.stime, peak_memory: ended.rusage.maxrss };
        Ok(match (ended.status.code(), ended.status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }

    fn cancel(&self, ticket: &Ticket, how: Stop) {
        let ended = ticket.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            let signal = if how == Stop::Ask { Signal::SIGTERM } else { Signal::SIGKILL };
            let _ = killpg(ticket.group, signal);
        }
    }

    fn reattach(&self, _id: &str) -> Option<Ticket> {
        None
    }

    fn collect(&self, ticket: &Ticket) -> Usage {
        *ticket.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
