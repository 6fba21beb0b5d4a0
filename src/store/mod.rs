//! Content-addressed storage: what a key once produced, found again and never trusted blindly.
//!
//! | file | holds |
//! | --- | --- |
//! | [`digest`] | BLAKE3 digests |
//! | [`tree`] | folders as sorted lists of (path, mode, digest) |
//! | [`blobs`] | bytes under their digest, published by rename |
//! | [`stat`] | (device, inode, size, times) -> digest, so that unchanged files are not read again |
//! | [`index`] | key -> outputs and the fields behind the key; cell -> the key that it had last |
//! | `twin`, `records` | the index's files: records that check themselves, kept twice |
//! | [`lock`] | one runner for a key among all processes |
//! | [`staging`] | scratch folders of running cells, removed when their run is gone |
//! | `mark` | how a folder is known as a store |
//! | `files` | opening the store's own files, never through a link |
//! | [`check`] | everything verified, and repaired |
//!
//! Everything is below one folder, is written by append or by rename, and may be deleted at any time: that costs
//! time, never a wrong result. What each kind of damage does is in `docs/store-format.md`.

pub mod blobs;
pub mod check;
pub mod digest;
pub(crate) mod files;
pub mod index;
pub mod lock;
mod mark;
mod records;
pub mod staging;
pub mod stat;
pub mod tree;
mod twin;

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::blobs::Blobs;
use self::digest::Digest;
use self::index::Index;
use self::lock::KeyLocks;
use self::stat::StatCache;

/// What can go wrong in the store; every variant names the path.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused an operation.
    #[error("cannot {verb} {}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    /// Something that cannot be stored, or be an input.
    #[error("{} is {what}", path.display())]
    Unsupported { path: PathBuf, what: Cow<'static, str> },
    /// Something in the place of a file of the store that is not the store's.
    #[error("{} is {what}, expected a file or folder of the store", path.display())]
    Foreign { path: PathBuf, what: Cow<'static, str> },
    /// A folder that was named as the store, and holds something else.
    #[error("{} holds files and is not a meanfield store", folder.display())]
    NotAStore { folder: PathBuf },
    /// A stored object is gone, short or altered.
    #[error("stored object {digest} is {state}", state = damage.as_str())]
    Damaged { digest: Digest, damage: Damage },
}

/// What is wrong with a stored object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// No such file.
    Missing,
    /// The file is there with other bytes.
    Altered,
    /// Something other than a file is there.
    NotAFile,
    /// The file is there and cannot be read.
    Unreadable,
}

impl Damage {
    /// As a word of a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Damage::Missing => "missing",
            Damage::Altered => "altered",
            Damage::NotAFile => "not a file",
            Damage::Unreadable => "not readable",
        }
    }
}

/// Damage of a file of the store that was repaired or worked around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub path: PathBuf,
    /// What was damaged, and what became of it.
    pub what: String,
    /// How many records are lost for good.
    pub lost: usize,
}

impl Note {
    /// Reports it.
    pub(crate) fn warn(&self) {
        let Note { path, what, .. } = self;
        tracing::warn!("{}: {what}; `meanfield cache check --repair` looks for more", path.display());
    }
}

/// Attaches the operation and the path to an I/O error.
pub(crate) trait IoContext<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, verb: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { verb, path: path.to_owned(), source })
    }
}

/// What one output of a cell, or one input, is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Artifact {
    /// File or folder.
    pub form: Form,
    /// Digest of the file's bytes, or of the encoded [`tree::Tree`].
    pub digest: Digest,
    /// Bytes of the file, or of all files below the folder.
    pub size: u64,
}

/// File or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A regular file; `executable` is the owner's x bit.
    File { executable: bool },
    /// A folder.
    Tree,
}

/// The store: one folder, opened.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Bytes under their digest.
    pub blobs: Blobs,
    /// Key -> outputs.
    pub index: Index,
    /// Digests of files that have not changed.
    pub stat: StatCache,
    /// One runner for a key.
    pub locks: KeyLocks,
}

/// Version of the layout below the store's folder. Another version is another subfolder: nothing of another version is
/// misread.
const LAYOUT: &str = "v1";

impl Store {
    /// Opens the store below `root`, creating what is missing, and warns of what was damaged. One that cannot be written is
    /// opened for reading.
    ///
    /// # Errors
    /// The file system's; [`StoreError::NotAStore`] and [`StoreError::Foreign`] for what is not the store's.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let (store, notes) = match Store::look(root, true) {
            Err(error) if files::is_read_only(&error) => Store::look(root, false).map_err(|_| error)?,
            other => other?,
        };
        notes.iter().for_each(Note::warn);
        Ok(store)
    }

    /// As [`Store::open`], with what was damaged; nothing is written, repaired or created unless `write` is set.
    pub fn look(root: &Path, write: bool) -> Result<(Store, Vec<Note>), StoreError> {
        let root = Store::folder(root)?;
        if write {
            std::fs::create_dir_all(&root).at("create", &root)?;
        }
        let mark = mark::ensure(&root, write)?;
        let blobs = Blobs::open(&root.join("blobs"), write)?;
        let (index, mut notes) = Index::open(&root.join("index"), write)?;
        let (stat, rows) = StatCache::open(&root.join("stat"), write)?;
        notes.extend(mark.into_iter().chain(rows));
        let locks = KeyLocks::open(&root.join("locks"), write)?;
        Ok((Store { blobs, index, stat, locks, root }, notes))
    }

    /// The folder of the store below `root`: anything else in `root` is the user's.
    pub fn folder(root: &Path) -> Result<PathBuf, StoreError> {
        // Cells start in folders of their own, where a relative path would mean something else.
        Ok(std::path::absolute(root).at("find", root)?.join(LAYOUT))
    }

    /// As [`Store::folder`], of this store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the journals of runs are.
    pub fn journals(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Where the logs of cells are.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Where running cells work: mostly the same file system as the blobs, so that publishing is a rename.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Whether every byte of `artifact` is in the store and unaltered. Unchanged blobs cost one `stat` each.
    pub fn verify(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.blobs.verify(&artifact.digest, &self.stat)?;
        let Form::Tree = artifact.form else { return Ok(()) };
        let entries = self.blobs.tree(&artifact.digest)?.entries;
        let verify = |entry: &tree::Entry| match entry.node {
            tree::Node::File { digest, .. } => self.blobs.verify(&digest, &self.stat),
            tree::Node::EmptyFolder => Ok(()),
        };
        blobs::each(&entries, verify).map(drop)
    }
}
