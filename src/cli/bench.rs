//! `meanfield loss bench`: time and memory of a loss, compared with the compute-bound lower limit.

use std::io::Write;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::failure::Failure;
use crate::loss::cost::{self, Cost};
use crate::loss::registry::LossSpec;

/// Time the forward and backward pass of losses on random embeddings
///
/// Each loss and size runs in its own process, so that its peak memory can be measured. Embeddings and parameters are
/// standard normal, with four samples per class. The floor is the compute-bound lower limit: the time of the matrix
/// products of a loss (forward, gradient of the embeddings, gradient of the parameters: 6 B C D operations, where C is
/// the number of class vectors, or B for a pair-based loss; `mf_reg > 0` adds C C D) at the rate of a square product
/// measured just before.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield loss bench contrastive proxy_anchor --batch 32,128 --seconds 0.1")]
pub struct Args {
    /// Losses: names, or mappings as in a pipeline, such as '{ kind: soft_triple, centers_per_class: 2 }' [default: all]
    #[arg(value_name = "LOSS")]
    losses: Vec<String>,
    /// Batch sizes, B
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128", value_parser = at_least_one())]
    batch: Vec<u64>,
    /// Numbers of classes, C
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "100", value_parser = at_least_one())]
    classes: Vec<u64>,
    /// Embedding dimensions, D
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512", value_parser = at_least_one())]
    dim: Vec<u64>,
    /// Number of threads [default: the number of cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Minimum seconds per loss and size; at least five repetitions
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn at_least_one() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

/// What one loss took at one size.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    loss: String,
    #[serde(rename = "B")]
    batch: usize,
    #[serde(rename = "C")]
    classes: usize,
    #[serde(rename = "D")]
    dim: usize,
    #[serde(flatten)]
    cost: Cost,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let names = || LossSpec::NAMES.iter().map(|name| (*name).to_owned()).collect();
    let losses: Vec<String> = if args.losses.is_empty() { names() } else { args.losses.clone() };
    let mut cases = Vec::new();
    for loss in &losses {
        spec(loss)?.build::<f32>()?;
        for &batch in &args.batch {
            for &classes in &args.classes {
                cases.extend(args.dim.iter().map(|&dim| (loss, batch, classes, dim)));
            }
        }
    }
    if !args.json {
        heading(out)?;
    }
    let alone = cases.len() == 1;
    let mut rows = Vec::new();
    for (loss, batch, classes, dim) in cases {
        let row = match alone {
            true => measure(loss, [batch, classes, dim].map(|n| n as usize), args)?,
            false => measure_apart(loss, [batch, classes, dim], args)?,
        };
        if !args.json {
            print(&row, out)?;
        }
        rows.push(row);
    }
    if args.json {
        writeln!(out, "{:#}", json!({ "rows": rows }))?;
    }
    Ok(())
}

/// A name, or a mapping as in a pipeline.
fn spec(text: &str) -> Result<LossSpec, Failure> {
    if let Some(spec) = LossSpec::named(text) {
        return Ok(spec);
    }
    if !text.contains('{') {
        return Err(Failure::bad_argument(format!("no loss {text:?}; `meanfield loss list` prints all")));
    }
    serde_yaml::from_str(text).map_err(|error| Failure::bad_argument(format!("loss {text}: {error}")))
}

fn measure_apart(loss: &str, [batch, classes, dim]: [u64; 3], args: &Args) -> Result<Row, Failure> {
    let mut command = Command::new(super::this_program()?);
    command.args(["loss", "bench", loss, "--json", "--seconds", &args.seconds.to_string()]);
    for (flag, value) in [("--batch", batch), ("--classes", classes), ("--dim", dim)] {
        command.args([flag, &value.to_string()]);
    }
    command.args(args.threads.iter().flat_map(|threads| ["--threads".into(), threads.to_string()]));
    let output = command.output()?;
    if !output.status.success() {
        let message = format!("{loss}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return Err(Failure::broken(message));
    }
    #[derive(Deserialize)]
    struct Document {
        rows: Vec<Row>,
    }
    let document: Document = serde_json::from_slice(&output.stdout)?;
    document.rows.into_iter().next().ok_or_else(|| Failure::broken(format!("{loss}: no measurement")))
}

fn measure(text: &str, [batch, classes, dim]: [usize; 3], args: &Args) -> Result<Row, Failure> {
    let spec = spec(text)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build()?;
    let cost = pool.install(|| cost::measure(&spec, [batch, classes, dim], args.seconds))?;
    Ok(Row { loss: text.to_owned(), batch, classes, dim, cost })
}

const WIDTH: usize = 38;

fn heading(out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:WIDTH$} {:>5} {:>6} {:>5} {:>10} {:>10} {:>10} {:>6} {:>8} {:>9}",
        "loss", "B", "C", "D", "median ms", "min ms", "floor ms", "ratio", "MiB", "x BC + CD"
    )
}

fn print(row: &Row, out: &mut dyn Write) -> std::io::Result<()> {
    let cost = &row.cost;
    let cell = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
    writeln!(
        out,
        "{:WIDTH$} {:>5} {:>6} {:>5} {:>10.3} {:>10.3} {:>10.3} {:>6.1} {:>8} {:>9}",
        row.loss,
        row.batch,
        row.classes,
        row.dim,
        cost.median_ms,
        cost.min_ms,
        cost.floor_ms,
        cost.median_ms / cost.floor_ms,
        cell(cost.bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))),
        cell(cost.times_scores_and_parameters),
    )?;
    out.flush()
}
