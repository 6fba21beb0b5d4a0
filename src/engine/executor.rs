//! Where a cell's program runs: four verbs, so that another machine can take the place of this one.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::event::Progress;
use super::secrets::Secret;

/// A program to run for a cell.
#[derive(Debug, Clone)]
pub struct Job {
    /// The file to execute.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment but for the secrets.
    pub environment: Vec<(OsString, OsString)>,
    /// Further variables, whose values its log does not show.
    pub secrets: Vec<(OsString, Secret)>,
    /// The folder it starts in.
    pub folder: PathBuf,
    /// The file that takes what it writes to standard error, and to standard output unless `reports`.
    pub log: PathBuf,
    /// Whether its standard output is a stream of [`Progress`] as JSON lines.
    pub reports: bool,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a program used.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// User and system time of it and of the processes it waited for.
    pub cpu: Duration,
    /// Peak memory of the largest of them, in bytes.
    pub peak_memory: u64,
}

/// What a running program shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Sign {
    /// It reports its progress.
    Progress(Progress),
    /// It was suspended by this signal, until it is continued.
    Stopped(&'static str),
}

/// How hard to stop a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Let it clean up.
    Ask,
    /// At once.
    Kill,
}

/// Somewhere to run programs.
pub trait Executor: Sync {
    /// A submitted program.
    type Ticket: Send + Sync;

    /// Starts a program, in a process group of its own or the equivalent.
    fn submit(&self, job: &Job) -> io::Result<Self::Ticket>;

    /// Waits until it has ended, passing on the signs that it gives.
    fn wait(&self, ticket: &Self::Ticket, sign: &mut dyn FnMut(Sign)) -> io::Result<Exit>;

    /// Stops it with everything that it started.
    fn cancel(&self, ticket: &Self::Ticket, how: Stop);

    /// What an ended program used.
    fn collect(&self, ticket: &Self::Ticket) -> Usage;
}
