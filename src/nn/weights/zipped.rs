//! PyTorch's zip archives: `NAME/data.pkl` and `NAME/data/KEY`, stored without compression.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::path::Path;
use std::sync::OnceLock;

use zip::{CompressionMethod, ZipArchive};

use super::checkpoint::Checkpoint;
use super::contents::{Bytes, Contents, Region};
use super::error::WeightError;
use super::pickle::Pickle;

const PICKLE: &str = "/data.pkl";

/// The tensors of an archive.
pub(super) fn read(file: &Path, bytes: &Bytes) -> Result<Contents, WeightError> {
    let mut archive = Archive::open(file, bytes)?;
    let folder = archive.folder()?;
    let script = format!("{folder}/constants.pkl");
    if archive.find(&script).is_some() {
        let what = "a TorchScript module, with code beside its tensors";
        let help = "save torch.jit.load(FILE).state_dict() with torch.save instead";
        return Err(archive.unsupported(&script, what, help));
    }
    if let Some(entry) = archive.find(&format!("{folder}/byteorder")) {
        let region = archive.region(entry)?;
        match archive.slice(&region) {
            b"little" => {}
            b"big" => {
                let help = "load it in PyTorch and save it again on a little-endian machine";
                return Err(archive.unsupported(&region.place, "the byte order is big-endian", help));
            }
            other => {
                let what = format!("the byte order is {:?}, expected \"little\"", String::from_utf8_lossy(other));
                return Err(archive.damaged(&region.place, 0, what));
            }
        }
    }

    let place = format!("{folder}{PICKLE}");
    let entry = archive.find(&place).ok_or_else(|| archive.damaged(&place, 0, "the entry is not there".to_owned()))?;
    let region = archive.region(entry)?;
    if let Some(entry) = region.entry {
        archive.check_sum(entry, &place)?;
    }
    let pickle = Pickle::read(archive.slice(&region), 0).map_err(|flaw| flaw.within(file, &place))?;
    let checkpoint = Checkpoint::find(&pickle).map_err(|flaw| flaw.within(file, &place))?;
    let mut known = HashMap::new();
    let mut contents = Contents::of_checkpoint(checkpoint, |regions, tensor| {
        let key = tensor.storage.key;
        let damaged = |what| WeightError::Damaged {
            file: file.to_path_buf(),
            place: place.clone(),
            at: tensor.at,
            what: format!("tensor {:?}: {what}", tensor.name),
        };
        let index = match known.get(key) {
            Some(&index) => index,
            None => {
                let name = format!("{folder}/data/{key}");
                let entry = archive.find(&name).ok_or_else(|| damaged(format!("its entry {name:?} is not there")))?;
                regions.push(archive.region(entry)?);
                known.insert(key.to_owned(), regions.len() - 1);
                regions.len() - 1
            }
        };
        let len = regions.get(index).map_or(0, |region: &Region| region.len);
        let size = tensor.storage.dtype.bitsize() / 8;
        if tensor.storage.count.checked_mul(size) != Some(len) {
            let (count, dtype) = (tensor.storage.count, tensor.storage.dtype);
            let what = format!("its entry {folder}/data/{key} has {len} bytes, expected {count} elements of {dtype}");
            return Err(damaged(what));
        }
        Ok(index)
    })?;
    contents.zip = Some(archive.zip);
    Ok(contents)
}

struct Archive<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<Bytes>>,
}

impl<'a> Archive<'a> {
    fn open(file: &'a Path, bytes: &'a Bytes) -> Result<Self, WeightError> {
        let directory = |what| WeightError::Damaged {
            file: file.to_path_buf(),
            place: "directory of the zip archive".to_owned(),
            at: 0,
            what,
        };
        let zip = ZipArchive::new(Cursor::new(bytes.clone())).map_err(|error| directory(error.to_string()))?;
        if zip.has_duplicate_names() {
            return Err(directory("it lists a name twice".to_owned()));
        }
        Ok(Self { file, bytes: bytes.as_ref(), zip })
    }

