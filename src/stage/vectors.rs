//! What `embed` passes to `evaluate`: one safetensors file with vectors, labels, groups and their names.
//!
//! It is written row by row and read in place, so that neither side holds the vectors twice.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::json;
use thiserror::Error;

use super::job::JobError;
use crate::eval::Labelled;

/// What is known of the images, row by row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows {
    /// Class indices.
    pub labels: Vec<u32>,
    /// Class names by index; empty if they have none.
    pub class_names: Vec<String>,
    /// Positions in `group_names`.
    pub groups: Vec<u32>,
    /// The groups; an image without one has the empty name.
    pub group_names: Vec<String>,
    /// What the reader of a table must know of the model that made the vectors.
    pub remarks: Vec<String>,
}

/// The vectors of labelled images, mapped into memory.
#[derive(Debug)]
pub(super) struct Vectors {
    file: Mmap,
    values: Range<usize>,
    /// Length of one vector.
    pub dim: usize,
    pub rows: Rows,
}

#[derive(Debug, Error)]
#[error("the vectors are damaged: {0}")]
struct Damaged(String);

const GROUPS: &str = "groups";
const CLASSES: &str = "classes";
const REMARKS: &str = "remarks";

/// A file of vectors that is being written.
pub(super) struct Writer {
    file: BufWriter<File>,
    /// Bytes of vectors not written yet.
    left: usize,
    tail: Vec<u8>,
}

impl Writer {
    /// Creates the file at `path` for one vector of length `dim` for each of `rows`.
    pub(super) fn create(path: &Path, rows: &Rows, dim: usize) -> Result<Writer, JobError> {
        let n = rows.labels.len();
        let (values, numbers) = (4 * n * dim, 4 * n);
        // The format requires contiguous data that begins at a multiple of 8.
        let mut header = json!({
            "__metadata__": {
                CLASSES: serde_json::to_string(&rows.class_names)?,
                GROUPS: serde_json::to_string(&rows.group_names)?,
            },
            "embeddings": { "dtype": "F32", "shape": [n, dim], "data_offsets": [0, values] },
            "groups": { "dtype": "U32", "shape": [n], "data_offsets": [values, values + numbers] },
            "labels": { "dtype": "U32", "shape": [n], "data_offsets": [values + numbers, values + 2 * numbers] },
        });
        if !rows.remarks.is_empty() {
            header["__metadata__"][REMARKS] = serde_json::to_string(&rows.remarks)?.into();
        }
        let mut header = header.to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let tail = rows.groups.iter().chain(&rows.labels).flat_map(|x| x.to_le_bytes()).collect();
        Ok(Writer { file, left: values, tail })
    }

    /// Appends vectors.
    pub(super) fn push(&mut self, vectors: &[f32]) -> Result<(), JobError> {
        self.left = self.left.checked_sub(4 * vectors.len()).ok_or(Damaged("more than there are rows".to_owned()))?;
        vectors.iter().try_for_each(|x| self.file.write_all(&x.to_le_bytes()))?;
        Ok(())
    }

    /// Finishes the file.
    pub(super) fn finish(mut self) -> Result<(), JobError> {
        if self.left > 0 {
            return Err(Damaged(format!("{} bytes fewer than there are rows", self.left)).into());
        }
        self.file.write_all(&self.tail)?;
        Ok(self.file.flush()?)
    }
}

