//! Which shell reads a command's text: `shell:` of a pipeline, a stage or a definition, else the first that fits.
//!
//! A text runs with `-e` (a failed command ends it), `-u` (an unset variable is an error) and `-o pipefail` (a pipe fails
//! with any of its commands). The words that start the shell enter the key, and so does the digest of its program: what a
//! machine has decides nothing silently.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use super::problem::{Problem, Report, Span};
use super::schema::mismatch;
use super::yaml::{Data, Node};

/// Shells that can be named without arguments, and whether all their versions know `pipefail`.
const KNOWN: [(&str, bool); 7] =
    [("ash", true), ("bash", true), ("dash", false), ("ksh", true), ("mksh", true), ("sh", false), ("zsh", true)];

/// The words that start a shell before its text.
pub(super) type Shell = Arc<[String]>;

fn words(words: &[&str]) -> Shell {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Reads `shell:`: the name of a known shell, or the words of any.
pub(super) fn read(node: &Node, report: &mut Report) -> Option<Shell> {
    let shell = match &node.data {
        Data::Text(name) => {
            let base = name.rsplit('/').next().unwrap_or_default();
            match KNOWN.iter().find(|(known, _)| *known == base) {
                Some((_, true)) => words(&[name, "-euo", "pipefail", "-c"]),
                Some((_, false)) => words(&[name, "-euc"]),
                None => {
                    let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                    let problem = Problem::new("unknown_shell", node.span, format!("`{name}` is not a known shell"));
                    let label = format!("expected one of {}", super::problem::listed(&names));
                    let help = "or give the words that start it: `shell: [python3, -c]`".to_owned();
                    report.add(problem.label(label).help(help));
                    return None;
                }
            }
        }
        Data::List(items) if !items.is_empty() && items.iter().all(|item| item.scalar().is_some()) => {
            items.iter().filter_map(Node::scalar).collect()
        }
        _ => {
            report.add(mismatch(node, "shell", "the name of a shell, or a list of the words that start it"));
            return None;
        }
    };
    if !shell[0].contains('/') && !is_installed(&shell[0]) {
        let problem = Problem::new("missing_shell", node.span, format!("there is no `{}` on PATH", shell[0]));
        report.add(problem.help("install it, or name another shell".to_owned()));
        return None;
    }
    Some(shell)
}

/// The shell of a text that names none: bash, else an `sh` that knows `pipefail`.
pub(super) fn default(span: Span, report: &mut Report) -> Option<Shell> {
    static FOUND: OnceLock<Option<Shell>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let probe = || Command::new("sh").args(["-o", "pipefail", "-c", ":"]).output();
        match is_installed("bash") {
            true => Some(words(&["bash", "-euo", "pipefail", "-c"])),
            false if probe().is_ok_and(|probe| probe.status.success()) => {
                Some(words(&["sh", "-euo", "pipefail", "-c"]))
            }
            false => None,
        }
    });
    if found.is_some() {
        return found.clone();
    }
    let problem = Problem::new("missing_shell", span, "no shell on PATH knows `pipefail`: neither bash nor this `sh`");
    let help = "install bash, or write `shell: sh`: then a pipe counts as good when its last command does".to_owned();
    report.add(problem.help(help));
    None
}

/// Whether its quoting is known, so that values can be made words of it.
pub(super) fn quotes(shell: &[String]) -> bool {
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    let known = |word: &String| KNOWN.iter().any(|(name, _)| *name == base(word));
    match shell {
        [first, second, ..] if base(first) == "busybox" => known(second),
        [first, ..] => known(first),
        [] => false,
    }
}

fn is_installed(name: &str) -> bool {
    find_program(name).is_some()
}

/// The file that a program's name means: the first on `PATH`, or where systems keep their programs if that is not set.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&search).map(|folder| folder.join(name)).find(|path| path.is_file())
}
