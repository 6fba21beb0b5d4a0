//! An open weight file: its tensors, and their values in any layout.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::contents::{Bytes, Contents, Region, TensorInfo, TensorSet};
use super::error::WeightError;
use super::layout::is_number;
use super::skipped::{Skipped, Unread};
use super::unread::unread_kind;
use super::{legacy, safe, zipped};
use crate::format::{Known, recognise};
use crate::regular;

/// The format of a weight file; detected by its content, never by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON header and the bytes of the tensors.
    Safetensors,
    /// The format of `torch.save` since PyTorch 1.6: a zip archive of a pickle and the bytes of the storages.
    Zip,
    /// The format of `torch.save` before: five pickles and the bytes of the storages.
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

/// An open weight file.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    bytes: Bytes,
    format: Format,
    contents: Contents,
}

impl WeightFile {
    /// Opens a weight file. It is memory-mapped, not read: it must not be modified while it is open, or wrong values
    /// are read.
    ///
    /// # Errors
    /// [`WeightError`], with the position in the file, for anything that is not an intact file of tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightError> {
        let path = path.as_ref();
        let file = regular::open(path)?;
        // SAFETY: the caller keeps the file unmodified, as the contract above requires.
        let mapped = unsafe { Mmap::map(&file) }?;
        Self::read(path.to_path_buf(), Bytes::Mapped(Arc::new(mapped)))
    }

    /// Reads a weight file in memory; errors call it `name`.
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

    /// Its path, or the `name` passed to [`WeightFile::from_bytes`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The string map of a safetensors file; empty for PyTorch's formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// The state dicts of the file, in its order; never empty. A safetensors file has one.
    pub fn sets(&self) -> &[TensorSet] {
        &self.contents.sets
    }

    /// The state dict to list: under a usual key such as `state_dict`, else at the top of the file, else the largest.
    /// To select one of several, use [`super::fit`].
    pub fn main(&self) -> Option<&TensorSet> {
        self.contents.sets.get(self.contents.main)
    }

    /// The tensors of [`WeightFile::main`].
    pub fn tensors(&self) -> &[TensorInfo] {
        self.main().map_or(&[], |set| &set.tensors)
    }

    /// Other entries of the checkpoint, which are not read.
    pub fn skipped(&self) -> &[Skipped] {
        &self.contents.skipped
    }

    /// The elements of a tensor of this file, row-major in PyTorch's order of axes, rounded to `f32` where they are
    /// wider.
    ///
    /// # Errors
    /// [`WeightError::Damaged`] if the checksum of its bytes is wrong; [`WeightError::Unsupported`] for elements that
    /// are not numbers, tensors that repeat elements so often that they are larger than the file, and tensors of
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

    /// Whether the bytes of an archive's entry match the archive's checksum; true without an archive.
    fn is_sound(&self, region: &Region) -> bool {
        let Some((zip, entry)) = self.contents.zip.as_ref().zip(region.entry) else { return true };
        // A clone shares the directory; only its reader is new.
        zip.clone().by_index(entry).is_ok_and(|mut entry| io::copy(&mut entry, &mut io::sink()).is_ok())
    }
}

/// The error for a checkpoint without tensors; `root` describes the pickled object.
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
