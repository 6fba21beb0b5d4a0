//! safetensors: reading relies on the crate's checks of the header, writing fixes the order of the bytes.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use safetensors::tensor::{Metadata, TensorInfo as Described};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};

use super::contents::{Contents, Region, TensorInfo, TensorSet};
use super::error::{Flaw, WeightError};
use super::layout::Layout;

/// The file starts with the header's length in this many bytes, and the header is padded to a multiple of it.
const WORD: usize = 8;

/// The key of the header that is not a tensor.
const METADATA: &str = "__metadata__";

/// Whether a file starts with a length and the brace of a header.
pub(super) fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(WORD) == Some(&b'{')
}

/// The tensors of a file, in the order of their bytes.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Contents, WeightError> {
    let damaged = |at, what| Flaw::Damaged { at, what }.within(file, "header");
    let Some((length, rest)) = bytes.split_first_chunk::<WORD>() else {
        return Err(damaged(0, "the file ends before the length of the header".to_owned()));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((header, data)) = header else {
        return Err(damaged(0, format!("a header of {length} bytes, of which {} are there", rest.len())));
    };
    let text = std::str::from_utf8(header)
        .map_err(|error| damaged(WORD + error.valid_up_to(), "the header is not UTF-8".to_owned()))?;
    let TensorsAndMetadata { metadata, tensors } = serde_json::from_str(text)
        .map_err(|error| damaged(WORD + offset(text, &error), format!("the header: {error}")))?;
    let header = Metadata::new(None, tensors).map_err(|error| damaged(WORD, format!("the header: {error}")))?;
    if header.data_len() != data.len() {
        let what = format!("{} bytes of tensors are there, the header describes {}", data.len(), header.data_len());
        return Err(damaged(WORD + text.len(), what));
    }

    let described = header.tensors();
    let mut order: Vec<(&String, _)> = described.iter().collect();
    // Empty tensors share their offset with others.
    order.sort_by_key(|(name, info)| (info.data_offsets, *name));
    let mut contents = Contents { metadata, ..Contents::default() };
    let mut tensors = Vec::with_capacity(order.len());
    for (name, info) in order {
        let (start, end) = info.data_offsets;
        let overflow = || damaged(WORD, format!("tensor {name:?}: shape {:?} overflows", info.shape));
        tensors.push(TensorInfo {
            name: name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            region: contents.regions.len(),
            layout: Layout::row_major(info.shape.clone()).ok_or_else(overflow)?,
        });
        contents.regions.push(Region {
            start: WORD + text.len() + start,
            len: end - start,
            place: format!("bytes {start} to {end}"),
            entry: None,
            sound: OnceLock::new(),
        });
    }
    contents.sets.push(TensorSet::new(None, tensors, Vec::new()));
    Ok(contents)
}

/// A header as it occurs in files: unique names, and metadata of any kind, which are harmless.
#[derive(Default)]
struct TensorsAndMetadata {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, Described)>,
}

impl<'de> Deserialize<'de> for TensorsAndMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = TensorsAndMetadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping from names to tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TensorsAndMetadata, A::Error> {
        let (mut header, mut names) = (TensorsAndMetadata::default(), HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("the name {name:?} comes twice")));
            }
            if name == METADATA {
                let text = |value: serde_json::Value| match value {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                let entries: Option<BTreeMap<String, serde_json::Value>> = map.next_value()?;
                header.metadata = entries.into_iter().flatten().map(|(key, value)| (key, text(value))).collect();
            } else {
                let tensor = map.next_value()?;
                header.tensors.push((name, tensor));
            }
        }
        header.tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
        Ok(header)
    }
}

/// The position in the text of a parser error.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    before + error.column().saturating_sub(1)
}

/// A tensor to write: its name, its shape, and its elements in row-major order.
pub type NamedValues<'a> = (&'a str, &'a [usize], &'a [f32]);

