//! Why a command failed, how that is printed, and its exit code.
//!
//! The library returns errors of its own types. Here alone they get what only a command line has: a kind, which is the exit
//! code, and a hint. The text of an error never repeats that of its source, so the message is the chain of all sources.
//!
//! Exit code 2 means that the pipeline or the command line is wrong, whatever the files hold: an unknown option, stage or
//! loss, a parameter out of range, a file that would be overwritten. Whatever depends on a file exits with 1 and its path: a
//! file that is missing, cannot be read, is damaged, or holds something else than expected. A missing file counts as such
//! even where the command line names it, as in cargo and jj, which keep the code of a usage error for what the arguments
//! show by themselves. A missing pipeline, or a missing file that a pipeline names, makes the pipeline wrong.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;

use super::paint::Paint;
use crate::data::error::DataError;
use crate::engine::EngineError;
use crate::eval::EvalError;
use crate::eval::per_query::WriteError;
use crate::eval::tensors::ExportError;
use crate::eval::vectors::ReadError;
use crate::loss::check::CheckError;
use crate::loss::cost::CostError;
use crate::loss::registry::SpecError;
use crate::nn;
use crate::nn::weights::WeightError;
use crate::pipeline::problem::Problems;
use crate::pipeline::select::SelectError;
use crate::store::StoreError;
use crate::text;
use crate::train::StepError;

type AnyError = Box<dyn Error + Send + Sync>;

/// A failed command.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong.
    Usage(Message),
    /// The pipeline is wrong.
    Pipeline(Box<Problems>),
    /// Cells failed; they have been reported.
    Cells,
    /// A check found what it looks for; it has been printed.
    Check,
    /// A signal ended the run, which has printed its summary.
    Interrupted { signal: i32 },
    /// A file, the engine or the store failed.
    Broken(Message),
    /// Nothing reads standard output any more; there is nothing to print.
    PipeClosed,
}

/// What is printed of a failure.
#[derive(Debug)]
pub struct Message {
    error: AnyError,
    hint: Option<String>,
}

impl Failure {
    /// A wrong command line, and what to do about it.
    pub fn usage(error: impl Into<AnyError>, hint: impl Into<String>) -> Failure {
        Failure::Usage(Message { error: error.into(), hint: Some(hint.into()) })
    }

    /// A wrong command line whose error says what is expected.
    pub fn bad_argument(error: impl Into<AnyError>) -> Failure {
        Failure::Usage(Message { error: error.into(), hint: None })
    }

    /// A failure without a hint.
    pub fn broken(error: impl Into<AnyError>) -> Failure {
        Failure::Broken(Message { error: error.into(), hint: None })
    }

    /// An error in the content of a file that does not name it.
    pub fn in_file(path: &Path, error: impl Into<AnyError>) -> Failure {
        Failure::broken(InFile { path: path.to_owned(), source: error.into() })
    }

    /// A failure, with a hint if there is one.
    pub fn hinted(error: impl Into<AnyError>, hint: Option<String>) -> Failure {
        Failure::Broken(Message { error: error.into(), hint })
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) | Failure::Pipeline(_) => ExitCode::from(2),
            Failure::Cells | Failure::Check | Failure::Broken(_) => ExitCode::from(1),
            Failure::Interrupted { signal } => ExitCode::from(128 + u8::try_from(*signal).unwrap_or(2)),
            Failure::PipeClosed => ExitCode::SUCCESS,
        }
    }

    /// Prints it to standard error. Names in it come from files and arguments: they do not act on the terminal.
    pub fn print(&self, paint: Paint) {
        let mut err = io::stderr().lock();
        // The reader of standard error may be gone.
        let _ = match self {
            Failure::Usage(message) | Failure::Broken(message) => message.print(&mut err, paint),
            Failure::Pipeline(problems) => writeln!(err, "{}", problems.render(paint.on())),
            Failure::Cells | Failure::Check | Failure::Interrupted { .. } | Failure::PipeClosed => Ok(()),
        };
    }
}

impl Message {
    fn print(&self, err: &mut impl Write, paint: Paint) -> io::Result<()> {
        let text = text::chain(&*self.error);
        let lines: Vec<_> = text.split('\n').map(text::escaped).collect();
        writeln!(err, "{}: {}", paint.bad("error"), lines.join("\n"))?;
        match &self.hint {
            Some(hint) => writeln!(err, "{}: {}", paint.busy("help"), text::escaped(hint)),
            None => Ok(()),
        }
    }
}

/// The path of a file whose content is wrong, before what is wrong with it.
#[derive(Debug)]
struct InFile {
    path: PathBuf,
    source: AnyError,
}

