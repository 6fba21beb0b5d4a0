//! The state dicts in a pickled object: the object itself, or one or several inside a training checkpoint.

use std::collections::HashMap;

use super::error::Flaw;
use super::layout::{AXES, Layout};
use super::pickle::Pickle;
use super::skipped::{Skipped, Unread};
use super::unread::unread_kind;
use super::value::{Id, StorageName, TensorParts, Value};

/// Keys under which training scripts store the weights, the more specific ones first.
const CONTAINERS: [&str; 7] = ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "params"];

/// Keys that hold no weights but the state of an optimiser or a schedule, whose tensors sometimes have the names of
/// parameters.
const ASIDE: [&str; 2] = ["optim", "sched"];

/// Maximum nesting depth of a state dict. A dict that contains itself ends sooner: each is visited once.
const DEPTH: usize = 8;

/// Maximum number of other keys kept for one dict: a hostile file has millions.
const ALIASES: usize = 8;

/// The tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoint<'a> {
    /// In the order of the file.
    pub sets: Vec<NamedSet<'a>>,
    /// The index in `sets` of the one to list, if there is any.
    pub main: usize,
    pub skipped: Vec<Skipped>,
    /// A description of the pickled object.
    pub root: String,
}

/// The tensors of one dict.
#[derive(Debug)]
pub(super) struct NamedSet<'a> {
    /// The path of keys to it, joined by dots.
    pub key: Option<String>,
    /// Other paths of keys to the same dict.
    pub aliases: Vec<String>,
    pub tensors: Vec<NamedParts<'a>>,
    pub unread: Vec<Unread>,
}

/// A tensor of a state dict.
#[derive(Debug)]
pub(super) struct NamedParts<'a> {
    pub name: &'a str,
    pub storage: StorageName<'a>,
    pub layout: Layout,
    /// The position in the pickle where it is constructed.
    pub at: usize,
}

impl<'a> Checkpoint<'a> {
    /// The state dicts of a pickle.
    pub(super) fn find(pickle: &Pickle<'a>) -> Result<Self, Flaw> {
        let mut walk = Walk { pickle, seen: HashMap::new(), path: Vec::new(), sets: Vec::new() };
        walk.visit(pickle.root_id())?;
        let mut sets = walk.sets;
        if sets.iter().any(|set| !set.tensors.is_empty()) {
            sets.retain(|set| !set.tensors.is_empty());
        }
        for set in &mut sets {
            // The most specific of its keys.
            for place in 0..set.aliases.len() {
                if let (Some(key), Some(alias)) = (&mut set.key, set.aliases.get_mut(place))
                    && rank_of(alias) < rank_of(key)
                {
                    std::mem::swap(key, alias);
                }
            }
        }
        let main = (0..sets.len()).min_by_key(|&i| rank(&sets[i])).unwrap_or(0);
        let skipped = beside(pickle, sets.get(main).and_then(|set| set.key.as_deref()));
        Ok(Self { sets, main, skipped, root: described(pickle, pickle.root_id()) })
    }
}

/// The priority of a set for listing: one under a usual key, else the one at the top, else the largest.
fn rank(set: &NamedSet<'_>) -> (usize, usize) {
    match set.key.as_deref().map_or(1000, rank_of) {
        OTHER => (OTHER, usize::MAX - set.tensors.len()),
        rank => (rank, 0),
    }
}

/// The rank of keys that are not usual ones.
const OTHER: usize = 2000;

fn rank_of(key: &str) -> usize {
    let places: Option<Vec<usize>> =
        key.split('.').map(|part| CONTAINERS.iter().position(|container| *container == part)).collect();
    match places.as_deref() {
        Some([place]) => *place,
        Some([first, second]) => 10 * (first + 1) + second,
        _ => OTHER,
    }
}

/// Traverses nested dicts.
struct Walk<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// The dicts visited, with their indices in `sets`.
    seen: HashMap<Id, Option<usize>>,
    path: Vec<&'a str>,
    sets: Vec<NamedSet<'a>>,
}

