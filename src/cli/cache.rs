//! `meanfield cache check`: verifies every byte of the store, and repairs it on request.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::failure::Failure;
use super::project;
use super::{Global, Ui};
use crate::engine::journal::{self, Past};
use crate::store::{Note, check};
use crate::text;

/// Verify and repair the store
///
/// The store is the folder of cached results, `cache` by default.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield cache check")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Verify every byte of the store
    ///
    /// Reads all records and objects, compares them with their digests, and reports what is damaged or foreign. Exit
    /// code 1 if anything is. Cells whose results are damaged run again with the next `run`; nothing else is lost.
    #[command(after_help = "Examples:
  meanfield cache check
  meanfield cache check --repair")]
    Check {
        /// Remove damaged objects, restore lost records from their copies, and move foreign files to `rescued/`
        #[arg(long)]
        repair: bool,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// The store folder of the project in the current folder.
pub fn folder(global: &Global) -> PathBuf {
    global.cache.clone().unwrap_or_else(|| project::root(Path::new("./pipeline.yaml")).join("cache"))
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let Action::Check { repair, json } = args.action;
    let (mut report, store) = check::check(&folder(global), repair)?;
    let mut journals = 0;
    if let Some(store) = &store {
        for Past { path, damage, .. } in journal::read_all(&store.journals(), repair)? {
            journals += 1;
            if let Some(damage) = damage {
                report.found.push(Note { path, what: damage, lost: 0 });
            }
        }
    }
    let check::Report { found, objects, bytes, results } = &report;
    if json {
        let found: Vec<_> = found.iter().map(|note| json!({ "path": note.path, "what": note.what })).collect();
        let document = json!({
            "results": results, "objects": objects, "bytes": bytes, "journals": journals, "found": found,
            "repaired": repair,
        });
        writeln!(ui.out, "{document:#}")?;
    } else {
        for Note { path, what, .. } in found {
            let path = project::from_here(path).display().to_string();
            writeln!(ui.out, "{}: {}", text::escaped(&path), text::escaped(what))?;
        }
        let state = match (found.len(), repair) {
            (0, _) => ui.paint.good("all is well"),
            (_, true) => ui.paint.good("repaired"),
            (_, false) => ui.paint.bad("damaged"),
        };
        writeln!(ui.out, "{state}: {results} results, {objects} objects of {bytes} bytes, {journals} journals")?;
    }
    match found.is_empty() || repair {
        true => Ok(()),
        false => {
            if !json {
                writeln!(
                    ui.out,
                    "`meanfield cache check --repair` repairs this; cells whose results are lost run again"
                )?;
            }
            Err(Failure::Check)
        }
    }
}
