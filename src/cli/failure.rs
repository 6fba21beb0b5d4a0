//! Why a command failed, how that is printed, and its exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use nix::errno::Errno;

use super::paint::Paint;
use crate::engine::EngineError;
use crate::pipeline::problem::Problems;
use crate::store::StoreError;
use crate::text;

/// A failed command.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong: one sentence, and a way out.
    Usage { message: String, help: Option<String> },
    /// The pipeline is wrong.
    Pipeline(Box<Problems>),
    /// Cells failed; they have been reported.
    Cells,
    /// A check found what it looks for; it has been printed.
    Check,
    /// A signal ended it; the run has been summed up.
    Interrupted { signal: i32 },
    /// Anything that stops the engine or the store, and a way out if there is a known one.
    Broken { message: String, help: Option<String> },
    /// Whoever read standard output has gone away; nothing to say.
    PipeClosed,
}

impl Failure {
    /// A wrong command line.
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure::Usage { message: message.into(), help: Some(help.into()) }
    }

    /// Something that cannot go on, without a known way out.
    pub fn broken(message: impl Into<String>) -> Failure {
        Failure::Broken { message: message.into(), help: None }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage { .. } | Failure::Pipeline(_) => ExitCode::from(2),
            Failure::Cells | Failure::Check | Failure::Broken { .. } => ExitCode::from(1),
            Failure::Interrupted { signal } => ExitCode::from(128 + u8::try_from(*signal).unwrap_or(2)),
            Failure::PipeClosed => ExitCode::SUCCESS,
        }
    }

    /// Prints it to standard error. Names in it are somebody else's: they do not act on the terminal.
    pub fn print(&self, paint: Paint) {
        let mut err = io::stderr().lock();
        // Whoever read it may have gone away.
        let _ = match self {
            Failure::Usage { message, help } => told(&mut err, paint, message, help.as_deref()),
            Failure::Pipeline(problems) => writeln!(err, "{}", problems.render(paint.on())),
            Failure::Broken { message, help } => told(&mut err, paint, message, help.as_deref()),
            Failure::Cells | Failure::Check | Failure::Interrupted { .. } | Failure::PipeClosed => Ok(()),
        };
    }
}

fn told(err: &mut impl Write, paint: Paint, message: &str, help: Option<&str>) -> io::Result<()> {
    let message: Vec<_> = message.split('\n').map(text::escaped).collect();
    writeln!(err, "{}: {}", paint.bad("error"), message.join("\n"))?;
    match help {
        Some(help) => writeln!(err, "{}: {}", paint.busy("help"), text::escaped(help)),
        None => Ok(()),
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Broken { message: error.to_string(), help: way_out(&error, "the store elsewhere with --cache") }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        match error {
            EngineError::Resource { .. } => Failure::Usage { message: error.to_string(), help: None },
            EngineError::Store(error) => error.into(),
            EngineError::Publish { ref source, .. } => {
                let help = way_out(source, "the reports elsewhere with --reports");
                Failure::Broken { message: error.to_string(), help }
            }
            other => Failure::Broken {
                message: other.to_string(),
                help: way_out(&other, "the store elsewhere with --cache"),
            },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::PipeClosed;
        }
        Failure::broken(format!("cannot write the output: {error}"))
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::Pipeline(Box::new(problems))
    }
}

/// What to do about a store that the system refuses to write.
fn way_out(error: &(dyn std::error::Error + 'static), keep: &str) -> Option<String> {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::NotAStore { .. }) => {
            let help = "name another folder with --cache, or move what is in this one away; nothing in it was touched";
            return Some(help.to_owned());
        }
        Some(StoreError::Foreign { .. }) => {
            let help = "nothing in it was touched; `meanfield cache check --repair` moves it to `rescued/` in the store's folder, and makes anew what belongs there";
            return Some(help.to_owned());
        }
        _ => {}
    }
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let refusal = causes.find_map(|error| error.downcast_ref::<io::Error>())?;
    let help = match refusal.kind() {
        _ if refusal.raw_os_error() == Some(Errno::ENOLCK as i32) => no_locks(keep),
        _ if [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| refusal.raw_os_error() == Some(*errno as i32)) => {
            "let it open more files (ulimit -n), or run fewer cells at once with -j".to_owned()
        }
        io::ErrorKind::Unsupported => no_locks(keep),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("free some space, or keep {keep}; what is done is kept, run again to go on")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "name a folder that you may write to with --cache or --reports".to_owned()
        }
        _ => return None,
    };
    Some(help)
}

fn no_locks(keep: &str) -> String {
    format!("this file system has no file locks, or they are turned off (Lustre has them with -o flock); keep {keep}")
}

/// The result of a command that answers yes or no.
pub fn from_check(result: Result<bool, Box<dyn std::error::Error + Send + Sync>>) -> Result<(), Failure> {
    match result {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Check),
        Err(error) => match error.downcast::<io::Error>() {
            Ok(error) => Err((*error).into()),
            Err(other) => Err(Failure::Usage { message: chain(&*other), help: None }),
        },
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
