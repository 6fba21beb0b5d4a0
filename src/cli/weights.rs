//! `meanfield weights`: inspects weight files.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::failure::Failure;
use crate::nn::weights::{Choice, TensorInfo, TensorSet, WeightError, WeightFile, shape_words};
use crate::nn::{Architecture, BACKBONES, Backbone, Error, Head, fit_backbone, normalisation_of};
use crate::text::escaped;

/// Inspect weight files
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield weights inspect resnet50.pth")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the tensors of a weight file and the backbones they fit
    ///
    /// Reads .safetensors files and what `torch.save` writes; code in the file is not executed. Prints name, type and
    /// shape of each tensor, what else the file holds, and which backbone it fits with which key, prefix and pixel
    /// normalisation.
    #[command(
        after_help = "Examples:\n  meanfield weights inspect resnet50.pth\n  meanfield weights inspect checkpoint.pt --key ema --values"
    )]
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// Weight file; its format is detected from its content
    file: PathBuf,
    /// List the tensors under this key, if the file holds several sets of weights
    #[arg(long)]
    key: Option<String>,
    /// Also print minimum, maximum, mean and L2 norm of each tensor
    #[arg(long)]
    values: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let Command::Inspect(args) = &args.command;
    let file = WeightFile::open(&args.file)?;
    let set = chosen(&file, args.key.as_deref())?;
    let (fits, nearest) = fits(&file);
    let rows = set
        .tensors
        .iter()
        .map(|tensor| Ok((tensor, args.values.then(|| Summary::of(&file, tensor)).transpose()?)))
        .collect::<Result<Vec<_>, WeightError>>()?;
    if args.json {
        writeln!(out, "{:#}", document(&file, set, &fits, &rows))?;
    } else {
        listing(&file, set, (&fits, nearest.as_deref()), &rows, out)?;
    }
    Ok(())
}

/// The set of tensors under `key`, or the main one.
fn chosen<'f>(file: &'f WeightFile, key: Option<&str>) -> Result<&'f TensorSet, WeightError> {
    let found = match key {
        Some(key) => file.sets().iter().find(|set| set.is_under(key)),
        None => file.main(),
    };
    found.ok_or_else(|| WeightError::Key {
        file: file.path().to_path_buf(),
        key: key.unwrap_or_default().to_owned(),
        keys: file.sets().iter().map(|set| set.key.clone().unwrap_or_else(|| "none, at the top".to_owned())).collect(),
    })
}

/// A backbone whose weights the file holds.
struct Fits {
    backbone: &'static Backbone,
    /// How `train` finds them: the tensors and their key, or the keys to choose from.
    found: Result<(usize, Choice), String>,
    /// Its pixel normalisation.
    pixels: String,
}

/// The backbones whose weights the file holds; if there are none, why the nearest backbone does not fit.
fn fits(file: &WeightFile) -> (Vec<Fits>, Option<String>) {
    let mut nearest: Option<(usize, String)> = None;
    // Position embeddings are learned for one image size; every other backbone uses the usual size.
    let positions = file.sets().iter().flat_map(|set| &set.tensors).find(|tensor| tensor.name.ends_with("pos_embed"));
    let patches = positions.and_then(|tensor| Some(tensor.shape.get(1)?.checked_sub(1)?.isqrt())).unwrap_or(14);
    let fit = |backbone: &'static Backbone| {
        let name = backbone.name;
        let side = if backbone.positions { patches.saturating_mul(backbone.patch) } else { 224 };
        let (head, dim) = (Head::Identity, backbone.features);
        let architecture = Architecture { backbone, pooling: None, head, dim, height: side, width: side };
        let found = match fit_backbone(file, architecture, &Choice::default()) {
            Ok(fit) => Ok((fit.tensors.len(), fit.choice)),
            Err(Error::Weights(WeightError::Ambiguous { choices, .. })) => Err(choices.join(" or ")),
            Err(Error::Description(message)) => Err(message),
            Err(Error::Weights(WeightError::Unmatched(unmatched))) => {
                let (missing, misshapen) = (unmatched.missing.len(), unmatched.misshapen.len());
                if 2 * (missing + misshapen) < unmatched.wanted {
                    let wrong = missing + misshapen + unmatched.unexpected.len();
                    let words = format!(
                        "{name}: {missing} of {} names missing, {} unexpected, {misshapen} of another shape{}",
                        unmatched.wanted,
                        unmatched.unexpected.len(),
                        unmatched.hint.map_or_else(String::new, |hint| format!("; {hint}"))
                    );
                    nearest = nearest.take().filter(|(least, _)| *least <= wrong).or(Some((wrong, words)));
                }
                return None;
            }
            Err(_) => return None,
        };
        let pixels = match (normalisation_of(file), backbone.normalisations) {
            (Ok(Some(stated)), _) => stated.name().to_owned(),
            (_, [only]) => only.name().to_owned(),
            (_, several) => {
                let names: Vec<&str> = several.iter().map(|one| one.name()).collect();
                format!("{}, which the tensors do not say", names.join(" or "))
            }
        };
        Some(Fits { backbone, found, pixels })
    };
    let fits: Vec<Fits> = BACKBONES.into_iter().filter_map(fit).collect();
    let nearest = nearest.map(|(_, words)| words).filter(|_| fits.is_empty());
    (fits, nearest)
}

