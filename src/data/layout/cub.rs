//! CUB-200-2011: one folder per class, and a list that names all images.

use std::collections::BTreeSet;
use std::path::Path;

use super::found::Found;
use super::{below, files, folder, help, home};
use crate::data::error::DataError;
use crate::text;

/// Reads `CUB_200_2011/images/<NNN.Name>/*.jpg`. Where `images.txt` is next to `images`, its images must be there, and those
/// that it does not name are left out.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let Some(home) = home(root, &["CUB_200_2011", ""], "images") else {
        let unpack = "unpack CUB_200_2011.tgz there (`uses: download/cub` does), or set root";
        return Err(DataError::NoLayout {
            folder: root.to_owned(),
            set: "CUB-200-2011",
            what: "folder CUB_200_2011/images",
            help: help(root, &["images.txt", "images"], unpack.to_owned()),
        });
    };
    let mut found = folder::read(&home.join("images"))?;
    let list = home.join("images.txt");
    if list.exists() {
        let listed = images_txt(&list)?;
        let matched = files::find(&found.root, &list, listed.iter().map(String::as_str))?;
        let listed: BTreeSet<String> = matched.paths.into_iter().collect();
        for class in &mut found.classes {
            let (kept, left): (Vec<_>, Vec<_>) =
                class.images.drain(..).partition(|image| listed.contains(image.location.file()));
            class.images = kept;
            found.unlisted.extend(left.into_iter().map(|image| image.location.to_string()));
        }
        found.classes.retain(|class| !class.images.is_empty());
    }
    Ok(found)
}

/// Paths of lines `ID PATH`.
fn images_txt(list: &Path) -> Result<Vec<String>, DataError> {
    let text = text::read(list)?;
    let mut paths = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |message: String| DataError::Line { path: list.to_owned(), line: i + 1, message };
        let (_, path) = line.trim().split_once(files::is_separator).unwrap_or_default();
        let path = path.trim_matches(|c| files::is_separator(c) || c == '"');
        if path.is_empty() {
            return Err(wrong(format!("expected a number, a space and a path; found {line:?}")));
        }
        paths.push(below(path).map_err(wrong)?.to_owned());
    }
    if paths.is_empty() {
        let message = "it names no image; fetch it again, or remove it to read every image".to_owned();
        return Err(DataError::Content { path: list.to_owned(), message });
    }
    Ok(paths)
}
