//! The whole store verified, byte by byte, and repaired: what no other command takes the time for.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::digest::Digest;
use super::files::{self, foreign, set_aside};
use super::tree::Node;
use super::{Artifact, Form, IoContext, Note, Store, StoreError};
use crate::text::chain;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is damaged, and what became of it.
    pub found: Vec<Note>,
    /// Whole stored objects, and their bytes.
    pub objects: usize,
    pub bytes: u64,
    /// Results that have all their objects.
    pub results: usize,
}

impl Report {
    fn add(&mut self, path: &Path, what: impl Into<String>) {
        self.found.push(Note { path: path.to_owned(), what: what.into(), lost: 0 });
    }
}

/// Verifies the store below `root`. With `repair`, nothing damaged is left: a damaged object is removed, what is not the
/// store's is moved to `rescued/`, missing files and folders are made, and results without their objects are forgotten.
///
/// # Errors
/// What makes a check impossible: no store there, or one that cannot be read.
pub fn check(root: &Path, repair: bool) -> Result<(Report, Option<Store>), StoreError> {
    let mut report = Report::default();
    let folder = Store::folder(root)?;
    folder.metadata().at("find", &folder)?;
    let store = loop {
        let looked = Store::look(root, repair).and_then(|(store, mut notes)| {
            // What opening it has found is found again where nothing was repaired.
            if notes.is_empty() || repair {
                notes.extend(store.index.verify()?);
            }
            Ok((store, notes))
        });
        match looked {
            Err(StoreError::Foreign { path, what }) if repair && path.starts_with(&folder) => {
                let moved = set_aside(&folder, &path)?;
                report.add(&path, format!("{what}; moved to {}", moved.display()));
            }
            Err(StoreError::Foreign { path, what }) => {
                report
                    .add(&path, format!("{what}, expected a file or folder of the store; nothing else was looked at"));
                return Ok((report, None));
            }
            Err(other) => return Err(other),
            Ok((store, notes)) => {
                report.found.extend(notes);
                break store;
            }
        }
    };
    for path in [store.staging(), store.journals(), store.logs(), store.staging().with_file_name("resume")] {
        if path.symlink_metadata().is_ok() && !path.is_dir() {
            let moved =
                if repair { format!("; moved to {}", set_aside(&folder, &path)?.display()) } else { String::new() };
            report.add(&path, format!("no folder{moved}"));
        }
    }
    let good = objects(&store, &folder, repair, &mut report)?;
    results(&store, &good, repair, &mut report)?;
    Ok((report, Some(store)))
}

/// Reads every stored object, and says which are whole.
fn objects(store: &Store, root: &Path, repair: bool, report: &mut Report) -> Result<HashSet<Digest>, StoreError> {
    let folders: Vec<PathBuf> = store.blobs.subfolders().collect();
    let looked: Vec<Vec<(PathBuf, Object)>> =
        folders.par_iter().map(|folder| look(folder)).collect::<Result<_, StoreError>>()?;
    let mut good = HashSet::new();
    for (folder, objects) in folders.iter().zip(looked) {
        if foreign(folder) != Some("a folder") {
            report.add(folder, "a missing folder of blobs");
        }
        for (path, object) in objects {
            let (what, done) = match object {
                Object::Whole(digest, size) => {
                    report.objects += 1;
                    report.bytes += size;
                    good.insert(digest);
                    continue;
                }
                Object::Damaged(what) if repair => {
                    fs::remove_file(&path).at("remove", &path)?;
                    (what, "; removed".to_owned())
                }
                Object::Foreign(what) if repair => {
                    let moved = set_aside(root, &path)?;
                    (what.into(), format!("; moved to {}", moved.display()))
                }
                Object::Damaged(what) => (what, String::new()),
                Object::Foreign(what) => (what.into(), String::new()),
            };
            report.add(&path, format!("{what}{done}"));
        }
    }
    Ok(good)
}

/// An entry of a folder of blobs.
enum Object {
    Whole(Digest, u64),
    /// A file by the name of an object.
    Damaged(String),
    Foreign(&'static str),
}

fn look(folder: &Path) -> Result<Vec<(PathBuf, Object)>, StoreError> {
    let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(items) => items.map(|item| Ok(item?.path())).collect::<std::io::Result<_>>().at("list", folder)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).at("list", folder),
    };
    paths.sort_unstable();
    Ok(paths.into_iter().filter_map(|path| Some((object(&path)?, path))).map(|(object, path)| (path, object)).collect())
}

/// What is at `path`; `None` for the file of a process that is storing it now.
fn object(path: &Path) -> Option<Object> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let name = format!("{}{}", path.parent().map(name).unwrap_or_default(), name(path));
    let digest: Result<Digest, _> = name.parse();
    if let Some(what) = foreign(path) {
        return Some(Object::Foreign(what));
    }
    let Ok(digest) = digest else {
        // `DIGEST.PROCESS.THREAD`.
        let process = name.get(64..).and_then(|rest| rest.strip_prefix('.')?.split('.').next());
        return match process.filter(|process| process.parse::<u32>().is_ok()) {
            Some(process) if Path::new("/proc").join(process).exists() => None,
            Some(_) => Some(Object::Damaged("left by a process that was killed".into())),
            None => Some(Object::Foreign("a file that is not a stored object")),
        };
    };
    let read = files::open(path, files::For::Reading)
        .and_then(|file| file.map(|mut file| Digest::of_reader(&mut file, 0).at("read", path)).transpose());
    match read {
        Ok(Some((found, size))) if found == digest => Some(Object::Whole(digest, size)),
        Ok(Some(_)) => Some(Object::Damaged("altered".into())),
        // Removed since it was listed.
        Ok(None) => None,
        Err(error) => Some(Object::Damaged(format!("not readable ({})", chain(&error)))),
    }
}

/// Checks whether results have their objects.
fn results(store: &Store, good: &HashSet<Digest>, repair: bool, report: &mut Report) -> Result<(), StoreError> {
    let mut without = Vec::new();
    let mut names = Vec::new();
    for (key, outputs) in store.index.results() {
        if outputs.iter().all(|artifact| is_whole(store, artifact, good)) {
            report.results += 1;
            continue;
        }
        names.push(store.index.origin(&key).map_or_else(|| key.short(), |origin| origin.cell));
        without.push(key);
    }
    if without.is_empty() {
        return Ok(());
    }
    if repair {
        store.index.forget(&without)?;
    }
    names.sort_unstable();
    let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
    let names = names[..names.len().min(3)].join(", ");
    let done = if repair { "forgotten: the cell runs again" } else { "incomplete" };
    let what = format!("results without all their objects: {}, of {names}{more}; {done}", without.len());
    report.add(&store.root.join("index"), what);
    Ok(())
}

fn is_whole(store: &Store, artifact: &Artifact, good: &HashSet<Digest>) -> bool {
    let held = |node: &Node| match node {
        Node::File { digest, .. } => good.contains(digest),
        Node::EmptyFolder => true,
    };
    good.contains(&artifact.digest)
        && match artifact.form {
            Form::File { .. } => true,
            Form::Tree => {
                store.blobs.tree(&artifact.digest).is_ok_and(|tree| tree.entries.iter().all(|entry| held(&entry.node)))
            }
        }
}
