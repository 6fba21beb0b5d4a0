//! Outputs that people look at, put below the reports folder.
//!
//! One rule: what no run put there, or what was changed since, is never touched. A note beside the published files stays and
//! is reported. Where such a file has the name of a published one, the output is not published, and the run says so and
//! fails: new and old files are never mixed. What a run puts there is written down in a file beside it, `.NAME.published`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::event::{Event, Observer};
use super::plan::{Context, Decision, Plan};
use super::scratch::{self, Scratch};
use super::sources;
use super::{EngineError, spare};
use crate::pipeline::model::CellId;
use crate::store::blobs::Placement;
use crate::store::digest::Digest;
use crate::store::staging::Staging;
use crate::store::tree::{Entry, Node, Tree};
use crate::store::{Artifact, Form, IoContext, StoreError};

/// Puts the published outputs of the plan's cells below `reports`, those that are not there already, and says how many
/// could not be put there. `fresh` holds the outputs that the plan did not know, `staging` the folders of the run's cells.
pub fn publish(
    context: &Context<'_>,
    plan: &Plan,
    fresh: &HashMap<CellId, Vec<Artifact>>,
    staging: Option<&Staging>,
    reports: &Path,
    observer: &mut dyn Observer,
) -> Result<usize, EngineError> {
    let (mut refused, mut swept) = (0, HashSet::new());
    for (id, decision) in plan.cells() {
        let known = match decision {
            Decision::Cached { outputs, .. } => Some(outputs),
            _ => fresh.get(&id),
        };
        let declared = &context.pipeline.cells[id].outputs;
        for (output, artifact) in declared.iter().zip(known.into_iter().flatten()) {
            let Some(path) = &output.publish else { continue };
            let target = reports.join(path);
            let parent = target.parent().unwrap_or(reports);
            if !swept.contains(parent) {
                scratch::sweep(parent);
                swept.insert(parent.to_owned());
            }
            if sources::digest_of(&target, &context.store.stat).is_ok_and(|found| found == *artifact) {
                continue;
            }
            let found = Found::compare(context, artifact, &target)?;
            if !found.in_the_way.is_empty() {
                refused += 1;
                observer.event(&Event::InTheWay { path: &target, files: &found.in_the_way });
                continue;
            }
            let put = found.put(context, staging, artifact, &target);
            put.map_err(|source| EngineError::Publish { target: target.clone(), source })?;
            observer.event(&Event::Published { path: &target });
            if !found.kept.is_empty() {
                observer.event(&Event::Kept { path: &target, files: &found.kept });
            }
        }
    }
    Ok(refused)
}

/// Files by their names below the target; the empty name is the target itself.
type Files = BTreeMap<String, Digest>;

/// What lies at the target of an output, beside what is to lie there.
struct Found {
    /// What is to lie there.
    wanted: Vec<Entry>,
    /// The files among these.
    files: Files,
    /// What runs put there and has not been changed since.
    ours: Files,
    /// What no run put there, where no file is to lie.
    kept: Vec<String>,
    /// What no run put there or was changed since, where a file is to lie.
    in_the_way: Vec<String>,
    /// Everything that runs put there, as far as it is known.
    noted: Vec<Entry>,
}

impl Found {
    fn compare(context: &Context<'_>, artifact: &Artifact, target: &Path) -> Result<Found, StoreError> {
        let wanted = entries_of(context, artifact)?;
        let files = wanted.iter().filter_map(|entry| Some((entry.path.clone(), digest_of(entry)?))).collect();
        let noted = read_note(&note_of(target));
        let mut found = Found { wanted, files, ours: Files::new(), kept: Vec::new(), in_the_way: Vec::new(), noted };
        if let Some(file) = target.ancestors().skip(1).find(|folder| folder.exists() && !folder.is_dir()) {
            found.in_the_way.push(file.display().to_string());
            return Ok(found);
        }
        let noted: HashSet<(&str, Option<Digest>)> =
            found.noted.iter().map(|entry| (entry.path.as_str(), digest_of(entry))).collect();
        for item in WalkDir::new(target).follow_root_links(false) {
            let item = match item {
                Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => continue,
                Err(error) => {
                    let path = error.path().unwrap_or(target).to_owned();
                    return Err(StoreError::Io { verb: "read", path, source: error.into() });
                }
                Ok(item) => item,
            };
            let shown = || item.path().display().to_string();
            let name = item.path().strip_prefix(target).ok().and_then(Path::to_str);
            let kind = item.file_type();
            let Some(name) = name else {
                // A run publishes no such name.
                found.kept.extend((!kind.is_dir()).then(shown));
                continue;
            };
            if kind.is_dir() {
                let empty = || fs::read_dir(item.path()).is_ok_and(|mut items| items.next().is_none());
                if found.files.contains_key(name) && empty() && !noted.contains(&(name, None)) {
                    found.in_the_way.push(shown());
                }
                continue;
            }
            let digest = match kind.is_file() {
                true => Some(context.store.stat.digest_file(item.path())?.0),
                false => None,
            };
            match digest {
                Some(digest) if found.files.get(name) == Some(&digest) || noted.contains(&(name, Some(digest))) => {
                    found.ours.insert(name.to_owned(), digest);
                }
                _ if found.meets(name) => found.in_the_way.push(shown()),
                _ => found.kept.push(shown()),
            }
        }
        Ok(found)
    }

