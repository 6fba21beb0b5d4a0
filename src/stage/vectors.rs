//! What `embed` hands to `evaluate`: one safetensors file with vectors, labels and groups.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::JobError;

/// The vectors and the labels of some rows.
type Rows<'a> = (Cow<'a, [f32]>, Cow<'a, [u32]>);

/// Vectors of labelled images.
#[derive(Debug, PartialEq)]
pub(super) struct Vectors {
    /// `n x dim`, row-major.
    pub vectors: Vec<f32>,
    /// Length of one vector.
    pub dim: usize,
    /// `n` class indices.
    pub labels: Vec<u32>,
    /// `n` positions in `group_names`.
    pub groups: Vec<u32>,
    /// The groups; an image without one has the empty name.
    pub group_names: Vec<String>,
    /// What the reader of a table must know of the model, if anything.
    pub remarks: Vec<String>,
}

#[derive(Debug, Error)]
#[error("the vectors are damaged: {0}")]
struct Damaged(String);

const GROUPS: &str = "groups";

/// What the metadata says under its one key, as JSON; without remarks the list of groups alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Said {
    Groups(Vec<String>),
    All { groups: Vec<String>, remarks: Vec<String> },
}

/// Writes `vectors` to `path`, the tensors in the order of their names.
pub(super) fn write(vectors: &Vectors, path: &Path) -> Result<(), JobError> {
    let n = vectors.labels.len();
    let bytes = |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let values: Vec<u8> = vectors.vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
    let (labels, groups) = (bytes(&vectors.labels), bytes(&vectors.groups));
    let tensors = [
        ("embeddings", TensorView::new(Dtype::F32, vec![n, vectors.dim], &values)?),
        ("groups", TensorView::new(Dtype::U32, vec![n], &groups)?),
        ("labels", TensorView::new(Dtype::U32, vec![n], &labels)?),
    ];
    let groups = vectors.group_names.clone();
    let said = match vectors.remarks.clone() {
        none if none.is_empty() => Said::Groups(groups),
        remarks => Said::All { groups, remarks },
    };
    let names = HashMap::from([(GROUPS.to_owned(), serde_json::to_string(&said)?)]);
    Ok(serialize_to_file(tensors, Some(names), path)?)
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path) -> Result<Vectors, JobError> {
    let bytes = std::fs::read(path)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let names = header.metadata().as_ref().and_then(|names| names.get(GROUPS));
    let said = names.map(|names| serde_json::from_str(names)).transpose()?.unwrap_or(Said::Groups(Vec::new()));
    let (group_names, remarks) = match said {
        Said::Groups(groups) => (groups, Vec::new()),
        Said::All { groups, remarks } => (groups, remarks),
    };
    let embeddings = file.tensor("embeddings")?;
    let &[n, dim] = embeddings.shape() else { return Err(Damaged("not a matrix".to_owned()).into()) };
    let numbers = |name: &str| -> Result<Vec<u32>, JobError> {
        let tensor = file.tensor(name)?;
        if tensor.shape() != [n] || tensor.dtype() != Dtype::U32 {
            return Err(Damaged(format!("`{name}` is {:?} of {:?}", tensor.dtype(), tensor.shape())).into());
        }
        Ok(words(tensor.data()).map(u32::from_le_bytes).collect())
    };
    let (labels, groups) = (numbers("labels")?, numbers("groups")?);
    if groups.iter().any(|&group| group as usize >= group_names.len()) {
        return Err(Damaged("a group has no name".to_owned()).into());
    }
    let vectors = words(embeddings.data()).map(f32::from_le_bytes).collect();
    Ok(Vectors { vectors, dim, labels, groups, group_names, remarks })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks::<4>().0.iter().copied()
}

impl Vectors {
    /// The rows of one group, or of all if none is named; `None` if there is no such group.
    pub(super) fn of_group(&self, group: Option<&str>) -> Option<Rows<'_>> {
        let Some(group) = group else {
            return Some((Cow::Borrowed(&self.vectors), Cow::Borrowed(&self.labels)));
        };
        let wanted = self.group_names.iter().position(|name| name == group)? as u32;
        let rows = || (0..self.labels.len()).filter(|&row| self.groups[row] == wanted);
        let vectors = rows().flat_map(|row| &self.vectors[row * self.dim..(row + 1) * self.dim]).copied().collect();
        Some((Cow::Owned(vectors), Cow::Owned(rows().map(|row| self.labels[row]).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_and_divide_by_group() {
        let vectors = Vectors {
            vectors: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            dim: 2,
            labels: vec![7, 8, 7],
            groups: vec![0, 1, 0],
            group_names: vec!["noto".into(), "twemoji".into()],
            remarks: vec![],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors.safetensors");
        write(&vectors, &path).unwrap();
        assert_eq!(read(&path).unwrap(), vectors);
        let remarked = Vectors { remarks: vec!["chosen by what it shows".into()], ..vectors };
        write(&remarked, &path).unwrap();
        assert_eq!(read(&path).unwrap(), remarked);
        let vectors = remarked;
        let (rows, labels) = vectors.of_group(Some("noto")).unwrap();
        assert_eq!((&*rows, &*labels), (&[1.0, 2.0, 5.0, 6.0][..], &[7, 7][..]));
        assert!(vectors.of_group(Some("apple")).is_none());
        std::fs::write(&path, &std::fs::read(&path).unwrap()[..40]).unwrap();
        assert!(read(&path).is_err());
    }
}
