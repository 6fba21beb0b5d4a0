//! The examples of the command reference, run in the repository.

use crate::space::{Ran, Space};

/// The commands whose examples need nothing but the repository.
const RUNNABLE: [&str; 9] = ["plan", "status", "why", "graph", "show", "history", "cache", "loss", "network"];

#[test]
fn examples_that_need_nothing_but_the_repository_run_there() {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let reference = std::fs::read_to_string(format!("{repository}docs/commands.md")).unwrap();
    let space = Space::new("");
    let mut ran_commands = std::collections::BTreeSet::new();
    // Behind "Examples:" and a blank line, a block of commands.
    let examples = reference.split("Examples:\n\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    for line in examples.flat_map(str::lines) {
        let Some(command) = line.split(' ').nth(1).and_then(|word| RUNNABLE.iter().find(|name| **name == word)) else {
            continue;
        };
        let mut shell = std::process::Command::new("sh");
        let line = line.replacen("meanfield", "\"$0\"", 1);
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_meanfield")]).current_dir(repository);
        shell.env("MEANFIELD_CACHE", space.path("cache")).env("MEANFIELD_REPORTS", space.path("reports"));
        let ran = Ran::from(shell.output().unwrap());
        assert_eq!(ran.code, 0, "{line}: {}", ran.err);
        assert!(!ran.out.is_empty(), "{line} prints nothing");
        ran_commands.insert(*command);
    }
    assert_eq!(ran_commands.len(), RUNNABLE.len(), "{ran_commands:?}");
}
