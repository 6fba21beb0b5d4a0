//! The user's own files and the programs of commands: their content digests, read once per run and seen unchanged before a
//! result is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::leftovers::{Leftovers, Matcher};
use crate::pipeline::model::{Pipeline, Source, Task};
use crate::pipeline::shell::find_program;
use crate::regular;
use crate::store::digest::Digest;
use crate::store::stat::{Stamp, StatCache};
use crate::store::tree::{Entry, Node, Tree};
use crate::store::{Artifact, Form, IoContext, Store, StoreError};
use crate::text::chain;

/// A file or folder as it was when the plan was made.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its content.
    pub artifact: Artifact,
    /// Its files, by the bytes of their names.
    files: Arc<[Seen]>,
    /// Its empty folders.
    empty: Arc<[String]>,
    /// Its folders and links, folders before what they hold.
    places: Arc<[Place]>,
    /// Whether something in the folder is not part of it.
    pub leaves_out: bool,
}

/// One file as it was.
#[derive(Debug)]
pub(super) struct Seen {
    /// Below the folder; empty if the input is the file.
    pub name: String,
    pub digest: Digest,
    pub stamp: Stamp,
}

/// A folder or a link: where a command may take it from.
#[derive(Debug)]
pub(super) struct Place {
    /// Below the input folder, which is the empty name.
    pub name: String,
    pub device: u64,
    pub inode: u64,
}

/// All of them, by path.
#[derive(Debug, Default)]
pub struct Sources {
    snapshots: HashMap<PathBuf, Result<Snapshot, String>>,
    /// Digests of programs by the word that a command uses; `None` for one that is not a file (a shell's builtin).
    programs: HashMap<String, Option<(PathBuf, Digest)>>,
    /// The folder that a program written as a relative path is relative to; absolute, since cells start elsewhere.
    home: PathBuf,
    leftovers: Leftovers,
}

impl Sources {
    /// Reads what the `needed` cells of `pipeline` name: their paths without `leftovers`, and the programs of their
    /// commands. `home` is the folder that a program written as a relative path is relative to.
    pub fn read(pipeline: &Pipeline, needed: &[bool], home: &Path, leftovers: Leftovers, stat: &StatCache) -> Sources {
        let mut paths: Vec<&PathBuf> = Vec::new();
        let mut programs: HashMap<String, Option<(PathBuf, Digest)>> = HashMap::new();
        let home = std::path::absolute(Path::new(".").join(home)).unwrap_or_else(|_| home.to_owned());
        for cell in pipeline.cells.iter().zip(needed).filter_map(|(cell, needed)| needed.then_some(cell)) {
            paths.extend(cell.inputs.iter().filter_map(|input| match &input.source {
                Source::Path(path) => Some(path),
                _ => None,
            }));
            for word in words(&cell.task).into_iter().flatten() {
                if !programs.contains_key(word) {
                    programs.insert(word.to_owned(), program(word, &home, stat));
                }
            }
        }
        paths.sort_unstable();
        paths.dedup();
        let read = |path: &&PathBuf| {
            let snapshot = snapshot(path, Some(&leftovers), stat);
            ((*path).clone(), snapshot.map_err(|error| chain(&error)))
        };
        // Below a few files the threads cost more than they save.
        let snapshots =
            if paths.len() < 64 { paths.iter().map(read).collect() } else { paths.par_iter().map(read).collect() };
        Sources { snapshots, programs, home, leftovers }
    }

    /// The snapshot of a path that some cell names.
    pub fn get(&self, path: &Path) -> Result<&Snapshot, String> {
        match self.snapshots.get(path) {
            Some(Ok(snapshot)) => Ok(snapshot),
            Some(Err(message)) => Err(message.clone()),
            None => Err(format!("{} was not read", path.display())),
        }
    }