impl<'a> Walk<'_, 'a> {
    fn visit(&mut self, dict: Id) -> Result<(), Flaw> {
        let key = (!self.path.is_empty()).then(|| self.path.join("."));
        if let Some(seen) = self.seen.get(&dict) {
            if let (Some(set), Some(key)) = (seen.and_then(|place| self.sets.get_mut(place)), key)
                && set.aliases.len() < ALIASES
            {
                set.aliases.push(key);
            }
            return Ok(());
        }
        self.seen.insert(dict, None);
        let entries = named(self.pickle, self.pickle.get(dict));
        let (mut tensors, mut unread) = (Vec::new(), Vec::new());
        for &(name, id) in &entries {
            match self.pickle.get(id) {
                Value::Tensor(parts) => tensors.push(resolve(self.pickle, name, parts)?),
                value => {
                    if let Some(class) = self.pickle.class(value).filter(|class| unread_kind(class).is_some()) {
                        unread.push(Unread { name: name.to_owned(), class });
                    }
                }
            }
        }
        if !tensors.is_empty() || !unread.is_empty() {
            self.seen.insert(dict, Some(self.sets.len()));
            self.sets.push(NamedSet { key, aliases: Vec::new(), tensors, unread });
        }
        for (name, id) in entries {
            let lower = name.to_lowercase();
            let aside = ASIDE.iter().any(|word| lower.contains(word));
            if self.path.len() < DEPTH && !aside && matches!(self.pickle.get(id), Value::Dict(_)) {
                self.path.push(name);
                self.visit(id)?;
                self.path.pop();
            }
        }
        Ok(())
    }
}

/// The entries of a dict whose keys are text, each key once, in the order of first insertion, with the last value.
fn named<'a>(pickle: &Pickle<'a>, dict: &Value<'a>) -> Vec<(&'a str, Id)> {
    let Value::Dict(pairs) = dict else { return Vec::new() };
    let mut entries: Vec<(&'a str, Id)> = Vec::new();
    let mut places: HashMap<&'a str, usize> = HashMap::new();
    for &(key, value) in pairs {
        let &Value::Text(name) = pickle.get(key) else { continue };
        let place = *places.entry(name).or_insert(entries.len());
        match entries.get_mut(place) {
            Some(entry) => entry.1 = value,
            None => entries.push((name, value)),
        }
    }
    entries
}

/// The entries next to the path to the set under `key`, and those of the set that are not tensors.
fn beside(pickle: &Pickle<'_>, key: Option<&str>) -> Vec<Skipped> {
    let (mut dict, mut skipped) = (pickle.root(), Vec::new());
    let mut way = key;
    loop {
        let entries = named(pickle, dict);
        // Keys may contain dots.
        let step = way.and_then(|way| {
            let leads = |name: &str| way.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('.'));
            let found = entries.iter().filter(|(_, id)| matches!(pickle.get(*id), Value::Dict(_)));
            found.filter_map(|&(name, id)| Some((name, id, leads(name)?))).max_by_key(|(name, ..)| name.len())
        });
        let aside = entries.iter().filter(|&&(name, id)| match step {
            Some((taken, ..)) => name != taken,
            None => !matches!(pickle.get(id), Value::Tensor(_)),
        });
        skipped.extend(aside.map(|&(name, id)| Skipped { name: name.to_owned(), kind: pickle.kind(id) }));
        if let Value::Dict(pairs) = dict {
            for &(key, value) in pairs {
                let name = match pickle.get(key) {
                    Value::Text(_) => continue,
                    Value::Int(number) => number.to_string(),
                    other => other.kind().to_owned(),
                };
                skipped.push(Skipped { name, kind: pickle.kind(value) });
            }
        }
        match step {
            Some((_, id, rest)) => {
                dict = pickle.get(id);
                way = Some(rest.trim_start_matches('.')).filter(|rest| !rest.is_empty());
            }
            None => return skipped,
        }
    }
}

/// A description of the pickled object.
fn described(pickle: &Pickle<'_>, id: Id) -> String {
    match pickle.get(id) {
        Value::Tensor(_) => "one tensor without a name".to_owned(),
        Value::List(items) | Value::Tuple(items) => {
            let what = items.first().map_or_else(String::new, |&first| format!(", the first a {}", pickle.kind(first)));
            format!("a {} of {} things{what}", pickle.kind(id), items.len())
        }
        Value::Dict(pairs) => format!("a dict of {} entries", pairs.len()),
        _ => format!("a {}", pickle.kind(id)),
    }
}

/// A tensor with its numbers resolved and checked against the bounds of its storage.
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

#[cfg(test)]
mod tests;