    /// Whether what lies at `name` is where a wanted file is to lie, or above or below that.
    fn meets(&self, name: &str) -> bool {
        let above = Path::new(name).ancestors().filter_map(Path::to_str).any(|name| self.files.contains_key(name));
        let below = || {
            let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
            self.files.range(prefix.clone()..).next().is_some_and(|(wanted, _)| wanted.starts_with(&prefix))
        };
        above || below()
    }

    /// Puts the artifact at the target. What is not ours has been seen to be out of the way.
    fn put(
        &self,
        context: &Context<'_>,
        staging: Option<&Staging>,
        artifact: &Artifact,
        target: &Path,
    ) -> Result<(), StoreError> {
        let parent = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).at("create", parent)?;
        let scratch = Scratch::create(parent)?;
        let fresh = scratch.path("new");
        let reused = match staging {
            Some(staging) if artifact.form == Form::Tree => spare::reuse(staging, artifact, &self.wanted, &fresh)?,
            _ => false,
        };
        if !reused {
            context.store.blobs.place(artifact, &fresh, Placement::Writable)?;
        }
        // Killed between here and the end, a run leaves files of both sets: both are written down as ours.
        let note = note_of(target);
        let write = |entries| write_note(&note, &scratch.path("note"), entries);
        write(self.noted.iter().chain(&self.wanted).cloned().collect())?;
        if target.symlink_metadata().is_err() {
            fs::rename(&fresh, target).at("write", target)?;
        } else {
            self.exchange(&fresh, target)?;
        }
        write(self.wanted.clone())
    }

    /// Removes those of ours that are not to lie there, and moves what lies below `fresh` to its place.
    fn exchange(&self, fresh: &Path, target: &Path) -> Result<(), StoreError> {
        for name in self.ours.keys().filter(|name| !self.files.contains_key(*name)) {
            let path = below(target, name);
            fs::remove_file(&path).at("remove", &path)?;
            // Folders that are empty now; one that holds a user's file stays.
            let folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(target));
            folders.map(fs::remove_dir).take_while(Result::is_ok).for_each(drop);
        }
        for entry in &self.wanted {
            let path = below(target, &entry.path);
            let folder = if entry.node == Node::EmptyFolder { Some(&*path) } else { path.parent() };
            if let Some(folder) = folder {
                fs::create_dir_all(folder).at("create", folder)?;
            }
            if entry.node != Node::EmptyFolder {
                // An empty folder of an earlier output.
                let _ = fs::remove_dir(&path);
                fs::rename(below(fresh, &entry.path), &path).at("write", &path)?;
            }
        }
        Ok(())
    }
}

fn below(root: &Path, name: &str) -> PathBuf {
    if name.is_empty() { root.to_owned() } else { root.join(name) }
}

fn digest_of(entry: &Entry) -> Option<Digest> {
    match entry.node {
        Node::File { digest, .. } => Some(digest),
        Node::EmptyFolder => None,
    }
}

/// The artifact as the entries of a folder; a file is the entry without a name.
fn entries_of(context: &Context<'_>, artifact: &Artifact) -> Result<Vec<Entry>, StoreError> {
    match artifact.form {
        Form::Tree => Ok(context.store.blobs.tree(&artifact.digest)?.entries),
        Form::File { executable } => {
            let node = Node::File { executable, digest: artifact.digest, size: artifact.size };
            Ok(vec![Entry { path: String::new(), node }])
        }
    }
}

/// The file beside the target that says what runs put there.
fn note_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.published"))
}

/// Nothing is ours where no note can be read.
fn read_note(path: &Path) -> Vec<Entry> {
    fs::read(path).ok().and_then(|bytes| Tree::decode(&bytes)).map_or_else(Vec::new, |tree| tree.entries)
}

fn write_note(path: &Path, fresh: &Path, entries: Vec<Entry>) -> Result<(), StoreError> {
    fs::write(fresh, Tree::new(entries).encode()).at("write", fresh)?;
    fs::rename(fresh, path).at("write", path)
}