    /// What has happened to the files at `path` since they were read, one line a file; nothing if their bytes are what
    /// they were. Other times, permissions, names of the same file and leftovers do not count.
    pub fn changes(&self, path: &Path, stat: &StatCache) -> Vec<String> {
        let compare = || -> Result<Vec<String>, StoreError> {
            let Some(Ok(before)) = self.snapshots.get(path) else { return Ok(Vec::new()) };
            let now = list(path, Some(&self.leftovers))?;
            before.compare(path, &now, stat)
        };
        compare().unwrap_or_else(|error| vec![chain(&error)])
    }

    /// The content of the folder whose digest begins with `digest`, if it is one of the inputs.
    pub fn tree(&self, digest: &str) -> Option<Tree> {
        let mut folders = self.snapshots.values().flatten().filter(|snapshot| snapshot.artifact.form == Form::Tree);
        let found = folders.find(|folder| folder.artifact.digest.to_string().starts_with(digest))?;
        Some(tree(&found.files, &found.empty))
    }

    /// Stores the lists of files of the input folders, so that a later plan can name the files that changed in them.
    pub fn keep_trees(&self, store: &Store) -> Result<(), StoreError> {
        for Snapshot { artifact, files, empty, .. } in self.snapshots.values().flatten() {
            if artifact.form == Form::Tree && store.blobs.verify(&artifact.digest, &store.stat).is_err() {
                store.blobs.store_tree(&tree(files, empty), &store.stat)?;
            }
        }
        Ok(())
    }

    /// The names of the files below the folder at `path` that are part of it, now.
    pub fn names(&self, path: &Path) -> Result<Vec<(String, bool)>, StoreError> {
        let found = list(path, Some(&self.leftovers))?.found;
        Ok(found.into_iter().map(|item| (item.name, item.metadata.is_none())).collect())
    }

    /// The digests of the programs that `task` starts, by the word that it uses.
    pub fn programs<'a>(&'a self, task: &'a Task) -> Vec<(&'a str, Digest)> {
        let known = |word: &'a str| self.programs.get(word)?.as_ref().map(|(_, digest)| (word, *digest));
        words(task).into_iter().flatten().filter_map(known).collect()
    }

    /// The words of `task` whose programs are not those of [`Sources::programs`] any more: they have other bytes, are gone,
    /// or others come before them on `PATH`.
    pub fn altered(&self, task: &Task, stat: &StatCache) -> Vec<String> {
        let now = |word: &str| program(word, &self.home, stat).map(|(_, digest)| digest);
        let before = self.programs(task).into_iter();
        before.filter(|(word, digest)| now(word) != Some(*digest)).map(|(word, _)| word.to_owned()).collect()
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
        Task::Shell(script) => {
            let shell = script.shell.first().map(String::as_str);
            [shell, script.text.split_whitespace().next().filter(|word| Some(*word) != shell)]
        }
        Task::Program(words) => [words.first().map(String::as_str), None],
    }
}

fn program(word: &str, home: &Path, stat: &StatCache) -> Option<(PathBuf, Digest)> {
    let path = if word.contains('/') { home.join(word) } else { std::path::absolute(find_program(word)?).ok()? };
    let (digest, _) = stat.digest_file(&path).ok()?;
    Some((path, digest))
}

/// Reads a file or folder. Hidden files count; links count as what is behind them.
fn snapshot(path: &Path, leftovers: Option<&Leftovers>, stat: &StatCache) -> Result<Snapshot, StoreError> {
    let listing = list(path, leftovers)?;
    let read = |item: &Found| match &item.metadata {
        Some(metadata) => {
            let (digest, stamp) = stat.digest_of(&item.path(path), Stamp::of(metadata))?;
            Ok(Some(Seen { name: item.name.clone(), digest, stamp }))
        }
        None => Ok(None),
    };
    let files: Vec<Option<Seen>> = listing.found.par_iter().map(read).collect::<Result<_, StoreError>>()?;
    let empty: Arc<[String]> =
        listing.found.into_iter().filter(|item| item.metadata.is_none()).map(|item| item.name).collect();
    let files: Arc<[Seen]> = files.into_iter().flatten().collect();
    let artifact = match &files[..] {
        [Seen { name, digest, stamp }] if name.is_empty() => {
            Artifact { form: Form::File { executable: stamp.executable }, digest: *digest, size: stamp.size }
        }
        files => {
            let tree = tree(files, &empty);
            Artifact { form: Form::Tree, digest: Digest::of(&tree.encode()), size: tree.size() }
        }
    };
    Ok(Snapshot { artifact, files, empty, places: listing.places.into(), leaves_out: listing.leaves_out })
}

