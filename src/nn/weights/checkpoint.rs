//! The state dict inside what was pickled: alone, or under a key of a training checkpoint.

use std::collections::HashMap;

use super::callable::{StorageName, TensorParts};
use super::error::Flaw;
use super::layout::{AXES, Layout};
use super::pickle::{Id, Pickle, Value};

/// Keys under which training scripts keep the weights, the more telling ones first.
pub(super) const CONTAINERS: [&str; 5] = ["state_dict", "model_state_dict", "model", "net", "network"];

/// A state dict may lie this deep: `{"model": {"state_dict": {...}}}`. A dict that holds itself ends here too.
const DEPTH: usize = 2;

/// Prefixes of wrappers such as `DataParallel`, stripped where every name has them.
const PREFIXES: [&str; 2] = ["module.", "model."];

/// What a checkpoint holds besides its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its key; `optimizer` or `epoch`.
    pub name: String,
    /// The type of its value: `int`, `dict`, `string`.
    pub kind: &'static str,
}

/// The tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint<'a> {
    pub tensors: Vec<NamedParts<'a>>,
    /// The keys that lead to the state dict, joined by dots.
    pub container: Option<String>,
    pub skipped: Vec<Skipped>,
}

/// A tensor of a state dict.
#[derive(Debug)]
pub(super) struct NamedParts<'a> {
    pub name: &'a str,
    pub storage: StorageName<'a>,
    pub layout: Layout,
    /// Where in the pickle it is made.
    pub at: usize,
}

impl<'a> Checkpoint<'a> {
    /// The state dict of a pickle.
    pub(super) fn find(pickle: &Pickle<'a>) -> Result<Self, Flaw> {
        let mut dict = Entries::of(pickle, pickle.root());
        let (mut path, mut skipped) = (Vec::new(), Vec::new());
        while path.len() < DEPTH
            && let Some((key, inner)) = dict.container(pickle)
        {
            skipped.extend(dict.others(pickle, |name, _| name != key));
            path.push(key);
            dict = inner;
        }
        skipped.extend(dict.others(pickle, |_, value| !matches!(value, Value::Tensor(_))));
        let tensors = dict
            .named
            .iter()
            .filter_map(|&(name, id)| match pickle.get(id) {
                Value::Tensor(parts) => Some(resolve(pickle, name, parts)),
                _ => None,
            })
            .collect::<Result<Vec<_>, Flaw>>()?;
        let container = (!path.is_empty()).then(|| path.join("."));
        Ok(Self { tensors, container, skipped })
    }
}

/// The entries of a dict, each key once.
struct Entries<'a> {
    /// By text, in the order of first insertion, with the last value.
    named: Vec<(&'a str, Id)>,
    places: HashMap<&'a str, usize>,
    /// Under other keys.
    unnamed: Vec<Id>,
}

impl<'a> Entries<'a> {
    fn of(pickle: &Pickle<'a>, dict: &Value<'a>) -> Self {
        let mut entries = Self { named: Vec::new(), places: HashMap::new(), unnamed: Vec::new() };
        let Value::Dict(pairs) = dict else { return entries };
        for &(key, value) in pairs {
            let &Value::Text(name) = pickle.get(key) else {
                entries.unnamed.push(value);
                continue;
            };
            let place = *entries.places.entry(name).or_insert(entries.named.len());
            match entries.named.get_mut(place) {
                Some(entry) => entry.1 = value,
                None => entries.named.push((name, value)),
            }
        }
        entries
    }

    fn has_tensors(&self, pickle: &Pickle<'a>) -> bool {
        self.named.iter().any(|&(_, id)| matches!(pickle.get(id), Value::Tensor(_)))
    }

    fn inner(&self, pickle: &Pickle<'a>, key: &str) -> Option<Self> {
        let (_, id) = self.named.get(*self.places.get(key)?)?;
        Some(Self::of(pickle, pickle.get(*id)))
    }

