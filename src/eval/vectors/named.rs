//! Files of arrays with names: `.npz`, `.safetensors`, and what `torch.save` writes.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{LABELS, Labels, Names, Other, VECTORS, Vectors, is_usual, only};
use crate::array::npz::Archive;
use crate::array::{Array, ElementType, Layout, Matrix, Values};
use crate::format;
use crate::nn::weights::{TensorInfo, WeightFile};
use crate::table;

/// What of an array is known before its elements are read.
struct Known {
    name: String,
    /// Or why it cannot be read.
    layout: Result<Layout, String>,
}

impl Known {
    fn of(name: &str, layout: Result<Layout, String>) -> Self {
        Known { name: name.to_owned(), layout }
    }

    fn axes(&self) -> usize {
        self.layout.as_ref().map_or(0, |layout| layout.shape.len())
    }

    /// The length of a row of a 2-d array, else 1.
    fn columns(&self) -> usize {
        match self.layout.as_ref().map(|layout| &layout.shape[..]) {
            Ok([_, columns]) => *columns,
            _ => 1,
        }
    }

    fn kind(&self) -> Option<ElementType> {
        self.layout.as_ref().ok().map(|layout| layout.kind)
    }
}

/// A file of named arrays.
trait Arrays {
    fn known(&self) -> Vec<Known>;
    fn matrix(&mut self, name: &str) -> Result<Matrix, String>;
    fn texts(&mut self, name: &str) -> Result<Vec<String>, String>;
}

/// Calls `use_it` on the arrays of the file at `path`.
fn with<T>(path: &Path, use_it: impl FnOnce(&mut dyn Arrays) -> Result<T, String>) -> Result<T, String> {
    match path.extension().unwrap_or_default().to_ascii_lowercase().to_str() {
        Some("npz") => use_it(&mut Archive::open(path)?),
        Some("safetensors") => {
            let file = File::open(path).map_err(|e| e.to_string())?;
            // SAFETY: the caller does not alter the file while its metrics are computed.
            let bytes = unsafe { Mmap::map(&file) }.map_err(|e| e.to_string())?;
            use_it(&mut Safe::of(&bytes)?)
        }
        _ => {
            let file = WeightFile::open(path).map_err(|error| {
                let message = error.to_string();
                let message = message.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&message);
                format!("{message}; for vectors, torch.save({{'embeddings': x, 'labels': y}}, path) of tensors")
            });
            use_it(&mut Torch(file?))
        }
    }
}

pub(super) fn vectors(path: &Path, names: Names<'_>) -> Result<Vectors, String> {
    with(path, |file| {
        let known = file.known();
        let label = names.labels.or_else(|| only(&known, |a| is_usual(&a.name, &LABELS)).map(|a| a.name.as_str()));
        let candidates = || {
            known.iter().filter(|a| {
                a.axes() == 2 && a.kind().is_some_and(ElementType::is_number) && Some(a.name.as_str()) != label
            })
        };
        let chosen = match names.vectors {
            Some(name) => named(&known, name)?,
            None => (known.iter().find(|a| a.name == VECTORS[0]))
                .or_else(|| only(&known, |_| true))
                .or_else(|| only(candidates(), |a| is_usual(&a.name, &VECTORS)))
                .or_else(|| only(candidates(), |_| true))
                .ok_or_else(|| unclear(&known, "vectors", VECTORS[0], "--vectors-name"))?,
        };
        let matrix = readable(chosen).and_then(|()| file.matrix(&chosen.name)).map_err(|e| about(&chosen.name, &e))?;
        let others = known.iter().filter(|a| a.name != chosen.name);
        let others = others.map(|a| Other { name: a.name.clone(), index: false }).collect();
        Ok(Vectors { matrix, name: Some(chosen.name.clone()), others })
    })
}

