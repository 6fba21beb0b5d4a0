//! Reads vectors and labels from the files of other tools: `.npy`, `.safetensors`, `.parquet`, and labels also from
//! `.csv` and `.txt`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use npyz::{NpyFile, Order};
use polars::prelude::{DataFrame, DataType, ParquetReader, PolarsResult, SerReader, Series};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

/// Numbers in the width that a file has them in.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32 bits.
    F32(Vec<f32>),
    /// 64 bits.
    F64(Vec<f64>),
}

impl Values {
    /// The same numbers in 64 bits.
    pub fn wide(self) -> Vec<f64> {
        match self {
            Values::F32(values) => values.into_iter().map(f64::from).collect(),
            Values::F64(values) => values,
        }
    }
}

/// Vectors as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// `rows x dim`, row-major.
    pub values: Values,
    /// Number of vectors.
    pub rows: usize,
    /// Length of one.
    pub dim: usize,
}

/// Why a file gives no vectors or labels.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// It is not of the format that its name says, or holds something else than expected.
    #[error("{}: {found}, expected {expected}", path.display())]
    Content { path: PathBuf, found: String, expected: String },
}

const VECTORS: &str = "vectors in .npy (2-d, float32 or float64), .safetensors or .parquet";
const LABELS: &str = "labels in .npy (1-d integers), .safetensors, .parquet, .csv or .txt (one a line)";

/// Reads vectors from `path`, the format being that of its extension.
///
/// - `.npy`: a 2-d array of float32 or float64 in C order.
/// - `.safetensors`: the tensor `name`, else the only one, else `embeddings`; 2-d, F32 or F64.
/// - `.parquet`: the column `name`, a list of numbers a row; else the only column of lists, else every numeric column but
///   `label` and `labels`, in the order of the file.
pub fn read_vectors(path: &Path, name: Option<&str>) -> Result<Vectors, ReadError> {
    let file = Source { path };
    match file.extension().as_str() {
        "npy" => file.npy_vectors(),
        "safetensors" => file.safetensors_vectors(name),
        "parquet" => file.parquet_vectors(name),
        other => Err(file.content(format!("the extension is {other:?}"), VECTORS)),
    }
}

/// Reads labels from `path`, as text: an integer is its decimal digits.
///
/// - `.npy`: a 1-d array of integers.
/// - `.safetensors`: the tensor `name`, else the only one, else `labels`; 1-d integers.
/// - `.parquet`: the column `name`, else `labels` or `label`, else the only one; integers or strings.
/// - `.csv`, `.txt`: one a line, without a header; blank lines do not count.
pub fn read_labels(path: &Path, name: Option<&str>) -> Result<Vec<String>, ReadError> {
    let file = Source { path };
    match file.extension().as_str() {
        "npy" => file.npy_labels(),
        "safetensors" => file.safetensors_labels(name),
        "parquet" => file.parquet_labels(name),
        "csv" | "txt" => file.text_labels(),
        other => Err(file.content(format!("the extension is {other:?}"), LABELS)),
    }
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

/// A file being read, for its messages.
struct Source<'a> {
    path: &'a Path,
}

