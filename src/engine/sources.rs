//! The user's own files: their content digests, read once a run and seen unchanged before a result is kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use walkdir::WalkDir;

use crate::pipeline::model::{Pipeline, Source, Task};
use crate::store::digest::Digest;
use crate::store::stat::{Stamp, StatCache};
use crate::store::tree::{Entry, Node, Tree};
use crate::store::{Artifact, Form, StoreError};

/// A file or folder of the user's as it was when the plan was made.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its content.
    pub artifact: Artifact,
    /// The stamp of every file, in order.
    stamps: Arc<[Stamp]>,
}

/// All of them, by path.
#[derive(Debug, Default)]
pub struct Sources {
    snapshots: HashMap<PathBuf, Result<Snapshot, String>>,
    /// Digests of programs by the word that a command uses; `None` for one that is not a file (a shell's builtin).
    programs: HashMap<String, Option<(PathBuf, Digest)>>,
}

impl Sources {
    /// Reads what the `needed` cells of `pipeline` name: their paths, and the programs of their commands. `home` is the
    /// folder that a program written as a relative path is relative to.
    pub fn read(pipeline: &Pipeline, needed: &[bool], home: &Path, stat: &StatCache) -> Sources {
        let mut paths: Vec<&PathBuf> = Vec::new();
        let mut programs: HashMap<String, Option<(PathBuf, Digest)>> = HashMap::new();
        for cell in pipeline.cells.iter().zip(needed).filter_map(|(cell, needed)| needed.then_some(cell)) {
            paths.extend(cell.inputs.iter().filter_map(|input| match &input.source {
                Source::Path(path) => Some(path),
                _ => None,
            }));
            for word in words(&cell.task).into_iter().flatten() {
                if !programs.contains_key(word) {
                    programs.insert(word.to_owned(), program(word, home, stat));
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        let read = |path: &&PathBuf| ((*path).clone(), snapshot(path, stat).map_err(|error| error.to_string()));
        // Below a few files the threads cost more than they save.
        let snapshots =
            if paths.len() < 64 { paths.iter().map(read).collect() } else { paths.par_iter().map(read).collect() };
        Sources { snapshots, programs }
    }

    /// The snapshot of a path that some cell names.
    pub fn get(&self, path: &Path) -> Result<&Snapshot, String> {
        match self.snapshots.get(path) {
            Some(Ok(snapshot)) => Ok(snapshot),
            Some(Err(message)) => Err(message.clone()),
            None => Err(format!("{} was not read", path.display())),
        }
    }

    /// The digests of the programs that `task` starts, by the word that it uses.
    pub fn programs<'a>(&'a self, task: &'a Task) -> Vec<(&'a str, Digest)> {
        let known = |word: &'a str| self.programs.get(word)?.as_ref().map(|(_, digest)| (word, *digest));
        words(task).into_iter().flatten().filter_map(known).collect()
    }

    /// The file behind a program's word.
    pub fn program_path(&self, word: &str) -> Option<&Path> {
        self.programs.get(word)?.as_ref().map(|(path, _)| &**path)
    }
}

/// The words of a command that name programs: the shell and the first word of a shell command; the first word of a list.
fn words(task: &Task) -> [Option<&str>; 2] {
    match task {
        Task::Kind { .. } => [None, None],
        Task::Shell(text) => [Some("sh"), text.split_whitespace().next().filter(|word| *word != "sh")],
        Task::Program(words) => [words.first().map(String::as_str), None],
    }
}

fn program(word: &str, home: &Path, stat: &StatCache) -> Option<(PathBuf, Digest)> {
    let path = if word.contains('/') {
        home.join(word)
    } else {
        let search = std::env::var_os("PATH")?;
        std::env::split_paths(&search).map(|folder| folder.join(word)).find(|path| path.is_file())?
    };
    let (digest, _) = stat.digest_file(&path).ok()?;
    Some((path, digest))
}

/// Reads a file or folder. Hidden files count; links count as what is behind them.
fn snapshot(path: &Path, stat: &StatCache) -> Result<Snapshot, StoreError> {
    let io = |source: std::io::Error| StoreError::Io { verb: "read", path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        let (digest, stamp) = stat.digest_file(path)?;
        let artifact = Artifact { form: Form::File { executable: stamp.executable }, digest, size: stamp.size };
        return Ok(Snapshot { artifact, stamps: [stamp].into() });
    }
    let found = list(path)?;
    let files: Vec<Option<(Digest, Stamp)>> = found
        .par_iter()
        .map(|(_, file)| if file.is_dir() { Ok(None) } else { stat.digest_file(file).map(Some) })
        .collect::<Result<_, _>>()?;
    let entries = found.into_iter().zip(&files).map(|((name, _), file)| Entry {
        path: name,
        node: match file {
            Some((digest, stamp)) => Node::File { executable: stamp.executable, digest: *digest, size: stamp.size },
            None => Node::EmptyFolder,
        },
    });
    let tree = Tree::new(entries.collect());
    let artifact = Artifact { form: Form::Tree, digest: Digest::of(&tree.encode()), size: tree.size() };
    Ok(Snapshot { artifact, stamps: files.into_iter().flatten().map(|(_, stamp)| stamp).collect() })
}

/// Files and empty folders below `root`, with their names relative to it.
fn list(root: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut found = Vec::new();
    for item in WalkDir::new(root).follow_links(true).sort_by_file_name().min_depth(1) {
        let item = item.map_err(|error| StoreError::Io {
            verb: "list",
            path: error.path().unwrap_or(root).to_owned(),
            source: error.into(),
        })?;
        let path = item.path();
        if item.file_type().is_dir() {
            let empty = std::fs::read_dir(path).is_ok_and(|mut items| items.next().is_none());
            if !empty {
                continue;
            }
        }
        let name = path.strip_prefix(root).ok().and_then(Path::to_str).ok_or_else(|| StoreError::Unsupported {
            path: path.to_owned(),
            what: "named in something else than UTF-8",
        })?;
        found.push((name.to_owned(), path.to_owned()));
    }
    Ok(found)
}

/// The digest of whatever lies at `path` now, through the stat cache.
pub fn digest_of(path: &Path, stat: &StatCache) -> Result<Artifact, StoreError> {
    snapshot(path, stat).map(|snapshot| snapshot.artifact)
}

impl Snapshot {
    /// Whether the files at `path` still have the stamps of this snapshot.
    pub fn is_current(&self, path: &Path) -> bool {
        let now = || -> Option<Vec<Stamp>> {
            let stamp = |path: &Path| std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
            if self.artifact.form != Form::Tree {
                return Some(vec![stamp(path)?]);
            }
            let files = list(path).ok()?;
            files.iter().filter(|(_, file)| !file.is_dir()).map(|(_, file)| stamp(file)).collect()
        };
        now().is_some_and(|now| *now == *self.stamps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_of_the_users_and_the_same_folder_stored_have_one_digest() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(&folder.path().join("cache")).unwrap();
        let root = folder.path().join("data");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("a.b")).unwrap();
        fs::create_dir_all(root.join("empty")).unwrap();
        for name in ["a/b/2", "a/b/10", "a.b/x", "a0"] {
            fs::write(root.join(name), name).unwrap();
        }
        let snapshot = snapshot(&root, &store.stat).unwrap();
        assert!(snapshot.is_current(&root));
        fs::write(root.join("a0"), "changed").unwrap();
        assert!(!snapshot.is_current(&root));
        fs::write(root.join("a0"), "a0").unwrap();
        assert_eq!(store.blobs.adopt(&root, &store.stat).unwrap(), snapshot.artifact);
    }
}
