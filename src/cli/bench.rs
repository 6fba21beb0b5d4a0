//! `meanfield loss bench`: seconds and memory of a loss, beside the arithmetic that it cannot do without.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::random::{Stream, stream};
use crate::loss::real::{Onto, View, product};
use crate::loss::registry::LossSpec;
use crate::loss::{Batch, Gradients};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Time forward and backward of losses on random embeddings.
///
/// Each loss and size runs in a process of its own, so that its memory is its own. Embeddings and parameters are standard
/// normal, four samples a class. The floor is the time of the products that a loss consists of (forward, gradient of the
/// embeddings, gradient of the parameters: 6 B C D operations, C being the rows of its parameters, B for a loss of pairs;
/// with `mf_reg > 0` one triangle of cosines more, C C D) at the rate of a square product measured just before.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Losses: names, or mappings as in a pipeline such as '{ kind: soft_triple, centers_per_class: 2 }' [default: all]
    #[arg(value_name = "LOSS")]
    losses: Vec<String>,
    /// Samples of a batch, B
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "128", value_parser = at_least_one())]
    batch: Vec<u64>,
    /// Classes, C
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "100", value_parser = at_least_one())]
    classes: Vec<u64>,
    /// Length of an embedding, D
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512", value_parser = at_least_one())]
    dim: Vec<u64>,
    /// Threads [default: one a core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Seconds to repeat one loss and size for; at least five repetitions
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
    repetitions: usize,
    median_ms: f64,
    min_ms: f64,
    floor_ms: f64,
    /// Memory beyond inputs and parameters, the gradients included; none where the system does not tell.
    bytes: Option<u64>,
    /// The same over B C + C D numbers of four bytes, C being the rows of the parameters (B for a loss of pairs).
    times_scores_and_parameters: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<bool, Error> {
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
    Ok(true)
}

/// A name, or a mapping as in a pipeline.
fn spec(text: &str) -> Result<LossSpec, Error> {
    if let Some(spec) = LossSpec::named(text) {
        return Ok(spec);
    }
    if !text.contains('{') {
        return Err(format!("no loss {text:?}; `meanfield loss list` prints all").into());
    }
    serde_yaml::from_str(text).map_err(|error| format!("loss {text}: {error}").into())
}

fn measure_apart(loss: &str, [batch, classes, dim]: [u64; 3], args: &Args) -> Result<Row, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["loss", "bench", loss, "--json", "--seconds", &args.seconds.to_string()]);
    for (flag, value) in [("--batch", batch), ("--classes", classes), ("--dim", dim)] {
        command.args([flag, &value.to_string()]);
    }
    command.args(args.threads.iter().flat_map(|threads| ["--threads".into(), threads.to_string()]));
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{loss}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    #[derive(Deserialize)]
    struct Document {
        rows: Vec<Row>,
    }
    let document: Document = serde_json::from_slice(&output.stdout)?;
    document.rows.into_iter().next().ok_or_else(|| format!("{loss}: no measurement").into())
}

fn measure(loss: &str, size: [usize; 3], args: &Args) -> Result<Row, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build()?;
    pool.install(|| time(loss, size, args.seconds))
}

fn time(text: &str, [batch, classes, dim]: [usize; 3], seconds: f64) -> Result<Row, Error> {
    let spec = spec(text)?;
    let loss = spec.build::<f32>()?;
    let rate = product_rate();
    let mut random = stream(1, "loss bench", 0, 0);
    let embeddings = normal(batch * dim, &mut random);
    let labels: Vec<u32> = (0..batch).map(|i| (i / 4 % classes) as u32).collect();
    let shapes = loss.parameters(classes, dim);
    let parameters: Vec<Vec<f32>> = shapes.iter().map(|p| normal(p.rows * p.cols, &mut random)).collect();
    let parameters: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
    let rows = shapes.iter().filter(|p| p.cols == dim).map(|p| p.rows).max().unwrap_or(batch);
    let input = Batch { embeddings: &embeddings, labels: &labels, dim };

    let before = status("VmRSS:");
    let mut gradients = Gradients::default();
    let mut times = Vec::new();
    let start = Instant::now();
    // The first repetition warms caches and buffers, and does not count.
    while times.len() < 6 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        loss.evaluate(input, classes, &parameters, &mut gradients)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let bytes = before.zip(status("VmHWM:")).map(|(before, peak)| peak.saturating_sub(before));
    times.remove(0);
    times.sort_by(f64::total_cmp);

    let penalty = serde_json::to_value(&spec)?["mf_reg"].as_f64().is_some_and(|weight| weight > 0.0);
    let products = 6.0 * batch as f64 + if penalty { rows as f64 } else { 0.0 };
    let operations = products * rows as f64 * dim as f64;
    let numbers = (batch * rows + rows * dim) as f64;
    Ok(Row {
        loss: text.to_owned(),
        batch,
        classes,
        dim,
        repetitions: times.len(),
        median_ms: times[times.len() / 2],
        min_ms: times[0],
        floor_ms: operations / rate * 1e3,
        bytes,
        times_scores_and_parameters: bytes.map(|bytes| bytes as f64 / (4.0 * numbers)),
    })
}

fn normal(count: usize, random: &mut Stream) -> Vec<f32> {
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Operations a second of a 1,024 x 1,024 x 1,024 product: the best of a few.
pub(super) fn product_rate() -> f64 {
    const SIDE: usize = 1024;
    let (matrix, mut out) = (vec![0.5f32; SIDE * SIDE], vec![0.0; SIDE * SIDE]);
    let view = View::new(&matrix, SIDE, SIDE);
    let best = (0..8).map(|_| {
        let start = Instant::now();
        product(view, view, Onto::Replace, &mut out);
        start.elapsed().as_secs_f64()
    });
    2.0 * (SIDE * SIDE * SIDE) as f64 / best.fold(f64::INFINITY, f64::min)
}

/// A number of this process's status, in bytes, where the system has one.
pub(super) fn status(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
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
    let cell = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
    writeln!(
        out,
        "{:WIDTH$} {:>5} {:>6} {:>5} {:>10.3} {:>10.3} {:>10.3} {:>6.1} {:>8} {:>9}",
        row.loss,
        row.batch,
        row.classes,
        row.dim,
        row.median_ms,
        row.min_ms,
        row.floor_ms,
        row.median_ms / row.floor_ms,
        cell(row.bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))),
        cell(row.times_scores_and_parameters),
    )?;
    out.flush()
}
