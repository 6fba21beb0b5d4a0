//! Reads vectors and labels from the files of other tools: `.npy`, `.npz`, `.safetensors`, `.pt`, `.parquet`, and labels
//! also from text.
//!
//! | module | holds |
//! | --- | --- |
//! | `named` | files of arrays with names, and which of them to read |
//! | `frame` | tables, and which of their columns are elements of the vectors |
//! | `lines` | labels in text files |
//!
//! The rules are in docs/evaluation.md. Where they leave two answers, the file is refused and the message lists the candidates.

mod frame;
mod lines;
mod named;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::array::npy;
pub use crate::array::{Matrix, Values};
use crate::regular;
use crate::table::Table;

/// The names that the user gave for arrays or columns of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// The array or column of vectors; of columns also several, `x,y`, or a numbered series, `f*`.
    pub vectors: Option<&'a str>,
    /// The array or column of labels, which is then not part of the vectors.
    pub labels: Option<&'a str>,
}

/// Vectors as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// A row each, none of them empty.
    pub matrix: Matrix,
    /// The array or columns, in words; none if the file holds only one array.
    pub name: Option<String>,
    /// The other arrays or columns of the file, by name.
    pub others: Vec<Other>,
}

/// An array or a column that is not part of the vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub name: String,
    /// Whether it is an index of pandas.
    pub index: bool,
}

/// Labels as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// One text per row, none of them empty; an integer is its decimal digits.
    pub texts: Vec<String>,
    /// The array or column that they are, if the file has names.
    pub name: Option<String>,
}

/// Why a file gives no vectors or labels.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be opened; the error names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// It is not of the format that its name says, or holds something else than expected.
    #[error("{}: {message}", path.display())]
    Content { path: PathBuf, message: String },
}

/// Reads vectors from `path`, the format being that of its extension.
///
/// - `.npy`: a 2-d array of numbers of any type, byte order and order of axes.
/// - `.npz`, `.safetensors`, `.pt`, `.pth`: the array `names.vectors`; else `embeddings`; else the only one; else the only 2-d
///   one with a usual name; else the only 2-d one.
/// - `.parquet`: see docs/evaluation.md.
///
/// # Errors
/// [`ReadError`], with the place and what to do.
pub fn read_vectors(path: &Path, names: Names<'_>) -> Result<Vectors, ReadError> {
    let expected = "vectors in .npy, .npz, .safetensors, .pt or .parquet";
    read(path, |format| match format {
        Format::Npy => Ok(Vectors { matrix: npy::open(path)?.matrix()?, name: None, others: Vec::new() }),
        Format::Named => named::vectors(path, names),
        Format::Parquet => frame::vectors(&Table::open(path)?, names),
        Format::Text => Err(format!("it is text, expected {expected}")),
        Format::Other(extension) => Err(format!("the extension is {extension:?}, expected {expected}")),
    })
}

/// Reads labels from `path`: integers, texts, truth values, or numbers that are whole.
///
/// - `.npy`: an array that is 1-d or of one column.
/// - `.npz`, `.safetensors`, `.pt`, `.pth`: the array `name`; else `labels`; else the only one; else the only one with a usual
///   name; else the only 1-d one that is not of fractions.
/// - `.parquet`: the column `name`; else `labels` or `label`; else the only one; else the only one with a usual name.
/// - `.csv`, `.tsv`: as `.parquet` if the first line is a header, which has one of these names; else a label per line.
/// - `.txt`: a label per line.
///
/// # Errors
/// [`ReadError`], with the row or line of a label that is missing or invalid.
pub fn read_labels(path: &Path, name: Option<&str>) -> Result<Labels, ReadError> {
    let expected = "labels in .npy, .npz, .safetensors, .pt, .parquet, .csv, .tsv or .txt";
    read(path, |format| match format {
        Format::Npy => Ok(Labels { texts: npy::open(path)?.labels()?, name: None }),
        Format::Named => named::labels(path, name),
        Format::Parquet => frame::labels(&Table::open(path)?, name),
        Format::Text => lines::labels(path, name),
        Format::Other(extension) => Err(format!("the extension is {extension:?}, expected {expected}")),
    })
}

/// One number for each distinct label over all `sets`, by its first appearance.
pub fn encode_labels<const N: usize>(sets: [&[String]; N]) -> [Vec<u32>; N] {
    let mut codes = BTreeMap::<&str, u32>::new();
    sets.map(|set| {
        let code = |label| {
            let next = codes.len() as u32;
            *codes.entry(label).or_insert(next)
        };
        set.iter().map(String::as_str).map(code).collect()
    })
}

enum Format {
    Npy,
    Named,
    Parquet,
    Text,
    Other(String),
}

fn read<T>(path: &Path, of: impl FnOnce(Format) -> Result<T, String>) -> Result<T, ReadError> {
    // The readers below say what is wrong with the content; a file that cannot be opened is said in one way.
    regular::open(path)?;
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let format = match extension.as_str() {
        "npy" => Format::Npy,
        "npz" | "safetensors" | "pt" | "pth" => Format::Named,
        "parquet" | "pq" => Format::Parquet,
        "csv" | "tsv" | "txt" => Format::Text,
        _ => Format::Other(extension),
    };
    of(format).map_err(|message| ReadError::Content { path: path.into(), message })
}

/// Names that are usual for vectors.
const VECTORS: [&str; 9] =
    ["embeddings", "embedding", "embeds", "embs", "emb", "vectors", "vector", "features", "feature"];

/// Names that are usual for labels.
const LABELS: [&str; 6] = ["labels", "label", "targets", "target", "classes", "class"];

/// Whether `name` is one of `usual`, in whatever case.
fn is_usual(name: &str, usual: &[&str]) -> bool {
    usual.iter().any(|usual| name.trim().eq_ignore_ascii_case(usual))
}

/// The only one of the items that are `wanted`.
fn only<T>(items: impl IntoIterator<Item = T>, wanted: impl Fn(&T) -> bool) -> Option<T> {
    let mut wanted = items.into_iter().filter(wanted);
    wanted.next().filter(|_| wanted.next().is_none())
}

#[cfg(test)]
mod tests;
