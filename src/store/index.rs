//! The action index: key -> what it produced, and cell -> the key that it had last.
//!
//! One append-only file of records, each `length, check, body`. A record is appended by one write under an exclusive
//! lock on the file; before that the writer reads what others appended and cuts off a torn tail, so that a killed
//! process leaves nothing to repair. Readers take no lock. The first result of a key wins; a later one replaces it
//! only where the first is damaged, or is kept beside it as a replicate.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::{Artifact, Form, IoContext, StoreError};

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

/// The history behind a result; read only when somebody asks.
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
/// Bytes before a body: its length and its check.
const HEADER: usize = 4 + 8;

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

/// Where a result's body lies, and the part of it that every run needs.
#[derive(Debug, Clone)]
struct Entry {
    outputs: Box<[Artifact]>,
    origin: (u64, u32),
}

#[derive(Debug)]
struct State {
    file: File,
    /// Up to here the file has been read and is whole.
    end: u64,
    results: FxHashMap<Digest, Entry>,
    replicates: FxHashMap<Digest, u32>,
    cells: FxHashMap<CellTag, Digest>,
}

/// The index, opened.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    state: Mutex<State>,
}

impl Index {
    /// Opens the index at `path`, creating it if it is new.
    pub fn open(path: &Path) -> Result<Index, StoreError> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).at("open", path)?;
        let state = State {
            file,
            end: 0,
            results: FxHashMap::default(),
            replicates: FxHashMap::default(),
            cells: FxHashMap::default(),
        };
        let index = Index { path: path.to_owned(), state: Mutex::new(state) };
        index.refresh()?;
        Ok(index)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what other processes have appended.
    pub fn refresh(&self) -> Result<(), StoreError> {
        self.lock().refresh().at("read", &self.path)
    }

    /// The outputs that `key` produced.
    pub fn outputs(&self, key: &Digest) -> Option<Vec<Artifact>> {
        self.lock().results.get(key).map(|entry| entry.outputs.to_vec())
    }

    /// How the result of `key` came about.
    pub fn origin(&self, key: &Digest) -> Option<Origin> {
        let state = self.lock();
        let (offset, length) = state.results.get(key)?.origin;
        let mut bytes = vec![0; length as usize];
        state.file.read_exact_at(&mut bytes, offset).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// How many results beside the first are kept of `key`.
    pub fn replicates(&self, key: &Digest) -> u32 {
        self.lock().replicates.get(key).copied().unwrap_or(0)
    }

    /// The key that the cell had when it was last looked at.
    pub fn last_key(&self, cell: CellTag) -> Option<Digest> {
        self.lock().cells.get(&cell).copied()
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
        if cells.is_empty() {
            return Ok(());
        }
        let mut records = Vec::with_capacity(cells.len() * (HEADER + 49));
        for (cell, key) in cells {
            let mut body = vec![CELL];
            body.extend_from_slice(&cell.0);
            body.extend_from_slice(&key.0);
            records.extend_from_slice(&frame(&body));
        }
        self.append(&records)
    }

    fn append(&self, records: &[u8]) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.file.lock().at("lock", &self.path)?;
        let written = state.append_locked(records);
        let unlocked = state.file.unlock();
        written.and(unlocked).at("append to", &self.path)
    }
}

impl State {
    fn append_locked(&mut self, records: &[u8]) -> std::io::Result<()> {
        self.refresh()?;
        if self.file.metadata()?.len() > self.end {
            self.file.set_len(self.end)?;
        }
        self.file.write_all(records)?;
        self.refresh()
    }

    fn refresh(&mut self) -> std::io::Result<()> {
        let length = self.file.metadata()?.len();
        if length < self.end {
            // Somebody cut or deleted the file: what was read stays true, what follows is read from the new end.
            self.end = length;
        }
        let mut bytes = vec![0; (length - self.end) as usize];
        self.file.read_exact_at(&mut bytes, self.end)?;
        let mut rest = &bytes[..];
        while let Some((body, tail)) = unframe(rest) {
            let offset = self.end + HEADER as u64;
            self.take(body, offset);
            self.end = offset + body.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Takes one record in; one of an unknown type, of a later version, is passed over.
    fn take(&mut self, body: &[u8], offset: u64) {
        let Some((&kind, mut rest)) = body.split_first() else { return };
        if kind == CELL {
            if let (Some(cell), Some(key)) = (split(&mut rest), split(&mut rest)) {
                self.cells.insert(CellTag(cell), Digest(key));
            }
            return;
        }
        let Some(key) = split(&mut rest).map(Digest) else { return };
        if kind == REPLICATE {
            *self.replicates.entry(key).or_default() += 1;
        }
        if kind != RESULT {
            return;
        }
        let Some(outputs) = outputs(&mut rest) else { return };
        let origin = (offset + (body.len() - rest.len()) as u64, rest.len() as u32);
        self.results.insert(key, Entry { outputs, origin });
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

fn frame(body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + body.len());
    record.extend_from_slice(&(body.len() as u32).to_le_bytes());
    record.extend_from_slice(&blake3::hash(body).as_bytes()[..8]);
    record.extend_from_slice(body);
    record
}

/// The first whole record and what follows it.
fn unframe(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    let length = u32::from_le_bytes(split(&mut rest)?) as usize;
    let check: [u8; 8] = split(&mut rest)?;
    let (body, tail) = rest.split_at_checked(length)?;
    (blake3::hash(body).as_bytes()[..8] == check).then_some((body, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn two_open_indexes_see_each_other_and_the_first_result_is_found_with_its_origin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (one, two) = (Index::open(&path).unwrap(), Index::open(&path).unwrap());
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
        let three = Index::open(&path).unwrap();
        assert_eq!(three.last_key(cell), Some(action(2).key));
        assert_eq!(three.last_key(other), None);
    }

    proptest! {
        /// Cut anywhere, with garbage after the cut: every record before the cut is there, and the next writer goes on.
        #[test]
        fn a_torn_tail_costs_only_itself(cut in 0usize..2000, garbage in prop::collection::vec(any::<u8>(), 0..40)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("index");
            let index = Index::open(&path).unwrap();
            let mut ends = vec![];
            for n in 0..5 {
                index.add(Record::Result, &action(n)).unwrap();
                ends.push(std::fs::metadata(&path).unwrap().len() as usize);
            }
            let mut bytes = std::fs::read(&path).unwrap();
            let cut = cut % (bytes.len() + 1);
            bytes.truncate(cut);
            bytes.extend(&garbage);
            std::fs::write(&path, &bytes).unwrap();
            let index = Index::open(&path).unwrap();
            for n in 0..5u8 {
                let whole = ends[usize::from(n)] <= cut;
                prop_assert_eq!(index.outputs(&action(n).key).is_some(), whole);
            }
            index.add(Record::Result, &action(9)).unwrap();
            prop_assert!(Index::open(&path).unwrap().outputs(&action(9).key).is_some());
        }
    }
}
