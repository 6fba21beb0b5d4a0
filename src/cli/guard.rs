//! The hidden command beside every run: kills what the run has started if its process is gone.

use std::path::PathBuf;

use super::failure::Failure;
use crate::engine::guard;

/// Arguments of `guard`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's process. It may be gone before this one can look who its parent is
    run: u32,
    /// The folder below which the run's commands start
    folder: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    // The engine starts the file that it runs itself, whose name in `/proc` says nothing.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"meanfield");
    guard::watch(std::io::stdin(), args.run, &args.folder);
    Ok(())
}
