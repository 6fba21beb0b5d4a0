//! `meanfield weights`: what weight files hold.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::nn::weights::{TensorInfo, WeightError, WeightFile, shape_words};

/// List the tensors of weight files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the tensors of a file: .safetensors, or what torch.save writes. Nothing in it is executed.
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// The weight file; its format is known by its content.
    file: PathBuf,
    /// Read the values too: smallest, largest, mean and L2 norm of each tensor.
    #[arg(long)]
    values: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command; true, since a listing has no verdict.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let Command::Inspect(args) = &args.command;
    let file = WeightFile::open(&args.file)?;
    let rows = file
        .tensors()
        .iter()
        .map(|tensor| Ok((tensor, args.values.then(|| Summary::of(&file, tensor)).transpose()?)))
        .collect::<Result<Vec<_>, WeightError>>()?;
    if args.json {
        writeln!(out, "{:#}", document(&file, &rows))?;
    } else {
        listing(&file, &rows, out)?;
    }
    Ok(true)
}

type Row<'a> = (&'a TensorInfo, Option<Summary>);

/// The values of a tensor in four numbers; not a number where there are none, or one of them is none.
struct Summary {
    min: f64,
    max: f64,
    mean: f64,
    l2: f64,
}

impl Summary {
    fn of(file: &WeightFile, tensor: &TensorInfo) -> Result<Self, WeightError> {
        let values = file.values(tensor)?;
        let wide = || values.iter().map(|&value| f64::from(value));
        // `f64::min` passes over what is not a number; a listing must show it.
        let extreme = |pick: fn(f64, f64) -> f64| {
            wide().reduce(|a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { pick(a, b) }).unwrap_or(f64::NAN)
        };
        Ok(Self {
            min: extreme(f64::min),
            max: extreme(f64::max),
            mean: wide().sum::<f64>() / values.len() as f64,
            l2: wide().fold(0.0, |sum, value| sum + value * value).sqrt(),
        })
    }
}

/// Tensors, parameters and bytes.
fn totals(file: &WeightFile) -> (usize, usize, usize) {
    let sum = |of: fn(&TensorInfo) -> usize| file.tensors().iter().map(of).fold(0, usize::saturating_add);
    (file.tensors().len(), sum(TensorInfo::elements), sum(TensorInfo::bytes))
}

