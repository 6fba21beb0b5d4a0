//! What a pickle of tensors holds.
//!
//! Values lie in one flat list and refer to each other by index, so that nesting costs no stack.

use super::callable::{Callable, StorageName, TensorParts};
use super::error::Flaw;
use super::machine::Machine;

/// Where a value lies in the list of values.
pub(super) type Id = usize;

/// What a pickle can hold here.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 8 bytes, little-endian two's complement.
    Long(&'a [u8]),
    Float,
    Text(&'a str),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In the order of insertion; a key may come twice, and the later one holds.
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    /// A set, whose members are not needed.
    Set,
    /// In boxes, since a hostile file may ask for millions of values.
    Storage(Box<StorageName<'a>>),
    Tensor(Box<TensorParts>),
    /// A class or function of Python's that means nothing here: module and name. It is never called, nor looked for.
    Class(Box<(&'a str, &'a str)>),
    /// What such a class would have made; which class it is. Its parts are not kept.
    Opaque(Id),
}

impl Value<'_> {
    /// A word for messages and listings.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::Long(_) => "int",
            Value::Float => "float",
            Value::Text(_) => "string",
            Value::Bytes => "bytes",
            Value::Tuple(_) => "tuple",
            Value::List(_) => "list",
            Value::Dict(_) => "dict",
            Value::Callable(Callable::ElementType) => "dtype",
            Value::Callable(_) | Value::Class(_) => "class",
            Value::Set => "set",
            Value::Opaque(_) => "object",
            Value::Storage(_) => "storage",
            Value::Tensor(_) => "tensor",
        }
    }

    /// The value as a count; none if it is no integer or a negative one.
    pub(super) fn as_size(&self) -> Option<usize> {
        match self {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// What one pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    /// The byte behind its STOP.
    pub end: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that starts at byte `start`; the offsets in errors count from the start of `bytes`.
    pub(super) fn read(bytes: &'a [u8], start: usize) -> Result<Self, Flaw> {
        let (values, root, end) = Machine::new(bytes, start).run()?;
        Ok(Self { values, root, end })
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub(super) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    pub(super) fn root_id(&self) -> Id {
        self.root
    }

    /// The type of a value for messages: [`Value::kind`], or the full name of its class in Python.
    pub(super) fn kind(&self, id: Id) -> String {
        let value = self.get(id);
        self.class(value).unwrap_or_else(|| value.kind().to_owned())
    }

    /// The full name of the class of an opaque value, printable.
    pub(super) fn class(&self, value: &Value<'a>) -> Option<String> {
        let Value::Opaque(class) = value else { return None };
        let Value::Class(name) = self.get(*class) else { return None };
        Some(full_name(name.0, name.1))
    }

    /// The type of a storage that is mentioned and not read.
    pub(super) fn foreign_storage(&self) -> Option<String> {
        self.values.iter().filter_map(|value| self.class(value)).find(|class| class.ends_with("Storage"))
    }

    /// Every storage that is mentioned.
    pub(super) fn storages(&self) -> impl Iterator<Item = StorageName<'a>> {
        self.values.iter().filter_map(|value| if let Value::Storage(storage) = value { Some(**storage) } else { None })
    }
}

/// `module.name`, printable and of a bounded length.
pub(super) fn full_name(module: &str, name: &str) -> String {
    format!("{module}.{name}").escape_debug().take(200).collect()
}

#[cfg(test)]
mod tests;
