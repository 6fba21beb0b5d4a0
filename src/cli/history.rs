//! `meanfield history`: past runs, newest last; a polars query over the journals.

use polars::prelude::*;
use serde_json::{Value, json};

use super::cache;
use super::failure::Failure;
use super::{Global, Ui};
use crate::engine::journal::{self, Line, Past};
use crate::text::escaped;

/// List past runs
///
/// Prints one line per run of this project, newest last: when it started, its pipeline, how many cells it executed,
/// found cached and failed, how it ended, how long it took, and its command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield history
  meanfield history quickstart --limit 5 --json")]
pub struct Args {
    /// Number of runs to show
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    limit: u32,
    /// Show only runs of this pipeline
    #[arg(value_name = "PIPELINE")]
    pipeline: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, ui: &mut Ui<'_>) -> Result<(), Failure> {
    let cache = cache::folder(global);
    let store = crate::store::Store::open(&cache)?;
    let journals = journal::read_all(&store.journals(), false)?;
    for Past { path, damage, .. } in &journals {
        if let Some(damage) = damage {
            tracing::warn!("{}: {damage}; `meanfield cache check --repair` looks for more", path.display());
        }
    }
    let table = runs(&journals).map_err(|error| Failure::broken(error.to_string()))?;
    let table = query(table, args).map_err(|error| Failure::broken(error.to_string()))?;
    let rows = rows(&table).map_err(|error| Failure::broken(error.to_string()))?;
    if args.json {
        return Ok(writeln!(ui.out, "{:#}", json!({ "runs": rows }))?);
    }
    if rows.is_empty() {
        return Ok(writeln!(ui.out, "no runs yet below {}", cache.display())?);
    }
    let heading = format!(
        "{:<19}  {:<20}  {:>8}  {:>8}  {:>6}  {:>7}  {:>9}  command",
        "started", "pipeline", "executed", "cached", "failed", "state", "seconds"
    );
    writeln!(ui.out, "{}", ui.paint.strong(heading))?;
    for row in &rows {
        let text = |name: &str| escaped(row[name].as_str().unwrap_or_default()).into_owned();
        let number = |name: &str| row[name].as_u64().map_or("?".to_owned(), |n| n.to_string());
        let seconds = row["seconds"].as_f64().map_or("?".to_owned(), |s| format!("{s:.1}"));
        writeln!(
            ui.out,
            "{:<19}  {:<20}  {:>8}  {:>8}  {:>6}  {:>7}  {:>9}  {}",
            local_time(&text("started")),
            text("pipeline"),
            number("executed"),
            number("cached"),
            number("failed"),
            text("state"),
            seconds,
            ui.paint.faint(text("command"))
        )?;
    }
    Ok(())
}

/// One row per run, in the order of the journals.
fn runs(journals: &[Past]) -> PolarsResult<DataFrame> {
    let mut started = Vec::new();
    let mut pipelines = Vec::new();
    let mut commands = Vec::new();
    let mut states = Vec::new();
    let mut errors = Vec::new();
    let mut numbers: [Vec<Option<u64>>; 3] = Default::default();
    let mut seconds = Vec::new();
    for Past { lines: journal, running, .. } in journals {
        let Some(Line::Run { started: start, pipeline, command, .. }) = journal.first() else { continue };
        started.push(start.clone());
        pipelines.push(pipeline.clone());
        commands.push(command.get(1..).unwrap_or_default().join(" "));
        let end = journal.iter().rev().find_map(|line| match line {
            Line::End { seconds, executed, cached, failed, interrupted, error, .. } => {
                Some((*seconds, [*executed, *cached, *failed], *interrupted, error.clone()))
            }
            _ => None,
        });
        states.push(match &end {
            None if *running => "running",
            None => "killed",
            Some((_, _, true, _)) => "stopped",
            Some((_, [_, _, 0], _, None)) => "ok",
            Some(_) => "failed",
        });
        errors.push(end.as_ref().and_then(|(.., error)| error.clone()));
        seconds.push(end.as_ref().map(|(seconds, ..)| *seconds));
        for (i, column) in numbers.iter_mut().enumerate() {
            column.push(end.as_ref().map(|(_, counts, ..)| counts[i] as u64));
        }
    }
    let [executed, cached, failed] = numbers;
    df!(
        "started" => started, "pipeline" => pipelines, "state" => states, "executed" => executed,
        "cached" => cached, "failed" => failed, "seconds" => seconds, "error" => errors, "command" => commands
    )
}

fn query(table: DataFrame, args: &Args) -> PolarsResult<DataFrame> {
    let mut lazy = table.lazy();
    if let Some(pipeline) = &args.pipeline {
        lazy = lazy.filter(col("pipeline").eq(lit(pipeline.clone())));
    }
    lazy.tail(args.limit).collect()
}

fn rows(table: &DataFrame) -> PolarsResult<Vec<Value>> {
    let text = |name: &str| -> PolarsResult<Vec<Value>> {
        Ok(table.column(name)?.str()?.iter().map(|value| json!(value)).collect())
    };
    let count = |name: &str| -> PolarsResult<Vec<Value>> {
        Ok(table.column(name)?.u64()?.iter().map(|value| json!(value)).collect())
    };
    let columns = [
        ("started", text("started")?),
        ("pipeline", text("pipeline")?),
        ("state", text("state")?),
        ("executed", count("executed")?),
        ("cached", count("cached")?),
        ("failed", count("failed")?),
        ("seconds", table.column("seconds")?.f64()?.iter().map(|value| json!(value)).collect()),
        ("error", text("error")?),
        ("command", text("command")?),
    ];
    let row = |i: usize| {
        Value::Object(columns.iter().map(|(name, values)| ((*name).to_owned(), values[i].clone())).collect())
    };
    Ok((0..table.height()).map(row).collect())
}

fn local_time(rfc3339: &str) -> String {
    let Ok(time) = rfc3339.parse::<jiff::Timestamp>() else { return rfc3339.to_owned() };
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
