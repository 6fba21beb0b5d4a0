//! `meanfield eval`: retrieval metrics of embeddings in a file of any tool.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use super::failure::Failure;
use super::output::Overwrite;
use crate::eval::clustering::{Agreement, clustering};
use crate::eval::vectors::{Labels, Matrix, Names, Other, Values, encode_labels, read_labels, read_vectors};
use crate::eval::{Average, EvalError, Labelled, Options, Retrieval, Ties, per_query, retrieval};
use crate::math::real::Real;
use crate::table::names;
use crate::text::escaped;

/// Compute retrieval metrics for embeddings in a file
///
/// Every row is a query and is searched among all other rows, or in the gallery. Prints P@1, R-precision, MAP@R,
/// Recall@K and MRR in percent. Reads embeddings of any tool: .npy, .npz, .safetensors, .pt or .parquet. Code in a .pt
/// file is not executed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meanfield eval embeddings.npy labels.csv --recall 1,10,100
  meanfield eval vectors.parquet --clusters --queries per_query.parquet")]
pub struct Args {
    /// Embeddings, one per row: .npy (2-d numbers), .npz, .safetensors, .pt or .parquet
    embeddings: PathBuf,
    /// Their labels: .npy (1-d integers or texts), .npz, .safetensors, .pt, .parquet, .csv, .tsv or .txt (one per line)
    /// [default: in the same file]
    labels: Option<PathBuf>,
    /// Search these embeddings instead of the other queries
    #[arg(long, value_name = "FILE")]
    gallery: Option<PathBuf>,
    /// Labels of the gallery [default: in the same file]
    #[arg(long, requires = "gallery", value_name = "FILE")]
    gallery_labels: Option<PathBuf>,
    /// Values of K for Recall@K
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_name = "K,...")]
    recall: Vec<usize>,
    /// Which of two equally near vectors ranks first
    #[arg(long, value_name = "RULE", default_value = "index")]
    ties: TieRule,
    /// Whether to average over queries or over classes
    #[arg(long, value_name = "OVER", default_value = "queries")]
    average: AverageOver,
    /// Also compute mAP, the mean average precision
    #[arg(long)]
    map: bool,
    /// Also compute NMI, AMI and F1 of k-means clusters, one cluster per class
    #[arg(long)]
    clusters: bool,
    /// Random seed for k-means
    #[arg(long, requires = "clusters", value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write the metrics of every query to this .parquet file
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Array or column with the embeddings; in a table also several columns: x,y, or 'f*' for f0, f1, ...
    #[arg(long, value_name = "NAME")]
    vectors_name: Option<String>,
    /// Array or column with the labels; it is not part of the embeddings
    #[arg(long, value_name = "NAME")]
    labels_name: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TieRule {
    /// The one with the lower index
    Index,
    /// The one of the query's class, as in the official evaluation of In-Shop
    Optimistic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AverageOver {
    Queries,
    Classes,
}

#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    retrieval: Retrieval,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    clusters: Option<Agreement>,
    /// What was read of each file that holds more than one array.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read: Vec<Taken>,
}

