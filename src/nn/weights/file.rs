//! An open weight file: its tensors, and their values whatever their layout.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use safetensors::tensor::Dtype;
use zip::ZipArchive;

use super::checkpoint::{Checkpoint, NamedParts, Skipped, Unread};
use super::error::WeightError;
use super::layout::{Layout, is_number};
use super::prefix::strip;
use super::unread::unread_kind;
use super::{legacy, safe, zipped};
use crate::format::{Known, recognise};
use crate::regular;

/// How a weight file is written; known by its content, never by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON header and the bytes of the tensors.
    Safetensors,
    /// What `torch.save` writes since PyTorch 1.6: a zip archive of a pickle and the bytes of the storages.
    Zip,
    /// What `torch.save` wrote before: five pickles and the bytes of the storages.
    Legacy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::Zip => "PyTorch zip",
            Format::Legacy => "PyTorch before 1.6",
        })
    }
}

/// A tensor of a weight file.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// As in the file, less [`TensorSet::stripped`].
    pub name: String,
    /// The type of its elements in the file.
    pub dtype: Dtype,
    /// PyTorch's order of axes.
    pub shape: Vec<usize>,
    /// Which region of the file holds its storage.
    pub(super) region: usize,
    pub(super) layout: Layout,
}

impl TensorInfo {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().fold(1, |product, &n| product.saturating_mul(n)) }
    }

    /// How many bytes its elements take, whether or not the file stores each by itself.
    pub fn bytes(&self) -> usize {
        self.elements().saturating_mul(self.dtype.bitsize()).div_ceil(8)
    }
}

/// The tensors of one state dict of a file.
#[derive(Debug)]
pub struct TensorSet {
    /// The keys that lead to it in a training checkpoint, joined by dots: `state_dict`. None for a file that is the state dict.
    pub key: Option<String>,
    /// Other keys of the same state dict.
    pub aliases: Vec<String>,
    /// The prefix that all names had and that [`TensorInfo::name`] lacks: `module.`, or nothing.
    pub stripped: String,
    /// In the order of the state dict, or of the bytes in a safetensors file.
    pub tensors: Vec<TensorInfo>,
    /// Tensors of it that are not read.
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

    /// Whether it lies under `key`.
    pub fn is_under(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key) || self.aliases.iter().any(|alias| alias == key)
    }
}

/// A part of the file that holds the bytes of a storage.
#[derive(Debug)]
pub(super) struct Region {
    pub start: usize,
    pub len: usize,
    /// What the file calls it.
    pub place: String,
    /// The entry of the zip archive whose checksum is compared when the first tensor of it is read, if it has one.
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

/// What a reader of one format found.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub metadata: BTreeMap<String, String>,
    pub sets: Vec<TensorSet>,
    /// Of `sets` the one that a listing is about.
    pub main: usize,
    pub regions: Vec<Region>,
    pub skipped: Vec<Skipped>,
    pub zip: Option<ZipArchive<Cursor<Bytes>>>,
    /// What was pickled, where no tensor was found in it.
    pub nothing: Option<String>,
}

impl Contents {
    /// Takes over the tensors of a checkpoint whose storages lie in the regions of `regions`, by their keys.
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

/// An open weight file.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    bytes: Bytes,
    format: Format,
    contents: Contents,
}

