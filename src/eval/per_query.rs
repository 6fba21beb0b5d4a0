//! The values of every query as a Parquet table, for statistics over pairs of queries.

use std::path::Path;

use fs_err::File;
use polars::prelude::{Column, DataFrame, ParquetWriter, PolarsError};
use thiserror::Error;

use super::Scores;

/// What the rows of the table are about.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The position of each query among all vectors.
    pub positions: &'a [usize],
    /// Their classes.
    pub labels: &'a [u32],
    /// Names of the classes, by label; empty if they have none.
    pub class_names: &'a [String],
    /// The K of each Recall@K.
    pub recall_at: &'a [usize],
}

/// Why the table was not written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file cannot be created; the error names it.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The table cannot be built or written.
    #[error("cannot write the table of queries")]
    Table(#[from] PolarsError),
}

/// Writes one row per query to `path`: `query`, `label`, `class` (if the classes have names), `matches` (R), `first_match`
/// (rank of the nearest match, from 1), and `p1`, `rp`, `map_at_r`, `mrr`, `map` (if it was computed) and each `r@K`, whose
/// means are the metrics. A query without a match has 0 matches and no values.
///
/// # Errors
/// [`WriteError`], if the file cannot be written.
pub fn write(path: &Path, scores: &[Option<Scores>], rows: Rows<'_>) -> Result<(), WriteError> {
    let of = |name: &str, value: &dyn Fn(&Scores) -> f64| {
        let values: Vec<Option<f64>> = scores.iter().map(|scores| scores.as_ref().map(value)).collect();
        Column::new(name.into(), values)
    };
    let numbers = |values: &mut dyn Iterator<Item = usize>| values.map(|value| value as u32).collect::<Vec<u32>>();
    let mut columns = vec![
        Column::new("query".into(), numbers(&mut rows.positions.iter().copied())),
        Column::new("label".into(), rows.labels),
    ];
    if !rows.class_names.is_empty() {
        let name = |label: &u32| rows.class_names.get(*label as usize).map(String::as_str);
        columns.push(Column::new("class".into(), rows.labels.iter().map(name).collect::<Vec<Option<&str>>>()));
    }
    let matches = &mut scores.iter().map(|scores| scores.map_or(0, |scores| scores.matches));
    let first: Vec<Option<u32>> = scores.iter().map(|scores| scores.map(|scores| scores.first_match as u32)).collect();
    columns.push(Column::new("matches".into(), numbers(matches)));
    columns.push(Column::new("first_match".into(), first));
    columns.push(of("p1", &Scores::precision_at_1));
    columns.push(of("rp", &|scores| scores.r_precision));
    columns.push(of("map_at_r", &|scores| scores.map_at_r));
    columns.push(of("mrr", &|scores| 1.0 / scores.first_match as f64));
    if scores.iter().flatten().any(|scores| scores.average_precision.is_some()) {
        columns.push(of("map", &|scores| scores.average_precision.unwrap_or(f64::NAN)));
    }
    columns.extend(rows.recall_at.iter().map(|&k| of(&format!("r@{k}"), &|scores| scores.recall_at(k))));
    let mut table = DataFrame::new_infer_height(columns)?;
    let file = File::create(path)?;
    ParquetWriter::new(file).finish(&mut table)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::{ParquetReader, SerReader};

    #[test]
    fn the_table_comes_back_with_empty_places_where_there_is_no_match() {
        let scores = [
            Some(Scores {
                matches: 3,
                first_match: 2,
                r_precision: 1.0 / 3.0,
                map_at_r: 0.25,
                average_precision: None,
            }),
            None,
        ];
        let names = ["cat".to_owned(), "dog".to_owned()];
        let rows = Rows { positions: &[4, 9], labels: &[1, 0], class_names: &names, recall_at: &[1, 10] };
        let folder = tempfile::tempdir().unwrap();
        let [path, again] = ["a.parquet", "b.parquet"].map(|name| folder.path().join(name));
        write(&path, &scores, rows).unwrap();
        write(&again, &scores, rows).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
        let table = ParquetReader::new(std::fs::File::open(&path).unwrap()).finish().unwrap();
        let names: Vec<&str> = table.get_column_names().iter().map(|name| name.as_str()).collect();
        let expected =
            ["query", "label", "class", "matches", "first_match", "p1", "rp", "map_at_r", "mrr", "r@1", "r@10"];
        assert_eq!(names, expected);
        let row = |at: usize| table.get_row(at).unwrap().0.iter().map(|value| value.to_string()).collect::<Vec<_>>();
        assert_eq!(row(0)[..6], ["4", "1", "\"dog\"", "3", "2", "0.0"]);
        assert_eq!(row(0)[7..], ["0.25", "0.5", "0.0", "1.0"]);
        assert_eq!(row(1)[..5], ["9", "0", "\"cat\"", "0", "null"]);
    }
}
