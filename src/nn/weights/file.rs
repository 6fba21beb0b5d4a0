//! An open weight file: its tensors, and their values whatever their layout.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use safetensors::tensor::Dtype;
use zip::ZipArchive;

use super::checkpoint::{CONTAINERS, Checkpoint, NamedParts, Skipped, common_prefix};
use super::error::WeightError;
use super::layout::{Layout, is_number};
use super::{legacy, safe, zipped};

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
    /// As in the file, less [`WeightFile::stripped`].
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
    pub tensors: Vec<TensorInfo>,
    pub regions: Vec<Region>,
    pub container: Option<String>,
    pub skipped: Vec<Skipped>,
    pub zip: Option<ZipArchive<Cursor<Bytes>>>,
}

impl Contents {
    /// Takes over the tensors of a checkpoint whose storages lie in the regions of `regions`, by their keys.
    pub(super) fn of_checkpoint(
        checkpoint: Checkpoint<'_>,
        mut region: impl FnMut(&mut Vec<Region>, &NamedParts<'_>) -> Result<usize, WeightError>,
    ) -> Result<Self, WeightError> {
        let mut contents = Self { container: checkpoint.container, skipped: checkpoint.skipped, ..Self::default() };
        for parts in checkpoint.tensors {
            contents.tensors.push(TensorInfo {
                name: parts.name.to_owned(),
                dtype: parts.storage.dtype,
                shape: parts.layout.shape.clone(),
                region: region(&mut contents.regions, &parts)?,
                layout: parts.layout,
            });
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
    stripped: String,
}

impl WeightFile {
    /// Opens a weight file. It is mapped, not read: whoever has it open keeps it unaltered meanwhile, or reads wrong
    /// values.
    ///
    /// # Errors
    /// [`WeightError`], with the place in the file, for whatever is not a sound file of tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightError> {
        let path = path.as_ref();
        let io_error = |operation| move |source| WeightError::Io { operation, file: path.to_path_buf(), source };
        let file = File::open(path).map_err(io_error("open"))?;
        if file.metadata().map_err(io_error("read"))?.is_dir() {
            return Err(io_error("read")(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        // SAFETY: the file is the caller's to keep unaltered, as the contract above says.
        let mapped = unsafe { Mmap::map(&file) }.map_err(io_error("map"))?;
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
        let (format, mut contents) = if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            (Format::Zip, zipped::read(&path, &bytes)?)
        } else if safe::is_safetensors(start) {
            (Format::Safetensors, safe::read(&path, start)?)
        } else if start.starts_with(b"\x80") {
            (Format::Legacy, legacy::read(&path, start)?)
        } else {
            return Err(unknown(path, start));
        };
        if format != Format::Safetensors && contents.tensors.is_empty() {
            return Err(nothing(path, &contents.skipped));
        }
        let names: Vec<&str> = contents.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let stripped = common_prefix(&names);
        for tensor in &mut contents.tensors {
            if let Some(rest) = tensor.name.strip_prefix(&stripped) {
                tensor.name = rest.to_owned();
            }
        }
        Ok(Self { path, bytes, format, contents, stripped })
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

    /// The tensors: in the order of the state dict, or of the bytes in a safetensors file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.contents.tensors
    }

    /// The keys that led to the state dict in a training checkpoint, joined by dots: `state_dict`.
    pub fn container(&self) -> Option<&str> {
        self.contents.container.as_deref()
    }

    /// The prefix that all names had and that [`TensorInfo::name`] lacks: `module.`, or nothing.
    pub fn stripped(&self) -> &str {
        &self.stripped
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

/// A checkpoint in which no tensors were found.
fn nothing(file: PathBuf, skipped: &[Skipped]) -> WeightError {
    const SHOWN: usize = 8;
    let shown: Vec<String> =
        skipped.iter().take(SHOWN).map(|Skipped { name, kind }| format!("{name:?} ({kind})")).collect();
    let more = if skipped.len() > SHOWN { ", ..." } else { "" };
    let holds = if shown.is_empty() { "no dict with entries".to_owned() } else { shown.join(", ") };
    let what = format!("no tensors in it or under {}; it holds {holds}{more}", CONTAINERS.join(", "));
    let help = "save model.state_dict() with torch.save";
    WeightError::Unsupported { file, place: "checkpoint".to_owned(), what, help }
}

fn unknown(file: PathBuf, start: &[u8]) -> WeightError {
    if start.get(257..262) == Some(b"ustar") {
        return WeightError::Unsupported {
            file,
            place: "start".to_owned(),
            what: "a tar archive, as PyTorch wrote before 0.1.10".to_owned(),
            help: "load it in PyTorch and save it again",
        };
    }
    let hex: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let start =
        if hex.is_empty() { "nothing, for it is empty".to_owned() } else { format!("the bytes {}", hex.join(" ")) };
    WeightError::UnknownFormat { file, start }
}