impl WeightFile {
    /// Opens a weight file. It is mapped, not read: whoever has it open keeps it unaltered meanwhile, or reads wrong
    /// values.
    ///
    /// # Errors
    /// [`WeightError`], with the place in the file, for whatever is not a sound file of tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightError> {
        let path = path.as_ref();
        let file = regular::open(path)?;
        // SAFETY: the file is the caller's to keep unaltered, as the contract above says.
        let mapped = unsafe { Mmap::map(&file) }?;
        Self::read(path.to_path_buf(), Bytes::Mapped(Arc::new(mapped)))
    }

    /// Reads a weight file that is in memory; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`WeightFile::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self, WeightError> {
        Self::read(name.into(), Bytes::Held(Arc::new(bytes)))
    }

    fn read(path: PathBuf, bytes: Bytes) -> Result<Self, WeightError> {
        let start = bytes.as_ref();
        let (format, contents) = if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            (Format::Zip, zipped::read(&path, &bytes)?)
        } else if safe::is_safetensors(start) {
            (Format::Safetensors, safe::read(&path, start)?)
        } else if start.starts_with(b"\x80") {
            (Format::Legacy, legacy::read(&path, start)?)
        } else {
            return Err(unknown(path, start));
        };
        match &contents.nothing {
            Some(root) => Err(nothing(path, root, &contents)),
            None => Ok(Self { path, bytes, format, contents }),
        }
    }

    /// Where it lies, or what [`WeightFile::from_bytes`] was told.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The string map of a safetensors file; empty for PyTorch's formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// The state dicts of the file, in its order; never none. A file of safetensors has one.
    pub fn sets(&self) -> &[TensorSet] {
        &self.contents.sets
    }

    /// The state dict that a listing is about: under a usual key such as `state_dict`, else at the top of the file, else the
    /// largest. Whoever needs one of several asks [`super::fit`].
    pub fn main(&self) -> Option<&TensorSet> {
        self.contents.sets.get(self.contents.main)
    }

    /// The tensors of [`WeightFile::main`].
    pub fn tensors(&self) -> &[TensorInfo] {
        self.main().map_or(&[], |set| &set.tensors)
    }

    /// What else the checkpoint holds, not read.
    pub fn skipped(&self) -> &[Skipped] {
        &self.contents.skipped
    }

    /// The elements of a tensor of this file, row-major in PyTorch's order of axes, rounded to `f32` where they are
    /// wider.
    ///
    /// # Errors
    /// [`WeightError::Damaged`] if the checksum of its bytes is wrong; [`WeightError::Unsupported`] for elements that
    /// are no numbers, tensors that repeat elements so often that they are larger than the file, and tensors of
    /// another file.
    pub fn values(&self, tensor: &TensorInfo) -> Result<Vec<f32>, WeightError> {
        let place = || format!("tensor {:?}", tensor.name);
        let unsupported = |what, help| WeightError::Unsupported { file: self.path.clone(), place: place(), what, help };
        if !is_number(tensor.dtype) {
            let what = format!("its elements are {}, expected real numbers", tensor.dtype);
            return Err(unsupported(what, "convert it with .float() in PyTorch"));
        }
        let all = self.bytes.as_ref();
        let foreign = || unsupported("it is not of this file".to_owned(), "take it from tensors() of the same file");
        let region = self.contents.regions.get(tensor.region).ok_or_else(foreign)?;
        let storage =
            region.start.checked_add(region.len).and_then(|end| all.get(region.start..end)).ok_or_else(foreign)?;
        let size = tensor.dtype.bitsize().div_ceil(8);
        let elements = tensor.layout.elements_within(storage.len() / size).map_err(|_| foreign())?;
        if elements > all.len() {
            let what = format!("it repeats its elements {elements} times over, more than the file has bytes");
            return Err(unsupported(what, "save it with .contiguous() in PyTorch"));
        }
        if !*region.sound.get_or_init(|| self.is_sound(region)) {
            return Err(WeightError::Damaged {
                file: self.path.clone(),
                place: format!("{} of {}", region.place, place()),
                at: 0,
                what: format!("the checksum of its {} bytes is wrong", region.len),
            });
        }
        tensor.layout.values(tensor.dtype, storage).ok_or_else(foreign)
    }

    /// Whether the bytes of an archive's entry have the checksum that the archive gives; true without an archive.
    fn is_sound(&self, region: &Region) -> bool {
        let Some((zip, entry)) = self.contents.zip.as_ref().zip(region.entry) else { return true };
        // A clone shares the directory; only a reader of its own is new.
        zip.clone().by_index(entry).is_ok_and(|mut entry| io::copy(&mut entry, &mut io::sink()).is_ok())
    }
}

/// A checkpoint in which no tensors were found; `root` is what was pickled.
fn nothing(file: PathBuf, root: &str, contents: &Contents) -> WeightError {
    const SHOWN: usize = 8;
    let unsupported =
        |what: String, help| WeightError::Unsupported { file, place: "checkpoint".to_owned(), what, help };
    let first = contents.sets.iter().find_map(|set| Some((set.key.as_deref(), set.unread.first()?, set.unread.len())));
    if let Some((key, Unread { name, class }, count)) = first {
        let (what, help) = unread_kind(class).unwrap_or(("a tensor of another kind", HELP));
        let under = key.map_or_else(String::new, |key| format!(" under {key:?}"));
        let more = if count > 1 { format!(", as are {} more", count - 1) } else { String::new() };
        return unsupported(format!("no tensors that are read: {name:?}{under} is {what} ({class}){more}"), help);
    }
    if let Some((what, help)) = root.strip_prefix("a ").and_then(unread_kind) {
        return unsupported(format!("{what} was saved ({root})"), help);
    }
    let skipped = &contents.skipped;
    if let Some(first) = skipped.first().filter(|_| skipped.iter().all(|s| s.kind == "tensor")) {
        let what = format!("the keys of its {} tensors are no names ({}, ...)", skipped.len(), first.name);
        return unsupported(what, HELP);
    }
    let shown: Vec<String> =
        skipped.iter().take(SHOWN).map(|Skipped { name, kind }| format!("{name:?} ({kind})")).collect();
    let more = if skipped.len() > SHOWN { ", ..." } else { "" };
    let holds = if shown.is_empty() { root.to_owned() } else { shown.join(", ") };
    unsupported(format!("no tensors under names; it holds {holds}{more}"), HELP)
}

const HELP: &str = "save model.state_dict() with torch.save";

fn unknown(file: PathBuf, start: &[u8]) -> WeightError {
    let unsupported =
        |what: String, help| WeightError::Unsupported { file: file.clone(), place: "start".to_owned(), what, help };
    match recognise(start) {
        Some(Known::Tar) => {
            let what = "a tar archive, as PyTorch wrote before 0.1.10".to_owned();
            unsupported(what, "load it in PyTorch and save it again, or unpack it if it is an archive of weight files")
        }
        Some(known) => WeightError::Other { file, known },
        None if shards(start).is_some() => {
            let shards = shards(start).unwrap_or_default();
            let what = format!("the index of weights in several files ({})", shards.join(", "));
            unsupported(what, "join them in Python: collect safetensors.torch.load_file of each, and save_file of all")
        }
        None => {
            let hex: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            WeightError::UnknownFormat { file, start: format!("the bytes {}", hex.join(" ")) }
        }
    }
}

/// The first files of a sharded checkpoint, if these bytes are its index.
fn shards(bytes: &[u8]) -> Option<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let map = index.get("weight_map")?.as_object()?;
    let mut names: Vec<String> = map.values().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(8);
    Some(names)
}
