//! Folders beside the reports in which outputs are made ready, so that publishing one is a rename.
//!
//! Such a folder holds a locked file while its process lives. A later run removes those that a killed one has left: by their
//! name, that file, and that nothing holds its lock. What only looks like one is the user's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::store::lock::{HELD, hold, own};
use crate::store::{IoContext, StoreError};

const PREFIX: &str = ".publishing-";

/// A folder to make one output ready in; it goes when this is dropped.
pub(super) struct Scratch {
    folder: TempDir,
    _held: Option<File>,
}

impl Scratch {
    /// Makes one in `parent`, which is there.
    pub(super) fn create(parent: &Path) -> Result<Scratch, StoreError> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).at("create a folder in", parent)?;
        let held = own(folder.path()).ok();
        if held.is_none() {
            // The reports may lie where there are no locks. Without the file, the folder is never taken for abandoned.
            let _ = fs::remove_file(folder.path().join(HELD));
        }
        Ok(Scratch { folder, _held: held })
    }

    /// Where something is made ready.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Removes what killed runs have left in `parent`. What cannot be removed now is looked at again by the next run.
pub(super) fn sweep(parent: &Path) {
    for item in fs::read_dir(parent).into_iter().flatten().flatten() {
        let named = item.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        let is_dir = || item.file_type().is_ok_and(|kind| kind.is_dir());
        let marked = || item.path().join(HELD).symlink_metadata().is_ok_and(|held| held.is_file() && held.len() == 0);
        if named && is_dir() && marked() && matches!(hold(&item.path()), Ok(Some(_))) {
            let _ = fs::remove_dir_all(item.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_goes_and_nothing_else() {
        let room = tempfile::tempdir().unwrap();
        let alive = Scratch::create(room.path()).unwrap();
        fs::write(alive.path("new"), "x").unwrap();
        let folder = |name: &str, held: Option<&str>| {
            fs::create_dir(room.path().join(name)).unwrap();
            fs::write(room.path().join(name).join("new"), "x").unwrap();
            if let Some(text) = held {
                fs::write(room.path().join(name).join(HELD), text).unwrap();
            }
        };
        folder(".publishing-dead", Some(""));
        folder(".publishing-unmarked", None);
        folder(".publishing-notes", Some("mine"));
        folder("publishing-held", Some(""));
        fs::write(room.path().join(".publishing-file"), "x").unwrap();
        std::os::unix::fs::symlink("publishing-held", room.path().join(".publishing-link")).unwrap();
        sweep(room.path());
        let mut left: Vec<String> =
            fs::read_dir(room.path()).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let own = alive.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected =
            [".publishing-file", ".publishing-link", ".publishing-notes", ".publishing-unmarked", "publishing-held"]
                .map(str::to_owned)
                .to_vec();
        expected.push(own);
        expected.sort();
        assert_eq!(left, expected);
        assert!(alive.path("new").exists());
        drop(alive);
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 5);
    }
}
