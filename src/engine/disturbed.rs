//! What a command did to the user's files that it was given: `in/NAME` is a link to them, and a command may write, delete or
//! move through it.
//!
//! What it wrote or deleted is its own doing and is reported. What it moved into its own folder would be lost with that
//! folder, so it is moved back.

use std::collections::HashMap;
use std::fs::{self, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::plan::Context;
use crate::pipeline::model::{Cell, Source};

/// How many files a message names.
const NAMED: usize = 3;

/// Moves back what the cell that worked in `folder` took from its inputs, and says that and what else has changed in them;
/// `None` if their bytes are what they were.
pub(super) fn disturbed(context: &Context<'_>, cell: &Cell, folder: &Path) -> Option<String> {
    let mut words = Vec::new();
    for input in &cell.inputs {
        let Source::Path(path) = &input.source else { continue };
        let back = put_back(context, path, folder);
        if !back.is_empty() {
            let one = back.len() == 1;
            words.push(format!(
                "it moved {} out of its input {}; {} moved back: let the command copy instead",
                few(&back),
                path.display(),
                if one { "the file was" } else { "the files were" }
            ));
        }
        let changes = context.sources.changes(path, &context.store.stat);
        if !changes.is_empty() {
            words.push(format!("its input {} changed while it ran ({})", path.display(), few(&changes)));
        }
    }
    (!words.is_empty()).then(|| words.join("; "))
}

/// `a, b, c and 4 more`.
fn few(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// Moves the files of the input at `root` that are gone from there and lie in `folder` back, and names them.
fn put_back(context: &Context<'_>, root: &Path, folder: &Path) -> Vec<String> {
    let Ok(before) = context.sources.get(root) else { return Vec::new() };
    let at = |name: &str| if name.is_empty() { root.to_owned() } else { root.join(name) };
    let gone = |path: &Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let mut missing = before.files().iter().filter(|seen| gone(&at(&seen.name))).peekable();
    if missing.peek().is_none() {
        return Vec::new();
    }
    let mut moved: HashMap<(u64, u64), PathBuf> = HashMap::new();
    for item in WalkDir::new(folder).into_iter().flatten().filter(|item| item.file_type().is_file()) {
        if let Ok(metadata) = item.metadata() {
            moved.insert((metadata.dev(), metadata.ino()), item.into_path());
        }
    }
    let mut back = Vec::new();
    for seen in missing {
        let target = at(&seen.name);
        let same = moved.get(&(seen.stamp.device, seen.stamp.inode)).cloned();
        // From another file system a move is a copy with the times kept, and a removal.
        let copied = || {
            let alike = |path: &&PathBuf| {
                fs::metadata(path).is_ok_and(|metadata| metadata.dev() != seen.stamp.device && seen.stamp.is_like(&metadata))
                    && crate::store::digest::Digest::of_file(path).is_ok_and(|(digest, _)| digest == seen.digest)
            };
            moved.values().find(alike).cloned()
        };
        if let Some(from) = same.or_else(copied)
            && move_back(&from, &target).is_ok()
        {
            back.push(target.display().to_string());
        }
    }
    back
}

/// Renames, or copies where the two lie on different file systems. What is there already stays.
fn move_back(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let times = fs::metadata(from)?;
            fs::copy(from, to)?;
            let file = fs::File::options().write(true).open(to)?;
            file.set_times(FileTimes::new().set_accessed(times.accessed()?).set_modified(times.modified()?))
        }
        other => other,
    }
}
