//! `meanfield why`: the reason behind each cell's state, old value -> new value.

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui, plan};
use crate::engine::plan::{Decision, Reason};
use crate::text::escaped;

/// Explain why cells run or are up to date
///
/// For each selected cell, prints the run that made its cached result, or what differs from the last result: each
/// changed parameter, command, environment variable and input with its old and new value.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield why quickstart table
  meanfield why quickstart 'model[loss=contrastive,seed=0]' --set params.epochs=20")]
pub struct Args {
    #[command(flatten)]
    target: Target,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let answers = project.plan(false)?;
    let selected: std::collections::HashSet<_> = project.selected.iter().copied().collect();
    for (cell, decision) in answers.cells().filter(|(cell, _)| selected.contains(cell)) {
        let name = project.pipeline.cell_name(cell);
        match decision {
            Decision::Cached { key, .. } => {
                let origin = project.store.index.origin(key).unwrap_or_default();
                let replicates = match project.store.index.replicates(key) {
                    0 => String::new(),
                    n => format!("; {n} later results differ from it"),
                };
                let state = ui.paint.good("up to date");
                writeln!(
                    ui.out,
                    "{name}: {state}: made by run {} in {:.1} s, key {}{replicates}",
                    origin.run,
                    origin.seconds,
                    key.short()
                )?;
            }
            Decision::Run { reason, .. } => {
                writeln!(ui.out, "{name}: {}: {}", ui.paint.busy("will run"), escaped(&heading(reason)))?;
                if let Reason::Changed(changes) = reason {
                    for change in changes {
                        writeln!(ui.out, "    {}", escaped(&change.to_string()))?;
                    }
                }
            }
            Decision::May { upstream } => {
                let reason = plan::waits_for(&project, upstream);
                writeln!(ui.out, "{name}: {}: {reason}", ui.paint.notice("may run"))?;
            }
            Decision::Blocked { message } => {
                writeln!(ui.out, "{name}: {}: {}", ui.paint.bad("cannot run"), escaped(message))?;
            }
        }
    }
    project.close()
}

fn heading(reason: &Reason) -> String {
    match reason {
        Reason::New => "no cell of this name has run before".to_owned(),
        Reason::Changed(changes) if changes.is_empty() => "the way keys are made has changed".to_owned(),
        Reason::Changed(_) => "these changed since it last ran:".to_owned(),
        other => other.lines().join("; "),
    }
}