impl fmt::Display for InFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Error for InFile {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// Whether a check passed, for commands whose answer is also their exit code.
pub fn verdict(passed: bool) -> Result<(), Failure> {
    if passed { Ok(()) } else { Err(Failure::Check) }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let hint = hint(&error, "the store elsewhere with --cache");
        Failure::hinted(error, hint)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        match error {
            EngineError::Resource { .. } => Failure::bad_argument(error),
            EngineError::Store(error) => error.into(),
            EngineError::Publish { ref source, .. } => {
                let hint = hint(source, "the reports elsewhere with --reports");
                Failure::hinted(error, hint)
            }
            other => {
                let hint = hint(&other, "the store elsewhere with --cache");
                Failure::hinted(other, hint)
            }
        }
    }
}

/// Of writing to standard output; every other I/O error names its path and has a type of its own.
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

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Failure {
        match error {
            EvalError::Recall => Failure::bad_argument(error),
            other => Failure::broken(other),
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        match error {
            ExportError::Extension { .. } => Failure::bad_argument(error),
            other => Failure::broken(other),
        }
    }
}

impl From<nn::Error> for Failure {
    fn from(error: nn::Error) -> Failure {
        match error {
            nn::Error::Architecture { .. } => Failure::bad_argument(error),
            other => Failure::broken(other),
        }
    }
}

/// Errors that come from the arguments alone, and errors that come from files and the machine.
macro_rules! kinds {
    ($($error:ty => $kind:ident),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::$kind(error)
            }
        })*
    };
}

kinds! {
    SelectError => bad_argument,
    SpecError => bad_argument,
    AnyError => broken,
    CheckError => broken,
    CostError => broken,
    DataError => broken,
    ReadError => broken,
    StepError => broken,
    WeightError => broken,
    WriteError => broken,
    rayon::ThreadPoolBuildError => broken,
    serde_json::Error => broken,
}

/// What to do about a store that the system refuses to write.
fn hint(error: &(dyn Error + 'static), keep: &str) -> Option<String> {
    match error.downcast_ref::<StoreError>() {
        Some(StoreError::NotAStore { .. }) => {
            let help = "name another folder with --cache, or move what is in this one away; nothing in it was touched";
            return Some(help.to_owned());
        }
        Some(StoreError::Foreign { .. }) => {
            let help = "nothing in it was touched; `meanfield cache check --repair` moves it to `rescued/` in the store's folder, and rebuilds what belongs there";
            return Some(help.to_owned());
        }
        _ => {}
    }
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let refusal = causes.find_map(|error| error.downcast_ref::<io::Error>())?;
    let help = match refusal.kind() {
        _ if refusal.raw_os_error() == Some(Errno::ENOLCK as i32) => no_locks(keep),
        _ if [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| refusal.raw_os_error() == Some(*errno as i32)) => {
            "let it open more files (ulimit -n), or run fewer cells at once with -j".to_owned()
        }
        io::ErrorKind::Unsupported => no_locks(keep),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("free some space, or keep {keep}; finished cells are cached; run again to resume")
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

/// What a command gave, for tests: whether its check passed, or its message.
#[cfg(test)]
pub fn in_words(result: Result<(), Failure>) -> Result<bool, String> {
    match result {
        Ok(()) => Ok(true),
        Err(Failure::Check) => Ok(false),
        Err(Failure::Usage(message) | Failure::Broken(message)) => Err(text::chain(&*message.error)),
        Err(other) => Err(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(failure: Failure) -> String {
        let (Failure::Usage(message) | Failure::Broken(message)) = failure else { panic!("{failure:?}") };
        let mut text = Vec::new();
        message.print(&mut text, Paint::new(false)).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_message_is_the_chain_of_sources_and_the_hint_is_that_of_the_last() {
        let full = StoreError::Io { verb: "create", path: "out".into(), source: io::ErrorKind::StorageFull.into() };
        let failure = Failure::from(EngineError::Publish { target: "out/a".into(), source: full });
        assert_eq!(
            printed(failure),
            "error: cannot publish out/a: cannot create out: no storage space\nhelp: free some space, or keep the \
             reports elsewhere with --reports; finished cells are cached; run again to resume\n"
        );
        let failure = Failure::in_file(Path::new("cases.json"), EvalError::NoMatch { queries: 3 });
        assert_eq!(
            printed(failure),
            "error: cases.json: none of the 3 queries has another sample of its class to find\n"
        );
    }

    #[test]
    fn no_error_repeats_the_text_of_its_source() {
        for entry in walkdir::WalkDir::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")) {
            let path = entry.unwrap().into_path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for variant in text.split("#[error(").skip(1) {
                let (message, rest) = variant.split_once(")]").unwrap_or((variant, ""));
                let fields = rest.split("///").next().and_then(|rest| rest.split("\n}").next()).unwrap_or_default();
                let named = fields.contains("source:") && message.contains("{source");
                let numbered = ["#[from]", "#[source]"].iter().any(|mark| fields.contains(mark));
                assert!(!(named || numbered && message.contains("{0")), "{}: {message}", path.display());
            }
        }
    }
}
