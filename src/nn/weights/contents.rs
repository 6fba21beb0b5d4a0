//! The contents of a weight file of any format: its tensors, and the positions of their elements in the file.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use safetensors::tensor::Dtype;
use zip::ZipArchive;

use super::checkpoint::{Checkpoint, NamedParts};
use super::error::WeightError;
use super::layout::Layout;
use super::prefix::strip;
use super::skipped::{Skipped, Unread};

/// A tensor of a weight file.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// The name in the file, without [`TensorSet::stripped`].
    pub name: String,
    /// The type of its elements in the file.
    pub dtype: Dtype,
    /// PyTorch's order of axes.
    pub shape: Vec<usize>,
    /// The index of the file region that holds its storage.
    pub(super) region: usize,
    pub(super) layout: Layout,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().fold(1, |product, &n| product.saturating_mul(n)) }
    }

    /// Number of bytes of its elements, whether or not the file stores each separately.
    pub fn bytes(&self) -> usize {
        self.elements().saturating_mul(self.dtype.bitsize()).div_ceil(8)
    }
}

/// The tensors of one state dict of a file.
#[derive(Debug)]
pub struct TensorSet {
    /// The path of keys to it in a training checkpoint, joined by dots: `state_dict`. None for a file that is the state
    /// dict.
    pub key: Option<String>,
    /// Other keys of the same state dict.
    pub aliases: Vec<String>,
    /// The prefix of all names in the file, which [`TensorInfo::name`] lacks: `module.`, or nothing.
    pub stripped: String,
    /// In the order of the state dict, or of the bytes in a safetensors file.
    pub tensors: Vec<TensorInfo>,
    /// Tensors of unsupported kinds.
    pub unread: Vec<Unread>,
}

impl TensorSet {
    pub(super) fn new(key: Option<String>, mut tensors: Vec<TensorInfo>, unread: Vec<Unread>) -> Self {
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let (stripped, names) = strip(&names);
        let names: Vec<String> = names.into_iter().map(|name| name.into_owned()).collect();
        for (tensor, name) in tensors.iter_mut().zip(names) {
            tensor.name = name;
        }
        Self { key, aliases: Vec::new(), stripped, tensors, unread }
    }

    /// Whether it is stored under `key`.
    pub fn is_under(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key) || self.aliases.iter().any(|alias| alias == key)
    }
}

/// A part of the file that holds the bytes of a storage.
#[derive(Debug)]
pub(super) struct Region {
    pub start: usize,
    pub len: usize,
    /// Its name in the file.
    pub place: String,
    /// The entry of the zip archive whose checksum is verified when the first tensor of it is read, if it has one.
    pub entry: Option<usize>,
    pub sound: OnceLock<bool>,
}

/// The bytes of a file, shared with the archive reader.
#[derive(Debug, Clone)]
pub(super) enum Bytes {
    Mapped(Arc<Mmap>),
    Held(Arc<Vec<u8>>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Held(bytes) => bytes,
        }
    }
}

/// The result of a reader of one format.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub metadata: BTreeMap<String, String>,
    pub sets: Vec<TensorSet>,
    /// The index in `sets` of the one to list.
    pub main: usize,
    pub regions: Vec<Region>,
    pub skipped: Vec<Skipped>,
    pub zip: Option<ZipArchive<Cursor<Bytes>>>,
    /// A description of the pickled object if no tensor was found in it.
    pub nothing: Option<String>,
}

impl Contents {
    /// Converts the tensors of a checkpoint whose storages are in the regions of `regions`, by their keys.
    pub(super) fn of_checkpoint(
        checkpoint: Checkpoint<'_>,
        mut region: impl FnMut(&mut Vec<Region>, &NamedParts<'_>) -> Result<usize, WeightError>,
    ) -> Result<Self, WeightError> {
        let mut contents = Self { main: checkpoint.main, skipped: checkpoint.skipped, ..Self::default() };
        for set in checkpoint.sets {
            let mut tensors = Vec::with_capacity(set.tensors.len());
            for parts in set.tensors {
                tensors.push(TensorInfo {
                    name: parts.name.to_owned(),
                    dtype: parts.storage.dtype,
                    shape: parts.layout.shape.clone(),
                    region: region(&mut contents.regions, &parts)?,
                    layout: parts.layout,
                });
            }
            contents.sets.push(TensorSet { aliases: set.aliases, ..TensorSet::new(set.key, tensors, set.unread) });
        }
        if contents.sets.iter().all(|set| set.tensors.is_empty()) {
            contents.nothing = Some(checkpoint.root);
        }
        Ok(contents)
    }
}