fn tree(files: &[Seen], empty: &[String]) -> Tree {
    let files = files.iter().map(|Seen { name, digest, stamp }| Entry {
        path: name.clone(),
        node: Node::File { executable: stamp.executable, digest: *digest, size: stamp.size },
    });
    let empty = empty.iter().map(|name| Entry { path: name.clone(), node: Node::EmptyFolder });
    Tree::new(files.chain(empty).collect())
}

/// The content of a path.
struct Listing {
    /// Files and empty folders, by the bytes of their names.
    found: Vec<Found>,
    places: Vec<Place>,
    /// Whether the matcher left something out.
    leaves_out: bool,
}

/// A file, or an empty folder.
struct Found {
    /// Below the folder; empty if the path itself is the file.
    name: String,
    /// That of the file, behind links; `None` for an empty folder.
    metadata: Option<Metadata>,
}

impl Found {
    fn path<'a>(&self, root: &'a Path) -> Cow<'a, Path> {
        if self.name.is_empty() { root.into() } else { root.join(&self.name).into() }
    }
}

/// The folders that contain a folder, to see a link that leads back to one of them.
struct Way<'a> {
    folder: (u64, u64),
    above: Option<&'a Way<'a>>,
}

/// How many folders an input may be nested.
const DEEPEST: usize = 256;

impl Way<'_> {
    fn depth(&self) -> usize {
        std::iter::successors(Some(self), |way| way.above).count()
    }

    fn holds(&self, folder: (u64, u64)) -> bool {
        self.folder == folder || self.above.is_some_and(|above| above.holds(folder))
    }
}

