//! Scratch folders of running cells.
//!
//! A run owns one folder, held by a lock on a file inside it. A run that finds such a folder without a holder knows
//! that its owner was killed, and removes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{IoContext, StoreError};

/// The file in a run's folder whose lock says that the run lives.
const HELD: &str = "held";

/// The scratch folder of one run, removed when the run ends.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    next: AtomicU64,
    _held: File,
}

impl Staging {
    /// Makes a folder for the run called `run` below `root`, and removes those of runs that are gone.
    pub fn create(root: &Path, run: &str) -> Result<Staging, StoreError> {
        fs::create_dir_all(root).at("create", root)?;
        let folder = root.join(run);
        // Another run may take the folder for an abandoned one until it is held, and remove it: then make it again.
        let held = loop {
            fs::create_dir_all(&folder).at("create", &folder)?;
            if let Ok(held) = hold(&folder)
                && held.try_lock().is_ok()
                && folder.join(HELD).exists()
            {
                break held;
            }
        };
        for other in fs::read_dir(root).at("list", root)? {
            let other = other.at("list", root)?.path();
            if other != folder {
                remove_if_abandoned(&other);
            }
        }
        Ok(Staging { folder, next: AtomicU64::new(0), _held: held })
    }

    /// A new empty folder for one attempt at one cell.
    pub fn cell(&self) -> Result<PathBuf, StoreError> {
        let folder = self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&folder).at("create", &folder)?;
        Ok(folder)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn hold(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(HELD);
    File::options().write(true).create(true).truncate(false).open(&path).at("open", &path)
}

/// A folder whose owner lives stays; any failure means that it will be looked at again by the next run.
fn remove_if_abandoned(folder: &Path) {
    if let Ok(held) = hold(folder)
        && held.try_lock().is_ok()
    {
        let _ = fs::remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_live_run_stays_and_that_of_a_dead_one_goes() {
        let root = tempfile::tempdir().unwrap();
        let live = Staging::create(root.path(), "live").unwrap();
        let scratch = live.cell().unwrap();
        let dead = root.path().join("dead/7");
        fs::create_dir_all(&dead).unwrap();
        let other = Staging::create(root.path(), "other").unwrap();
        assert!(scratch.is_dir() && !dead.exists());
        drop((live, other));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
