//! Damage of every file of a small store, one at a time: never a wrong result, never one lost that was not damaged, and
//! always reported. `MEANFIELD_DAMAGE=all` flips every byte instead of a sample.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::journal;
use super::tests::{Stage, World, execute, open};
use crate::store::check::check;
use crate::store::{Store, StoreError};

/// How many bytes of a file are flipped, one after the other.
const SAMPLE: usize = 10;

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Flip(usize),
    Cut(usize),
    Deleted,
    Link,
    Pipe,
    Folder,
    /// A user's file in its place.
    Replaced,
}

const USERS: &str = "a line of the user's\n";

fn harms(length: usize) -> Vec<Harm> {
    let all = std::env::var("MEANFIELD_DAMAGE").is_ok_and(|value| value == "all");
    let step = if all { 1 } else { length.div_ceil(SAMPLE).max(1) };
    let mut harms: Vec<Harm> = (0..length).step_by(step).map(Harm::Flip).collect();
    harms.extend([0, length / 2, length.saturating_sub(1)].into_iter().filter(|to| *to < length).map(Harm::Cut));
    harms.extend([Harm::Deleted, Harm::Link, Harm::Pipe, Harm::Folder, Harm::Replaced]);
    harms
}

/// Harms the file at `path`; a link leads to `users`, a user's file.
fn harm(path: &Path, harm: Harm, users: &Path) {
    let mut bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    match harm {
        Harm::Flip(at) => {
            bytes[at] ^= 1 << (at % 8);
            fs::write(path, bytes).unwrap();
        }
        Harm::Cut(to) => fs::write(path, &bytes[..to]).unwrap(),
        Harm::Deleted => {}
        Harm::Link => symlink(users, path).unwrap(),
        Harm::Pipe => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        Harm::Folder => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), USERS).unwrap();
        }
        Harm::Replaced => fs::write(path, USERS.repeat(20)).unwrap(),
    }
}

/// The files and folders of a store.
struct Picture {
    root: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
    folders: Vec<PathBuf>,
}

impl Picture {
    fn of(root: PathBuf) -> Picture {
        let (mut files, mut folders) = (BTreeMap::new(), Vec::new());
        for item in WalkDir::new(&root).into_iter().map(Result::unwrap) {
            match item.file_type().is_dir() {
                true => folders.push(item.into_path()),
                false => drop(files.insert(item.path().to_owned(), fs::read(item.path()).unwrap())),
            }
        }
        Picture { root, files, folders }
    }

