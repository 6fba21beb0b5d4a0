//! A table of images: CSV or Parquet.

use std::path::Path;

use super::found::{Found, Image};
use super::{below, files};
use crate::data::error::DataError;
use crate::data::listing::Location;
use crate::data::split::Split;
use crate::regular;
use crate::table::Table;

/// Reads the table `file` below `root`, from which its paths start. Classes come in the order of their labels, by number
/// where all of them are integers, else by their raw bytes.
pub(super) fn read(root: &Path, file: &str) -> Result<Found, DataError> {
    let path = root.join(file);
    let wrong = |message: String| DataError::Content { path: path.clone(), message };
    regular::open(&path)?;
    let table = Table::open(&path).map_err(wrong)?;
    let texts = |name: &str| -> Result<Option<Vec<Option<String>>>, DataError> {
        let texts = table.find(name).and_then(|place| place.map(|place| table.texts(place)).transpose());
        texts.map_err(wrong)
    };
    let (Some(paths), Some(labels)) = (texts("path")?, texts("label")?) else {
        return Err(wrong(format!("expected a first line with the columns path and label; found {}", table.names())));
    };
    let (splits, groups) = (texts("split")?, texts("group")?);

    let (mut listed, mut rows) = (Vec::with_capacity(paths.len()), Vec::with_capacity(paths.len()));
    for (i, (image, label)) in paths.into_iter().zip(labels).enumerate() {
        let wrong = |message: String| DataError::Line { path: path.clone(), line: table.line(i), message };
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
        listed.push(image);
        rows.push((label, split, group));
    }
    let files::Matched { paths, unlisted } = files::find(root, &path, listed.iter().map(String::as_str))?;
    let image = |((label, split, group), path)| (label, Image { location: Location::File(path), split, group });
    let classes = Found::by_label(rows.into_iter().zip(paths).map(image).collect());
    Ok(Found { root: root.to_owned(), classes, lists_splits: splits.is_some(), unlisted, ..Found::default() })
}
