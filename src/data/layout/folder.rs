//! Listing an image folder: one folder per class, images directly inside.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fs_err::{self as fs, File};

use super::found::{Class, Found, Image};
use super::names::{extension, is_image, is_litter};
use crate::data::decode::{FORMATS, is_read};
use crate::data::error::DataError;
use crate::data::listing::{Location, Unread};
use crate::format::{self, Known};
use crate::regular::special;

/// Extensions of copies and of incomplete files: images by their content that are not part of the data set.
const COPIES: [&str; 8] = ["bak", "orig", "old", "tmp", "part", "crdownload", "download", "swp"];

/// Lists the classes below `root`, in the order of the raw bytes of their names, and so their images. Folders without an
/// image are not classes; links are followed. Files next to the class folders, and those inside that are not images by their
/// extension or their content, count as ignored; litter ([`is_litter`]) does not.
pub(super) fn read(root: &Path) -> Result<Found, DataError> {
    let mut found = Found { root: root.to_owned(), ..Found::default() };
    let mut folders_below = 0;
    let mut unread = BTreeMap::new();
    for (name, path, folder) in entries(root)? {
        if !folder {
            found.ignored += 1;
            continue;
        }
        let mut images = Vec::new();
        for (file, path, folder) in entries(&path)? {
            if folder {
                folders_below += 1;
                continue;
            }
            match look(&file, &path)? {
                Look::Image => {
                    images.push(Image { location: Location::File(format!("{name}/{file}")), split: None, group: None })
                }
                Look::Other(what) => {
                    found.ignored += 1;
                    if let Some(what) = what {
                        let extension = extension(&file).map(|e| format!(".{}", e.to_ascii_lowercase()));
                        *unread.entry((extension.unwrap_or_default(), what)).or_default() += 1;
                    }
                }
            }
        }
        if !images.is_empty() {
            found.classes.push(Class { name, images });
        }
    }
    let words = |((extension, what), files)| Unread { files, extension, what };
    found.unread = unread.into_iter().map(words).collect();
    if found.classes.is_empty() {
        let hint = if let Some(unread) = found.unread.first() {
            format!("there are {unread}")
        } else if folders_below > 0 {
            "the classes may be deeper: set root to the folder that holds them".to_owned()
        } else {
            "check root and the archive".to_owned()
        };
        return Err(DataError::NoClass { folder: root.to_path_buf(), formats: FORMATS, hint });
    }
    Ok(found)
}

/// What a file is.
enum Look {
    Image,
    /// Not an image of the data set; what it is and what to do, if it is an image of another kind.
    Other(Option<String>),
}

/// Recognises a file by its extension, else by its first bytes.
fn look(name: &str, path: &Path) -> Result<Look, DataError> {
    if is_image(name) {
        return Ok(Look::Image);
    }
    let mut start = Vec::new();
    let opened = File::open(path)?;
    opened.take(512).read_to_end(&mut start)?;
    let Some(known) = format::recognise(&start) else { return Ok(Look::Other(None)) };
    let copy = name.ends_with('~')
        || extension(name).is_some_and(|found| COPIES.iter().any(|known| known.eq_ignore_ascii_case(found)));
    Ok(match known {
        // A text may begin as a PNM image does, so that its extension must say so too.
        Known::Pnm => Look::Other(None),
        known if is_read(known) && copy => {
            Look::Other(Some(format!("{known}, by its name a copy; rename it to have it read")))
        }
        known if is_read(known) => Look::Image,
        known if known.is_image() => Look::Other(Some(format!("{known}, which is not read; convert it"))),
        _ => Look::Other(None),
    })
}

/// (name, path, whether it is a folder) of everything but litter, in the order of the raw bytes of the names.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf, bool)>, DataError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type()?;
        let Ok(name) = name.into_string() else {
            let message = "its name is not UTF-8; rename it".to_owned();
            return Err(DataError::Content { path, message });
        };
        if is_litter(&name) {
            continue;
        }
        let kind = if kind.is_symlink() { fs::metadata(&path)?.file_type() } else { kind };
        if let Some(what) = special(kind) {
            let message = format!("it is {what}, expected a file");
            return Err(DataError::Content { path, message });
        }
        found.push((name, path, kind.is_dir()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::make;
    use super::*;

    #[test]
    fn classes_and_images_are_in_byte_order_and_the_rest_is_counted() {
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
            .map(|c| (c.name.as_str(), c.images.iter().map(|i| i.location.file()).collect()))
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
    fn images_are_known_by_their_content_where_the_extension_says_nothing() {
        let room = make(&["a/notes.txt", "a/p1.txt", "@eaDir/x.jpg", "__MACOSX/x.jpg", "a/Thumbs.db", "a/desktop.ini"]);
        let write = |name: &str, bytes: &[u8]| fs::write(room.path().join("a").join(name), bytes).unwrap();
        let (png, jpeg) = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0");
        write("none", png);
        write("x.jfif", jpeg);
        write("x.jpe", jpeg);
        write("x.jpg_large", jpeg);
        write("x.png ", png);
        write("x.ppm", b"P6 1 1 255\n...");
        write("x.jpg~", jpeg);
        write("x.TIF", b"II*\0");
        write("y.tif", b"II*\0");
        write("p1.txt", b"P1 is a class");
        let found = read(room.path()).unwrap();
        assert_eq!(found.classes.len(), 1);
        let images: Vec<&str> = found.classes[0].images.iter().map(|image| image.location.file()).collect();
        assert_eq!(images, ["a/none", "a/x.jfif", "a/x.jpe", "a/x.jpg_large", "a/x.png ", "a/x.ppm"]);
        let unread: Vec<String> = found.unread.iter().map(Unread::to_string).collect();
        let copy = "1 file .jpg~: a JPEG image, by its name a copy; rename it to have it read";
        assert_eq!(unread, [copy, "2 files .tif: a TIFF image, which is not read; convert it"]);
        assert_eq!(found.ignored, 5);
    }

    #[test]
    fn a_named_pipe_is_refused_and_not_waited_for() {
        let room = make(&["a/1.png"]);
        nix::unistd::mkfifo(&room.path().join("a/2.png"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let message = read(room.path()).unwrap_err().to_string();
        assert!(message.contains("a/2.png: it is a named pipe"), "{message}");
    }

    #[test]
    fn a_folder_of_images_that_are_not_read_says_so() {
        let room = make(&["a/1.tif"]);
        fs::write(room.path().join("a/1.tif"), b"MM\0*").unwrap();
        let message = read(room.path()).unwrap_err().to_string();
        assert!(message.contains("1 file .tif: a TIFF image"), "{message}");
    }

    #[test]
    fn a_folder_without_classes_says_where_they_may_be() {
        let message = read(make(&["set/a/1.png"]).path()).unwrap_err().to_string();
        assert!(message.contains("set root"), "{message}");
        let message = read(make(&["a/1.txt"]).path()).unwrap_err().to_string();
        assert!(message.contains("check root"), "{message}");
        let message = read(Path::new("/no/such/folder")).unwrap_err().to_string();
        assert_eq!(message, "failed to read directory `/no/such/folder`: No such file or directory (os error 2)");
    }
}
