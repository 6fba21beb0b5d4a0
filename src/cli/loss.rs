//! `meanfield loss`: lists, checks and times the loss functions.

use std::io::Write;
use std::path::PathBuf;

use fs_err as fs;
use serde_json::{Value, json};

use super::bench;
use super::failure::{Failure, verdict};
use crate::loss::check::{Errors, Row, Tolerances, Verdict, check};
use crate::loss::registry::LossSpec;

/// List, check and time the loss functions
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield loss list
  meanfield loss check tests/data/losses.json
  meanfield loss bench proxy_anchor --batch 32 --seconds 0.1")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Compare losses and their gradients with reference values
    ///
    /// Computes each case of the file in 32 and 64 bits and prints the largest relative error of the value, the
    /// gradient of the embeddings and the gradient of the parameters. Exit code 1 if one exceeds its tolerance.
    #[command(after_help = "Examples:\n  meanfield loss check tests/data/losses.json --loss proxy_anchor")]
    Check(Check),
    Bench(bench::Args),
    /// List every loss with its parameters, their defaults and ranges
    #[command(after_help = "Examples:\n  meanfield loss list")]
    List,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// Reference cases: JSON with inputs, parameters, expected value and gradients
    file: PathBuf,
    /// Largest relative error allowed in 32 bits
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// Largest relative error allowed in 64 bits
    #[arg(long, default_value_t = 1e-9)]
    tolerance_f64: f64,
    /// Check only this loss (repeatable)
    #[arg(long = "loss", value_name = "NAME")]
    losses: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command; the check fails if a case is not within tolerance.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    match &args.command {
        Command::List => list(out),
        Command::Check(args) => run_check(args, out),
        Command::Bench(args) => bench::run(args, out),
    }
}

