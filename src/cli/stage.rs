//! The hidden command behind every cell of a built-in kind: runs one job file and reports progress on standard output.

use std::io::Write;
use std::path::PathBuf;

use super::failure::Failure;
use crate::stage;

/// Arguments of `stage`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job, as JSON
    job: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    // The engine starts it as `/proc/self/exe`, and the process would be called `exe`.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"meanfield");
    // Not the buffered output of `ui`: progress must be sent at once.
    let mut report = |progress: &crate::engine::event::Progress| {
        if let Ok(line) = serde_json::to_string(progress) {
            // The run may have been killed; then this process ends soon.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    };
    Ok(stage::run_job(&args.job, &mut report)?)
}