type Row<'a> = (&'a TensorInfo, Option<Summary>);

/// The values of a tensor in four numbers: NaN if it is empty or holds a NaN.
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
        // `f64::min` skips NaN; a listing must show it.
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
fn totals(set: &TensorSet) -> (usize, usize, usize) {
    let sum = |of: fn(&TensorInfo) -> usize| set.tensors.iter().map(of).fold(0, usize::saturating_add);
    (set.tensors.len(), sum(TensorInfo::elements), sum(TensorInfo::bytes))
}

fn listing(
    file: &WeightFile,
    set: &TensorSet,
    (fits, nearest): (&[Fits], Option<&str>),
    rows: &[Row<'_>],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out, "{}: {}", file.path().display(), file.format())?;
    for (key, value) in file.metadata() {
        writeln!(out, "metadata {}: {}", key.escape_debug(), value.escape_debug())?;
    }
    if let Some(key) = &set.key {
        writeln!(out, "the tensors are those under {}", key.escape_debug())?;
    }
    for other in file.sets().iter().filter(|other| other.key != set.key) {
        let key = other.key.as_deref().map_or("no key".to_owned(), |key| format!("--key {}", key.escape_debug()));
        let count = other.tensors.len();
        writeln!(out, "others: {count} tensor{} under {key}", if count == 1 { "" } else { "s" })?;
    }
    if !set.stripped.is_empty() {
        writeln!(out, "every name had the prefix {}, left out here", escaped(&set.stripped))?;
    }
    for Fits { backbone, found, pixels } in fits {
        let name = backbone.name;
        match found {
            Ok((count, choice)) => {
                let choice = choice.to_string();
                let choice = escaped(&choice);
                writeln!(out, "fits {name}: {count} tensors, `{choice}`; pixels: {pixels}")?;
            }
            Err(choices) => writeln!(out, "fits {name}, but: {}", escaped(choices))?,
        }
    }
    if fits.is_empty() {
        let nearest = nearest.map_or_else(String::new, |nearest| format!("; the nearest is {nearest}"));
        writeln!(out, "fits no backbone{nearest}")?;
    }
    for unread in &set.unread {
        writeln!(out, "not read: {} ({})", unread.name.escape_debug(), unread.class)?;
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
    let (tensors, elements, bytes) = totals(set);
    writeln!(out, "{tensors} tensors, {elements} elements, {bytes} bytes")?;
    if !file.skipped().is_empty() {
        const SHOWN: usize = 8;
        let skipped = file.skipped();
        let shown: Vec<String> =
            skipped.iter().take(SHOWN).map(|s| format!("{} ({})", s.name.escape_debug(), s.kind)).collect();
        let more = if skipped.len() > SHOWN { ", ..." } else { "" };
        writeln!(out, "{} entries that are not listed tensors, not read: {}{more}", skipped.len(), shown.join(", "))?;
    }
    Ok(())
}

fn document(file: &WeightFile, set: &TensorSet, fits: &[Fits], rows: &[Row<'_>]) -> Value {
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
    let sets: Vec<Value> =
        file.sets().iter().map(|set| json!({ "key": set.key, "tensors": set.tensors.len() })).collect();
    let fits: Vec<Value> = fits
        .iter()
        .map(|Fits { backbone, found, pixels }| match found {
            Ok((count, choice)) => {
                json!({ "backbone": backbone.name, "tensors": count, "weights": choice, "pixels": pixels })
            }
            Err(choices) => json!({ "backbone": backbone.name, "choices": choices, "pixels": pixels }),
        })
        .collect();
    let unread: Vec<Value> =
        set.unread.iter().map(|unread| json!({ "name": unread.name, "class": unread.class })).collect();
    let (count, elements, bytes) = totals(set);
    json!({
        "file": file.path().display().to_string(),
        "format": file.format().to_string(),
        "metadata": file.metadata(),
        "container": set.key,
        "stripped": set.stripped,
        "sets": sets,
        "fits": fits,
        "unread": unread,
        "tensors": tensors,
        "skipped": skipped,
        "totals": { "tensors": count, "elements": elements, "bytes": bytes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::in_words;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn call(words: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        let args = Line::try_parse_from(std::iter::once(&"weights").chain(words)).map_err(|e| e.to_string())?.args;
        in_words(run(&args, &mut out))?;
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
                "others: 1 tensor under no key",
                "every name had the prefix module., left out here",
                "fits no backbone",
                "tensor                  type  shape      elements",
                "conv.weight             F32   3x2x1x1           6",
                "conv.bias               F32   3                 3",
                "bn.weight               F32   3                 3",
                "bn.bias                 F32   3                 3",
                "bn.running_mean         F32   3                 3",
                "bn.running_var          F32   3                 3",
                "bn.num_batches_tracked  I64   scalar            1",
                "7 tensors, 22 elements, 92 bytes",
                "10 entries that are not listed tensors, not read: epoch (int), arch (string), best (tensor), \
                 optimizer (dict), rate (float), shape (tuple), dtype (dtype), done (bool), ...",
            ]
        );
    }

    #[test]
    fn a_listing_says_which_backbone_a_file_fits_and_how() {
        use crate::nn::weights::write_safetensors;
        use crate::nn::{Model, Native};
        let (head, backbone, device) = (Head::Identity, Backbone::named("convnet4").unwrap(), Native::default());
        let architecture = Architecture { backbone, pooling: None, head, dim: 128, height: 16, width: 16 };
        let model = Model::new(&device, architecture, 0).unwrap();
        let tensors: Vec<_> =
            model.tensors().map(|t| (format!("net.{}", t.name), t.shape.clone(), t.file_order(&device))).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f").display().to_string();
        let listed = |count: usize| {
            let named =
                tensors.iter().take(count).map(|(name, shape, values)| (name.as_str(), &shape[..], &values[..]));
            std::fs::write(&path, write_safetensors(named, &Default::default()).unwrap()).unwrap();
            (call(&["inspect", &path]).unwrap(), call(&["inspect", &path, "--json"]).unwrap())
        };
        let (text, json) = listed(tensors.len());
        let all = tensors.len();
        let fits = format!("fits convnet4: {all} tensors, `weights: {{ prefix: net. }}`; pixels: half\n");
        assert!(text.contains(&fits), "{text}");
        let document: Value = serde_json::from_str(&json).unwrap();
        let expected =
            json!([{ "backbone": "convnet4", "tensors": all, "weights": { "prefix": "net." }, "pixels": "half" }]);
        assert_eq!(document["fits"], expected);
        let (text, _) = listed(all - 1);
        let nearest = format!("fits no backbone; the nearest is convnet4: 1 of {all} names missing, 0 unexpected");
        assert!(text.contains(&nearest), "{text}");
    }

    #[test]
    fn a_set_of_several_is_listed_by_its_key() {
        let path = data("checkpoints/student_teacher.pth");
        let text = call(&["inspect", &path, "--key", "teacher"]).unwrap();
        assert!(
            text.contains("the tensors are those under teacher\nothers: 2 tensors under --key student\n"),
            "{text}"
        );
        let error = call(&["inspect", &path, "--key", "pupil"]).unwrap_err();
        assert!(error.ends_with("there are no tensors under the key \"pupil\"; there are some under student, teacher"));
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
        assert!(error.contains("posix.system at byte 9 runs code"), "{error}");
    }
}