pub(super) fn labels(path: &Path, name: Option<&str>) -> Result<Labels, String> {
    with(path, |file| {
        let known = file.known();
        let flat = |a: &&Known| match &a.layout {
            Ok(Layout { kind, shape, .. }) => kind.is_discrete() && matches!(shape[..], [_] | [_, 1]),
            Err(_) => false,
        };
        let chosen = match name {
            Some(name) => named(&known, name)?,
            None => (known.iter().find(|a| a.name == LABELS[0]))
                .or_else(|| known.iter().find(|a| a.name == LABELS[1]))
                .or_else(|| only(&known, |_| true).filter(|a| a.columns() <= 1))
                .or_else(|| only(&known, |a| is_usual(&a.name, &LABELS)))
                .or_else(|| only(&known, flat))
                .ok_or_else(|| unclear(&known, "labels", LABELS[0], "--labels-name"))?,
        };
        let texts = readable(chosen).and_then(|()| file.texts(&chosen.name)).map_err(|e| about(&chosen.name, &e))?;
        Ok(Labels { texts, name: Some(chosen.name.clone()) })
    })
}

fn named<'a>(known: &'a [Known], name: &str) -> Result<&'a Known, String> {
    let found = known.iter().find(|a| a.name == name);
    found.ok_or_else(|| format!("the arrays are {}, expected an array {name:?}", list(known)))
}

fn unclear(known: &[Known], what: &str, usual: &str, flag: &str) -> String {
    format!("the arrays are {}, expected one called {usual:?}; name the {what} with {flag}", list(known))
}

fn list(known: &[Known]) -> String {
    let words: Vec<String> = known
        .iter()
        .map(|Known { name, layout }| match layout {
            Ok(layout) => format!("{name} {:?}", layout.shape),
            Err(_) => name.clone(),
        })
        .collect();
    table::names(words.iter().map(String::as_str))
}

fn readable(array: &Known) -> Result<(), String> {
    array.layout.as_ref().map(|_| ()).map_err(String::clone)
}

fn about(name: &str, message: &str) -> String {
    format!("array {name:?}: {message}")
}

impl Arrays for Archive {
    fn known(&self) -> Vec<Known> {
        self.arrays.iter().map(|(name, layout)| Known::of(name, layout.clone())).collect()
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, String> {
        self.array(name)?.matrix()
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        self.array(name)?.labels()
    }
}

/// A safetensors file.
struct Safe<'a>(SafeTensors<'a>);

impl<'a> Safe<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, String> {
        let tensors =
            SafeTensors::deserialize(bytes).map_err(|e| match format::recognise(&bytes[..bytes.len().min(512)]) {
                Some(known) => format!("it is {known}, not a .safetensors file{}", known.advice()),
                None => format!("{e}, expected a .safetensors file; fetch or write it again"),
            })?;
        // The crate keeps the last of two entries of one name.
        match twice(bytes) {
            Some(name) => Err(format!("the header has {name:?} twice; the file is damaged: write it again")),
            None => Ok(Safe(tensors)),
        }
    }

    fn array<'b>(&self, name: &str, tensor: &TensorView<'b>) -> Result<Array<&'b [u8]>, String> {
        let bytes = tensor.data();
        Array::new(self.layout(name, tensor)?, bytes, bytes.len() as u64)
    }

    fn layout(&self, name: &str, tensor: &TensorView<'_>) -> Result<Layout, String> {
        let kind = kind(tensor.dtype()).ok_or_else(|| unsupported(name, tensor.dtype()))?;
        Ok(Layout::plain(kind, tensor.shape()))
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>, String> {
        self.0.tensor(name).map_err(|e| e.to_string())
    }
}

impl Arrays for Safe<'_> {
    fn known(&self) -> Vec<Known> {
        let mut known: Vec<Known> =
            self.0.iter().map(|(name, tensor)| Known::of(name, self.layout(name, &tensor))).collect();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        known
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, String> {
        self.array(name, &self.tensor(name)?)?.matrix()
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        self.array(name, &self.tensor(name)?)?.labels()
    }
}

