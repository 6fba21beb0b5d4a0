//! The action index: key -> what it produced, and cell -> the key that it had last.
//!
//! Append-only records, kept twice (`twin`). The first result of a key wins; a later one
//! replaces it only where the first is damaged, or is kept next to it as a replicate.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::records::{HEADER, frame};
use super::twin::Twin;
use super::{Artifact, Form, Note, StoreError};

/// What one execution of a key left behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The key.
    pub key: Digest,
    /// Its outputs in the order of the cell's outputs.
    pub outputs: Vec<Artifact>,
    /// Which execution made them, and what the key was made of.
    pub origin: Origin,
}

/// The history behind a result; read only on request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Origin {
    /// The run that executed it.
    pub run: String,
    /// The name of the cell then.
    pub cell: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Peak memory of its largest process in bytes, if it is known.
    pub peak_memory: Option<u64>,
    /// The fields of the key, in order, as (name, value).
    pub fields: Vec<(String, String)>,
}

/// Why a result is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The first result of its key, or one in the place of a damaged one.
    Result,
    /// A result that differs from the one that stays.
    Replicate,
}

const RESULT: u8 = 1;
const REPLICATE: u8 = 2;
const CELL: u8 = 3;
/// The result of this key is forgotten.
const FORGOTTEN: u8 = 4;
/// The first record; its kind is 5.
const FORMAT: &[u8] = b"\x05meanfield index 1";

/// A cell's name in a pipeline, as the index keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CellTag([u8; 16]);

impl CellTag {
    /// The tag of `cell` in the pipeline called `pipeline`. It finds explanations, never results, so it may be short.
    pub fn new(pipeline: &str, cell: &str) -> CellTag {
        let mut hasher = blake3::Hasher::new();
        hasher.update(pipeline.as_bytes()).update(&[0]).update(cell.as_bytes());
        let mut tag = [0; 16];
        tag.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        CellTag(tag)
    }
}

/// Where a result's record is, and the part of it that every run needs.
#[derive(Debug, Clone)]
struct Entry {
    outputs: Box<[Artifact]>,
    at: u64,
    length: u32,
}

/// What the records say.
#[derive(Debug, Default)]
struct Known {
    results: FxHashMap<Digest, Entry>,
    replicates: FxHashMap<Digest, u32>,
    cells: FxHashMap<CellTag, Digest>,
}

/// The index, opened.
#[derive(Debug)]
pub struct Index {
    state: Mutex<(Twin, Known)>,
}

impl Index {
    /// Opens the index at `path`, creating it if it is new and `write` says so, and reports what was damaged.
    pub fn open(path: &Path, write: bool) -> Result<(Index, Vec<Note>), StoreError> {
        let mut twin = Twin::open(path, write, FORMAT)?;
        let mut known = Known::default();
        let notes = twin.load(&mut |at, body| known.take(at, body))?;
        Ok((Index { state: Mutex::new((twin, known)) }, notes))
    }

    fn lock(&self) -> MutexGuard<'_, (Twin, Known)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all of the index and its copy, and reports what is damaged; repairs it if it may be written.
    pub fn verify(&self) -> Result<Vec<Note>, StoreError> {
        let (twin, known) = &mut *self.lock();
        twin.verify(&mut |at, body| known.take(at, body))
    }

    /// Reads what other processes have appended.
    pub fn refresh(&self) -> Result<(), StoreError> {
        let (twin, known) = &mut *self.lock();
        twin.read_new(&mut |at, body| known.take(at, body))
    }

    /// The outputs that `key` produced.
    pub fn outputs(&self, key: &Digest) -> Option<Vec<Artifact>> {
        self.lock().1.results.get(key).map(|entry| entry.outputs.to_vec())
    }

    /// The keys that have a result, with their outputs.
    pub fn results(&self) -> Vec<(Digest, Vec<Artifact>)> {
        self.lock().1.results.iter().map(|(key, entry)| (*key, entry.outputs.to_vec())).collect()
    }

