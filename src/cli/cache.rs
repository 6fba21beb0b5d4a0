//! `meanfield cache check`: every byte of the store verified, and repaired if asked.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::failure::Failure;
use super::project;
use super::{Global, Ui};
use crate::engine::journal::{self, Past};
use crate::store::{Note, check};
use crate::text;

/// Arguments of `cache`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Read everything in the store and report what is damaged
    Check {
        /// Repair it: damaged objects are removed, what is not the store's is moved to `rescued/`, lost records are
        /// restored from their copies
        #[arg(long)]
        repair: bool,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Where the store of the project in this folder lies.
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
                writeln!(ui.out, "`meanfield cache check --repair` repairs this; what is lost runs again")?;
            }
            Err(Failure::Check)
        }
    }
}
