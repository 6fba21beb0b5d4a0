//! A parsed pickle of tensors.

use super::error::Flaw;
use super::machine::Machine;
use super::value::{Id, StorageName, Value, full_name};

/// The contents of one pickle.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    /// The position after its STOP.
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

    /// The type of a storage that is referenced but not supported.
    pub(super) fn foreign_storage(&self) -> Option<String> {
        self.values.iter().filter_map(|value| self.class(value)).find(|class| class.ends_with("Storage"))
    }

    /// Every storage that is referenced.
    pub(super) fn storages(&self) -> impl Iterator<Item = StorageName<'a>> {
        self.values.iter().filter_map(|value| if let Value::Storage(storage) = value { Some(**storage) } else { None })
    }
}

#[cfg(test)]
mod tests;