/// The bytes of a safetensors file of `f32`, sorted by name; the same bytes for the same tensors in any order.
///
/// PyTorch reads it with `safetensors.torch.load_file`.
///
/// # Errors
/// [`WeightError::Unwritable`] for a name that occurs twice or that the format reserves, and for a shape that does not
/// match the number of elements.
pub fn write_safetensors<'a>(
    tensors: impl IntoIterator<Item = NamedValues<'a>>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, WeightError> {
    let mut tensors: Vec<NamedValues<'a>> = tensors.into_iter().collect();
    tensors.sort_by_key(|(name, ..)| *name);
    let mut names = HashSet::new();
    for (name, shape, values) in &tensors {
        let unwritable = |what: String| WeightError::Unwritable { tensor: (*name).to_owned(), what };
        if *name == METADATA {
            return Err(unwritable("the format keeps this name for itself; choose another".to_owned()));
        }
        if !names.insert(*name) {
            return Err(unwritable("its name comes twice; choose another".to_owned()));
        }
        let elements = shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length));
        if elements != Some(values.len()) {
            return Err(unwritable(format!("it has {} values, expected those of shape {shape:?}", values.len())));
        }
    }
    let header = Header { metadata, tensors: &tensors };
    let mut header = serde_json::to_vec(&header)
        .map_err(|error| WeightError::Unwritable { tensor: METADATA.to_owned(), what: error.to_string() })?;
    header.resize(header.len().next_multiple_of(WORD), b' ');
    let data: usize = tensors.iter().map(|(.., values)| size_of_val(*values)).sum();
    let mut bytes = Vec::with_capacity(WORD + header.len() + data);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for (.., values) in tensors {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(bytes)
}

/// Serialised by hand: a hash map's order would change the bytes from run to run.
struct Header<'a> {
    metadata: &'a BTreeMap<String, String>,
    tensors: &'a [NamedValues<'a>],
}

