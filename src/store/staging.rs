//! Scratch folders of running cells.
//!
//! A run owns one folder, held by a lock on a file inside it. A run that finds such a folder without a holder knows
//! that its owner was killed, and removes it. A folder without that file is not a run's: it stays, unless it is empty.
//!
//! A command may move a user's file into its folder, by a link of its inputs or by an absolute path. Such a file is
//! older than the folder: before a folder is removed, what is older is moved to `rescued/` beside `staging/`, and reported.
//! That needs a file system that keeps birth times, as ext4, XFS, Btrfs and tmpfs do.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;
use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use super::digest::Digest;
use super::files::{self, For};
use super::lock::{HELD, own};
use super::{IoContext, StoreError};
use crate::text::chain;

/// The job of a built-in kind, in the cell's folder. Kinds take no user's files, and move work of an earlier attempt
/// into their folder: nothing is rescued from beside this file.
pub const JOB: &str = ".job.json";

/// The scratch folder of one run, removed when the run ends.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    next: AtomicU64,
    /// Folders whose cells have ended, and bytes in them.
    ended: Mutex<(Vec<PathBuf>, u64)>,
    /// What was moved out of folders before they were removed.
    rescued: Mutex<Vec<PathBuf>>,
    /// Copies of stored folders that cells were given, by the tree's digest.
    spares: Mutex<HashMap<Digest, PathBuf>>,
    _held: File,
}

impl Staging {
    /// Makes a folder for the run called `run` below `root`, and removes those of runs that are gone.
    pub fn create(root: &Path, run: &str) -> Result<Staging, StoreError> {
        fs::create_dir_all(root).at("create", root)?;
        let folder = root.join(run);
        let held = own(&folder)?;
        let staging = Staging {
            folder,
            next: AtomicU64::new(0),
            ended: Mutex::default(),
            rescued: Mutex::default(),
            spares: Mutex::default(),
            _held: held,
        };
        for other in fs::read_dir(root).at("list", root)? {
            let other = other.at("list", root)?.path();
            if other == staging.folder || files::foreign(&other) != Some("a folder") {
                continue;
            }
            // Any failure means that it will be looked at again by the next run.
            match files::open(&other.join(HELD), For::Reading) {
                Ok(Some(held)) if held.try_lock().is_ok() => staging.remove_run(&other),
                Ok(None) => drop(fs::remove_dir(&other)),
                _ => {}
            }
        }
        Ok(staging)
    }

