//! Writes tensors for other tools: `.npy`, `.safetensors`, `.parquet`.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err::{self as fs, File};
use npyz::{AutoSerialize, WriterBuilder};
use polars::prelude::{Column, DataFrame, NamedFrom, ParquetWriter, PolarsError, Series};
use thiserror::Error;

use crate::nn::weights::{Format, TensorInfo, WeightError, WeightFile, write_safetensors};

/// Why tensors were not written.
#[derive(Debug, Error)]
pub enum ExportError {
    /// They cannot be read, or not be written as safetensors.
    #[error(transparent)]
    Tensors(#[from] WeightError),
    /// No tensor has the name, or none was named where one must be.
    #[error("{}: {found}; it has {}", path.display(), names.join(", "))]
    Name { path: PathBuf, found: String, names: Vec<String> },
    /// The extension is not one of a format that is written.
    #[error("{}: expected the extension .npy, .safetensors or .parquet", path.display())]
    Extension { path: PathBuf },
    /// Integers that 32-bit floats, in which tensors are read, cannot represent.
    #[error(
        "tensor {name:?} has the integer {value}, and those from 16777216 on would be rounded; write it from Python"
    )]
    Wide { name: String, value: f32 },
    /// The file cannot be written; the error names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The table cannot be built or written.
    #[error("cannot write the table of tensors")]
    Table(#[from] PolarsError),
}

/// The tensor that holds the embeddings of a file of vectors.
const VECTORS: &str = "embeddings";

/// Writes the tensors of `from` to `to`, in the format of its extension; only the one called `name`, if that is given.
///
/// - `.npy`: one tensor: `name`, else the only one, else `embeddings`. Real numbers in 32 bits, integers in 64.
/// - `.safetensors`: all tensors; a copy where `from` is of that format, else real numbers in 32 bits.
/// - `.parquet`: of a file of vectors (that has `embeddings`) a row per vector and a column per tensor, with the class's name where
///   the file has it; of any other a row per tensor: `name`, `shape` and `values`.
///
/// # Errors
/// [`ExportError`].
pub fn export(from: &Path, to: &Path, name: Option<&str>) -> Result<(), ExportError> {
    let file = WeightFile::open(from)?;
    let tensors: Vec<&TensorInfo> =
        file.tensors().iter().filter(|tensor| name.is_none_or(|name| tensor.name == name)).collect();
    let names = || file.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    let unknown = |found: String| ExportError::Name { path: from.into(), found, names: names() };
    if let Some(name) = name.filter(|_| tensors.is_empty()) {
        return Err(unknown(format!("there is no tensor {name:?}")));
    }
    match to.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase().as_str() {
        "npy" => {
            let usual = || tensors.iter().find(|tensor| tensor.name == VECTORS).copied();
            let one = if let [one] = tensors[..] { Some(one) } else { usual() };
            write_npy(&file, one.ok_or_else(|| unknown("an .npy file holds one tensor: name it".to_owned()))?, to)
        }
        "safetensors" if name.is_none() && file.format() == Format::Safetensors => Ok(fs::write(to, fs::read(from)?)?),
        "safetensors" => {
            let values = tensors.iter().map(|tensor| file.values(tensor)).collect::<Result<Vec<_>, _>>()?;
            let named = tensors.iter().zip(&values).map(|(t, values)| (t.name.as_str(), &t.shape[..], &values[..]));
            let bytes = write_safetensors(named, &BTreeMap::new())?;
            Ok(fs::write(to, bytes)?)
        }
        "parquet" => {
            let vectors = tensors.iter().any(|tensor| tensor.name == VECTORS && tensor.shape.len() == 2);
            let table = if vectors { row_a_vector(&file, &tensors)? } else { row_a_tensor(&file, &tensors)? };
            let mut table = DataFrame::new_infer_height(table)?;
            ParquetWriter::new(File::create(to)?).finish(&mut table)?;
            Ok(())
        }
        _ => Err(ExportError::Extension { path: to.into() }),
    }
}