    /// How the result of `key` came about.
    pub fn origin(&self, key: &Digest) -> Option<Origin> {
        let (twin, known) = &*self.lock();
        let entry = known.results.get(key)?;
        let body = twin.record(entry.at, entry.length as usize)?;
        let mut rest = body.get(1 + 32..)?;
        outputs(&mut rest)?;
        serde_json::from_slice(rest).ok()
    }

    /// How many results of `key` are kept besides the first.
    pub fn replicates(&self, key: &Digest) -> u32 {
        self.lock().1.replicates.get(key).copied().unwrap_or(0)
    }

    /// The key that the cell had when it was last looked at.
    pub fn last_key(&self, cell: CellTag) -> Option<Digest> {
        self.lock().1.cells.get(&cell).copied()
    }

    /// Appends a result.
    pub fn add(&self, record: Record, action: &Action) -> Result<(), StoreError> {
        let mut body = vec![if record == Record::Result { RESULT } else { REPLICATE }];
        body.extend_from_slice(&action.key.0);
        body.extend_from_slice(&(action.outputs.len() as u32).to_le_bytes());
        for output in &action.outputs {
            body.push(match output.form {
                Form::File { executable } => u8::from(executable),
                Form::Tree => 2,
            });
            body.extend_from_slice(&output.digest.0);
            body.extend_from_slice(&output.size.to_le_bytes());
        }
        // Plain strings and finite numbers always have a JSON form.
        body.extend_from_slice(&serde_json::to_vec(&action.origin).unwrap_or_default());
        self.append(&frame(&body))
    }

    /// Notes that these cells have these keys now. One write for all of them.
    pub fn set_last_keys(&self, cells: &[(CellTag, Digest)]) -> Result<(), StoreError> {
        let mut records = Vec::with_capacity(cells.len() * (HEADER + 49));
        for (cell, key) in cells {
            let mut body = vec![CELL];
            body.extend_from_slice(&cell.0);
            body.extend_from_slice(&key.0);
            records.extend_from_slice(&frame(&body));
        }
        self.append(&records)
    }

    /// Drops the results of `keys`, whose outputs are not there any more.
    pub fn forget(&self, keys: &[Digest]) -> Result<(), StoreError> {
        let records = keys.iter().flat_map(|key| frame(&[&[FORGOTTEN], &key.0[..]].concat()));
        self.append(&records.collect::<Vec<u8>>())
    }

    fn append(&self, records: &[u8]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let (twin, known) = &mut *self.lock();
        twin.append(records, &mut |at, body| known.take(at, body))
    }
}

impl Known {
    /// Takes one record in; one of an unknown kind, of a later version, is passed over.
    fn take(&mut self, at: u64, body: &[u8]) {
        // The first record: everything is read again.
        if at == 0 {
            *self = Known::default();
        }
        let Some((&kind, mut rest)) = body.split_first() else { return };
        if kind == CELL {
            if let (Some(cell), Some(key)) = (split(&mut rest), split(&mut rest)) {
                self.cells.insert(CellTag(cell), Digest(key));
            }
            return;
        }
        let Some(key) = split(&mut rest).map(Digest) else { return };
        match kind {
            REPLICATE => *self.replicates.entry(key).or_default() += 1,
            FORGOTTEN => drop(self.results.remove(&key)),
            RESULT => {
                let Some(outputs) = outputs(&mut rest) else { return };
                self.results.insert(key, Entry { outputs, at, length: body.len() as u32 });
            }
            _ => {}
        }
    }
}

fn outputs(rest: &mut &[u8]) -> Option<Box<[Artifact]>> {
    let count = u32::from_le_bytes(split(rest)?);
    (0..count)
        .map(|_| {
            let form = match split::<1>(rest)? {
                [2] => Form::Tree,
                [bit] => Form::File { executable: bit == 1 },
            };
            Some(Artifact { form, digest: Digest(split(rest)?), size: u64::from_le_bytes(split(rest)?) })
        })
        .collect()
}

