//! `meanfield plan`: what `run` would do, cell by cell, with the reason.

use std::time::Duration;

use serde_json::{Value, json};

use super::decision::{to_json, waits_for};
use super::failure::Failure;
use super::project::{Project, Target, from_here};
use super::{Global, Ui};
use crate::engine::plan::{Decision, Plan};
use crate::loss::cost::product_rate;
use crate::stage::Works;
use crate::text::escaped;

/// Show what `run` would do, and why
///
/// Lists every selected cell that is not up to date with the reason: new, a changed parameter with its old and new
/// value, a changed input. A cell listed as `may` runs only if the cells it reads produce different outputs. The last
/// lines count the cells and estimate the compute of training and embedding. Nothing is executed or downloaded; only
/// the digests of input files are cached.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield plan quickstart
  meanfield plan quickstart 'model[loss=proxy_anchor]' --set params.epochs=20
  meanfield plan quickstart --json")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Plan to run the selected cells even if they are up to date
    #[arg(long)]
    force: bool,
    /// Print one JSON document that also lists the cells that are up to date
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let project = Project::open(&args.target, global)?;
    let mut plan = project.plan(args.force)?;
    plan.name_files(&project.context());
    print(&project, &plan, args.json, ui)?;
    project.close()
}

/// Prints `plan`.
pub fn print(project: &Project, plan: &Plan, as_json: bool, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let counts = plan.counts();
    let replaced = &project.pipeline.replaced;
    if as_json {
        let cells: Vec<Value> = plan.cells().map(|(cell, decision)| to_json(project, cell, decision)).collect();
        let work = work(project, plan);
        let replaced: Vec<Value> =
            replaced.iter().map(|it| json!({ "definition": it.name, "file": it.file })).collect();
        let document = json!({
            "pipeline": project.pipeline.name, "counts": counts, "operations": work.0, "replaced": replaced, "cells": cells
        });
        return Ok(writeln!(ui.out, "{document:#}")?);
    }
    for (cell, decision) in plan.cells() {
        let name = project.pipeline.cell_name(cell);
        match decision {
            Decision::Cached { .. } => {}
            Decision::Run { reason, .. } => {
                let why = reason.lines().join("; ");
                writeln!(ui.out, "{}  {name}  {}", ui.paint.busy("run"), ui.paint.faint(escaped(&why)))?;
            }
            Decision::May { upstream } => {
                let why = waits_for(project, upstream);
                writeln!(ui.out, "{}  {name}  {}", ui.paint.notice("may"), ui.paint.faint(why))?;
            }
            Decision::Blocked { message } => {
                writeln!(ui.out, "{}   {name}  {}", ui.paint.bad("no"), escaped(message))?;
            }
        }
    }
    for it in replaced {
        let what = format!("{} replaces the built-in `{}`", from_here(&it.file).display(), it.name);
        writeln!(ui.out, "{}", ui.paint.notice(escaped(&what)))?;
    }
    let mut parts = vec![format!("{} up to date", counts.cached)];
    for (count, words) in [(counts.run, "to run"), (counts.may, "that may run"), (counts.blocked, "that cannot run")] {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    writeln!(ui.out, "{}: {}", project.pipeline.name, parts.join(", "))?;
    let (operations, known) = work(project, plan);
    if operations > 0.0 {
        let rate = product_rate();
        let time = Duration::try_from_secs_f64((operations / rate).ceil()).unwrap_or(Duration::MAX);
        let time = humantime::format_duration(time).to_string();
        let time = time.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let (operations, rate) = (scaled(operations), scaled(rate));
        let line = format!(
            "estimated compute: at most {operations}FLOP in {known} cells, at least {time} on this CPU at {rate}FLOP/s"
        );
        writeln!(ui.out, "{}", ui.paint.faint(line))?;
    }
    Ok(())
}

/// Operations of the networks of all cells that run or may run, and how many cells those are.
fn work(project: &Project, plan: &Plan) -> (f64, usize) {
    let mut works = Works::default();
    let ahead = plan.cells().filter(|(_, decision)| matches!(decision, Decision::Run { .. } | Decision::May { .. }));
    let known: Vec<f64> = ahead.filter_map(|(cell, _)| works.operations(&project.pipeline, cell)).collect();
    (known.iter().sum(), known.len())
}

/// A number with the letter of a thousand's power, such as `1.5 T`.
fn scaled(number: f64) -> String {
    let power = (number.log10() / 3.0).floor().clamp(0.0, 7.0);
    format!("{:.1} {}", number / 1000f64.powf(power), ["", "k", "M", "G", "T", "P", "E", "Z"][power as usize])
}
