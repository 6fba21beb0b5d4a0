//! The copy of a stored folder that a cell was given to read, used again as the published folder: for many small files,
//! making them is most of what a run costs beside its commands.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use rayon::prelude::*;
use walkdir::WalkDir;

use crate::store::digest::Digest;
use crate::store::staging::{Staging, born};
use crate::store::tree::{Entry, Node};
use crate::store::{Artifact, IoContext, StoreError};

/// Moves a copy of the folder `artifact`, which holds `wanted`, from a cell's folder to `to`, and makes it writable; says
/// whether there was one that its cell had left as it was.
pub(super) fn reuse(staging: &Staging, artifact: &Artifact, wanted: &[Entry], to: &Path) -> Result<bool, StoreError> {
    let Some(spare) = staging.take_spare(&artifact.digest) else { return Ok(false) };
    // A small folder is gone with its cell; the reports may lie on another file system.
    if fs::rename(spare, to).is_err() {
        return Ok(false);
    }
    let whole = born(to)
        .filter(|_| holds(to, wanted))
        .is_some_and(|since| wanted.par_iter().all(|entry| restore(to, since, entry, staging.mode()).is_some()));
    if whole {
        return Ok(true);
    }
    fs::remove_dir_all(to).at("remove", to)?;
    Ok(false)
}

/// Whether the folder holds regular files by the names in `wanted`, and no folder that they do not lie in.
fn holds(folder: &Path, wanted: &[Entry]) -> bool {
    let files: HashSet<&str> =
        wanted.iter().filter(|entry| entry.node != Node::EmptyFolder).map(|e| &*e.path).collect();
    let above = |entry: &'_ Entry| entry.path.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    let mut folders: HashSet<&str> = wanted.iter().flat_map(|e| above(e).into_iter().map(|at| &e.path[..at])).collect();
    folders.extend(wanted.iter().filter(|entry| entry.node == Node::EmptyFolder).map(|entry| &*entry.path));
    let mut found = 0;
    for item in WalkDir::new(folder).min_depth(1) {
        let Ok(item) = item else { return false };
        let Some(name) = item.path().strip_prefix(folder).ok().and_then(Path::to_str) else { return false };
        let kind = item.file_type();
        if !(kind.is_dir() && folders.contains(name) || kind.is_file() && files.contains(name)) {
            return false;
        }
        found += 1;
    }
    found == files.len() + folders.len()
}

/// Makes one file of the copy writable, with the bits of `mode`; `None` unless it is what was given out: the bytes, and
/// made here, with no other name.
fn restore(folder: &Path, since: SystemTime, entry: &Entry, mode: u32) -> Option<()> {
    let Node::File { executable, digest, size } = entry.node else { return Some(()) };
    let mut file = File::open(folder.join(&entry.path)).ok()?;
    let metadata = file.metadata().ok()?;
    let ours = metadata.nlink() == 1 && metadata.created().ok()? >= since;
    if !ours || metadata.len() != size || Digest::of_reader(&mut file, size).ok()? != (digest, size) {
        return None;
    }
    let mode = if executable { mode } else { mode & 0o666 };
    file.set_permissions(Permissions::from_mode(mode)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::blobs::Placement;

    /// What becomes of a copy after `spoil`, and the names that are there then.
    fn reused(spoil: impl Fn(&Path)) -> bool {
        let room = tempfile::tempdir().unwrap();
        let store = Store::open(&room.path().join("cache")).unwrap();
        let out = room.path().join("out");
        fs::create_dir_all(out.join("empty")).unwrap();
        fs::create_dir_all(out.join("a/b")).unwrap();
        for name in ["a/b/file", "a/run", "top"] {
            fs::write(out.join(name), name).unwrap();
        }
        fs::set_permissions(out.join("a/run"), Permissions::from_mode(0o755)).unwrap();
        let artifact = store.blobs.adopt(&out, &[], &store.stat).unwrap();
        let wanted = store.blobs.tree(&artifact.digest).unwrap().entries;

        let staging = Staging::create(&store.staging(), "run").unwrap();
        let (copy, to) = (staging.cell().unwrap().join("copy"), room.path().join("published"));
        store.blobs.place(&artifact, &copy, Placement::ReadOnly).unwrap();
        staging.note_copy(artifact.digest, &copy);
        spoil(&copy);
        let reused = reuse(&staging, &artifact, &wanted, &to).unwrap();
        assert_eq!(to.exists(), reused);
        if reused {
            assert_eq!(store.blobs.adopt(&to, &[], &store.stat).unwrap(), artifact);
        }
        assert!(!reuse(&staging, &artifact, &wanted, &room.path().join("again")).unwrap());
        reused
    }

    #[test]
    fn a_copy_that_was_left_as_it_was_is_published_and_no_other() {
        assert!(reused(|_| {}));
        assert!(!reused(|copy| fs::remove_dir_all(copy).unwrap()));
        assert!(!reused(|copy| fs::write(copy.join("new"), "").unwrap()));
        assert!(!reused(|copy| fs::create_dir(copy.join("new")).unwrap()));
        assert!(!reused(|copy| fs::remove_dir(copy.join("empty")).unwrap()));
        assert!(!reused(|copy| fs::remove_file(copy.join("top")).unwrap()));
        assert!(!reused(|copy| fs::rename(copy.join("top"), copy.join("a/b/other")).unwrap()));
        assert!(!reused(|copy| fs::hard_link(copy.join("top"), copy.with_extension("second name")).unwrap()));
        let replace = |copy: &Path, bytes: &str| {
            fs::remove_file(copy.join("top")).unwrap();
            fs::write(copy.join("top"), bytes).unwrap();
        };
        assert!(!reused(|copy| replace(copy, "pot")));
        assert!(reused(|copy| replace(copy, "top")));
        let link = |copy: &Path, name: &str| {
            let elsewhere = copy.with_extension("elsewhere");
            fs::rename(copy.join(name), &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, copy.join(name)).unwrap();
        };
        assert!(!reused(|copy| link(copy, "top")));
        assert!(!reused(|copy| link(copy, "a")));
        // What is older than the copy was moved there: it is the user's.
        assert!(!reused(|copy| {
            let aged = copy.with_extension("aged");
            fs::rename(copy, &aged).unwrap();
            fs::create_dir(copy).unwrap();
            while born(copy) <= born(&aged.join("top")) {
                fs::remove_dir(copy).unwrap();
                fs::create_dir(copy).unwrap();
            }
            for item in fs::read_dir(&aged).unwrap().flatten() {
                fs::rename(item.path(), copy.join(item.file_name())).unwrap();
            }
        }));
    }
}
