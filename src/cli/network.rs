//! `meanfield network`: lists the backbones and times them on this machine.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use crate::loss::cost::{product_rate, status};
use crate::nn::{
    Architecture, BACKBONE_NAMES, BACKBONES, Backbone, Backend, CHANNELS, Head, Kind, Model, Native, Shape, Statistics,
    Training, buffer,
};
use crate::train::{OptimiserSpec, State, Step};

/// List and time the backbones
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield network list
  meanfield network bench convnet4 --batch 2 --size 32 --seconds 0.1")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List every backbone with its parameters, features and operations
    #[command(after_help = "Examples:\n  meanfield network list")]
    List,
    Bench(Bench),
}

/// Time a training step and inference of backbones on random images
///
/// A step is forward pass, backward pass and AdamW over all parameters, with batch normalisation in training mode and a
/// linear head of dimension 64. The floor is the compute-bound lower limit: the time of the multiplications and
/// additions (a step has three times those of a forward pass, less the gradient of the images) at the rate of a large
/// matrix product measured just before. Winograd convolutions need fewer operations than counted and may be faster than
/// the floor.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meanfield network bench convnet4 --batch 2 --size 32 --seconds 0.1")]
struct Bench {
    /// Backbones [default: all]
    #[arg(value_name = "BACKBONE")]
    backbones: Vec<String>,
    /// Batch size
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Height and width of an image in pixels
    #[arg(long, value_name = "N", default_value_t = 224, value_parser = clap::value_parser!(u16).range(16..))]
    size: u16,
    /// Number of threads [default: the number of cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Minimum seconds per backbone; at least three repetitions
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What one backbone took.
#[derive(Debug, Serialize)]
struct Row {
    backbone: &'static str,
    batch: usize,
    size: usize,
    step_ms: Times,
    forward_ms: Times,
    step_floor_ms: f64,
    forward_floor_ms: f64,
    /// GFLOP of a forward pass; a multiplication with its addition counts as two operations.
    gflop: f64,
    /// Peak bytes of parameters, activations and gradients in a step.
    step_bytes: usize,
    /// Peak memory of the process so far, earlier backbones included, if the system reports it.
    process_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Times {
    median: f64,
    min: f64,
    repetitions: usize,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    match &args.command {
        Command::List => list(out),
        Command::Bench(args) => bench(args, out),
    }
}

fn architecture(backbone: &'static Backbone, size: usize) -> Architecture {
    Architecture { backbone, pooling: None, head: Head::Linear, dim: 64, height: size, width: size }
}

fn list(out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "{:<14} {:>10} {:>9} {:>16}", "backbone", "parameters", "features", "GFLOP at 224x224")?;
    for backbone in BACKBONES {
        let (name, dim) = (backbone.name, backbone.features);
        let architecture = Architecture { head: Head::Identity, dim, ..architecture(backbone, 224) };
        let model = Model::outline(&Native::default(), architecture)?;
        let parameters: usize = model.tensors().filter(|t| t.kind == Kind::Parameter).map(|tensor| tensor.len()).sum();
        let gflop = 2e-9 * model.work(1) as f64;
        writeln!(out, "{name:<14} {:>9.2}M {dim:>9} {gflop:>16.2}", parameters as f64 / 1e6)?;
    }
    Ok(())
}

fn bench(args: &Bench, out: &mut dyn Write) -> Result<(), Failure> {
    let wanted = match args.backbones.is_empty() {
        true => BACKBONES.to_vec(),
        false => args.backbones.iter().map(|name| named(name)).collect::<Result<_, _>>()?,
    };
    for backbone in &wanted {
        architecture(backbone, usize::from(args.size)).check()?;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build()?;
    let mut rows = Vec::new();
    if !args.json {
        let heads = ["step ms", "floor ms", "ratio", "forward ms", "floor ms", "ratio", "images/s", "MiB"];
        writeln!(out, "{:<14} {}", "backbone", heads.map(|head| format!("{head:>10}")).join(" "))?;
    }
    for backbone in wanted {
        let name = backbone.name;
        let row = pool.install(|| time(backbone, args))?;
        if !args.json {
            let (step, forward) = (row.step_ms.median, row.forward_ms.median);
            writeln!(
                out,
                "{name:<14} {step:>10.1} {:>10.1} {:>10.2} {forward:>10.1} {:>10.1} {:>10.2} {:>10.1} {:>10.0}",
                row.step_floor_ms,
                step / row.step_floor_ms,
                row.forward_floor_ms,
                forward / row.forward_floor_ms,
                1e3 * row.batch as f64 / step,
                row.step_bytes as f64 / f64::from(1 << 20),
            )?;
            out.flush()?;
        }
        rows.push(row);
        buffer::release();
    }
    if args.json {
        writeln!(out, "{:#}", json!({ "rows": rows }))?;
    }
    Ok(())
}

fn named(name: &str) -> Result<&'static Backbone, Failure> {
    let unknown = || Failure::bad_argument(format!("no backbone {name:?}; there are {}", BACKBONE_NAMES.join(", ")));
    Backbone::named(name).ok_or_else(unknown)
}

fn time(backbone: &'static Backbone, args: &Bench) -> Result<Row, Failure> {
    let (device, images, size) = (Native::default(), usize::from(args.batch), usize::from(args.size));
    let mut model = Model::new(&device, architecture(backbone, size), 0)?;
    let shape = Shape { images, rows: size, columns: size, channels: CHANNELS };
    let pixels: Vec<f32> = (0..shape.len()).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let gradient: Vec<f32> = (0..images * 64).map(|i| (i * 31 % 17) as f32 / 1000.0).collect();
    let rate = product_rate();
    let optimiser = OptimiserSpec::default();
    let mut states: Vec<State<_>> = model.tensors().map(|_| State::default()).collect();
    let mut count = 0;
    buffer::start_peak();
    let step_ms = repeat(args.seconds, || {
        count += 1;
        let training = Training { backbone: true, statistics: Statistics::Batch, dropout: None };
        let embeddings = model.forward_train(&device, device.map(pixels.clone(), shape)?, training)?;
        let mut gradients = device.backward(embeddings, &gradient)?;
        let step = Step { learning_rate: 1e-6, weight_decay: 1e-4, step: count, scale: 1.0, clip: f32::INFINITY };
        for (tensor, state) in model.tensors_mut().zip(&mut states) {
            if let Some(gradient) = device.gradient(&mut gradients, &tensor.value)? {
                optimiser.step(&device, step, &mut tensor.value, &gradient, state)?;
            }
        }
        Ok(())
    })?;
    let step_bytes = buffer::peak_bytes();
    let process_bytes = status("VmHWM:");
    let forward_ms = repeat(args.seconds, || {
        model.forward_eval(&device, device.map(pixels.clone(), shape)?)?;
        Ok(())
    })?;
    let operations = 2.0 * model.work(images) as f64;
    let first = 2.0 * model.first_work(images) as f64;
    Ok(Row {
        backbone: backbone.name,
        batch: images,
        size,
        step_ms,
        forward_ms,
        step_floor_ms: (3.0 * operations - first) / rate * 1e3,
        forward_floor_ms: operations / rate * 1e3,
        gflop: operations * 1e-9,
        step_bytes,
        process_bytes,
    })
}

/// The times of several repetitions, after a warm-up.
fn repeat(seconds: f64, mut run: impl FnMut() -> Result<(), Failure>) -> Result<Times, Failure> {
    run()?;
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(Times { median: times[times.len() / 2], min: times[0], repetitions: times.len() })
}