    /// The dict under one of [`CONTAINERS`] that has tensors: even beside other tensors, such as a best accuracy.
    fn direct_container(&self, pickle: &Pickle<'a>) -> Option<(&'static str, Self)> {
        CONTAINERS
            .into_iter()
            .find_map(|key| Some((key, self.inner(pickle, key)?)).filter(|(_, inner)| inner.has_tensors(pickle)))
    }

    /// The same, or a dict that has such a dict.
    fn container(&self, pickle: &Pickle<'a>) -> Option<(&'static str, Self)> {
        self.direct_container(pickle).or_else(|| {
            CONTAINERS.into_iter().find_map(|key| {
                Some((key, self.inner(pickle, key)?)).filter(|(_, inner)| inner.direct_container(pickle).is_some())
            })
        })
    }

    fn others(&self, pickle: &Pickle<'a>, wanted: impl Fn(&str, &Value<'a>) -> bool) -> Vec<Skipped> {
        let named = self
            .named
            .iter()
            .map(|&(name, id)| (name, pickle.get(id)))
            .filter(|(name, value)| wanted(name, value))
            .map(|(name, value)| Skipped { name: name.to_owned(), kind: value.kind() });
        let unnamed = self.unnamed.iter().map(|&id| Skipped { name: String::new(), kind: pickle.get(id).kind() });
        named.chain(unnamed).collect()
    }
}

/// A tensor with its numbers looked up and bounded by its storage.
fn resolve<'a>(pickle: &Pickle<'a>, name: &'a str, parts: &TensorParts) -> Result<NamedParts<'a>, Flaw> {
    let damaged = |what: String| Flaw::Damaged { at: parts.at, what: format!("tensor {name:?}: {what}") };
    let sizes = |what: &str, id: Id| match pickle.get(id) {
        Value::Tuple(items) | Value::List(items) if items.len() <= AXES => items
            .iter()
            .map(|&item| pickle.get(item).as_size())
            .collect::<Option<Vec<usize>>>()
            .ok_or_else(|| damaged(format!("its {what} is not made of counts"))),
        Value::Tuple(items) | Value::List(items) => {
            Err(damaged(format!("its {what} has {} axes, expected at most {AXES}", items.len())))
        }
        other => Err(damaged(format!("its {what} is a {}, expected a tuple", other.kind()))),
    };
    let Value::Storage(storage) = pickle.get(parts.storage) else {
        return Err(damaged("it has no storage".to_owned()));
    };
    let storage = **storage;
    let offset = pickle.get(parts.offset).as_size().ok_or_else(|| damaged("its offset is not a count".to_owned()))?;
    let mut layout = Layout { offset, shape: sizes("shape", parts.shape)?, strides: sizes("strides", parts.strides)? };
    let (first, count) = storage.view.unwrap_or((0, storage.count));
    layout.elements_within(count).map_err(damaged)?;
    layout.offset = layout.offset.checked_add(first).ok_or_else(|| damaged("its offset overflows".to_owned()))?;
    Ok(NamedParts { name, storage, layout, at: parts.at })
}

/// The prefix of wrappers that every name has, empty if there is none.
pub(super) fn common_prefix(names: &[&str]) -> String {
    let mut prefix = String::new();
    let have = |prefix: &str| {
        !names.is_empty() && names.iter().all(|name| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()))
    };
    while let Some(longer) = PREFIXES.iter().map(|part| format!("{prefix}{part}")).find(|longer| have(longer)) {
        prefix = longer;
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_common_to_all_names_or_none() {
        assert_eq!(common_prefix(&["module.model.a", "module.model.b.c"]), "module.model.");
        assert_eq!(common_prefix(&["model.module.a"]), "model.module.");
        assert_eq!(common_prefix(&["module.a", "b"]), "");
        assert_eq!(common_prefix(&["module.a", "module."]), "");
        assert_eq!(common_prefix(&["modules.a"]), "");
        assert_eq!(common_prefix(&[]), "");
    }
}
