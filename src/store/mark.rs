//! The mark by which a folder is known as a store: nothing is written, moved or removed in a folder without it.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::{self, For};
use super::{IoContext, Note, StoreError};

/// The file's name.
pub(super) const NAME: &str = "meanfield-store";
/// Its first words, before a version and a check of both.
const WORDS: &str = "meanfield store";
const VERSION: u32 = 1;
const ABOUT: &str =
    "The files in this folder are written and removed by meanfield: docs/store-format.md says what they are.\n";

/// What the mark says.
enum Mark {
    Ours,
    /// Cut short, or being written.
    Beginning,
    /// None, or an altered one.
    Unknown,
    Later(u32),
}

/// Makes sure that `folder`, which exists, is a store, and marks it if it is empty or has the blobs of one. Says what was
/// damaged.
///
/// # Errors
/// [`StoreError::NotAStore`] for a folder that holds anything else; what is in it stays as it is.
pub(super) fn ensure(folder: &Path, write: bool) -> Result<Option<Note>, StoreError> {
    let path = folder.join(NAME);
    let mark = read(&path)?;
    let blobs = folder.join("blobs");
    let has_blobs = || ["00", "ff"].iter().all(|name| blobs.join(name).is_dir());
    let what = match mark {
        Mark::Ours => return Ok(None),
        Mark::Later(version) => {
            let what = format!("the mark of version {version} of the store, of a later meanfield");
            return Err(StoreError::Foreign { path, what: what.into() });
        }
        Mark::Beginning if has_blobs() => "cut short",
        Mark::Beginning => "",
        Mark::Unknown if has_blobs() => "missing or altered: the store is known by its blobs",
        Mark::Unknown if is_empty(folder)? => "",
        // Another run that is making this store may have marked it since.
        Mark::Unknown if matches!(read(&path)?, Mark::Ours | Mark::Beginning) => return Ok(None),
        Mark::Unknown => return Err(StoreError::NotAStore { folder: folder.to_owned() }),
    };
    if write {
        let text = text(VERSION);
        if let Some(file) = files::open(&path, For::Mending)? {
            file.write_all_at(text.as_bytes(), 0).at("write", &path)?;
            file.set_len(text.len() as u64).at("write", &path)?;
        }
    }
    Ok((!what.is_empty()).then(|| Note { path, what: what.into(), lost: 0 }))
}

fn text(version: u32) -> String {
    let line = format!("{WORDS} {version}");
    format!("{line} {}\n{ABOUT}", &blake3::hash(line.as_bytes()).to_hex()[..16])
}

fn read(path: &Path) -> Result<Mark, StoreError> {
    let Some(file) = files::open(path, For::Reading)? else { return Ok(Mark::Unknown) };
    let mut found = Vec::new();
    file.take(4096).read_to_end(&mut found).at("read", path)?;
    let version = || -> Option<u32> {
        let line = std::str::from_utf8(&found).ok()?.lines().next()?;
        let (line, _) = line.rsplit_once(' ')?;
        let version = line.strip_prefix(WORDS)?.trim().parse().ok()?;
        found.starts_with(text(version).lines().next()?.as_bytes()).then_some(version)
    };
    Ok(match version() {
        _ if found == text(VERSION).as_bytes() => Mark::Ours,
        Some(version) if version > VERSION => Mark::Later(version),
        _ if text(VERSION).as_bytes().starts_with(&found) => Mark::Beginning,
        _ => Mark::Unknown,
    })
}

fn is_empty(folder: &Path) -> Result<bool, StoreError> {
    match fs::read_dir(folder) {
        Ok(mut items) => Ok(items.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).at("list", folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_and_one_with_blobs_are_marked_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mark = folder.join(NAME);
        assert!(ensure(folder, true).unwrap().is_none());
        assert_eq!(fs::read_to_string(&mark).unwrap(), text(VERSION));
        for name in ["00", "ff"] {
            fs::create_dir_all(folder.join("blobs").join(name)).unwrap();
        }
        let whole = text(VERSION).into_bytes();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 2;
            damaged.push(bytes);
        }
        for bytes in damaged {
            fs::write(&mark, bytes).unwrap();
            assert!(ensure(folder, true).unwrap().is_some());
            assert!(ensure(folder, true).unwrap().is_none(), "reported once");
        }
        fs::write(&mark, text(2)).unwrap();
        assert!(matches!(ensure(folder, true), Err(StoreError::Foreign { .. })));

        for file in [Some("index"), None] {
            let users = tempfile::tempdir().unwrap();
            let name = file.map_or(users.path().join("blobs/ab/c"), |name| users.path().join(name));
            fs::create_dir_all(name.parent().unwrap()).unwrap();
            fs::write(&name, "mine").unwrap();
            let refused = ensure(users.path(), true);
            assert!(matches!(refused, Err(StoreError::NotAStore { .. })));
            assert!(!users.path().join(NAME).exists());
        }
    }

    #[test]
    fn a_folder_that_several_runs_mark_at_once_is_a_store_for_all_of_them() {
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        ensure(folder.path(), true).unwrap();
                    });
                }
            });
            assert_eq!(fs::read_to_string(folder.path().join(NAME)).unwrap(), text(VERSION));
        }
    }
}