#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: (usize, usize),
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, self.metadata)?;
        }
        let mut start = 0;
        for (name, shape, values) in self.tensors {
            let end = start + size_of_val(*values);
            map.serialize_entry(name, &Entry { dtype: "F32", shape, data_offsets: (start, end) })?;
            start = end;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::{Dtype, TensorView, serialize};

    use super::*;
    use crate::nn::weights::WeightFile;

    const A: [f32; 6] = [0.5, -1.0, f32::INFINITY, 1e-45, 0.1, -0.0];
    const B: [f32; 1] = [7.0];
    const TENSORS: [NamedValues<'static>; 3] = [("b.\"quoted\"", &[], &B), ("empty", &[0, 4], &[]), ("a", &[2, 3], &A)];

    fn one_key() -> BTreeMap<String, String> {
        BTreeMap::from([("key \u{e9}".to_owned(), "va\"lue".to_owned())])
    }

    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate() {
        for metadata in [BTreeMap::new(), one_key()] {
            let bytes: Vec<_> = TENSORS
                .iter()
                .map(|(name, shape, values)| {
                    (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
                })
                .collect();
            let views = bytes
                .iter()
                .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
            let map: HashMap<String, String> = metadata.clone().into_iter().collect();
            let theirs = serialize(views, (!map.is_empty()).then_some(map)).unwrap();
            assert_eq!(write_safetensors(TENSORS, &metadata).unwrap(), theirs);
        }
    }

    #[test]
    fn what_is_written_is_read_back_in_any_order_of_writing() {
        let metadata: BTreeMap<String, String> = (0..20).map(|i| (format!("k{i}"), format!("v{i}"))).collect();
        let bytes = write_safetensors(TENSORS, &metadata).unwrap();
        let mut reversed = TENSORS;
        reversed.reverse();
        assert_eq!(write_safetensors(reversed, &metadata).unwrap(), bytes);
        let file = WeightFile::from_bytes("written", bytes).unwrap();
        assert_eq!(file.metadata(), &metadata);
        let names: Vec<&str> = file.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b.\"quoted\"", "empty"]);
        let bits = |index: usize| -> Vec<u32> {
            file.values(&file.tensors()[index]).unwrap().iter().map(|value| value.to_bits()).collect()
        };
        assert_eq!(bits(0), A.map(f32::to_bits));
        assert_eq!(bits(1), B.map(f32::to_bits));
        assert_eq!(file.tensors()[2].shape, [0, 4]);
    }

    #[test]
    fn tensors_that_no_file_can_hold_are_refused_by_name() {
        let error = |tensors: &[NamedValues<'_>]| {
            write_safetensors(tensors.iter().copied(), &BTreeMap::new()).unwrap_err().to_string()
        };
        assert_eq!(
            error(&[("a", &[7], &A)]),
            "cannot write tensor \"a\": it has 6 values, expected those of shape [7]"
        );
        assert!(error(&[("a", &[usize::MAX, 2], &A)]).contains("it has 6 values"));
        assert!(error(&[("a", &[1], &B), ("a", &[1], &B)]).contains("its name comes twice"));
        assert!(error(&[("__metadata__", &[1], &B)]).contains("keeps this name for itself"));
    }

    #[test]
    fn a_header_that_does_not_fit_is_told_with_its_place() {
        let read = |header: &str, data: usize| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            bytes.resize(bytes.len() + data, 0);
            WeightFile::from_bytes("f", bytes).map(|file| file.tensors().len()).map_err(|error| error.to_string())
        };
        let tensor = |name: &str, end: usize| {
            format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,{end}]}}")
        };
        assert_eq!(read(&format!("{{{}}}", tensor("a", 8)), 8), Ok(1));
        let error = read(&format!("{{{}}}", tensor("a", 8)), 9).unwrap_err();
        assert_eq!(
            error,
            "f: header: byte 62: 9 bytes of tensors are there, the header describes 8; fetch the file again and \
             compare its checksum"
        );
        for (header, data) in [
            (format!("{{{}}}", tensor("a", 12)), 12),
            (format!("{{{},{}}}", tensor("a", 8), tensor("b", 8)), 8),
            ("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}".to_owned(), 0),
            ("{\"a\":{\"dtype\":\"F33\",\"shape\":[],\"data_offsets\":[0,4]}}".to_owned(), 4),
            ("{\"a\":".to_owned(), 4),
        ] {
            let error = read(&header, data).unwrap_err();
            assert!(error.starts_with("f: header: byte "), "{error}");
        }
        let twice = format!("{{{},{}}}", tensor("a", 8), tensor("a", 8));
        assert_eq!(
            read(&twice, 8).unwrap_err(),
            "f: header: byte 64: the header: the name \"a\" comes twice at line 1 column 57; fetch the file again and \
             compare its checksum"
        );
        let numbers = format!("{{\"__metadata__\":{{\"epoch\":3,\"lr\":[0.5],\"by\":\"me\"}},{}}}", tensor("a", 8));
        assert_eq!(read(&numbers, 8), Ok(1));
        assert_eq!(read(&format!("{{\"__metadata__\":null,{}}}", tensor("a", 8)), 8), Ok(1));
        let twice = format!("{{\"__metadata__\":{{}},\"__metadata__\":{{}},{}}}", tensor("a", 8));
        assert!(read(&twice, 8).unwrap_err().contains("the name \"__metadata__\" comes twice"));
        // Sixteen exabytes in all: the sum of the header's counts must not wrap around.
        let huge = |name: &str, start: u64, len: u64| {
            format!("\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{len}],\"data_offsets\":[{start},{}]}}", start + len)
        };
        let half = 1_u64 << 60;
        let header =
            format!("{{{}}}", (0..15).map(|i| huge(&i.to_string(), i * half, half)).collect::<Vec<_>>().join(","));
        assert!(read(&header, 16).unwrap_err().contains("16 bytes of tensors are there"));
        let whole = WeightFile::from_bytes("f", [&19_u64.to_le_bytes()[..], b"{\"__metadata__\":{}}"].concat());
        assert!(whole.unwrap().tensors().is_empty());
    }
}