    /// Makes the store what it was.
    fn restore(&self) {
        for item in WalkDir::new(&self.root).contents_first(true).into_iter().flatten() {
            match item.file_type().is_dir() {
                true if self.folders.iter().any(|folder| folder == item.path()) => {}
                true => fs::remove_dir(item.path()).unwrap(),
                false => fs::remove_file(item.path()).unwrap(),
            }
        }
        self.folders.iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        self.files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
}

/// What nothing can report: a file without content, one that is only a memory of what was read, and a run's history that was
/// deleted, as its owner may.
fn may_be_silent(path: &Path, harm: Harm) -> bool {
    let named = |name: &str| path.ends_with(name);
    match harm {
        Harm::Deleted => named("locks") || named("stat") || path.extension().is_some_and(|e| e == "jsonl"),
        // Whole rows are missing, or all of them.
        Harm::Cut(to) => named("stat") && to % 80 == 0,
        Harm::Replaced => named("locks"),
        _ => false,
    }
}

fn small_world() -> World {
    let stage = |axis, file, reads: &[(usize, bool)]| Stage { add: 1, modulus: 7, axis, file, reads: reads.to_vec() };
    let stages = vec![stage(true, Some(0), &[]), stage(true, None, &[(0, false)]), stage(false, None, &[(1, true)])];
    World { stages, files: vec![3, 4], axis: 2, prefix: "s", comment: 0 }
}

/// A folder with a small store in which everything is up to date, and that store.
fn made() -> (tempfile::TempDir, World, Picture) {
    let (folder, world) = (tempfile::tempdir().unwrap(), small_world());
    let users = folder.path().join("users");
    fs::write(users, USERS).unwrap();
    for name in ["first", "second"] {
        let project = open(&world, folder.path());
        execute(&project, folder.path(), 2, name);
    }
    let picture = Picture::of(folder.path().join("cache/v1"));
    (folder, world, picture)
}

/// Everything that a user would do with a damaged store. `lost` is how many results were damaged.
fn survives(folder: &Path, world: &World, what: &str, lost: usize, silent: bool) {
    let cache = folder.join("cache");
    let damage = |mend: bool| -> Vec<String> {
        let (report, store) = check(&cache, mend).unwrap_or_else(|error| panic!("{what}: {error}"));
        let journals = store.map_or(Vec::new(), |store| journal::read_all(&store.journals(), mend).unwrap());
        let lines = journals.into_iter().filter_map(|past| past.damage);
        report.found.iter().map(|note| format!("{} {}", note.path.display(), note.what)).chain(lines).collect()
    };
    assert!(silent || !damage(false).is_empty(), "{what}: is not reported");
    match Store::look(&cache, true) {
        Ok(_) => {}
        Err(StoreError::Foreign { .. }) => drop(damage(true)),
        Err(error) => panic!("{what}: {error}"),
    }
    let project = open(world, folder);
    let run = format!("run {what}").replace('/', "-");
    let (executed, contents) = execute(&project, folder, 1, &run);
    assert_eq!(executed, lost, "{what}: results that were run again");
    let expected: Vec<String> = world.cells().into_values().map(|made| made.content).collect();
    assert_eq!(contents, expected, "{what}");
    damage(true);
    assert_eq!(damage(false), Vec::<String>::new(), "{what}: is not repaired");
    let (executed, contents) = execute(&open(world, folder), folder, 1, &format!("{run} again"));
    assert_eq!((executed, contents), (0, expected), "{what}: after the repair");
    assert_eq!(fs::read_to_string(folder.join("users")).unwrap(), USERS, "{what}: the user's file");
}

#[test]
fn damage_of_any_file_costs_what_was_damaged_and_is_reported() {
    let (folder, world, picture) = made();
    for (path, bytes) in &picture.files {
        let name = path.strip_prefix(&picture.root).unwrap();
        let blob = name.starts_with("blobs");
        for kind in harms(bytes.len()) {
            picture.restore();
            harm(path, kind, &folder.path().join("users"));
            let what = format!("{} {kind:?}", name.display());
            survives(folder.path(), &world, &what, usize::from(blob), may_be_silent(path, kind));
        }
    }
}

#[test]
fn damage_of_any_folder_costs_what_lay_in_it_and_is_reported() {
    let (folder, world, picture) = made();
    let holds = |folder: &Path| picture.files.keys().filter(|path| path.starts_with(folder)).count();
    let full = picture.folders.iter().filter(|folder| **folder != picture.root && holds(folder) > 0);
    for lost in full {
        let name = lost.strip_prefix(&picture.root).unwrap();
        let blobs = if name.starts_with("blobs") { holds(lost) } else { 0 };
        for replaced in [false, true] {
            picture.restore();
            fs::remove_dir_all(lost).unwrap();
            if replaced && name.starts_with("blobs") && name.as_os_str() != "blobs" {
                fs::write(lost, USERS).unwrap();
            }
            // Of runs that were deleted nothing is left to say so.
            survives(folder.path(), &world, &format!("{} {replaced}", name.display()), blobs, blobs == 0);
        }
    }
}

#[test]
fn what_lies_in_the_place_of_a_folder_is_moved_aside() {
    let (folder, world, picture) = made();
    for name in ["blobs", "staging", "runs", "logs", "resume"] {
        picture.restore();
        let path = picture.root.join(name);
        let _ = fs::remove_dir_all(&path);
        fs::write(&path, USERS).unwrap();
        let cache = folder.path().join("cache");
        assert_eq!(check(&cache, false).unwrap().0.found.len(), 1, "{name}");
        assert!(check(&cache, true).unwrap().0.found[0].what.contains("rescued"), "{name}");
        assert_eq!(fs::read_to_string(picture.root.join("rescued").join(name)).unwrap(), USERS);
        let lost = if name == "blobs" { 5 } else { 0 };
        survives(folder.path(), &world, name, lost, true);
    }
}

#[test]
fn a_store_without_its_mark_and_index_keeps_what_a_copy_holds() {
    let (folder, world, picture) = made();
    for gone in [&["meanfield-store", "index"][..], &["stat", "locks", "index.copy"], &["index", "stat", "blobs/00"]] {
        picture.restore();
        for name in gone {
            let path = picture.root.join(name);
            if path.is_dir() { fs::remove_dir(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        survives(folder.path(), &world, &gone.join(" "), 0, false);
    }
}
