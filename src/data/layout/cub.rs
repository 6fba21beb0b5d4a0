//! CUB-200-2011: one folder a class, and a list that names all images.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Found, below, files, folder, home};
use crate::data::error::DataError;

/// Reads `CUB_200_2011/images/<NNN.Name>/*.jpg`. Where `images.txt` is beside `images`, its images must be there; those
/// that it does not name are images all the same, and are told where a count is wrong.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let Some(home) = home(root, &["CUB_200_2011", ""], "images") else {
        return Err(DataError::NoLayout {
            folder: root.to_owned(),
            set: "CUB-200-2011",
            what: "folder CUB_200_2011/images",
            help: "unpack CUB_200_2011.tgz there (`uses: download/cub` does), or set root".to_owned(),
        });
    };
    let mut found = folder::read(&home.join("images"))?;
    let list = home.join("images.txt");
    if list.exists() {
        let listed = images_txt(&list)?;
        files::compare(&found.root, &list, listed.iter().map(String::as_str))?;
        let images = found.classes.iter().flat_map(|class| &class.images).map(|image| &image.path);
        found.unlisted = images.filter(|path| !listed.contains(*path)).cloned().collect();
    }
    Ok(found)
}

/// Paths of lines `ID PATH`.
fn images_txt(list: &Path) -> Result<BTreeSet<String>, DataError> {
    let text = fs::read_to_string(list).map_err(DataError::io("read", list))?;
    let mut paths = BTreeSet::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |message: String| DataError::Line { path: list.to_owned(), line: i + 1, message };
        let path = line.split_once(' ').map(|(_, path)| path.trim()).unwrap_or_default();
        if path.is_empty() {
            return Err(wrong(format!("expected a number, a space and a path; found {line:?}")));
        }
        paths.insert(below(path).map_err(wrong)?.to_owned());
    }
    Ok(paths)
}
