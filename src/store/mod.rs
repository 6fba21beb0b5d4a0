//! Content-addressed storage: what a key once produced, found again and never trusted blindly.
//!
//! | file | holds |
//! | --- | --- |
//! | [`digest`] | BLAKE3 digests |
//! | [`tree`] | folders as sorted lists of (path, mode, digest) |
//! | [`blobs`] | bytes under their digest, published by rename |
//! | [`stat`] | (device, inode, size, times) -> digest, so that unchanged files are not read again |
//! | [`index`] | key -> outputs and the fields behind the key; cell -> the key that it had last |
//! | [`lock`] | one runner for a key among all processes |
//! | [`staging`] | scratch folders of running cells, removed when their run is gone |
//!
//! Everything lies below one folder, is written by append or by rename, and may be deleted at any time: that costs
//! time, never a wrong result.

pub mod blobs;
pub mod digest;
pub mod index;
pub mod lock;
pub mod staging;
pub mod stat;
pub mod tree;

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
    #[error("cannot {verb} {}: {source}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    /// Something that cannot be stored, or be an input.
    #[error("{} is {what}", path.display())]
    Unsupported { path: PathBuf, what: Cow<'static, str> },
    /// A stored object is gone, short or altered.
    #[error("stored object {digest} is {state}", state = damage.as_str())]
    Damaged { digest: Digest, damage: Damage },
}

/// What is wrong with a stored object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// No such file.
    Missing,
    /// The file is there with other bytes.
    Altered,
}

impl Damage {
    /// As a word of a message.
    pub fn as_str(self) -> &'static str {
        match self {
            Damage::Missing => "missing",
            Damage::Altered => "altered",
        }
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

/// Version of the layout below the store's folder. Another version is another subfolder: nothing is migrated, nothing
/// of another version is misread.
const LAYOUT: &str = "v1";

impl Store {
    /// Opens the store below `root`, creating what is missing.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        // Cells start in folders of their own, where a relative path would mean something else.
        let root = std::path::absolute(root).at("find", root)?.join(LAYOUT);
        std::fs::create_dir_all(&root).at("create", &root)?;
        Ok(Store {
            blobs: Blobs::open(&root.join("blobs"))?,
            index: Index::open(&root.join("index"))?,
            stat: StatCache::open(&root.join("stat"))?,
            locks: KeyLocks::open(&root.join("locks"))?,
            root,
        })
    }

    /// Where the journals of runs lie.
    pub fn journals(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Where the logs of cells lie.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Where running cells work: the same file system as the blobs, so that publishing is a rename.
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
