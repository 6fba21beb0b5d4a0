//! A table of images: CSV or Parquet.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use polars::prelude::{CsvReadOptions, DataFrame, DataType, ParquetReader, PolarsResult, SerReader};

use super::{Found, Image, below, files};
use crate::data::error::DataError;
use crate::data::split::Split;

/// Reads the table `file` below `root`, from which its paths start. Classes come in the order of their labels, by number
/// where all of them are integers, else by their raw bytes.
pub(super) fn read(root: &Path, file: &str) -> Result<Found, DataError> {
    let path = root.join(file);
    let wrong = |message: String| DataError::Content { path: path.clone(), message };
    let handle = File::open(&path).map_err(DataError::io("open", &path))?;
    let table = match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        // Everything as text: a label 007 is not 7.
        Some("csv") => {
            CsvReadOptions::default().with_infer_schema_length(Some(0)).into_reader_with_file_handle(handle).finish()
        }
        Some("parquet") => ParquetReader::new(handle).finish(),
        _ => return Err(wrong("expected a table whose name ends in .csv or .parquet".to_owned())),
    };
    let table = table.map_err(|e| wrong(e.to_string()))?;
    let has = |name: &str| table.get_column_names().iter().any(|column| column.as_str() == name);
    let column = |name: &str| texts(&table, name).map_err(|e| wrong(format!("column {name}: {e}")));
    if !has("path") || !has("label") {
        let names: Vec<&str> = table.get_column_names().into_iter().map(|name| name.as_str()).collect();
        return Err(wrong(format!("expected the columns path and label; found {}", names.join(", "))));
    }
    let (paths, labels) = (column("path")?, column("label")?);
    let splits = if has("split") { Some(column("split")?) } else { None };
    let groups = if has("group") { Some(column("group")?) } else { None };

    let header = usize::from(path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv")));
    let mut rows = Vec::with_capacity(paths.len());
    for (i, (image, label)) in paths.into_iter().zip(labels).enumerate() {
        let wrong = |message: String| DataError::Line { path: path.clone(), line: i + 1 + header, message };
        let image = below(image.as_deref().unwrap_or_default()).map_err(wrong)?.to_owned();
        let label = label.filter(|l| !l.is_empty()).ok_or_else(|| wrong(format!("{image:?} has no label")))?;
        let split =
            match splits.as_ref().and_then(|splits| splits[i].as_deref()).filter(|split| !split.is_empty()) {
                None => None,
                Some(name) => Some(Split::named(name).ok_or_else(|| {
                    wrong(format!("the split is {name:?}, expected train, validation, test or nothing"))
                })?),
            };
        let group = groups.as_ref().and_then(|groups| groups[i].clone()).filter(|group| !group.is_empty());
        rows.push((label, Image { path: image, split, group }));
    }
    let unlisted = files::compare(root, &path, rows.iter().map(|(_, image)| image.path.as_str()))?;
    let mut labels: Vec<&str> = rows.iter().map(|(label, _)| label.as_str()).collect();
    labels.sort_unstable();
    labels.dedup();
    if let Ok(mut numbers) = labels.iter().map(|l| l.parse::<i64>().map(|n| (n, *l))).collect::<Result<Vec<_>, _>>() {
        numbers.sort_unstable();
        labels = numbers.into_iter().map(|(_, label)| label).collect();
    }
    let place: BTreeMap<&str, usize> = labels.iter().enumerate().map(|(i, label)| (*label, i)).collect();
    let pairs: Vec<_> = rows.iter().map(|(label, image)| (place[label.as_str()], image.clone())).collect();
    let classes = Found::by_class(pairs, |&place| labels[place].to_owned());
    Ok(Found { root: root.to_owned(), classes, lists_splits: splits.is_some(), unlisted, ..Found::default() })
}

/// A column as text; `None` where it is null.
fn texts(table: &DataFrame, name: &str) -> PolarsResult<Vec<Option<String>>> {
    let column = table.column(name)?.cast(&DataType::String)?;
    Ok(column.str()?.iter().map(|text| text.map(str::to_owned)).collect())
}