    /// The folder that contains all entries of PyTorch.
    fn folder(&self) -> Result<String, WeightError> {
        let mut folders = self.zip.file_names_raw().filter_map(|name| {
            let folder = std::str::from_utf8(name).ok()?.strip_suffix(PICKLE)?;
            (!folder.contains('/')).then(|| folder.to_owned())
        });
        match (folders.next(), folders.next()) {
            (Some(folder), None) => Ok(folder),
            (None, _) if self.zip.file_names_raw().any(|name| name.ends_with(b".npy")) => Err(self.unsupported(
                "directory of the zip archive",
                "an archive of NumPy arrays (.npz)",
                "save {name: torch.from_numpy(array) for name, array in numpy.load(FILE).items()} with torch.save",
            )),
            (None, _) => Err(self.unsupported(
                "directory of the zip archive",
                "it has no entry NAME/data.pkl, as torch.save writes it",
                "unpack it if it is an archive of weight files",
            )),
            (Some(first), Some(second)) => {
                let what = format!("it has {first}{PICKLE} and {second}{PICKLE}, expected one");
                Err(self.damaged("directory of the zip archive", 0, what))
            }
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.zip.index_for_name(name)
    }

    /// The position of an entry's bytes in the file.
    fn region(&mut self, index: usize) -> Result<Region, WeightError> {
        let place = match self.zip.name_for_index(index) {
            Some(Ok(name)) => name.into_owned(),
            _ => format!("entry {index}"),
        };
        let entry = self.zip.by_index_raw(index).map_err(|error| damaged(self.file, &place, 0, error.to_string()))?;
        let (start, len) = (entry.data_start().unwrap_or(u64::MAX), entry.compressed_size());
        // PyTorch has an option to write no checksums; it writes 0 then.
        let has_checksum = entry.crc32() != 0;
        let plain = entry.compression() == CompressionMethod::Stored && !entry.encrypted() && entry.size() == len;
        drop(entry);
        if !plain {
            let help = "pack it again without compression (zip -0), or save it again from PyTorch";
            return Err(self.unsupported(&place, "the entry is compressed or encrypted, expected a stored one", help));
        }
        let within = |start: u64, len: u64| {
            let (start, len) = (usize::try_from(start).ok()?, usize::try_from(len).ok()?);
            self.bytes.get(start..start.checked_add(len)?).map(|_| (start, len))
        };
        let (start, len) = within(start, len).ok_or_else(|| {
            let what = format!("{len} bytes from byte {start} of the file reach past its end at {}", self.bytes.len());
            self.damaged(&place, 0, what)
        })?;
        Ok(Region { start, len, place, entry: has_checksum.then_some(index), sound: OnceLock::new() })
    }

    fn slice(&self, region: &Region) -> &'a [u8] {
        self.bytes.get(region.start..region.start.saturating_add(region.len)).unwrap_or_default()
    }

    fn check_sum(&mut self, index: usize, place: &str) -> Result<(), WeightError> {
        let file = self.file;
        let mut entry = self.zip.by_index(index).map_err(|error| damaged(file, place, 0, error.to_string()))?;
        io::copy(&mut entry, &mut io::sink()).map(|_| ()).map_err(|error| damaged(file, place, 0, error.to_string()))
    }

    fn damaged(&self, place: &str, at: usize, what: String) -> WeightError {
        damaged(self.file, place, at, what)
    }

    fn unsupported(&self, place: &str, what: &str, help: &'static str) -> WeightError {
        WeightError::Unsupported { file: self.file.to_path_buf(), place: place.to_owned(), what: what.to_owned(), help }
    }
}

fn damaged(file: &Path, place: &str, at: usize, what: String) -> WeightError {
    WeightError::Damaged { file: file.to_path_buf(), place: place.to_owned(), at, what }
}
