//! The hidden command that watches every run: kills the processes of a run that was killed.

use std::path::PathBuf;

use super::failure::Failure;
use crate::engine::guard;

/// Arguments of `guard`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process ID of the run, which may end before this process can ask for its parent
    run: u32,
    /// Folder below which the run's commands start
    folder: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    // The engine starts it as `/proc/self/exe`, and the process would be called `exe`.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(c"meanfield");
    guard::watch(std::io::stdin(), args.run, &args.folder);
    Ok(())
}
