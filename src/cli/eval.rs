//! `meanfield eval`: the retrieval metrics of anyone's vectors.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::eval::vectors::{Vectors, encode_labels, read_labels, read_vectors};
use crate::eval::{Labelled, Options, Retrieval, retrieval};

/// Retrieval metrics of vectors in .npy, .safetensors or .parquet.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Vectors, a row each: .npy (2-d floats), .safetensors or .parquet.
    embeddings: PathBuf,
    /// Their labels: .npy (1-d integers), .safetensors, .parquet, .csv or .txt (one a line).
    labels: PathBuf,
    /// Search these vectors instead of the other queries.
    #[arg(long, requires = "gallery_labels", value_name = "FILE")]
    gallery: Option<PathBuf>,
    /// The gallery's labels.
    #[arg(long, requires = "gallery", value_name = "FILE")]
    gallery_labels: Option<PathBuf>,
    /// The K of each Recall@K.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_name = "K,...")]
    recall: Vec<usize>,
    /// Tensor or column that holds the vectors.
    #[arg(long, value_name = "NAME")]
    vectors_name: Option<String>,
    /// Tensor or column that holds the labels.
    #[arg(long, value_name = "NAME")]
    labels_name: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command; true, since metrics have no verdict.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let (vectors, labels) = read(args, &args.embeddings, &args.labels)?;
    let options = Options { recall_at: args.recall.clone() };
    let found = match args.gallery.as_ref().zip(args.gallery_labels.as_ref()) {
        None => {
            let [labels] = encode_labels([&labels]);
            retrieval(labelled(&vectors, &labels), None, &options)
        }
        Some((gallery, gallery_labels)) => {
            let (gallery, gallery_labels) = read(args, gallery, gallery_labels)?;
            let [labels, gallery_labels] = encode_labels([&labels, &gallery_labels]);
            retrieval(labelled(&vectors, &labels), Some(labelled(&gallery, &gallery_labels)), &options)
        }
    };
    let found = found.map_err(|error| format!("{}: {error}", args.embeddings.display()))?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        table(&found, out)?;
    }
    Ok(true)
}

fn read(
    args: &Args,
    vectors: &Path,
    labels: &Path,
) -> Result<(Vectors, Vec<String>), Box<dyn std::error::Error + Send + Sync>> {
    let values = read_vectors(vectors, args.vectors_name.as_deref())?;
    let names = read_labels(labels, args.labels_name.as_deref())?;
    if names.len() != values.rows {
        let (found, expected) = (names.len(), values.rows);
        let (labels, vectors) = (labels.display(), vectors.display());
        return Err(format!("{labels}: {found} labels, expected {expected}, one for each vector of {vectors}").into());
    }
    Ok((values, names))
}

fn labelled<'a>(vectors: &'a Vectors, labels: &'a [u32]) -> Labelled<'a, f64> {
    Labelled { vectors: &vectors.values, labels, dim: vectors.dim }
}

fn table(found: &Retrieval, out: &mut dyn Write) -> std::io::Result<()> {
    let mut rows = vec![
        ("P@1".to_owned(), found.precision_at_1),
        ("R-Precision".to_owned(), found.r_precision),
        ("MAP@R".to_owned(), found.map_at_r),
    ];
    rows.extend(found.recall_at.iter().map(|&(k, value)| (format!("R@{k}"), value)));
    for (name, value) in rows {
        writeln!(out, "{name:<12} {:>8.4} %", 100.0 * value)?;
    }
    let left = match found.without_match {
        0 => String::new(),
        left => format!(", {left} left out: no other sample of their class"),
    };
    writeln!(out, "{} queries{left}", found.queries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use npyz::WriterBuilder;
    use std::fs;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn call(words: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        let args = Line::try_parse_from(std::iter::once(&"eval").chain(words)).map_err(|e| e.to_string())?.args;
        run(&args, &mut out).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn write(path: &Path, values: &[f32]) -> String {
        let shape = [values.len() as u64 / 2, 2];
        let mut file = fs::File::create(path).unwrap();
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd().unwrap();
        writer.extend(values.iter().copied()).unwrap();
        writer.finish().unwrap();
        path.to_string_lossy().into_owned()
    }

    #[test]
    fn the_table_and_the_document_hold_the_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let vectors = write(&folder.path().join("v.npy"), &[1.0, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.9]);
        let labels = folder.path().join("l.txt");
        fs::write(&labels, "cat\ncat\ndog\ncat\n").unwrap();
        let labels = labels.to_string_lossy();
        assert_eq!(
            call(&[&vectors, &labels, "--recall", "1,2"]).unwrap(),
            "P@1           66.6667 %\nR-Precision   83.3333 %\nMAP@R         75.0000 %\nR@1           66.6667 %\n\
             R@2          100.0000 %\n4 queries, 1 left out: no other sample of their class\n"
        );
        let document: serde_json::Value = serde_json::from_str(&call(&[&vectors, &labels, "--json"]).unwrap()).unwrap();
        assert_eq!(document["precision_at_1"], 2.0 / 3.0);
        assert_eq!(document["recall_at"][3], serde_json::json!([8, 1.0]));
        let same =
            call(&[&vectors, &labels, "--gallery", &vectors, "--gallery-labels", &labels, "--recall", "1"]).unwrap();
        assert!(same.starts_with("P@1          100.0000 %") && same.ends_with("\n4 queries\n"), "{same}");
    }

    #[test]
    fn mistakes_name_the_file_and_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let vectors = write(&folder.path().join("v.npy"), &[1.0, 0.0, 0.0, 0.0]);
        let labels = folder.path().join("l.csv");
        fs::write(&labels, "1\n1\n1\n").unwrap();
        let path = labels.to_string_lossy().into_owned();
        let error = call(&[&vectors, &path]).unwrap_err();
        assert_eq!(error, format!("{path}: 3 labels, expected 2, one for each vector of {vectors}"));
        fs::write(&labels, "1\n1\n").unwrap();
        let error = call(&[&vectors, &path]).unwrap_err();
        assert!(error.starts_with(&format!("{vectors}: queries: row 1 is zero")), "{error}");
        assert!(call(&[&vectors, &path, "--gallery", &vectors]).unwrap_err().contains("--gallery-labels"));
    }
}
