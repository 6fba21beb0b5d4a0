//! `meanfield plan`: what `run` would do, cell by cell, with the reason.

use serde_json::{Value, json};

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::plan::{Decision, Plan};
use crate::pipeline::model::CellId;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Plan to run the selected cells even if they are up to date
    #[arg(long)]
    force: bool,
    /// Print one JSON document, with the cells that are up to date
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let plan = project.plan(args.force)?;
    print(&project, &plan, args.json, ui)?;
    project.close()
}

/// Prints `plan`.
pub fn print(project: &Project, plan: &Plan, as_json: bool, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let counts = plan.counts();
    if as_json {
        let cells: Vec<Value> = plan.cells().map(|(cell, decision)| describe(project, cell, decision)).collect();
        let document = json!({ "pipeline": project.pipeline.name, "counts": counts, "cells": cells });
        return Ok(writeln!(ui.out, "{document:#}")?);
    }
    for (cell, decision) in plan.cells() {
        let name = project.pipeline.cell_name(cell);
        match decision {
            Decision::Cached { .. } => {}
            Decision::Run { reason, .. } => {
                let why = reason.lines().join("; ");
                writeln!(ui.out, "{}  {name}  {}", ui.paint.busy("run"), ui.paint.faint(why))?;
            }
            Decision::May { upstream } => {
                let why = waits_for(project, upstream);
                writeln!(ui.out, "{}  {name}  {}", ui.paint.notice("may"), ui.paint.faint(why))?;
            }
            Decision::Blocked { message } => writeln!(ui.out, "{}   {name}  {message}", ui.paint.bad("no"))?,
        }
    }
    let mut parts = vec![format!("{} up to date", counts.cached)];
    for (count, words) in [(counts.run, "to run"), (counts.may, "that may run"), (counts.blocked, "that cannot run")] {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    writeln!(ui.out, "{}: {}", project.pipeline.name, parts.join(", "))?;
    Ok(())
}

/// Half a sentence: whose outcome a cell waits for.
pub fn waits_for(project: &Project, upstream: &[CellId]) -> String {
    let first = upstream.first().map(|&cell| project.pipeline.cell_name(cell)).unwrap_or_default();
    match upstream.len() {
        0 | 1 => format!("unless {first} comes out the same"),
        n => format!("unless {first} and {} more come out the same", n - 1),
    }
}

/// A cell and its decision as JSON.
pub fn describe(project: &Project, cell: CellId, decision: &Decision) -> Value {
    let name = project.pipeline.cell_name(cell);
    let stage = &*project.pipeline.stage_of(cell).name;
    match decision {
        Decision::Cached { key, .. } => {
            json!({ "cell": name, "stage": stage, "decision": "cached", "key": key.to_string() })
        }
        Decision::Run { key, reason } => {
            json!({ "cell": name, "stage": stage, "decision": "run", "key": key.to_string(), "why": reason.lines() })
        }
        Decision::May { upstream } => {
            let names: Vec<String> = upstream.iter().map(|&cell| project.pipeline.cell_name(cell)).collect();
            json!({ "cell": name, "stage": stage, "decision": "may", "upstream": names })
        }
        Decision::Blocked { message } => {
            json!({ "cell": name, "stage": stage, "decision": "blocked", "message": message })
        }
    }
}