fn listing(file: &WeightFile, rows: &[Row<'_>], out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}: {}", file.path().display(), file.format())?;
    for (key, value) in file.metadata() {
        writeln!(out, "metadata {}: {}", key.escape_debug(), value.escape_debug())?;
    }
    if let Some(container) = file.container() {
        writeln!(out, "the tensors are those under {container}")?;
    }
    if !file.stripped().is_empty() {
        writeln!(out, "every name had the prefix {}, left out here", file.stripped())?;
    }
    let names: Vec<String> = rows.iter().map(|(tensor, _)| tensor.name.escape_debug().to_string()).collect();
    let shapes: Vec<String> = rows.iter().map(|(tensor, _)| shape_words(&tensor.shape)).collect();
    let widest = |words: &[String], title: &str| words.iter().map(|w| w.chars().count()).fold(title.len(), usize::max);
    let (name_width, shape_width) = (widest(&names, "tensor"), widest(&shapes, "shape"));
    let valued = rows.iter().any(|(_, summary)| summary.is_some());
    write!(out, "{:name_width$}  {:<5} {:<shape_width$} {:>11}", "tensor", "type", "shape", "elements")?;
    if valued {
        write!(out, " {:>11} {:>11} {:>11} {:>11}", "min", "max", "mean", "L2")?;
    }
    writeln!(out)?;
    for ((name, shape), (tensor, summary)) in names.iter().zip(&shapes).zip(rows) {
        let (dtype, elements) = (tensor.dtype.to_string(), tensor.elements());
        write!(out, "{name:name_width$}  {dtype:<5} {shape:<shape_width$} {elements:>11}")?;
        if let Some(Summary { min, max, mean, l2 }) = summary {
            write!(out, " {min:>11.4e} {max:>11.4e} {mean:>11.4e} {l2:>11.4e}")?;
        }
        writeln!(out)?;
    }
    let (tensors, elements, bytes) = totals(file);
    writeln!(out, "{tensors} tensors, {elements} elements, {bytes} bytes")?;
    if !file.skipped().is_empty() {
        const SHOWN: usize = 8;
        let skipped = file.skipped();
        let shown: Vec<String> =
            skipped.iter().take(SHOWN).map(|s| format!("{} ({})", s.name.escape_debug(), s.kind)).collect();
        let more = if skipped.len() > SHOWN { ", ..." } else { "" };
        writeln!(
            out,
            "{} entries that are no tensors of the listing, not read: {}{more}",
            skipped.len(),
            shown.join(", ")
        )?;
    }
    Ok(())
}

fn document(file: &WeightFile, rows: &[Row<'_>]) -> Value {
    let tensors: Vec<Value> = rows
        .iter()
        .map(|(tensor, summary)| {
            let mut row = json!({
                "name": tensor.name,
                "dtype": tensor.dtype.to_string(),
                "shape": tensor.shape,
                "elements": tensor.elements(),
                "bytes": tensor.bytes(),
            });
            if let Some(Summary { min, max, mean, l2 }) = summary {
                row["values"] = json!({ "min": min, "max": max, "mean": mean, "l2": l2 });
            }
            row
        })
        .collect();
    let skipped: Vec<Value> =
        file.skipped().iter().map(|skipped| json!({ "name": skipped.name, "kind": skipped.kind })).collect();
    let (count, elements, bytes) = totals(file);
    json!({
        "file": file.path().display().to_string(),
        "format": file.format().to_string(),
        "metadata": file.metadata(),
        "container": file.container(),
        "stripped": file.stripped(),
        "tensors": tensors,
        "skipped": skipped,
        "totals": { "tensors": count, "elements": elements, "bytes": bytes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn call(words: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        let args = Line::try_parse_from(std::iter::once(&"weights").chain(words)).map_err(|e| e.to_string())?.args;
        run(&args, &mut out).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn data(name: &str) -> String {
        format!("{}/tests/data/weights/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn a_checkpoint_is_listed_with_what_was_left_out() {
        let path = data("nested_legacy.pth");
        let text = call(&["inspect", &path]).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap(), format!("{path}: PyTorch before 1.6"));
        let rest: Vec<&str> = lines.collect();
        assert_eq!(
            rest,
            [
                "the tensors are those under state_dict",
                "every name had the prefix module., left out here",
                "tensor                  type  shape      elements",
                "conv.weight             F32   3x2x1x1           6",
                "conv.bias               F32   3                 3",
                "bn.weight               F32   3                 3",
                "bn.bias                 F32   3                 3",
                "bn.running_mean         F32   3                 3",
                "bn.running_var          F32   3                 3",
                "bn.num_batches_tracked  I64   scalar            1",
                "7 tensors, 22 elements, 92 bytes",
                "10 entries that are no tensors of the listing, not read: epoch (int), arch (string), best (tensor), \
                 optimizer (dict), rate (float), shape (tuple), dtype (dtype), done (bool), ...",
            ]
        );
    }

    #[test]
    fn values_are_summed_up_and_the_document_says_the_same() {
        let path = data("plain.pth");
        let text = call(&["inspect", &path, "--values"]).unwrap();
        let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert_eq!(
            row("sliced"),
            "sliced         F32   2x2               4    2.0000e0    2.7500e0    2.3750e0    4.7828e0"
        );
        assert_eq!(
            row("empty"),
            "empty          F32   0x3               0         NaN         NaN         NaN    0.0000e0"
        );
        let document: Value = serde_json::from_str(&call(&["inspect", &path, "--values", "--json"]).unwrap()).unwrap();
        assert_eq!(document["format"], "PyTorch zip");
        assert_eq!(document["totals"], json!({ "tensors": 20, "elements": 118, "bytes": 471 }));
        let sliced = document["tensors"].as_array().unwrap().iter().find(|row| row["name"] == "sliced").unwrap();
        assert_eq!(sliced["shape"], json!([2, 2]));
        assert_eq!(sliced["values"]["mean"], 2.375);
        assert_eq!(sliced["values"]["l2"], 22.875_f64.sqrt());
    }

    #[test]
    fn a_hostile_file_is_an_error_that_names_what_it_asks_for() {
        let error = call(&["inspect", &data("hostile.pth")]).unwrap_err();
        assert!(error.contains("posix.system at byte 9 is not a tensor"), "{error}");
    }
}
