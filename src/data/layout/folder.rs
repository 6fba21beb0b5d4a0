//! Listing an image folder: one folder a class, images directly inside.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Class, Found, Image};
use crate::data::error::DataError;

/// File names that are taken for images; their format is then known by their content.
const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "gif", "bmp", "webp"];

/// Lists the classes below `root`, in the order of the raw bytes of their names, and so their images. Folders without an
/// image are no classes; links are followed. Files with other extensions beside the class folders or inside them count as
/// ignored, hidden ones (`.x`, `._x`) do not.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let mut found = Found { root: root.to_owned(), ..Found::default() };
    let mut folders_below = 0;
    for (name, path, folder) in entries(root)? {
        if !folder {
            found.ignored += 1;
            continue;
        }
        let mut images = Vec::new();
        for (file, _, folder) in entries(&path)? {
            if folder {
                folders_below += 1;
            } else if is_image(&file) {
                images.push(Image { path: format!("{name}/{file}"), split: None, group: None });
            } else {
                found.ignored += 1;
            }
        }
        if !images.is_empty() {
            found.classes.push(Class { name, images });
        }
    }
    if found.classes.is_empty() {
        let hint = if folders_below > 0 {
            "the classes may lie deeper: set root to the folder that holds them"
        } else {
            "check root and the archive"
        };
        return Err(DataError::NoClass { folder: root.to_path_buf(), hint: hint.to_owned() });
    }
    Ok(found)
}

/// Whether a file's name says that it is an image.
pub(super) fn is_image(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// (name, path, whether it is a folder) of what is not hidden, in the order of the raw bytes of the names.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf, bool)>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io("read", folder))? {
        let name = entry.map_err(DataError::io("read", folder))?.file_name();
        if !name.as_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let path = folder.join(&name);
        let name = name.into_string().map_err(|name| DataError::Io {
            operation: "use the name of",
            path: folder.join(name),
            source: std::io::Error::new(std::io::ErrorKind::InvalidFilename, "it is not UTF-8: rename it"),
        })?;
        let folder = fs::metadata(&path).map_err(DataError::io("read", &path))?.is_dir();
        entries.push((name, path, folder));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(files: &[&str]) -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        for file in files {
            let path = room.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        room
    }

    #[test]
    fn classes_and_images_come_in_byte_order_and_the_rest_is_counted_or_skipped() {
        let room = make(&[
            "b/2.JPG",
            "b/10.png",
            "b/Z.webp",
            "b/notes.txt",
            "b/._2.png",
            "b/.hidden.png",
            "B/x.gif",
            "a/x.bmp",
            "a/y.jpeg",
            "readme.md",
            ".git/x.png",
            "empty/only.txt",
            "ä/png",
            "ä/1.tar.png",
        ]);
        let found = read(room.path()).unwrap();
        let classes: Vec<(&str, Vec<&str>)> = found
            .classes
            .iter()
            .map(|c| (c.name.as_str(), c.images.iter().map(|i| i.path.as_str()).collect()))
            .collect();
        assert_eq!(
            classes,
            [
                ("B", vec!["B/x.gif"]),
                ("a", vec!["a/x.bmp", "a/y.jpeg"]),
                ("b", vec!["b/10.png", "b/2.JPG", "b/Z.webp"]),
                ("ä", vec!["ä/1.tar.png"])
            ]
        );
        assert_eq!(found.ignored, 4);
    }

    #[test]
    fn a_folder_without_classes_says_where_they_may_be() {
        let message = read(make(&["set/a/1.png"]).path()).unwrap_err().to_string();
        assert!(message.contains("set root"), "{message}");
        let message = read(make(&["a/1.txt"]).path()).unwrap_err().to_string();
        assert!(message.contains("check root"), "{message}");
        assert!(matches!(read(Path::new("/no/such/folder")), Err(DataError::Io { .. })));
    }
}
