//! `meanfield run`: runs what is not up to date and prints the tables.

use std::collections::HashMap;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::json;
use signal_hook::consts::SIGINT;

use super::failure::Failure;
use super::progress::Watcher;
use super::project::{Project, Target, from_here};
use super::signals::Signals;
use super::{Global, Ui, plan};
use crate::engine::fingerprint::hidden;
use crate::engine::journal::{self, Journal, Line};
use crate::engine::local::Local;
use crate::engine::outcome::{Options, Outcome, Summary};
use crate::engine::plan::{Decision, Plan};
use crate::engine::resources::Capacities;
use crate::engine::run;
use crate::engine::secrets;
use crate::pipeline::model::{CellId, Pipeline, Source};
use crate::report::TEXT;
use crate::report::text::Style;
use crate::stage;
use crate::store::Artifact;

/// Run what is not up to date and print the tables
///
/// Executes every selected cell without a cached result, and the cells that it needs, several at once in dependency
/// order. Finished cells are cached by the content of their inputs, so a run that was interrupted or killed resumes
/// where it ended: run the same command again. Progress goes to standard error, the tables of report stages to standard
/// output. Exit code 0: everything is up to date; 1: a cell failed; 2: the pipeline or the command line is wrong, and
/// nothing ran.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield run quickstart
  meanfield run quickstart 'scores[dataset=glyphs,seed=0..2]' -j 2
  meanfield run quickstart --set params.epochs=2 --set axes.seed=[0]")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Number of cells to run at once [default: the number of cores]
    #[arg(long, short, value_name = "N", env = "MEANFIELD_JOBS", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Print the plan, as `meanfield plan` does, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Run the selected cells even if they are up to date
    #[arg(long)]
    force: bool,
    /// Keep running cells that do not depend on a failed cell (the default)
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Start no further cells after the first failure
    #[arg(long)]
    fail_fast: bool,
    /// Available amount of a resource, such as gpu=2, memory=16GiB or licence=1 (repeatable)
    #[arg(long = "resource", value_name = "NAME=AMOUNT")]
    resources: Vec<String>,
    /// Print a summary as one JSON document instead of the tables
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let start = Instant::now();
    let project = Project::open(&args.target, global)?;
    let plan = project.plan(args.force)?;
    if args.dry_run {
        return plan::print(&project, &plan, args.json, ui);
    }
    refuse_blocked(&project, &plan)?;
    refuse_without_secrets(&project, &plan)?;
    let capacities = capacities(&project, &args.resources)?;
    capacities.check(&project.pipeline)?;

    let now = jiff::Timestamp::now();
    let name = journal::run_name(now);
    let signals = Signals::watch()?;
    let jobs = args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let jobs = jobs.min(most_at_once());
    let program = super::this_program()?;
    let options = Options {
        jobs,
        fail_fast: args.fail_fast,
        capacities: &capacities,
        reports: &project.reports,
        kind_program: (program.clone(), vec!["stage".into()]),
        interrupts: &signals.count,
        run: &name,
        start,
    };
    let quiet = ui.quiet || args.json;
    let mut watcher = Watcher::new(&project, &plan, (jobs, &capacities), (quiet, ui.notes), &ui.screen);
    watcher.replaced();
    let local = Local::guarded_by((program, vec!["guard".into()]));
    let mut journal = Journal::create(&project.store.journals(), &name)?;
    journal.write(&Line::Run {
        run: name.clone(),
        started: now.to_string(),
        pipeline: project.pipeline.name.clone(),
        file: project.pipeline.file.clone(),
        command: command(&project.pipeline),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format: journal::FORMAT.to_owned(),
    })?;
    let result = run::run(&project.context(), &plan, &options, &local, &mut journal, &mut watcher);
    drop(local);
    watcher.close();
    let Outcome { summary, outputs } = result?;
    signals.leave();
    watcher.summary(&summary);

    let printed = if args.json {
        let document = json!({ "run": name, "summary": summary, "failures": watcher.failures() });
        writeln!(ui.out, "{document:#}").map_err(Failure::from)
    } else {
        print_tables(&project, &plan, &outputs, ui)
    };
    // A failed cell takes precedence over a failure to print.
    outcome(&summary, &signals)?;
    printed
}

fn outcome(summary: &Summary, signals: &Signals) -> Result<(), Failure> {
    if summary.interrupted {
        Err(Failure::Interrupted { signal: signals.first().unwrap_or(SIGINT) })
    } else if summary.failed > 0 || summary.unpublished > 0 {
        Err(Failure::Cells)
    } else {
        Ok(())
    }
}

