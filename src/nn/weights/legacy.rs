//! The file format of PyTorch before 1.6: five pickles in sequence, then the bytes of the storages.
//!
//! | part | holds |
//! | --- | --- |
//! | pickle | a magic number |
//! | pickle | 1001, the version of the format |
//! | pickle | the machine: byte order and sizes of C types |
//! | pickle | the object, its storages by key |
//! | pickle | the list of keys |
//! | for each key | the number of elements in 8 bytes, and the elements |

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use super::checkpoint::Checkpoint;
use super::contents::{Contents, Region};
use super::error::{Flaw, WeightError};
use super::pickle::Pickle;
use super::value::{StorageName, Value};

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// The tensors of a file of this format.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Contents, WeightError> {
    let within = |place: &'static str| move |flaw: Flaw| flaw.within(file, place);
    let damaged = |place: &'static str, at, what: String| Flaw::Damaged { at, what }.within(file, place);
    let unsupported = |place: &'static str, what: &str, help| WeightError::Unsupported {
        file: file.to_path_buf(),
        place: place.to_owned(),
        what: what.to_owned(),
        help,
    };

    let magic = Pickle::read(bytes, 0).map_err(within("first pickle"))?;
    if !matches!(magic.root(), Value::Long(value) if *value == MAGIC) {
        let what = format!("it holds a {}, expected the magic number of torch.save", magic.root().kind());
        return Err(unsupported("first pickle", &what, "save a state dict with torch.save"));
    }
    let version = Pickle::read(bytes, magic.end).map_err(within("version pickle"))?;
    if !matches!(version.root(), Value::Int(VERSION)) {
        return Err(damaged("version pickle", magic.end, format!("expected {VERSION}, the only version")));
    }
    let machine = Pickle::read(bytes, version.end).map_err(within("machine pickle"))?;
    if let Value::Dict(pairs) = machine.root()
        && pairs.iter().any(|&(key, value)| {
            matches!((machine.get(key), machine.get(value)), (Value::Text("little_endian"), Value::Bool(false)))
        })
    {
        let help = "load it in PyTorch and save it again on a little-endian machine";
        return Err(unsupported("machine pickle", "the byte order is big-endian", help));
    }
    let object = Pickle::read(bytes, machine.end).map_err(within("object pickle"))?;
    let checkpoint = Checkpoint::find(&object).map_err(within("object pickle"))?;
    let keys = Pickle::read(bytes, object.end).map_err(within("list of storages"))?;

    let mut regions = Regions::read(bytes, &object, &keys).map_err(within("storages"))?;
    let mut contents = Contents::of_checkpoint(checkpoint, |_, tensor| {
        regions.places.get(tensor.storage.key).copied().ok_or_else(|| {
            let what = format!("tensor {:?}: the file has no storage {:?}", tensor.name, tensor.storage.key);
            damaged("object pickle", tensor.at, what)
        })
    })?;
    contents.regions = std::mem::take(&mut regions.list);
    Ok(contents)
}

/// The storages after the pickles.
struct Regions<'a> {
    list: Vec<Region>,
    places: HashMap<&'a str, usize>,
}

impl<'a> Regions<'a> {
    fn read(bytes: &[u8], object: &Pickle<'a>, keys: &Pickle<'a>) -> Result<Self, Flaw> {
        let mut named: HashMap<&str, StorageName<'a>> = HashMap::new();
        for storage in object.storages() {
            let first = named.entry(storage.key).or_insert(storage);
            if (first.dtype, first.count) != (storage.dtype, storage.count) {
                let what = format!("storage {:?} has two types or sizes in the object pickle", storage.key);
                return Err(Flaw::Damaged { at: object.end, what });
            }
        }
        let Value::List(list) = keys.root() else {
            let what = format!("a {} behind the object pickle, expected the list of storages", keys.root().kind());
            return Err(Flaw::Damaged { at: object.end, what });
        };
        let mut regions = Self { list: Vec::with_capacity(list.len()), places: HashMap::with_capacity(list.len()) };
        let mut at = keys.end;
        for &key in list {
            let &Value::Text(key) = keys.get(key) else {
                let what = format!("the key of a storage is a {}, expected a string", keys.get(key).kind());
                return Err(Flaw::Damaged { at: object.end, what });
            };
            let Some(storage) = named.get(key) else {
                if let Some(class) = object.foreign_storage() {
                    let what = format!("elements of {class}, which are not read, among the others");
                    return Err(Flaw::Refused { at: object.end, what });
                }
                let what =
                    format!("storage {key:?} is listed and no tensor mentions it, so that its type is not known");
                return Err(Flaw::Damaged { at: object.end, what });
            };
            let region = region(bytes, at, storage)?;
            at = region.start + region.len;
            if regions.places.insert(key, regions.list.len()).is_some() {
                return Err(Flaw::Damaged { at: object.end, what: format!("storage {key:?} is listed twice") });
            }
            regions.list.push(region);
        }
        Ok(regions)
    }
}

/// The storage at byte `at`, within the file.
fn region(bytes: &[u8], at: usize, storage: &StorageName<'_>) -> Result<Region, Flaw> {
    let StorageName { key, dtype, count, .. } = *storage;
    let damaged = |what: String| Flaw::Damaged { at, what: format!("storage {key:?}: {what}") };
    let Some((head, rest)) = bytes.get(at..).and_then(|rest| rest.split_first_chunk::<8>()) else {
        return Err(damaged("the file ends before its size".to_owned()));
    };
    let found = u64::from_le_bytes(*head);
    if usize::try_from(found).ok() != Some(count) {
        return Err(damaged(format!("{found} elements, expected the {count} of the object pickle")));
    }
    match count.checked_mul(dtype.bitsize() / 8) {
        Some(len) if len <= rest.len() => Ok(Region {
            start: at + head.len(),
            len,
            place: format!("storage {key:?}"),
            entry: None,
            sound: OnceLock::new(),
        }),
        _ => Err(damaged(format!("{count} elements of {dtype} expected, the file ends after {} bytes", rest.len()))),
    }
}