/// A tensor's name that the header has more than once.
fn twice(bytes: &[u8]) -> Option<String> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut seen, mut twice) = (std::collections::BTreeSet::new(), None);
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(name.clone()) {
                    twice.get_or_insert(name);
                }
            }
            Ok(twice)
        }
    }
    let (length, rest) = bytes.split_first_chunk()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    serde_json::Deserializer::from_slice(header).deserialize_map(Keys).ok()?
}

/// What `torch.save` wrote. Its reader gives 32 bits, so what needs more is refused.
struct Torch(WeightFile);

impl Torch {
    fn tensor(&self, name: &str) -> Result<&TensorInfo, String> {
        self.0.tensors().iter().find(|tensor| tensor.name == name).ok_or_else(|| "it is not there".to_owned())
    }

    fn array(&self, tensor: &TensorInfo, bytes: &mut Vec<u8>) -> Result<Layout, String> {
        let values = self.0.values(tensor).map_err(|e| e.to_string())?;
        let wide = matches!(tensor.dtype, Dtype::I32 | Dtype::I64 | Dtype::U32 | Dtype::U64);
        // From 2^24 on, 32 bits cannot represent every integer.
        let exact = |value: &f32| value.abs() < 16_777_216.0;
        if let Some(row) = values.iter().position(|value| wide && !exact(value)) {
            return Err(format!(
                "element {row} is {}, too large an integer to be read exactly; write an .npy file",
                values[row]
            ));
        }
        let kind =
            if kind(tensor.dtype).is_some_and(ElementType::is_discrete) { ElementType::I32 } else { ElementType::F32 };
        bytes.extend(values.iter().flat_map(|&value| match kind {
            ElementType::I32 => (value as i32).to_le_bytes(),
            _ => value.to_le_bytes(),
        }));
        Ok(Layout::plain(kind, &tensor.shape))
    }
}

impl Arrays for Torch {
    fn known(&self) -> Vec<Known> {
        let layout = |tensor: &TensorInfo| match tensor.dtype {
            Dtype::F64 => {
                Err("the elements are F64, which this reader would round; save them with .float(), or as .npy"
                    .to_owned())
            }
            other => {
                let kind = kind(other).ok_or_else(|| unsupported(&tensor.name, other))?;
                Ok(Layout::plain(kind, &tensor.shape))
            }
        };
        let tensors = self.0.tensors().iter().map(|tensor| Known::of(&tensor.name, layout(tensor)));
        let others = self.0.skipped().iter().filter(|other| !other.name.is_empty());
        let others =
            others.map(|other| Known::of(&other.name, Err(format!("it is a {}, expected a tensor", other.kind))));
        tensors.chain(others).collect()
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, String> {
        let tensor = self.tensor(name)?;
        let values = Values::F32(self.0.values(tensor).map_err(|e| e.to_string())?);
        match tensor.shape[..] {
            [rows, dim] if rows > 0 && dim > 0 => Ok(Matrix { values, rows, dim }),
            _ => Err(format!("the shape is {:?}, expected 2-d and not empty: a row a vector", tensor.shape)),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        let mut bytes = Vec::new();
        let layout = self.array(self.tensor(name)?, &mut bytes)?;
        Array::new(layout, &bytes[..], bytes.len() as u64)?.labels()
    }
}

fn unsupported(name: &str, dtype: Dtype) -> String {
    format!("the elements of {name:?} are {dtype:?}, expected numbers of 8 to 64 bits; save them as F32")
}

/// The elements of a tensor.
fn kind(dtype: Dtype) -> Option<ElementType> {
    Some(match dtype {
        Dtype::BOOL => ElementType::Bool,
        Dtype::I8 => ElementType::I8,
        Dtype::I16 => ElementType::I16,
        Dtype::I32 => ElementType::I32,
        Dtype::I64 => ElementType::I64,
        Dtype::U8 => ElementType::U8,
        Dtype::U16 => ElementType::U16,
        Dtype::U32 => ElementType::U32,
        Dtype::U64 => ElementType::U64,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::F32 => ElementType::F32,
        Dtype::F64 => ElementType::F64,
        _ => return None,
    })
}
