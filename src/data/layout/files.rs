//! Lists against the files that are there.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::folder::is_image;
use crate::data::error::DataError;

/// Checks that every listed path is a file below `root`; gives the images beside them that no list names, sorted.
///
/// # Errors
/// [`DataError::MissingImages`] with the first ten.
pub(super) fn compare<'a>(
    root: &Path,
    list: &Path,
    listed: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>, DataError> {
    let listed: BTreeSet<&str> = listed.into_iter().collect();
    let folders: BTreeSet<&str> = listed.iter().map(|path| path.rsplit_once('/').map_or("", |(f, _)| f)).collect();
    let mut there = BTreeSet::new();
    for folder in folders {
        let path = root.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(DataError::io("read", &path)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(DataError::io("read", &path))?;
            // A name that is not UTF-8 is in no list.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
                there.insert(if folder.is_empty() { name } else { format!("{folder}/{name}") });
            }
        }
    }
    let missing: Vec<&&str> = listed.iter().filter(|path| !there.contains(**path)).collect();
    if !missing.is_empty() {
        let first = missing.iter().take(10).map(|path| (**path).to_owned()).collect();
        return Err(DataError::MissingImages {
            list: list.to_owned(),
            count: missing.len(),
            total: listed.len(),
            first,
        });
    }
    let hidden = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
    there.retain(|path| !listed.contains(path.as_str()) && is_image(path) && !hidden(path));
    Ok(there.into_iter().collect())
}