fn list(out: &mut dyn Write) -> Result<(), Failure> {
    for spec in LossSpec::NAMES.iter().filter_map(|name| LossSpec::named(name)) {
        writeln!(out, "{}", spec.name())?;
        for (name, setting) in &spec.settings().0 {
            let default = setting.default.as_ref().map_or(String::new(), shown);
            let doc = setting.doc.as_deref().unwrap_or_default();
            writeln!(out, "  {name:<17} {default:<11} {}; {doc}", setting.expected())?;
        }
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn run_check(args: &Check, out: &mut dyn Write) -> Result<(), Failure> {
    let text = fs::read_to_string(&args.file).map_err(Failure::broken)?;
    let tolerances = Tolerances { f32: args.tolerance, f64: args.tolerance_f64 };
    let rows = check(&text, &args.losses, tolerances).map_err(|error| Failure::in_file(&args.file, error))?;
    if let Some(absent) = args.losses.iter().find(|name| rows.iter().all(|row| row.loss != **name)) {
        return Err(Failure::in_file(&args.file, format!("no case of the loss {absent:?}")));
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (equal, differ, absent) = (count(Verdict::Equal), count(Verdict::Differs), count(Verdict::NotBuiltIn));
    if args.json {
        let document = json!({ "rows": rows, "equal": equal, "differ": differ, "not_built_in": absent });
        writeln!(out, "{document:#}")?;
    } else {
        table(&rows, out)?;
        writeln!(out, "{equal} equal, {differ} differ, {absent} not built in")?;
    }
    verdict(differ == 0)
}

fn table(rows: &[Row], out: &mut dyn Write) -> std::io::Result<()> {
    let width = rows.iter().map(|row| row.loss.len()).max().unwrap_or(0).max("loss".len());
    writeln!(
        out,
        "{:width$} {:>5} {:>5} {:>5}  {:>8} {:>8} {:>8}  {:>8} {:>8} {:>8}  verdict",
        "loss", "B", "D", "C", "f32", "d/emb", "d/param", "f64", "d/emb", "d/param"
    )?;
    for row in rows {
        let verdict = match row.verdict {
            Verdict::Equal => "equal",
            Verdict::Differs => "DIFFERS",
            Verdict::NotBuiltIn => "not built in",
        };
        let (single, double) = (errors(row.f32), errors(row.f64));
        writeln!(
            out,
            "{:width$} {:>5} {:>5} {:>5}  {single}  {double}  {verdict}",
            row.loss, row.batch, row.dim, row.classes
        )?;
    }
    Ok(())
}

fn errors(errors: Option<Errors>) -> String {
    let cell = |error: Option<f64>| error.map_or("-".into(), |error| format!("{error:.1e}"));
    let [value, embeddings, parameters] =
        [errors.map(|e| e.value), errors.map(|e| e.embeddings), errors.and_then(|e| e.parameters)].map(cell);
    format!("{value:>8} {embeddings:>8} {parameters:>8}")
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

    fn call(words: &[&str]) -> (Result<bool, String>, String) {
        let mut out = Vec::new();
        let args = Line::parse_from(std::iter::once(&"loss").chain(words)).args;
        let result = in_words(run(&args, &mut out));
        (result, String::from_utf8(out).unwrap())
    }

    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/losses.json");

    #[test]
    fn the_reference_is_equal_and_a_tolerance_of_nothing_differs() {
        let (result, out) = call(&["check", REFERENCE]);
        assert_eq!(result, Ok(true), "{out}");
        assert!(out.ends_with(" equal, 0 differ, 0 not built in\n"), "{out}");
        let (result, out) = call(&["check", REFERENCE, "--tolerance", "0", "--loss", "proxy_anchor", "--json"]);
        assert_eq!(result, Ok(false), "{out}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&document["differ"], &document["rows"][0]["verdict"]), (&json!(3), &json!("differs")));
    }

    #[test]
    fn a_bench_measures_the_loss_and_size_that_it_is_given() {
        let loss = "{ kind: mean_field_contrastive, mf_reg: 0.5 }";
        let size = ["--batch", "8", "--classes", "9", "--dim", "4", "--seconds", "0", "--threads", "1", "--json"];
        let (result, out) = call(&[&["bench", loss][..], &size].concat());
        assert_eq!(result, Ok(true), "{out}");
        let document: serde_json::Value = serde_json::from_str(&out).unwrap();
        let row = &document["rows"][0];
        assert_eq!(
            (&row["B"], &row["C"], &row["D"], &row["repetitions"]),
            (&json!(8), &json!(9), &json!(4), &json!(5))
        );
        assert!(row["min_ms"].as_f64().unwrap() > 0.0 && row["median_ms"].as_f64() >= row["min_ms"].as_f64(), "{out}");
        assert!(call(&["bench", "contrastiv"]).0.unwrap_err().starts_with("no loss \"contrastiv\""));
        assert!(call(&["bench", "{ kind: triplet, margin: 9 }"]).0.unwrap_err().contains("margin is 9.0"));
    }

    #[test]
    fn mistakes_name_the_file() {
        let error = call(&["check", "no/such.json"]).0.unwrap_err();
        assert_eq!(error, "failed to open file `no/such.json`: No such file or directory (os error 2)");
        let error = call(&["check", REFERENCE, "--loss", "contrastiv"]).0.unwrap_err();
        assert!(error.ends_with("losses.json: no case of the loss \"contrastiv\""), "{error}");
    }

    #[test]
    fn the_list_has_every_loss_and_parameter() {
        let (result, out) = call(&["list"]);
        assert_eq!(result, Ok(true));
        for name in LossSpec::NAMES {
            assert!(out.contains(&format!("{name}\n")), "{name}");
        }
        assert!(
            out.contains("  loss              contrastive one of the kinds `contrastive`, `multi_similarity`, "),
            "{out}"
        );
        assert!(out.contains("  mf_reg            0.0         a number from 0 to 1000000; Weight"), "{out}");
    }
}