/// What was read of a file, and what was not.
#[derive(Debug, Clone, Serialize)]
struct Taken {
    file: PathBuf,
    vectors: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    ignored: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(path) = &args.queries {
        check_table(path)?;
        let read = [Some(&args.embeddings), args.labels.as_ref(), args.gallery.as_ref(), args.gallery_labels.as_ref()];
        let read: Vec<&Path> = read.into_iter().flatten().map(PathBuf::as_path).collect();
        args.overwrite.check(path, &read).map_err(Failure::bad_argument)?;
    }
    check_labels(&args.embeddings, args.labels.as_deref(), "a second argument")?;
    if let Some(gallery) = &args.gallery {
        check_labels(gallery, args.gallery_labels.as_deref(), "--gallery-labels")?;
    }
    let set = read(args, &args.embeddings, args.labels.as_deref())?;
    let gallery = args.gallery.as_ref();
    let gallery = gallery.map(|gallery| read(args, gallery, args.gallery_labels.as_deref())).transpose()?;
    let gallery_labels = gallery.as_ref().map_or(&[][..], |gallery| &gallery.labels);
    let [codes, gallery_codes] = encode_labels([&set.labels, gallery_labels]);
    let taken = [set.taken, gallery.as_ref().and_then(|gallery| gallery.taken.clone())];
    let (labels, dim) = (set.labels, set.vectors.dim);
    let found = match (set.vectors.values, gallery.map(|gallery| (gallery.vectors.values, gallery.vectors.dim))) {
        (Values::F32(values), None) => metrics(args, (&values[..], dim), &codes, None),
        (Values::F32(values), Some((Values::F32(gallery), length))) => {
            metrics(args, (&values[..], dim), &codes, Some(((&gallery[..], length), &gallery_codes)))
        }
        (values, None) => metrics(args, (&values.wide()[..], dim), &codes, None),
        (values, Some((gallery, length))) => {
            metrics(args, (&values.wide()[..], dim), &codes, Some(((&gallery.wide()[..], length), &gallery_codes)))
        }
    };
    let mut found = found.map_err(|error| match error {
        EvalError::Recall => error.into(),
        error => Failure::in_file(&args.embeddings, error),
    })?;
    found.read = taken.into_iter().flatten().collect();
    if let Some(path) = &args.queries {
        let mut class_names = Vec::new();
        for (code, label) in codes.iter().zip(&labels) {
            if *code as usize == class_names.len() {
                class_names.push(label.clone());
            }
        }
        let positions: Vec<usize> = (0..labels.len()).collect();
        let rows = per_query::Rows {
            positions: &positions,
            labels: &codes,
            class_names: &class_names,
            recall_at: &args.recall,
        };
        per_query::write(path, &found.retrieval.per_query, rows)?;
    }
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        table(&found, out)?;
    }
    Ok(())
}

/// Vectors and their length.
type Rows<'a, T> = (&'a [T], usize);

fn metrics<T: Real>(
    args: &Args,
    (vectors, dim): Rows<'_, T>,
    labels: &[u32],
    gallery: Option<(Rows<'_, T>, &[u32])>,
) -> Result<Found, EvalError> {
    let options = Options {
        recall_at: args.recall.clone(),
        ties: if args.ties == TieRule::Index { Ties::Index } else { Ties::Optimistic },
        average: if args.average == AverageOver::Queries { Average::Queries } else { Average::Classes },
        average_precision: args.map,
    };
    let queries = Labelled { vectors, labels, dim };
    let gallery = gallery.map(|((vectors, dim), labels)| Labelled { vectors, labels, dim });
    let retrieval = retrieval(queries, gallery, &options)?;
    let clusters = args.clusters.then(|| clustering(queries, args.seed)).transpose()?;
    Ok(Found { retrieval, clusters, read: Vec::new() })
}

/// Refuses a path that does not end in `.parquet`: `--queries` is easily mistaken for the embeddings of the queries.
fn check_table(path: &Path) -> Result<(), Failure> {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        let what = "--queries writes a table of every query's values, expected a name that ends in .parquet";
        let message = format!("{}: {what}; vectors to search in are given by --gallery", path.display());
        return Err(Failure::bad_argument(message));
    }
    Ok(())
}

/// Refuses an .npy file of vectors without a file of labels, which `option` names.
fn check_labels(vectors: &Path, labels: Option<&Path>, option: &str) -> Result<(), Failure> {
    if labels.is_none() && vectors.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
        let message = format!("{}: an .npy file holds one array: name the labels' file as {option}", vectors.display());
        return Err(Failure::bad_argument(message));
    }
    Ok(())
}

/// Embeddings and their labels.
struct Set {
    vectors: Matrix,
    labels: Vec<String>,
    taken: Option<Taken>,
}

