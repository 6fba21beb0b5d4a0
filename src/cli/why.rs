//! `meanfield why`: the reason behind each cell's state, old value -> new value.

use serde_json::{Value, json};

use super::decision::{heading, to_json, waits_for};
use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::plan::{Decision, Reason};
use crate::pipeline::model::CellId;
use crate::text::escaped;

/// Explain why cells run or are up to date
///
/// For each selected cell, prints the run that made its cached result, or what differs from the last result: each
/// changed parameter, command, environment variable and input with its old and new value. For a changed folder, it names
/// the files that were added, removed or changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield why quickstart table
  meanfield why quickstart 'model[loss=contrastive,seed=0]' --set params.epochs=20")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let mut plan = project.plan(false)?;
    plan.name_files(&project.context());
    let selected: std::collections::HashSet<_> = project.selected.iter().copied().collect();
    let cells = plan.cells().filter(|(cell, _)| selected.contains(cell));
    if args.json {
        let cells: Vec<Value> = cells.map(|(cell, decision)| describe(&project, cell, decision)).collect();
        writeln!(ui.out, "{:#}", json!({ "pipeline": project.pipeline.name, "cells": cells }))?;
        return project.close();
    }
    for (cell, decision) in cells {
        let name = project.pipeline.cell_name(cell);
        match decision {
            Decision::Cached { key, .. } => {
                let origin = project.store.index.origin(key).unwrap_or_default();
                let replicates = match project.store.index.replicates(key) {
                    0 => String::new(),
                    1 => "; a later result differs from it".to_owned(),
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
                if let Reason::Changed { .. } = reason {
                    for line in reason.lines() {
                        writeln!(ui.out, "    {}", escaped(&line))?;
                    }
                }
            }
            Decision::May { upstream } => {
                writeln!(ui.out, "{name}: {}: {}", ui.paint.notice("may run"), waits_for(&project, upstream))?;
            }
            Decision::Blocked { message } => {
                writeln!(ui.out, "{name}: {}: {}", ui.paint.bad("cannot run"), escaped(message))?;
            }
        }
    }
    project.close()
}

/// The decision on a cell, and for one that is up to date where its result comes from.
fn describe(project: &Project, cell: CellId, decision: &Decision) -> Value {
    let mut shown = to_json(project, cell, decision);
    if let Decision::Cached { key, .. } = decision {
        let origin = project.store.index.origin(key).unwrap_or_default();
        shown["run"] = json!(origin.run);
        shown["seconds"] = json!(origin.seconds);
        shown["replicates"] = json!(project.store.index.replicates(key));
    }
    shown
}