/// Opens what a [`Writer`] wrote. The file must not be altered while it is open; an input of a job never is.
pub(super) fn read(path: &Path) -> Result<Vectors, JobError> {
    // SAFETY: the inputs of a job are in the store, which is never altered, or the user must keep them unaltered.
    let file = unsafe { Mmap::map(&File::open(path)?) }?;
    let (_, header) = SafeTensors::read_metadata(&file)?;
    let tensors = SafeTensors::deserialize(&file)?;
    let names = |key: &str| -> Result<Vec<String>, JobError> {
        let names = header.metadata().as_ref().and_then(|names| names.get(key));
        Ok(names.map(|names| serde_json::from_str(names)).transpose()?.unwrap_or_default())
    };
    let embeddings = tensors.tensor("embeddings")?;
    let (&[n, dim], Dtype::F32) = (embeddings.shape(), embeddings.dtype()) else {
        let (kind, shape) = (embeddings.dtype(), embeddings.shape());
        return Err(Damaged(format!("`embeddings` is {kind:?} of {shape:?}, expected a matrix of F32")).into());
    };
    let numbers = |name: &str| -> Result<Vec<u32>, JobError> {
        let tensor = tensors.tensor(name)?;
        if tensor.shape() != [n] || tensor.dtype() != Dtype::U32 {
            let (kind, shape) = (tensor.dtype(), tensor.shape());
            return Err(Damaged(format!("`{name}` is {kind:?} of {shape:?}, expected {n} U32")).into());
        }
        Ok(tensor.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    };
    let rows = Rows {
        labels: numbers("labels")?,
        class_names: names(CLASSES)?,
        groups: numbers("groups")?,
        group_names: names(GROUPS)?,
        remarks: names(REMARKS)?,
    };
    if rows.groups.iter().any(|&group| group as usize >= rows.group_names.len()) {
        return Err(Damaged("a group has no name".to_owned()).into());
    }
    let first = embeddings.data().as_ptr() as usize - file.as_ptr() as usize;
    let values = first..first + embeddings.data().len();
    Ok(Vectors { values, dim, rows, file })
}

/// Some rows.
pub(super) struct Part<'a> {
    dim: usize,
    /// Which of all rows they are.
    pub positions: Vec<usize>,
    pub vectors: Cow<'a, [f32]>,
    pub labels: Vec<u32>,
}

impl Part<'_> {
    pub(super) fn labelled(&self) -> Labelled<'_, f32> {
        Labelled { vectors: &self.vectors, labels: &self.labels, dim: self.dim }
    }
}

impl Vectors {
    /// `n x dim` numbers, row-major: borrowed in place, if the machine can read them there.
    pub(super) fn values(&self) -> Cow<'_, [f32]> {
        let bytes = &self.file[self.values.clone()];
        // SAFETY: every bit pattern is a valid number.
        let (before, values, _) = unsafe { bytes.align_to::<f32>() };
        if before.is_empty() && cfg!(target_endian = "little") {
            return Cow::Borrowed(values);
        }
        Cow::Owned(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// The rows of one group, or all if none is named; `None` if there is no such group.
    pub(super) fn of_group(&self, group: Option<&str>) -> Option<Part<'_>> {
        let all = 0..self.rows.labels.len();
        let values = self.values();
        let Some(group) = group else {
            return Some(Part {
                dim: self.dim,
                positions: all.collect(),
                vectors: values,
                labels: self.rows.labels.clone(),
            });
        };
        let wanted = self.rows.group_names.iter().position(|name| name == group)? as u32;
        let positions: Vec<usize> = all.filter(|&row| self.rows.groups[row] == wanted).collect();
        let vectors = positions.iter().flat_map(|&row| &values[row * self.dim..(row + 1) * self.dim]);
        Some(Part {
            dim: self.dim,
            vectors: Cow::Owned(vectors.copied().collect()),
            labels: positions.iter().map(|&row| self.rows.labels[row]).collect(),
            positions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        Rows {
            labels: vec![1, 0, 1],
            class_names: vec!["cat".into(), "dog \"1\"".into()],
            groups: vec![0, 1, 0],
            group_names: vec!["noto".into(), "twemoji".into()],
            remarks: vec!["chosen by \"these\"".into()],
        }
    }

    #[test]
    fn vectors_come_back_and_divide_by_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors.safetensors");
        let mut writer = Writer::create(&path, &rows(), 2).unwrap();
        writer.push(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        writer.push(&[5.0, 6.0]).unwrap();
        writer.finish().unwrap();
        let found = read(&path).unwrap();
        assert_eq!((&found.rows, found.dim), (&rows(), 2));
        assert_eq!(*found.values(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!(matches!(found.values(), Cow::Borrowed(_)));
        let part = found.of_group(Some("noto")).unwrap();
        assert_eq!(
            (&*part.vectors, &*part.labels, &*part.positions),
            (&[1.0, 2.0, 5.0, 6.0][..], &[1, 1][..], &[0, 2][..])
        );
        assert!(found.of_group(Some("apple")).is_none());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn a_file_with_more_or_fewer_vectors_than_rows_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors.safetensors");
        assert!(Writer::create(&path, &rows(), 2).unwrap().push(&[0.0; 7]).is_err());
        let mut short = Writer::create(&path, &rows(), 2).unwrap();
        short.push(&[0.0; 4]).unwrap();
        assert_eq!(
            short.finish().unwrap_err().to_string(),
            "the vectors are damaged: 8 bytes fewer than there are rows"
        );
    }
}