fn read(args: &Args, vectors: &Path, labels: Option<&Path>) -> Result<Set, Failure> {
    let names = Names { vectors: args.vectors_name.as_deref(), labels: args.labels_name.as_deref() };
    let found = read_vectors(vectors, names)?;
    let Labels { texts, name } = read_labels(labels.unwrap_or(vectors), names.labels)?;
    let rows = found.matrix.rows;
    if texts.len() != rows {
        let (count, file, vectors) = (texts.len(), labels.unwrap_or(vectors).display(), vectors.display());
        let header =
            match texts.first().filter(|first| count == rows + 1 && name.is_none() && !texts[1..].contains(first)) {
                Some(first) => format!("; is {first:?} a header? then name it in a .csv file with --labels-name"),
                None => String::new(),
            };
        let message = format!("{file}: {count} labels, expected {rows}, one for each vector of {vectors}{header}");
        return Err(Failure::broken(message));
    }
    let label = name.filter(|_| labels.is_none());
    let index = |other: &Other| if other.index { format!("{} (index)", other.name) } else { other.name.clone() };
    let ignored = found.others.iter().filter(|other| Some(&other.name) != label.as_ref()).map(index).collect();
    let taken = |name| Taken { file: vectors.into(), vectors: name, labels: label, ignored };
    Ok(Set { vectors: found.matrix, labels: texts, taken: found.name.map(taken) })
}

fn table(found: &Found, out: &mut dyn Write) -> std::io::Result<()> {
    let Found { retrieval, clusters, read } = found;
    let mut rows = vec![
        ("P@1".to_owned(), retrieval.precision_at_1),
        ("R-Precision".to_owned(), retrieval.r_precision),
        ("MAP@R".to_owned(), retrieval.map_at_r),
    ];
    rows.extend(retrieval.recall_at.iter().map(|&(k, value)| (format!("R@{k}"), value)));
    rows.push(("MRR".to_owned(), retrieval.mean_reciprocal_rank));
    rows.extend(retrieval.mean_average_precision.map(|value| ("mAP".to_owned(), value)));
    if let Some(Agreement { nmi, ami, f1 }) = clusters {
        rows.extend([("NMI", *nmi), ("AMI", *ami), ("F1", *f1)].map(|(name, value)| (name.to_owned(), value)));
    }
    for (name, value) in rows {
        writeln!(out, "{name:<12} {:>8.4} %", 100.0 * value)?;
    }
    let left = match retrieval.without_match {
        0 => String::new(),
        left => format!(", {left} left out: no other sample of their class"),
    };
    writeln!(out, "{} queries{left}", retrieval.queries)?;
    for Taken { file, vectors, labels, ignored } in read.iter().filter(|taken| !taken.ignored.is_empty()) {
        let labels = labels.as_ref().map_or(String::new(), |labels| format!(", labels {labels}"));
        let ignored = names(ignored.iter().map(String::as_str));
        let line = format!("{}: vectors {vectors}{labels}; ignored: {ignored}", file.display());
        writeln!(out, "{}", escaped(&line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::in_words;
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
        in_words(run(&args, &mut out))?;
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
             R@2          100.0000 %\nMRR           83.3333 %\n4 queries, 1 left out: no other sample of their class\n"
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
        let (before, table) = (fs::read(&vectors).unwrap(), folder.path().join("v.parquet"));
        assert!(call(&[&vectors, &path, "--queries", &vectors]).unwrap_err().contains("a name that ends in .parquet"));
        let other = labels.with_extension("npy").to_string_lossy().into_owned();
        assert!(call(&[&vectors, &path, "--queries", &other]).unwrap_err().contains("a name that ends in .parquet"));
        let table = table.to_string_lossy();
        fs::write(&*table, "mine").unwrap();
        assert!(call(&[&table, &path, "--queries", &table]).unwrap_err().contains("this file is an input"));
        assert_eq!((fs::read(&vectors).unwrap(), fs::read(&*table).unwrap()), (before, b"mine".to_vec()));
    }
}
