//! The `meanfield` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    meanfield::cli::main()
}