    /// A new empty folder for one attempt at one cell.
    pub fn cell(&self) -> Result<PathBuf, StoreError> {
        let folder = self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&folder).at("create", &folder)?;
        Ok(folder)
    }

    /// Removes the folder of a cell that has ended and everything in it but what is older than the folder: now, or with
    /// others later.
    ///
    /// Files made right after many were removed are slow on ext4 without a journal, which passes over the inodes of the
    /// removed ones for minutes: a folder with many files, of a cell that ended `well`, is removed when the run has written
    /// everything else, as long as such folders take little of the room that there is.
    pub fn release(&self, folder: PathBuf, well: bool) {
        const MANY: usize = 500;
        const ROOM: u64 = 1 << 28;
        let Some(held) = self.rescue(&folder) else { return };
        let free = || statvfs(&folder).map_or(0, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
        if !well || held.files < MANY || free() < 8 * ROOM {
            let _ = remove(&folder);
            return;
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.0.push(folder);
        ended.1 += held.bytes;
        if ended.1 > ROOM {
            let (folders, _) = std::mem::take(&mut *ended);
            drop(ended);
            folders.iter().for_each(|folder| drop(remove(folder)));
        }
    }

    /// Notes that a cell is given a copy of the folder stored under `tree` at `path`.
    pub fn note_copy(&self, tree: Digest, path: &Path) {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).insert(tree, path.to_owned());
    }

    /// Where a cell that has ended was given a copy of the folder stored under `tree`, once. It may be gone or changed.
    pub fn take_spare(&self, tree: &Digest) -> Option<PathBuf> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).remove(tree)
    }

    /// The permission bits that the umask leaves to a program.
    pub fn mode(&self) -> u32 {
        self.folder.metadata().map_or(0o755, |metadata| metadata.mode() & 0o777)
    }

    /// Removes the folders of all cells that have ended, and says what was moved out of folders since this was last asked.
    pub fn clear(&self) -> Vec<PathBuf> {
        let (folders, _) = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        folders.iter().for_each(|folder| drop(remove(folder)));
        std::mem::take(&mut *self.rescued.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes the folder of a run, cell by cell.
    fn remove_run(&self, folder: &Path) {
        let cells = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|item| item.file_type().is_ok_and(|kind| kind.is_dir()));
        for folder in cells.map(|cell| cell.path()).chain([folder.to_owned()]) {
            // What cannot be removed now is removed by a later run.
            let _ = self.rescue(&folder).map(|_| remove(&folder));
        }
    }

    /// Moves what is older than the folder out of it; `None` if that fails: better a folder that stays than a file that
    /// is lost.
    fn rescue(&self, folder: &Path) -> Option<Held> {
        let held = held(folder);
        for path in &held.older {
            let moved = || -> Result<PathBuf, StoreError> {
                let root = self.folder.ancestors().nth(2).unwrap_or(folder);
                let target = root.join("rescued").join(path.strip_prefix(root.join("staging")).unwrap_or(path));
                let parent = target.parent().unwrap_or(root);
                fs::create_dir_all(parent).at("create", parent)?;
                match fs::rename(path, &target) {
                    // The staging folder may lie on another file system.
                    Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                        fs::copy(path, &target).and_then(|_| fs::remove_file(path)).at("move", path)?;
                    }
                    other => other.at("move", path)?,
                }
                Ok(target)
            };
            match moved() {
                Ok(target) => self.rescued.lock().unwrap_or_else(PoisonError::into_inner).push(target),
                Err(error) => {
                    tracing::warn!("{}; the folder {} stays", chain(&error), folder.display());
                    return None;
                }
            }
        }
        Some(held)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.remove_run(&self.folder);
        for path in self.clear() {
            tracing::warn!("kept {}, which a command had moved into its folder", path.display());
        }
    }
}

/// What a folder holds.
struct Held {
    /// The files and links that were made before the folder and have no other name.
    older: Vec<PathBuf>,
    files: usize,
    bytes: u64,
}

fn held(folder: &Path) -> Held {
    look(folder).unwrap_or_else(|found| {
        // A command may have made a folder that cannot be listed.
        open_up(folder);
        look(folder).unwrap_or(found)
    })
}

/// What a folder holds, or, where some of it cannot be listed, what could be.
fn look(folder: &Path) -> Result<Held, Held> {
    let since = if folder.join(JOB).exists() { None } else { born(folder) };
    let is_older = |metadata: &Metadata| since.is_some_and(|since| metadata.created().is_ok_and(|born| born < since));
    let look = |item: &DirEntry| {
        let metadata = item.metadata().ok()?;
        Some((metadata.blocks() * 512, metadata.nlink() == 1 && is_older(&metadata)))
    };
    let mut whole = true;
    let items = WalkDir::new(folder).into_iter().inspect(|item| whole &= item.is_ok()).flatten();
    let items: Vec<DirEntry> = items.filter(|item| !item.file_type().is_dir()).collect();
    // Below a few files the threads cost more than they save.
    let seen: Vec<Option<(u64, bool)>> =
        if items.len() < 64 { items.iter().map(look).collect() } else { items.par_iter().map(look).collect() };
    let mut held = Held { older: Vec::new(), files: items.len(), bytes: 0 };
    for (item, (bytes, is_older)) in items.into_iter().zip(seen).filter_map(|(item, seen)| Some((item, seen?))) {
        held.bytes += bytes;
        if is_older {
            held.older.push(item.into_path());
        }
    }
    if whole { Ok(held) } else { Err(held) }
}