/// Whether the tensor has integers in the file.
fn whole(tensor: &TensorInfo) -> bool {
    use safetensors::tensor::Dtype::{I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(tensor.dtype, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

fn integers(tensor: &TensorInfo, values: Vec<f32>) -> Result<Vec<i64>, ExportError> {
    match values.iter().find(|value| value.abs() >= 16_777_216.0) {
        Some(&value) => Err(ExportError::Wide { name: tensor.name.clone(), value }),
        None => Ok(values.into_iter().map(|x| x as i64).collect()),
    }
}

fn write_npy(file: &WeightFile, tensor: &TensorInfo, to: &Path) -> Result<(), ExportError> {
    fn write<T: AutoSerialize>(shape: &[usize], values: Vec<T>, to: &Path) -> std::io::Result<()> {
        let shape: Vec<u64> = shape.iter().map(|&length| length as u64).collect();
        let mut file = BufWriter::new(File::create(to)?);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd()?;
        writer.extend(values)?;
        writer.finish()?;
        file.flush()
    }
    let values = file.values(tensor)?;
    if whole(tensor) {
        write(&tensor.shape, integers(tensor, values)?, to)?;
    } else {
        write(&tensor.shape, values, to)?;
    }
    Ok(())
}

fn row_a_vector(file: &WeightFile, tensors: &[&TensorInfo]) -> Result<Vec<Column>, ExportError> {
    let mut columns = Vec::new();
    for tensor in tensors {
        let (name, values) = (tensor.name.as_str().into(), file.values(tensor)?);
        match tensor.shape[..] {
            [_, dim] if dim > 0 => {
                let rows: Vec<Series> = values.chunks(dim).map(|row| Series::new("".into(), row)).collect();
                columns.push(Column::new(name, rows));
            }
            _ if whole(tensor) => columns.push(Column::new(name, integers(tensor, values)?)),
            _ => columns.push(Column::new(name, values)),
        }
    }
    let names: Vec<String> =
        file.metadata().get("classes").and_then(|names| serde_json::from_str(names).ok()).unwrap_or_default();
    if let Some(labels) = tensors.iter().find(|tensor| tensor.name == "labels" && !names.is_empty()) {
        let labels = integers(labels, file.values(labels)?)?;
        let name = |label: i64| usize::try_from(label).ok().and_then(|label| names.get(label)).map(String::as_str);
        columns.push(Column::new("class".into(), labels.into_iter().map(name).collect::<Vec<Option<&str>>>()));
    }
    Ok(columns)
}

fn row_a_tensor(file: &WeightFile, tensors: &[&TensorInfo]) -> Result<Vec<Column>, ExportError> {
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let shape = |tensor: &&TensorInfo| {
        Series::new("".into(), tensor.shape.iter().map(|&length| length as i64).collect::<Vec<i64>>())
    };
    let values = |tensor: &&TensorInfo| Ok(Series::new("".into(), file.values(tensor)?));
    Ok(vec![
        Column::new("name".into(), names),
        Column::new("shape".into(), tensors.iter().map(shape).collect::<Vec<Series>>()),
        Column::new("values".into(), tensors.iter().map(values).collect::<Result<Vec<Series>, WeightError>>()?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::vectors::{Matrix, Names, Values, read_labels, read_vectors};
    use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
    use std::collections::HashMap;

    fn bytes<T: Copy, const N: usize>(values: &[T], of: fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&value| of(value)).collect()
    }

    fn vectors(path: &Path) {
        let values = bytes(&[1.0, 2.5, -3.0, 4.0, 5.0, 6.0], f32::to_le_bytes);
        let labels = bytes(&[1, 0, 1], u32::to_le_bytes);
        let tensors = [
            ("embeddings", TensorView::new(Dtype::F32, vec![3, 2], &values).unwrap()),
            ("labels", TensorView::new(Dtype::U32, vec![3], &labels).unwrap()),
        ];
        let names = HashMap::from([("classes".to_owned(), "[\"cat\",\"dog\"]".to_owned())]);
        serialize_to_file(tensors, Some(names), path).unwrap();
    }

    #[test]
    fn vectors_and_labels_come_back_from_every_format() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // A stored output has no extension.
        vectors(&at("stored"));
        let read = |name: &str| read_vectors(&at(name), Names::default()).unwrap().matrix;
        let labels = |name: &str, column| read_labels(&at(name), column).unwrap().texts;
        let expected = Matrix { values: Values::F32(vec![1.0, 2.5, -3.0, 4.0, 5.0, 6.0]), rows: 3, dim: 2 };
        for name in ["a.npy", "a.safetensors", "a.parquet"] {
            export(&at("stored"), &at(name), None).unwrap();
            assert_eq!(read(name), expected, "{name}");
        }
        export(&at("stored"), &at("l.npy"), Some("labels")).unwrap();
        for name in ["l.npy", "a.safetensors", "a.parquet"] {
            assert_eq!(labels(name, None), ["1", "0", "1"], "{name}");
        }
        assert_eq!(labels("a.parquet", Some("class")), ["dog", "cat", "dog"]);
        assert_eq!(fs::read(at("stored")).unwrap(), fs::read(at("a.safetensors")).unwrap());
    }

    #[test]
    fn weights_become_a_row_a_tensor_and_mistakes_name_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let written =
            write_safetensors([("b", &[2][..], &[1.0, 2.0][..]), ("w", &[1, 3], &[3.0; 3])], &BTreeMap::new());
        fs::write(at("stored"), written.unwrap()).unwrap();
        export(&at("stored"), &at("w.parquet"), None).unwrap();
        assert_eq!(read_labels(&at("w.parquet"), Some("name")).unwrap().texts, ["b", "w"]);
        export(&at("stored"), &at("w.npy"), Some("w")).unwrap();
        assert_eq!(read_vectors(&at("w.npy"), Names::default()).unwrap().matrix.values, Values::F32(vec![3.0; 3]));
        let error = |to: &str, name| export(&at("stored"), &at(to), name).unwrap_err().to_string();
        assert!(error("x.npy", None).ends_with("an .npy file holds one tensor: name it; it has b, w"));
        assert!(error("x.npy", Some("c")).ends_with("there is no tensor \"c\"; it has b, w"));
        assert!(error("x.csv", None).ends_with("expected the extension .npy, .safetensors or .parquet"));
        assert!(!at("x.npy").exists());
        let wide = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors/wide.pt");
        let error = export(&wide, &at("x.npy"), Some("labels")).unwrap_err().to_string();
        assert!(error.contains("\"labels\" has the integer 16777216"), "{error}");
        assert!(!at("x.npy").exists());
    }
}
