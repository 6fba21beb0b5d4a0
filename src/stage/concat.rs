//! `concat`: the vectors of the same images by several models, end to end.

use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

use super::job::{JobError, output};
use super::vectors::{self, Vectors, Writer};
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Inputs, Kind, ParameterProblem};

pub(super) const KIND: Kind = Kind {
    name: "concat",
    version: 1,
    inputs: Inputs::Gathered { reserved: &[] },
    outputs: &[("vectors", "vectors.safetensors")],
    publish: false,
    continues: &[],
    secrets: 0,
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
    let paths: Vec<&PathBuf> = job.inputs.iter().flat_map(|input| &input.items).map(|(_, path)| path).collect();
    let parts: Vec<Vectors> = paths.iter().map(|path| vectors::read(path)).collect::<Result<_, _>>()?;
    let Some(first) = parts.first() else { return Err(ConcatError::Nothing.into()) };
    for (part, path) in parts.iter().zip(&paths) {
        let other = |what| ConcatError::Other { first: paths[0].clone(), other: (*path).clone(), what };
        let (ours, theirs) = (&first.rows, &part.rows);
        if ours.labels != theirs.labels || ours.class_names != theirs.class_names {
            return Err(other("classes").into());
        }
        if ours.groups != theirs.groups || ours.group_names != theirs.group_names {
            return Err(other("groups").into());
        }
    }
    let mut rows = first.rows.clone();
    rows.remarks = parts.iter().flat_map(|part| part.rows.remarks.clone()).collect();
    rows.remarks.sort_unstable();
    rows.remarks.dedup();
    let dim = parts.iter().map(|part| part.dim).sum();
    let mut writer = Writer::create(output(job, "vectors")?, &rows, dim)?;
    let values: Vec<_> = parts.iter().map(Vectors::values).collect();
    let mut whole = Vec::with_capacity(dim);
    for row in 0..rows.labels.len() {
        whole.clear();
        for ((part, values), path) in parts.iter().zip(&values).zip(&paths) {
            let begin = whole.len();
            whole.extend_from_slice(&values[row * part.dim..(row + 1) * part.dim]);
            let no_direction = || ConcatError::NoDirection { path: (*path).clone(), row };
            normalise(&mut whole[begin..]).ok_or_else(no_direction)?;
        }
        normalise(&mut whole).ok_or(ConcatError::Nothing)?;
        writer.push(&whole)?;
    }
    writer.finish()
}

/// Normalises a vector to unit length; nothing if it has no direction.
fn normalise(vector: &mut [f32]) -> Option<()> {
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return None;
    }
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::vectors::Rows;
    use super::*;
    use crate::engine::execute::KindInput;

    /// Vectors, and their images.
    type Part = (Vec<f32>, Rows);

    fn of(vectors: Vec<f32>, labels: Vec<u32>) -> Part {
        let groups = vec![0; labels.len()];
        let class_names = vec!["a".into(), "b".into(), "c".into()];
        (
            vectors,
            Rows { labels, class_names, groups, group_names: vec![String::new()], remarks: vec!["chosen".into()] },
        )
    }

    /// The result for some vectors, or why there is none.
    fn concat(parts: &[Part]) -> Result<(Vec<f32>, Rows), String> {
        let folder = tempfile::tempdir().unwrap();
        let item = |(index, (vectors, rows)): (usize, &Part)| {
            let path = folder.path().join(format!("{index}.safetensors"));
            let mut writer = Writer::create(&path, rows, vectors.len() / rows.labels.len()).unwrap();
            writer.push(vectors).unwrap();
            writer.finish().unwrap();
            (vec![("fold".to_owned(), index.to_string())], path)
        };
        let items = parts.iter().enumerate().map(item).collect();
        let out = folder.path().join("out.safetensors");
        let job = KindJob {
            secrets: Vec::new(),
            kind: "concat".into(),
            parameters: Map::new(),
            inputs: vec![KindInput { name: "vectors".into(), items }],
            outputs: [("vectors".to_owned(), out.clone())].into(),
            resume: folder.path().join("resume"),
            threads: 1,
        };
        run(&job).map_err(|error| error.to_string())?;
        let found = vectors::read(&out).unwrap();
        Ok((found.values().to_vec(), found.rows.clone()))
    }

    #[test]
    fn each_part_counts_the_same_whatever_its_length() {
        let (found, rows) =
            concat(&[of(vec![3.0, 4.0, 0.0, 2.0], vec![0, 1]), of(vec![-5.0, 0.5], vec![0, 1])]).unwrap();
        let half = 0.5f64.sqrt();
        let expected = [0.6 * half, 0.8 * half, -half, 0.0, half, half].map(|x| x as f32);
        assert_eq!(rows, of(vec![], vec![0, 1]).1);
        assert!(found.len() == 6 && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{found:?}");
    }

    #[test]
    fn vectors_of_other_images_or_without_direction_are_refused() {
        let message = |parts: &[Part]| concat(parts).unwrap_err();
        let one = || of(vec![1.0, 1.0], vec![0, 1]);
        let mut grouped = one();
        grouped.1.group_names = vec!["noto".into()];
        assert!(message(&[one(), of(vec![1.0, 1.0], vec![0, 2])]).contains("their classes differ"));
        assert!(message(&[one(), grouped]).contains("their groups differ"));
        let none = message(&[one(), of(vec![1.0, 0.0], vec![0, 1])]);
        assert!(none.contains("1.safetensors has a vector without a direction at row 1"), "{none}");
        assert!(message(&[]).contains("no vectors"));
    }
}