impl Source<'_> {
    fn extension(&self) -> String {
        self.path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
    }

    fn content(&self, found: impl Into<String>, expected: impl Into<String>) -> ReadError {
        ReadError::Content { path: self.path.into(), found: found.into(), expected: expected.into() }
    }

    fn io(&self, source: std::io::Error) -> ReadError {
        ReadError::File { path: self.path.into(), source }
    }

    /// Checks a shape against the `rows x dim` of vectors.
    fn matrix(&self, shape: &[usize]) -> Result<(usize, usize), ReadError> {
        match *shape {
            [rows, dim] if rows > 0 && dim > 0 => Ok((rows, dim)),
            _ => Err(self.content(format!("the shape is {shape:?}"), "2-d and not empty: a row a vector")),
        }
    }

    /// Checks a shape against that of labels.
    fn column(&self, shape: &[usize]) -> Result<(), ReadError> {
        match shape.len() {
            1 => Ok(()),
            _ => Err(self.content(format!("the shape is {shape:?}"), "1-d: a label a vector")),
        }
    }

    fn npy(&self) -> Result<(NpyFile<BufReader<File>>, Vec<usize>), ReadError> {
        let file = File::open(self.path).map_err(|e| self.io(e))?;
        let size = file.metadata().map_err(|e| self.io(e))?.len();
        let file = NpyFile::new(BufReader::new(file)).map_err(|e| self.content(e.to_string(), "an .npy array"))?;
        let header = file.header();
        // A header may claim any shape; memory is only taken for what the file can hold.
        let claimed = header.dtype().num_bytes().and_then(|width| header.len().checked_mul(width as u64));
        if claimed.is_none_or(|bytes| bytes > size) {
            return Err(self.content(
                format!("the file has {size} bytes"),
                format!("the array {:?} of its header", header.shape()),
            ));
        }
        let shape = header.shape().iter().map(|&n| n as usize).collect();
        Ok((file, shape))
    }

    fn npy_vectors(&self) -> Result<Vectors, ReadError> {
        let (file, shape) = self.npy()?;
        let (rows, dim) = self.matrix(&shape)?;
        if file.header().order() != Order::C {
            return Err(self.content("the array is in Fortran order", "C order (numpy.ascontiguousarray)"));
        }
        let kind = file.header().dtype().descr();
        let values = match file.try_data::<f32>() {
            Ok(data) => data.collect::<Result<_, _>>().map(Values::F32),
            Err(file) => match file.try_data::<f64>() {
                Ok(data) => data.collect::<Result<_, _>>().map(Values::F64),
                Err(_) => return Err(self.content(format!("the elements are {kind}"), "float32 or float64")),
            },
        };
        Ok(Vectors { values: values.map_err(|e| self.io(e))?, rows, dim })
    }

    fn npy_labels(&self) -> Result<Vec<String>, ReadError> {
        let (mut file, shape) = self.npy()?;
        self.column(&shape)?;
        let kind = file.header().dtype().descr();
        macro_rules! try_each {
            ($($integer:ty),*) => {
                $(file = match file.try_data::<$integer>() {
                    Ok(data) => return data.map(|x| x.map(|x| x.to_string())).collect::<Result<_, _>>().map_err(|e| self.io(e)),
                    Err(file) => file,
                };)*
            };
        }
        try_each!(i64, i32, u8, u32, u64, i16, u16, i8);
        drop(file);
        Err(self.content(format!("the elements are {kind}"), "integers"))
    }

    /// Calls `use_it` on the tensor `name`, else the only one, else `usual`.
    fn tensor<R>(
        &self,
        name: Option<&str>,
        usual: &str,
        use_it: impl FnOnce(TensorView<'_>) -> Result<R, ReadError>,
    ) -> Result<R, ReadError> {
        let file = File::open(self.path).map_err(|e| self.io(e))?;
        // SAFETY: whoever asks for the metrics of a file does not alter it meanwhile.
        let bytes = unsafe { Mmap::map(&file) }.map_err(|e| self.io(e))?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| self.content(e.to_string(), "a .safetensors file"))?;
        let mut names = tensors.names();
        names.sort_unstable();
        let wanted = match (name, names.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, _) => usual,
        };
        let tensor = tensors.tensor(wanted).map_err(|_| {
            self.content(format!("the tensors are {}", names.join(", ")), format!("a tensor {wanted:?}"))
        })?;
        use_it(tensor)
    }

    fn safetensors_vectors(&self, name: Option<&str>) -> Result<Vectors, ReadError> {
        self.tensor(name, "embeddings", |tensor| {
            let (rows, dim) = self.matrix(tensor.shape())?;
            let values = match tensor.dtype() {
                Dtype::F32 => Values::F32(elements(tensor.data(), f32::from_le_bytes).collect()),
                Dtype::F64 => Values::F64(elements(tensor.data(), f64::from_le_bytes).collect()),
                other => return Err(self.content(format!("the elements are {other:?}"), "F32 or F64")),
            };
            Ok(Vectors { values, rows, dim })
        })
    }

    fn safetensors_labels(&self, name: Option<&str>) -> Result<Vec<String>, ReadError> {
        self.tensor(name, "labels", |tensor| {
            self.column(tensor.shape())?;
            let bytes = tensor.data();
            Ok(match tensor.dtype() {
                Dtype::I64 => elements(bytes, i64::from_le_bytes).map(|x| x.to_string()).collect(),
                Dtype::U64 => elements(bytes, u64::from_le_bytes).map(|x| x.to_string()).collect(),
                Dtype::I32 => elements(bytes, i32::from_le_bytes).map(|x| x.to_string()).collect(),
                Dtype::U32 => elements(bytes, u32::from_le_bytes).map(|x| x.to_string()).collect(),
                Dtype::I16 => elements(bytes, i16::from_le_bytes).map(|x| x.to_string()).collect(),
                Dtype::U16 => elements(bytes, u16::from_le_bytes).map(|x| x.to_string()).collect(),
                Dtype::U8 => elements(bytes, u8::from_le_bytes).map(|x| x.to_string()).collect(),
                other => return Err(self.content(format!("the elements are {other:?}"), "integers")),
            })
        })
    }

    fn parquet(&self) -> Result<DataFrame, ReadError> {
        let file = File::open(self.path).map_err(|e| self.io(e))?;
        ParquetReader::new(file).finish().map_err(|e| self.content(e.to_string(), "a .parquet table"))
    }

    fn parquet_vectors(&self, name: Option<&str>) -> Result<Vectors, ReadError> {
        let frame = self.parquet()?;
        let columns: Vec<Series> = frame.columns().iter().map(|c| c.as_materialized_series().clone()).collect();
        let (numeric, nested): (Vec<_>, Vec<_>) = columns
            .iter()
            .filter(|c| c.dtype().is_primitive_numeric() || c.dtype().is_nested())
            .partition(|c| c.dtype().is_primitive_numeric());
        let faulty = |e: String| self.content(e, "a list of numbers a row, all of one length, or numeric columns");
        let lists = match (name, nested.as_slice()) {
            (Some(name), _) => Some(self.named(&frame, name)?),
            (None, [only]) => Some((*only).clone()),
            (None, []) => None,
            (None, _) => return Err(faulty(format!("{} columns hold lists", nested.len()))),
        };
        let read = || -> PolarsResult<Vec<Vec<f64>>> {
            match &lists {
                Some(lists) => {
                    let lists = lists.cast(&DataType::List(Box::new(DataType::Float64)))?;
                    let lists = lists.list()?;
                    (0..lists.len()).map(|row| numbers(&lists.get_as_series(row).unwrap_or_default())).collect()
                }
                None => numeric
                    .iter()
                    .filter(|c| !matches!(c.name().as_str(), "label" | "labels"))
                    .map(|c| numbers(c))
                    .collect(),
            }
        };
        let mut vectors = read().map_err(|e| faulty(e.to_string()))?;
        if lists.is_none() {
            vectors = (0..frame.height()).map(|row| vectors.iter().map(|column| column[row]).collect()).collect();
        }
        let dim = vectors.first().map_or(0, Vec::len);
        match vectors.iter().position(|row| row.len() != dim) {
            Some(row) => Err(faulty(format!("row {row} has {} numbers, row 0 has {dim}", vectors[row].len()))),
            None => {
                let (rows, dim) = self.matrix(&[vectors.len(), dim])?;
                Ok(Vectors { values: Values::F64(vectors.concat()), rows, dim })
            }
        }
    }

    fn parquet_labels(&self, name: Option<&str>) -> Result<Vec<String>, ReadError> {
        let frame = self.parquet()?;
        let names = frame.get_column_names();
        let usual = ["labels", "label"].into_iter().find(|usual| names.iter().any(|name| name.as_str() == *usual));
        let wanted = match (name.or(usual), names.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only.as_str(),
            (None, _) => "labels",
        };
        let column = self.named(&frame, wanted)?;
        if !(column.dtype().is_integer() || column.dtype() == &DataType::String) {
            return Err(self.content(format!("column {wanted:?} is {}", column.dtype()), "integers or strings"));
        }
        let text = column.cast(&DataType::String).map_err(|e| self.content(e.to_string(), "labels"))?;
        let labels = text.str().map_err(|e| self.content(e.to_string(), "labels"))?;
        let missing = |row| self.content(format!("column {wanted:?} has no value in row {row}"), "a label a vector");
        labels.iter().enumerate().map(|(row, label)| label.map(str::to_owned).ok_or_else(|| missing(row))).collect()
    }

    fn named(&self, frame: &DataFrame, name: &str) -> Result<Series, ReadError> {
        let found = || frame.get_column_names().iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let column = frame.column(name);
        let column =
            column.map_err(|_| self.content(format!("the columns are {}", found()), format!("a column {name:?}")))?;
        Ok(column.as_materialized_series().clone())
    }

    fn text_labels(&self) -> Result<Vec<String>, ReadError> {
        let text = fs::read_to_string(self.path).map_err(|e| self.io(e))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match lines.clone().enumerate().find(|(_, line)| self.extension() == "csv" && line.contains(',')) {
            Some((at, _)) => Err(self.content(format!("label {} holds a comma", at + 1), "one column: a label a line")),
            None => Ok(lines.map(str::to_owned).collect()),
        }
    }
}

/// The numbers of a column; a missing one is NaN, which the metrics refuse by its row.
fn numbers(series: &Series) -> PolarsResult<Vec<f64>> {
    Ok(series.cast(&DataType::Float64)?.f64()?.iter().map(|x| x.unwrap_or(f64::NAN)).collect())
}

fn elements<T, const N: usize>(bytes: &[u8], element: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<N>().0.iter().map(move |bytes| element(*bytes))
}

#[cfg(test)]
mod tests;