/// Removes a folder with everything in it, whatever the permissions of its folders are.
fn remove(folder: &Path) -> io::Result<()> {
    fs::remove_dir_all(folder).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => {
            open_up(folder);
            fs::remove_dir_all(folder)
        }
    })
}

/// Lets the owner list and change all folders below `folder`.
fn open_up(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(metadata) = folder.symlink_metadata() else { continue };
        if metadata.mode() & 0o700 != 0o700 {
            let _ = fs::set_permissions(&folder, Permissions::from_mode(metadata.mode() | 0o700));
        }
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|item| item.file_type().is_ok_and(|kind| kind.is_dir())).map(|item| item.path()));
    }
}

/// When a folder was made, if the file system keeps that. What was made in it is younger, even if it has the inode
/// number of something that was removed.
pub fn born(folder: &Path) -> Option<SystemTime> {
    folder.symlink_metadata().and_then(|metadata| metadata.created()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_live_run_stays_and_that_of_a_dead_one_goes() {
        let root = tempfile::tempdir().unwrap();
        let live = Staging::create(root.path(), "live").unwrap();
        let scratch = live.cell().unwrap();
        let folder = |name: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(folder.join("7")).unwrap();
            folder
        };
        let (dead, users, locked) = (folder("dead"), folder("photos"), folder("locked"));
        for run in [&dead, &locked] {
            fs::write(run.join(HELD), "").unwrap();
        }
        fs::set_permissions(locked.join("7"), Permissions::from_mode(0o0)).unwrap();
        std::os::unix::fs::symlink(&users, root.path().join("link")).unwrap();
        let other = Staging::create(root.path(), "other").unwrap();
        assert!(scratch.is_dir() && users.join("7").is_dir() && !dead.exists() && !locked.exists());
        drop((live, other));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "the user's folder and the link to it");
    }

    #[test]
    fn what_is_older_than_a_removed_folder_is_kept_and_said() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().join("staging");
        for name in ["precious", "linked", "second name"] {
            fs::write(room.path().join(name), name).unwrap();
        }
        // The clock of a file system ticks; what was made in one tick has one birth time.
        let (before, after) = (room.path().join("precious"), room.path().join("tick"));
        let born = |path: &Path| fs::metadata(path).unwrap().created().unwrap();
        while !after.exists() || born(&after) <= born(&before) {
            let _ = fs::remove_file(&after);
            fs::write(&after, "").unwrap();
        }
        let staging = Staging::create(&root, "run").unwrap();
        let cell = staging.cell().unwrap();
        fs::create_dir_all(cell.join("out/a")).unwrap();
        fs::rename(room.path().join("precious"), cell.join("out/a/moved")).unwrap();
        fs::hard_link(room.path().join("linked"), cell.join("out/linked")).unwrap();
        fs::write(cell.join("out/made"), "x").unwrap();
        staging.release(cell.clone(), false);
        let kept = room.path().join("rescued/run/0/out/a/moved");
        assert_eq!(staging.clear(), std::slice::from_ref(&kept));
        assert_eq!(fs::read_to_string(kept).unwrap(), "precious");
        assert!(!cell.exists() && room.path().join("linked").exists());

        // A killed run leaves its folder; the next run removes it by the same rule.
        let dead = root.join("dead/0");
        fs::create_dir_all(&dead).unwrap();
        fs::write(root.join("dead").join(HELD), "").unwrap();
        fs::rename(room.path().join("second name"), dead.join("moved")).unwrap();
        let next = Staging::create(&root, "next").unwrap();
        assert_eq!(next.clear(), [room.path().join("rescued/dead/0/moved")]);
        assert!(!root.join("dead").exists());
    }
}