/// Input files that cannot be read, or that belong to another network, are errors of the pipeline: nothing runs.
fn refuse_blocked(project: &Project, plan: &Plan) -> Result<(), Failure> {
    let mut blocked = plan.cells().filter_map(|(cell, decision)| match decision {
        Decision::Blocked { message } => Some((cell, message)),
        _ => None,
    });
    let Some((cell, message)) = blocked.next() else { return Ok(()) };
    let more = blocked.count();
    let tail = if more == 0 { String::new() } else { format!(", and {more} more cells cannot run") };
    let message = format!("{}: {message}{tail}", project.pipeline.cell_name(cell));
    let hint = "correct the input, or its path below `in:`; nothing has been run";
    let mut inputs = project.pipeline.cells[cell].inputs.iter();
    match inputs.any(|input| matches!(&input.source, Source::Path(path) if !path.exists())) {
        true => Err(Failure::usage(message, hint)),
        false => Err(Failure::hinted(message, Some(hint.to_owned()))),
    }
}

/// A missing secret is an error of the command: nothing runs.
fn refuse_without_secrets(project: &Project, plan: &Plan) -> Result<(), Failure> {
    let missing = secrets::missing(&project.pipeline, plan);
    let Some((first, cell)) = missing.first() else { return Ok(()) };
    let others: Vec<&str> = missing[1..].iter().map(|(name, _)| &**name).collect();
    let also = if others.is_empty() { String::new() } else { format!("; {} not either", others.join(", ")) };
    let stage = &project.pipeline.stage_of(*cell).name;
    Err(Failure::usage(
        format!("stage `{stage}` needs the secret {first}, and no such variable is set{also}"),
        format!("export {first} with its value and run again; nothing has been run"),
    ))
}

/// The command line for the journal. A `--set` value that is also in the `env` of a stage may be a password and is hidden.
fn command(pipeline: &Pipeline) -> Vec<String> {
    // Shorter values, such as numbers, occur in variables by chance.
    const SHORTEST_SECRET: usize = 4;
    let holds = |value: &str| {
        let mut held = pipeline.cells.iter().flat_map(|cell| cell.env.values());
        !value.is_empty() && held.any(|held| held == value || value.len() >= SHORTEST_SECRET && held.contains(value))
    };
    let mut after_set = false;
    let shown = |word: String| {
        let set = std::mem::replace(&mut after_set, word == "--set") || word.starts_with("--set=");
        let assigned = word.strip_prefix("--set=").unwrap_or(&word);
        match assigned.split_once('=') {
            Some((_, value)) if set && holds(value.trim_matches(['"', '\''])) => {
                format!("{}{}", &word[..word.len() - value.len()], hidden(value))
            }
            _ => word,
        }
    };
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).map(shown).collect()
}

/// This machine's resources, overridden by the pipeline and then by the command line.
fn capacities(project: &Project, words: &[String]) -> Result<Capacities, Failure> {
    let mut capacities = Capacities::of_this_machine();
    capacities.0.extend(project.pipeline.resources.clone());
    for word in words {
        let amount = word.split_once('=').and_then(|(name, amount)| {
            let amount = if name == "memory" { parse_size::parse_size(amount).ok() } else { amount.parse().ok() };
            Some((name.to_owned(), amount?))
        });
        let Some((name, amount)) = amount else {
            return Err(Failure::usage(
                format!("--resource {word}: expected NAME=AMOUNT"),
                "for example: --resource gpu=2 --resource memory=16GiB",
            ));
        };
        capacities.0.insert(name, amount);
    }
    Ok(capacities)
}

/// How many cells can run within the limit of open files: each holds a lock, a log and pipes, and lists folders.
fn most_at_once() -> usize {
    const OURS: u64 = 16;
    const EACH: u64 = 8;
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(limit.saturating_sub(OURS) / EACH).unwrap_or(usize::MAX).max(1)
}

/// Prints the tables of the report stages that have a result.
fn print_tables(
    project: &Project,
    plan: &Plan,
    fresh: &HashMap<CellId, Vec<Artifact>>,
    ui: &mut Ui<'_>,
) -> Result<(), Failure> {
    let style = Style { ansi: ui.paint.on(), width: ui.width() };
    for (cell, decision) in plan.cells().filter(|(cell, _)| stage::makes_tables(&project.pipeline, *cell)) {
        let outputs = match decision {
            Decision::Cached { outputs, .. } => outputs,
            _ => match fresh.get(&cell) {
                Some(outputs) => outputs,
                None => continue,
            },
        };
        let text = stage::render_table(&project.store, outputs, TEXT, style)?;
        writeln!(ui.out, "{}", String::from_utf8_lossy(&text).trim_end())?;
        let published = project.pipeline.cells[cell].outputs.iter().find_map(|o| o.publish.as_ref());
        if let Some(path) = published.filter(|_| !ui.quiet) {
            let page = project.reports.join(path).join("index.html");
            writeln!(ui.out, "\n{} {}\n", ui.paint.faint("page:"), from_here(&page).display())?;
        }
    }
    Ok(())
}