fn split<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(n: u8) -> Action {
        let artifact = |form, i: u8| Artifact { form, digest: Digest::of(&[n, i]), size: u64::from(n) * 1000 };
        Action {
            key: Digest::of(&[n]),
            outputs: vec![artifact(Form::File { executable: n % 2 == 1 }, 0), artifact(Form::Tree, 1)],
            origin: Origin {
                run: "r".into(),
                cell: format!("c{n}"),
                seconds: 1.5,
                peak_memory: Some(7),
                fields: vec![("a".into(), n.to_string())],
            },
        }
    }

    fn open(path: &Path) -> Index {
        let (index, notes) = Index::open(path, true).unwrap();
        assert!(notes.is_empty());
        index
    }

    #[test]
    fn two_open_indexes_see_each_other_and_the_first_result_is_found_with_its_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (one, two) = (open(&path), open(&path));
        one.add(Record::Result, &action(1)).unwrap();
        two.add(Record::Result, &action(2)).unwrap();
        assert_eq!(two.outputs(&action(1).key), Some(action(1).outputs), "a writer has read the tail");
        assert_eq!(one.outputs(&action(2).key), None);
        one.refresh().unwrap();
        assert_eq!(one.outputs(&action(2).key), Some(action(2).outputs));
        assert_eq!(one.origin(&action(2).key), Some(action(2).origin));
        one.add(Record::Replicate, &Action { outputs: vec![], ..action(2) }).unwrap();
        assert_eq!(one.outputs(&action(2).key), Some(action(2).outputs), "a replicate does not take the place");
        assert_eq!(one.replicates(&action(2).key), 1);
        let (cell, other) = (CellTag::new("p", "c"), CellTag::new("pc", ""));
        one.set_last_keys(&[(cell, action(2).key)]).unwrap();
        let three = open(&path);
        assert_eq!(three.last_key(cell), Some(action(2).key));
        assert_eq!(three.last_key(other), None);
        three.forget(&[action(1).key]).unwrap();
        let keys = open(&path).results().into_iter().map(|(key, _)| key);
        assert_eq!(keys.collect::<Vec<_>>(), [action(2).key]);
    }

    /// The bytes of an index as it was before there were a first record and a copy.
    fn earlier(count: u8) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = open(&path);
        (0..count).for_each(|n| index.add(Record::Result, &action(n)).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[HEADER + FORMAT.len()..]).unwrap();
        std::fs::remove_file(path.with_extension("copy")).unwrap();
        (folder, path)
    }

    #[test]
    fn an_index_without_a_copy_is_read_and_gets_one() {
        let (_folder, path) = earlier(3);
        let (index, _) = Index::open(&path, false).unwrap();
        assert!((0..3).all(|n| index.origin(&action(n).key) == Some(action(n).origin)));
        let index = open(&path);
        assert!((0..3).all(|n| index.origin(&action(n).key) == Some(action(n).origin)));
        index.add(Record::Replicate, &action(1)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[HEADER..].starts_with(FORMAT));
        assert_eq!(bytes, std::fs::read(path.with_extension("copy")).unwrap());
        assert_eq!(open(&path).replicates(&action(1).key), 1);
    }

    #[test]
    fn a_flipped_bit_costs_nothing_and_one_in_both_files_costs_one_result() {
        let (_folder, path) = earlier(4);
        drop(open(&path));
        let whole = std::fs::read(&path).unwrap();
        let found = |index: &Index| (0..4).filter(|n| index.outputs(&action(*n).key).is_some()).count();
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            let (index, notes) = Index::open(&path, true).unwrap();
            assert_eq!((found(&index), notes.len(), notes[0].lost), (4, 1, 0), "byte {at}");
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        for at in (HEADER + FORMAT.len()..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            for path in [path.clone(), path.with_extension("copy")] {
                std::fs::write(&path, &bytes).unwrap();
            }
            let (index, notes) = Index::open(&path, true).unwrap();
            assert_eq!((found(&index), notes.len(), notes[0].lost), (3, 1, 1), "byte {at}");
            assert_eq!(found(&open(&path)), 3, "reported once");
        }
    }
}
