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
use super::sources::Seen;
use crate::pipeline::model::{Cell, Source};
use crate::store::digest::Digest;
use crate::store::staging::born;

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
                if one { "it was" } else { "they were" }
            ));
        }
        let changes = context.sources.changes(path, &context.store.stat);
        if !changes.is_empty() {
            words.push(format!("its input {} changed while it ran ({})", path.display(), few(&changes)));
        }
    }
    words.extend(altered(context, cell).map(|words| format!("{words} while it ran")));
    (!words.is_empty()).then(|| words.join("; "))
}

/// Says which programs of the cell are not those of its key any more: they `changed`.
pub(super) fn altered(context: &Context<'_>, cell: &Cell) -> Option<String> {
    let words = context.sources.altered(&cell.task, &context.store.stat);
    (!words.is_empty()).then(|| format!("its program {} changed", few(&words)))
}

/// `a, b, c and 4 more`.
fn few(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// Moves what is gone from the input at `root` and lies in `folder` back, and names it.
fn put_back(context: &Context<'_>, root: &Path, folder: &Path) -> Vec<String> {
    let Ok(before) = context.sources.get(root) else { return Vec::new() };
    let gone = |path: &Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let at = |name: &str| if name.is_empty() { root.to_owned() } else { root.join(name) };
    let names = before.places().iter().map(|place| &place.name).chain(before.files().iter().map(|file| &file.name));
    if !names.into_iter().any(|name| gone(&at(name))) {
        return Vec::new();
    }
    let mut moved: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
    let (since, mut made) = (born(folder), Vec::new());
    for item in WalkDir::new(folder).min_depth(1).into_iter().flatten() {
        match item.metadata() {
            Ok(metadata) if metadata.created().is_ok_and(|born| since.is_some_and(|since| born < since)) => {
                moved.entry((metadata.dev(), metadata.ino())).or_default().push(item.into_path());
            }
            Ok(metadata) if metadata.is_file() => made.push(item.into_path()),
            _ => {}
        }
    }
    let mut back = Vec::new();
    let mut move_back = |from: Option<PathBuf>, target: PathBuf| {
        if from.is_some_and(|from| move_to(&from, &target).is_ok()) {
            back.push(target.display().to_string());
        }
    };
    // A folder brings back everything in it, so that what it holds is not gone when its turn comes.
    for place in before.places() {
        let target = at(&place.name);
        if gone(&target) {
            move_back(moved.get_mut(&(place.device, place.inode)).and_then(Vec::pop), target);
        }
    }
    for file in before.files() {
        let target = at(&file.name);
        if !gone(&target) {
            continue;
        }
        let Seen { stamp, digest, .. } = file;
        let same = moved.get_mut(&(stamp.device, stamp.inode)).and_then(Vec::pop);
        // From another file system a move is a copy with the times kept, and a removal.
        let copied = || {
            let alike = |path: &&PathBuf| {
                fs::metadata(path).is_ok_and(|metadata| metadata.dev() != stamp.device && stamp.is_like(&metadata))
                    && Digest::of_file(path).is_ok_and(|(found, _)| found == *digest)
            };
            made.iter().find(alike).cloned()
        };
        move_back(same.or_else(copied), target);
    }
    back
}

/// Renames, or copies where the two lie on different file systems. What is there already stays.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
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
