//! `concat`: the vectors of the same images by several models, end to end.

use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

use super::vectors::{self, Vectors, Writer};
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
    let paths: Vec<&PathBuf> = job.inputs.iter().flat_map(|input| &input.items).map(|(_, path)| path).collect();
    let parts: Vec<Vectors> = paths.iter().map(|path| vectors::read(path)).collect::<Result<_, _>>()?;
    let (Some(first), Some(first_path)) = (parts.first(), paths.first()) else {
        return Err(ConcatError::Nothing.into());
    };
    let mut rows = first.rows.clone();
    for (part, path) in parts.iter().zip(&paths).skip(1) {
        let other = |what| ConcatError::Other { first: (*first_path).clone(), other: (*path).clone(), what };
        if rows.labels != part.rows.labels || rows.class_names != part.rows.class_names {
            return Err(other("classes").into());
        }
        if rows.groups != part.rows.groups || rows.group_names != part.rows.group_names {
            return Err(other("groups").into());
        }
        rows.remarks.extend(part.rows.remarks.iter().cloned());
    }
    rows.remarks.sort_unstable();
    rows.remarks.dedup();

    let mut writer = Writer::create(output(job, "vectors")?, &rows, parts.iter().map(|part| part.dim).sum())?;
    let values: Vec<_> = parts.iter().map(Vectors::values).collect();
    let mut whole = Vec::new();
    for row in 0..rows.labels.len() {
        whole.clear();
        for ((part, values), path) in parts.iter().zip(&values).zip(&paths) {
            let from = whole.len();
            whole.extend_from_slice(&values[row * part.dim..(row + 1) * part.dim]);
            let no_direction = || ConcatError::NoDirection { path: (*path).clone(), row };
            normalise(&mut whole[from..]).ok_or_else(no_direction)?;
        }
        // Each part has length 1, so the whole has a direction.
        normalise(&mut whole).ok_or_else(|| ConcatError::NoDirection { path: (*first_path).clone(), row })?;
        writer.push(&whole)?;
    }
    writer.finish()
}

/// Gives a row the length 1; nothing if it has no direction.
fn normalise(row: &mut [f32]) -> Option<()> {
    let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let directed = length.is_finite() && length > 0.0;
    directed.then(|| row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::execute::KindInput;
    use crate::stage::vectors::Rows;

    fn of(labels: Vec<u32>, groups: Vec<u32>) -> Rows {
        let group_names = groups.iter().map(|group| format!("group {group}")).take(1).collect();
        Rows { labels, groups, group_names, class_names: Vec::new(), remarks: vec!["chosen".into()] }
    }

    /// What comes of some vectors, or why nothing does.
    fn concat(parts: &[(&[f32], Rows)]) -> Result<Vectors, String> {
        let folder = tempfile::tempdir().unwrap();
        let item = |(index, (values, rows)): (usize, &(&[f32], Rows))| {
            let path = folder.path().join(format!("{index}.safetensors"));
            let mut writer = Writer::create(&path, rows, values.len() / rows.labels.len()).unwrap();
            writer.push(values).unwrap();
            writer.finish().unwrap();
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
        let rows = || of(vec![7, 8], vec![0, 0]);
        let found = concat(&[(&[3.0, 4.0, 0.0, 2.0], rows()), (&[-5.0, 0.5], rows())]).unwrap();
        let half = 0.5f64.sqrt();
        let expected = [0.6 * half, 0.8 * half, -half, 0.0, half, half].map(|x| x as f32);
        assert_eq!((found.dim, &found.rows), (3, &rows()));
        assert!(found.values().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7), "{:?}", found.values());
    }

    #[test]
    fn vectors_of_other_images_or_without_direction_are_refused() {
        let message = |parts: &[(&[f32], Rows)]| concat(parts).unwrap_err();
        let one: (&[f32], Rows) = (&[1.0, 1.0], of(vec![0, 1], vec![0, 0]));
        let other = |labels, groups| (&[1.0, 1.0][..], of(labels, groups));
        assert!(message(&[one.clone(), other(vec![0, 2], vec![0, 0])]).contains("their classes differ"));
        let named = Rows { group_names: vec!["a".into()], ..one.1.clone() };
        assert!(message(&[one.clone(), (&[1.0, 1.0], named)]).contains("groups"));
        let flat: (&[f32], Rows) = (&[1.0, 0.0], one.1.clone());
        assert!(message(&[one, flat]).contains("1.safetensors has a vector without a direction at row 1"));
        assert!(message(&[]).contains("no vectors"));
    }
}
