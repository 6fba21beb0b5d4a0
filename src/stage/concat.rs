//! `concat`: the vectors of the same images by several models, end to end.

use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

use super::vectors::{self, Vectors};
use super::{JobError, output};
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "concat",
    version: 1,
    inputs: Inputs::Gathered,
    outputs: &[("vectors", "vectors.safetensors")],
    publish: false,
    continues: &[],
    check,
};

fn check(_: &Map<String, Value>) -> Vec<ParameterProblem> {
    Vec::new()
}

#[derive(Debug, Error)]
enum ConcatError {
    #[error("{} and {} hold vectors of other images: their {what} differ", first.display(), other.display())]
    Other { first: PathBuf, other: PathBuf, what: &'static str },
    #[error("there are no vectors to set end to end")]
    Nothing,
    #[error("{} has a vector without a direction at row {row}", path.display())]
    NoDirection { path: PathBuf, row: usize },
}

pub(super) fn run(job: &KindJob) -> Result<(), JobError> {
    let mut whole: Option<(PathBuf, Vectors)> = None;
    for (_, path) in job.inputs.iter().flat_map(|input| &input.items) {
        let mut part = vectors::read(path)?;
        if let Err(row) = normalise(&mut part) {
            return Err(ConcatError::NoDirection { path: path.clone(), row }.into());
        }
        whole = Some(match whole {
            None => (path.clone(), part),
            Some((first, before)) => {
                let other = |what| ConcatError::Other { first: first.clone(), other: path.clone(), what };
                if before.labels != part.labels {
                    return Err(other("classes").into());
                }
                if before.groups != part.groups || before.group_names != part.group_names {
                    return Err(other("groups").into());
                }
                let joined = join(before, part);
                (first, joined)
            }
        });
    }
    let (path, mut whole) = whole.ok_or(ConcatError::Nothing)?;
    if let Err(row) = normalise(&mut whole) {
        return Err(ConcatError::NoDirection { path, row }.into());
    }
    vectors::write(&whole, output(job, "vectors")?)
}

/// Every row with the row of `part` behind it.
fn join(before: Vectors, part: Vectors) -> Vectors {
    let rows = before.vectors.chunks_exact(before.dim).zip(part.vectors.chunks_exact(part.dim));
    let vectors = rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
    let mut remarks = before.remarks;
    remarks.extend(part.remarks);
    remarks.sort_unstable();
    remarks.dedup();
    Vectors { vectors, dim: before.dim + part.dim, remarks, ..part }
}

/// Gives every row the length 1, or tells the first that has no direction.
fn normalise(vectors: &mut Vectors) -> Result<(), usize> {
    for (row, values) in vectors.vectors.chunks_exact_mut(vectors.dim).enumerate() {
        let length = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(row);
        }
        values.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::execute::KindInput;

    fn of(vectors: Vec<f32>, dim: usize, labels: Vec<u32>) -> Vectors {
        let groups = vec![0; labels.len()];
        Vectors { vectors, dim, labels, groups, group_names: vec![String::new()], remarks: vec!["chosen".into()] }
    }

    /// What comes of some vectors, or why nothing does.
    fn concat(parts: &[Vectors]) -> Result<Vectors, String> {
        let folder = tempfile::tempdir().unwrap();
        let item = |(index, part): (usize, &Vectors)| {
            let path = folder.path().join(format!("{index}.safetensors"));
            vectors::write(part, &path).unwrap();
            (vec![("fold".to_owned(), index.to_string())], path)
        };
        let items = parts.iter().enumerate().map(item).collect();
        let out = folder.path().join("out.safetensors");
        let job = KindJob {
            kind: "concat".into(),
            parameters: Map::new(),
            inputs: vec![KindInput { name: "vectors".into(), items }],
            outputs: [("vectors".to_owned(), out.clone())].into(),
            resume: folder.path().join("resume"),
            threads: 1,
        };
        run(&job).map_err(|error| error.to_string())?;
        Ok(vectors::read(&out).unwrap())
    }

    #[test]
    fn each_part_counts_the_same_whatever_its_length() {
        let found = concat(&[of(vec![3.0, 4.0, 0.0, 2.0], 2, vec![7, 8]), of(vec![-5.0, 0.5], 1, vec![7, 8])]).unwrap();
        let half = 0.5f64.sqrt();
        let expected = [0.6 * half, 0.8 * half, -half, 0.0, half, half].map(|x| x as f32);
        assert_eq!((found.dim, &found.labels[..], &found.remarks[..]), (3, &[7, 8][..], &["chosen".to_owned()][..]));
        assert!(found.vectors.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{:?}", found.vectors);
    }

    #[test]
    fn vectors_of_other_images_or_without_direction_are_refused() {
        let message = |parts: &[Vectors]| concat(parts).unwrap_err();
        let one = || of(vec![1.0, 1.0], 1, vec![0, 1]);
        assert!(message(&[one(), of(vec![1.0, 1.0], 1, vec![0, 2])]).contains("their classes differ"));
        assert!(message(&[one(), Vectors { groups: vec![0, 0], group_names: vec!["a".into()], ..one() }]).contains("groups"));
        assert!(message(&[one(), of(vec![1.0, 0.0], 1, vec![0, 1])]).contains("1.safetensors has a vector without a direction at row 1"));
        assert!(message(&[]).contains("no vectors"));
    }
}
