//! `meanfield status`: one line per stage.

use serde_json::{Value, json};

use super::failure::Failure;
use super::project::{Project, Target};
use super::{Global, Ui};
use crate::engine::plan::Counts;

/// Count the cells of each stage that are up to date
///
/// Prints one line per stage: cells that are up to date, will run, may run (if the cells they read produce different
/// outputs) and are blocked (an input file cannot be used).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield status quickstart
  meanfield status quickstart --json")]
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
    let plan = project.plan(false)?;
    let mut stages: Vec<Counts> = vec![Counts::default(); project.pipeline.stages.len()];
    for (cell, decision) in plan.cells() {
        stages[project.pipeline.cells[cell].stage as usize].add(decision);
    }
    let rows = project.pipeline.stages.iter().zip(&stages);
    if args.json {
        let rows: Vec<Value> = rows.map(|(stage, counts)| json!({ "stage": &*stage.name, "counts": counts })).collect();
        let document = json!({ "pipeline": project.pipeline.name, "counts": plan.counts(), "stages": rows });
        writeln!(ui.out, "{document:#}")?;
        return project.close();
    }
    let width = project.pipeline.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0).max(5);
    let heading =
        format!("{:width$}  {:>10}  {:>7}  {:>7}  {:>7}", "stage", "up to date", "to run", "may run", "blocked");
    writeln!(ui.out, "{}", ui.paint.strong(heading))?;
    for (stage, counts) in rows {
        let Counts { cached, run, may, blocked } = counts;
        let line = format!("{:width$}  {cached:>10}  {run:>7}  {may:>7}  {blocked:>7}", stage.name);
        let done = run + may + blocked == 0;
        writeln!(ui.out, "{}", if done { ui.paint.faint(line) } else { line })?;
    }
    project.close()
}