/// Files and empty folders at `root`, without `leftovers` if it is a folder. Nothing is opened.
fn list(root: &Path, leftovers: Option<&Leftovers>) -> Result<Listing, StoreError> {
    let metadata = std::fs::metadata(root).at("read", root)?;
    if !metadata.is_dir() {
        let found = vec![Found { name: String::new(), metadata: Some(regular(root, metadata)?) }];
        return Ok(Listing { found, places: Vec::new(), leaves_out: false });
    }
    let matcher = leftovers.map_or_else(|| Ok(Matcher::nothing()), |leftovers| leftovers.matcher(root))?;
    let way = Way { folder: (metadata.dev(), metadata.ino()), above: None };
    let mut listing = list_below(root, "", &matcher, &way)?;
    let itself = std::fs::symlink_metadata(root).at("read", root)?;
    listing.places.push(Place { name: String::new(), device: itself.dev(), inode: itself.ino() });
    listing.found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    listing.places.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

fn list_below(root: &Path, prefix: &str, matcher: &Matcher, way: &Way<'_>) -> Result<Listing, StoreError> {
    let folder: Cow<'_, Path> = if prefix.is_empty() { root.into() } else { root.join(prefix).into() };
    let mut listing = Listing { found: Vec::new(), places: Vec::new(), leaves_out: false };
    let mut folders = Vec::new();
    if way.depth() > DEEPEST {
        let what = format!("nested more than {DEEPEST} folders deep; move what is needed up");
        return Err(StoreError::Unsupported { path: folder.into(), what: what.into() });
    }
    for item in std::fs::read_dir(&folder).at("list", &folder)? {
        let item = item.at("list", &folder)?;
        let path = item.path();
        let name = item.file_name().into_string().map_err(|_| StoreError::Unsupported {
            path: path.clone(),
            what: "named in something else than UTF-8; rename it".into(),
        })?;
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind = item.file_type().at("read", &path)?;
        // What is left out is not looked at: an editor's dangling link is not a reason to refuse the folder.
        if matcher.leaves_out(&name, kind.is_dir()) {
            listing.leaves_out = true;
            continue;
        }
        let metadata = match std::fs::metadata(&path) {
            Err(error) if kind.is_symlink() && error.kind() == std::io::ErrorKind::NotFound => {
                let to = std::fs::read_link(&path).unwrap_or_default();
                let what =
                    format!("a link to {}, which is not there; remove it, or put back what it leads to", to.display());
                return Err(StoreError::Unsupported { path, what: what.into() });
            }
            other => other.at("read", &path)?,
        };
        if kind.is_symlink() {
            let link = std::fs::symlink_metadata(&path).at("read", &path)?;
            listing.places.push(Place { name: name.clone(), device: link.dev(), inode: link.ino() });
        } else if metadata.is_dir() {
            listing.places.push(Place { name: name.clone(), device: metadata.dev(), inode: metadata.ino() });
        }
        if !metadata.is_dir() {
            listing.found.push(Found { name, metadata: Some(regular(&path, metadata)?) });
            continue;
        }
        let folder = (metadata.dev(), metadata.ino());
        if kind.is_symlink() && matcher.leaves_out(&name, true) {
            listing.leaves_out = true;
        } else if way.holds(folder) {
            let what = "a link to a folder that contains it; remove it, or leave it out by a line of .meanfieldignore";
            return Err(StoreError::Unsupported { path, what: what.into() });
        } else {
            folders.push((name, folder));
        }
    }
    let deeper = |(name, folder): &(String, _)| {
        let below = list_below(root, name, matcher, &Way { folder: *folder, above: Some(way) })?;
        Ok((name.clone(), below))
    };
    for (name, below) in folders.par_iter().map(deeper).collect::<Result<Vec<_>, StoreError>>()? {
        listing.leaves_out |= below.leaves_out;
        listing.places.extend(below.places);
        if below.found.is_empty() {
            listing.found.push(Found { name, metadata: None });
        } else {
            listing.found.extend(below.found);
        }
    }
    Ok(listing)
}

/// Refuses what cannot be read to its end.
fn regular(path: &Path, metadata: Metadata) -> Result<Metadata, StoreError> {
    match regular::special(metadata.file_type()) {
        None => Ok(metadata),
        Some(what) => Err(StoreError::Unsupported {
            path: path.to_owned(),
            what: format!("{what}; an input is a file, or a folder of files: remove it, or leave it out by a line of .meanfieldignore").into(),
        }),
    }
}

/// The digest of whatever is at `path` now, leftovers included, through the stat cache.
pub fn digest_of(path: &Path, stat: &StatCache) -> Result<Artifact, StoreError> {
    snapshot(path, None, stat).map(|snapshot| snapshot.artifact)
}

impl Snapshot {
    /// The files of the snapshot.
    pub(super) fn files(&self) -> &[Seen] {
        &self.files
    }

    /// Its folders and links, folders before what they hold.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    fn compare(&self, root: &Path, now: &Listing, stat: &StatCache) -> Result<Vec<String>, StoreError> {
        let mut changes = Vec::new();
        let mut new: BTreeMap<&str, (&Found, &Metadata)> =
            now.found.iter().filter_map(|item| Some((item.name.as_str(), (item, item.metadata.as_ref()?)))).collect();
        let named = |name: &str| if name.is_empty() { "it".to_owned() } else { name.to_owned() };
        for seen in &*self.files {
            let Some((item, metadata)) = new.remove(seen.name.as_str()) else {
                changes.push(format!("{} is gone", named(&seen.name)));
                continue;
            };
            let stamp = Stamp::of(metadata);
            if stamp != seen.stamp && stat.digest_of(&item.path(root), stamp)?.0 != seen.digest {
                changes.push(format!("{} has other bytes", named(&seen.name)));
            }
        }
        changes.extend(new.into_keys().map(|name| format!("{} is new", named(name))));
        Ok(changes)
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
        let before = digest_of(&root, &store.stat).unwrap();
        assert_eq!(store.blobs.adopt(&root, &[], &store.stat).unwrap(), before);
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        folder
    }

    /// The sources with `path` read, and a stat cache.
    fn read(path: &Path) -> (Sources, StatCache) {
        let stat = StatCache::open(&path.with_extension("stat"), true).unwrap().0;
        let leftovers = Leftovers::default();
        let snapshot = snapshot(path, Some(&leftovers), &stat);
        let snapshots = HashMap::from([(path.to_owned(), snapshot.map_err(|error| chain(&error)))]);
        (Sources { snapshots, leftovers, ..Sources::default() }, stat)
    }

    #[test]
    fn other_bytes_new_and_missing_files_are_changes_and_nothing_else_is() {
        let folder = folder(&["a", "b/c", "b/d"]);
        let root = folder.path();
        let (sources, stat) = read(root);
        fs::hard_link(root.join("a"), root.with_extension("second-name")).unwrap();
        fs::set_permissions(root.join("b/c"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(root.join("b/d"), "b/d").unwrap();
        fs::create_dir(root.join("__pycache__")).unwrap();
        fs::write(root.join("__pycache__/x.pyc"), "").unwrap();
        assert_eq!(sources.changes(root, &stat), Vec::<String>::new());
        fs::write(root.join("b/c"), "else").unwrap();
        fs::remove_file(root.join("b/d")).unwrap();
        fs::write(root.join("e"), "e").unwrap();
        assert_eq!(sources.changes(root, &stat), ["b/c has other bytes", "b/d is gone", "e is new"]);
        fs::remove_file(root.with_extension("second-name")).unwrap();
    }

    #[test]
    fn leftovers_are_no_part_of_a_folder() {
        let clean = folder(&["a.py", "b/c"]);
        let used = folder(&["a.py", "b/c", "__pycache__/a.pyc", "b/.c.swp", ".git/index", "b/x/.DS_Store"]);
        fs::remove_dir_all(used.path().join("b/x")).unwrap();
        std::os::unix::fs::symlink("host:1", used.path().join(".#a.py")).unwrap();
        let digest = |folder: &tempfile::TempDir| {
            let sources = read(folder.path()).0;
            let snapshot = sources.get(folder.path()).unwrap();
            (snapshot.artifact, snapshot.leaves_out)
        };
        assert_eq!(digest(&clean).0, digest(&used).0);
        assert!(!digest(&clean).1 && digest(&used).1);
    }

    #[test]
    fn what_cannot_be_an_input_is_named_before_it_is_opened() {
        type Spoil = fn(&Path);
        let make: [(&str, Spoil); 4] = [
            ("pipe is a named pipe", |root| {
                nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap()
            }),
            ("b/dangling is a link to /gone/away, which is not there", |root| {
                std::os::unix::fs::symlink("/gone/away", root.join("b/dangling")).unwrap();
            }),
            ("b/up is a link to a folder that contains it", |root| {
                std::os::unix::fs::symlink("..", root.join("b/up")).unwrap();
            }),
            ("socket is a socket", |root| {
                std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
            }),
        ];
        for (expected, spoil) in make {
            let folder = folder(&["a", "b/c"]);
            spoil(folder.path());
            let message = read(folder.path()).0.get(folder.path()).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        assert!(read(Path::new("/dev/zero")).0.get(Path::new("/dev/zero")).unwrap_err().contains("a device"));
    }
}
