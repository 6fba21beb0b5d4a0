//! The key of a cell: BLAKE3 over the fields that can change its result.
//!
//! | in the key | not in the key, because it cannot change the bytes |
//! | --- | --- |
//! | kind and version of its implementation, or the command, its shell and the digest of its program | names of pipeline, stage and cell |
//! | resolved parameters, defaults filled in | comments, key order, descriptions |
//! | name, form and content digest of every direct input, and the labels of gathered ones | where an input comes from, and its times |
//! | names and paths of the outputs | where outputs are published |
//! | declared environment variables | secrets, which must change no result; every other one: a cell does not see them |
//! | device class (`cpu`, `gpu`) | which device, resources, threads, retries, timeouts |
//!
//! Inputs enter by content, not by key: a cell that runs again with equal outputs stops the change there.
//!
//! The fields are walked once, by [`walk`]; the hasher and the explainer are two readers of that walk, so that an
//! explanation cannot drift from the key. A field is hashed as (name, type tag, value), each prefixed by its length.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::folders::FolderChange;
use crate::pipeline::model::{Cell, Task};
use crate::store::digest::Digest;
use crate::store::{Artifact, Form};

/// Version of the walk. Raise it when the fields or their encoding change: every key changes with it.
const CONTEXT: &str = "meanfield 2026 cell key v1";

/// Before the names of environment variables among the fields.
const ENV: &str = "env.";

/// How people see a text that may be a password: two that are equal look equal.
pub fn hidden(text: &str) -> String {
    format!("{HIDDEN}{}", Digest::of(text.as_bytes()).short())
}

const HIDDEN: &str = "digest ";

/// The form of an input that is a folder.
const FOLDER: &str = "folder";

/// The content of an input.
#[derive(Debug, Clone)]
pub enum InputDigest<'a> {
    /// A file or folder.
    One(Artifact),
    /// Gathered ones with their labels, in order.
    Many(Vec<(&'a str, Artifact)>),
}

/// The parts of a key that the cell itself does not hold.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Parallel to [`Cell::inputs`]: content and the extension under which a command finds it.
    pub inputs: Vec<(InputDigest<'a>, Cow<'a, str>)>,
    /// Digests of the programs that a command starts, by the name that it uses.
    pub programs: Vec<(&'a str, Digest)>,
    /// `cpu` or `gpu`.
    pub device: &'static str,
}

/// A reader of the fields.
pub trait Fields {
    /// One field.
    fn field(&mut self, name: &str, value: Field<'_>);
}

/// A typed value of a field.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(&'a str),
    /// A text that people see as its digest.
    Hidden(&'a str),
    Digest(&'a Digest),
    /// An empty list or map, which has no leaves of its own.
    Empty(&'static str),
}

/// Walks the fields of `cell`, in an order that depends on nothing but their names.
pub fn walk(cell: &Cell, around: &Surroundings<'_>, reader: &mut impl Fields) {
    match &cell.task {
        Task::Kind { name, version, parameters, .. } => {
            reader.field("kind", Field::Text(name));
            reader.field("version", Field::Int(i128::from(*version)));
            walk_map("with", parameters, reader);
        }
        Task::Shell(script) => {
            reader.field("run", Field::Text(&script.text));
            for (i, value) in script.values.iter().enumerate() {
                reader.field(&format!("run.value.{}", i + 1), Field::Text(value));
            }
            reader.field("shell", Field::Text(&script.shell_line()));
        }
        Task::Program(words) => {
            for (i, word) in words.iter().enumerate() {
                reader.field(&format!("run.{i}"), Field::Text(word));
            }
        }
    }
    for (name, digest) in &around.programs {
        reader.field(&format!("program.{name}"), Field::Digest(digest));
    }
    for (input, (digest, extension)) in cell.inputs.iter().zip(&around.inputs) {
        match digest {
            InputDigest::One(artifact) => walk_artifact(&format!("in.{}", input.name), artifact, reader),
            InputDigest::Many(members) => {
                reader.field(&format!("in.{}", input.name), Field::Int(members.len() as i128));
                for (label, artifact) in members {
                    walk_artifact(&format!("in.{}[{label}]", input.name), artifact, reader);
                }
            }
        }
        if !extension.is_empty() && !matches!(cell.task, Task::Kind { .. }) {
            reader.field(&format!("in.{}.extension", input.name), Field::Text(extension));
        }
    }
    for output in &cell.outputs {
        reader.field(&format!("out.{}", output.name), Field::Text(&output.path));
    }
    for (name, value) in &cell.env {
        reader.field(&format!("{ENV}{name}"), Field::Hidden(value));
    }
    reader.field("device", Field::Text(around.device));
}

fn walk_artifact(name: &str, artifact: &Artifact, reader: &mut impl Fields) {
    reader.field(name, Field::Digest(&artifact.digest));
    match artifact.form {
        Form::Tree => reader.field(&format!("{name}.form"), Field::Text(FOLDER)),
        Form::File { executable: true } => reader.field(&format!("{name}.form"), Field::Text("executable")),
        Form::File { executable: false } => {}
    }
}

fn walk_map(prefix: &str, map: &Map<String, Value>, reader: &mut impl Fields) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    if keys.is_empty() {
        reader.field(prefix, Field::Empty("{}"));
    }
    for key in keys {
        walk_value(&format!("{prefix}.{key}"), &map[key], reader);
    }
}

fn walk_value(name: &str, value: &Value, reader: &mut impl Fields) {
    match value {
        Value::Null => reader.field(name, Field::Null),
        Value::Bool(bit) => reader.field(name, Field::Bool(*bit)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => reader.field(name, Field::Int(i128::from(n))),
            (_, Some(n), _) => reader.field(name, Field::Int(i128::from(n))),
            (.., float) => reader.field(name, Field::Float(float.unwrap_or(f64::NAN))),
        },
        Value::String(text) => reader.field(name, Field::Text(text)),
        Value::Array(items) if items.is_empty() => reader.field(name, Field::Empty("[]")),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                walk_value(&format!("{name}.{i}"), item, reader);
            }
        }
        Value::Object(map) => walk_map(name, map, reader),
    }
}

/// A reader that computes a digest.
struct Hasher {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Hasher {
    fn new() -> Hasher {
        Hasher { hasher: blake3::Hasher::new_derive_key(CONTEXT), buffer: Vec::with_capacity(128) }
    }

    fn digest(&self) -> Digest {
        Digest(*self.hasher.finalize().as_bytes())
    }
}

impl Fields for Hasher {
    fn field(&mut self, name: &str, value: Field<'_>) {
        let buffer = &mut self.buffer;
        buffer.clear();
        let mut part = |tag: u8, bytes: &[u8]| {
            buffer.push(tag);
            buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            buffer.extend_from_slice(bytes);
        };
        part(b'k', name.as_bytes());
        match value {
            Field::Null => part(b'n', &[]),
            Field::Bool(bit) => part(b'b', &[u8::from(bit)]),
            Field::Int(n) => part(b'i', &n.to_le_bytes()),
            // Minus zero and zero give the same results everywhere here, but not by the standard: keep the bits.
            Field::Float(x) => part(b'f', &x.to_bits().to_le_bytes()),
            Field::Text(text) | Field::Hidden(text) => part(b't', text.as_bytes()),
            Field::Digest(digest) => part(b'd', &digest.0),
            Field::Empty(form) => part(b'e', form.as_bytes()),
        }
        self.hasher.update(buffer);
    }
}

/// A reader that passes on all fields but those of some parameters.
struct Without<'a, F> {
    /// `with.NAME` of each.
    fields: &'a [String],
    inner: F,
}

impl<F: Fields> Fields for Without<'_, F> {
    fn field(&mut self, name: &str, value: Field<'_>) {
        // `with.a` is the parameter itself, `with.a.b` a part of it, `with.ab` another one.
        let of =
            |field: &String| name.strip_prefix(&**field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if !self.fields.iter().any(of) {
            self.inner.field(name, value);
        }
    }
}

/// The key of `cell`.
pub fn key(cell: &Cell, around: &Surroundings<'_>) -> Digest {
    let mut hasher = Hasher::new();
    walk(cell, around, &mut hasher);
    hasher.digest()
}

/// The key of `cell` without the parameters in which a cell may differ from one whose work it continues: cells that
/// share it share their work. The `key` itself for cells without such parameters.
pub fn lineage(cell: &Cell, around: &Surroundings<'_>, key: Digest) -> Digest {
    let Task::Kind { continues: names @ [_, ..], .. } = &cell.task else { return key };
    let fields: Vec<String> = names.iter().map(|name| format!("with.{name}")).collect();
    let mut reader = Without { fields: &fields, inner: Hasher::new() };
    walk(cell, around, &mut reader);
    reader.inner.digest()
}

/// The same fields for people: (name, value) in the order of the walk.
pub fn explain(cell: &Cell, around: &Surroundings<'_>) -> Vec<(String, String)> {
    struct Explainer(Vec<(String, String)>);
    impl Fields for Explainer {
        fn field(&mut self, name: &str, value: Field<'_>) {
            let value = match value {
                Field::Null => "null".to_owned(),
                Field::Bool(bit) => bit.to_string(),
                Field::Int(n) => n.to_string(),
                Field::Float(x) => format!("{x:?}"),
                Field::Text(text) => text.to_owned(),
                Field::Hidden(text) => hidden(text),
                Field::Digest(digest) => digest.short(),
                Field::Empty(form) => form.to_owned(),
            };
            self.0.push((name.to_owned(), value));
        }
    }
    let mut explainer = Explainer(Vec::new());
    walk(cell, around, &mut explainer);
    explainer.0
}

/// One difference between two keys.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// The field's name, such as `with.loss.margin`.
    pub field: String,
    /// Its value before; `None` if it was not there.
    pub old: Option<String>,
    /// Its value now; `None` if it was removed.
    pub new: Option<String>,
    /// Whether both values are digests of folders.
    #[serde(skip)]
    pub of_folders: bool,
    /// What changed in the folder, once the plan has looked at both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderChange>,
}

/// What changed from `old` to `new`, in the order of `new`, removed fields last.
pub fn changes(old: &[(String, String)], new: &[(String, String)]) -> Vec<Change> {
    // An index of an earlier version keeps values in the clear.
    let shown = |name: &str, value: &String| match name.starts_with(ENV) && !value.starts_with(HIDDEN) {
        true => hidden(value),
        false => value.clone(),
    };
    let find = |fields: &[(String, String)], name: &str| {
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| shown(name, value))
    };
    let is_folder = |fields, name: &str| find(fields, &format!("{name}.form")).as_deref() == Some(FOLDER);
    let mut changes = Vec::new();
    for (field, value) in new {
        let before = find(old, field);
        if before.as_ref() != Some(value) {
            let of_folders = is_folder(old, field) && is_folder(new, field);
            changes.push(Change {
                field: field.clone(),
                old: before,
                new: Some(value.clone()),
                of_folders,
                folder: None,
            });
        }
    }
    for (field, value) in old {
        if find(new, field).is_none() {
            let old = Some(shown(field, value));
            changes.push(Change { field: field.clone(), old, new: None, of_folders: false, folder: None });
        }
    }
    changes
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(folder) = &self.folder {
            return write!(f, "{}: {folder}", self.field);
        }
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "{}: {old} -> {new}", self.field),
            (None, Some(new)) => write!(f, "{}: (new) {new}", self.field),
            (Some(old), None) => write!(f, "{}: {old} -> (removed)", self.field),
            (None, None) => f.write_str(&self.field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::model::{Input, Output, Source};
    use serde_json::json;
    use std::collections::{BTreeMap, HashSet};

    fn cell(parameters: Value) -> Cell {
        let Value::Object(parameters) = parameters else { panic!("an object") };
        Cell {
            stage: 0,
            coordinates: Box::default(),
            task: Task::Kind {
                name: "train".into(),
                version: 1,
                parameters: parameters.into(),
                continues: &["epochs"],
            },
            inputs: vec![Input { name: "images".into(), source: Source::Path("x".into()) }],
            outputs: vec![Output { name: "model".into(), path: "model".into(), publish: None }],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            secrets: vec!["TOKEN".into()],
        }
    }

    fn lineage_of(cell: &Cell, around: &Surroundings<'_>) -> Digest {
        lineage(cell, around, key(cell, around))
    }

    fn around(content: &[u8]) -> Surroundings<'static> {
        let artifact = Artifact { form: Form::Tree, digest: Digest::of(content), size: 1 };
        Surroundings { inputs: vec![(InputDigest::One(artifact), "".into())], programs: vec![], device: "cpu" }
    }

    #[test]
    fn key_order_does_not_matter_and_everything_else_does() {
        let base = cell(json!({"a": 1, "b": {"c": [1, 2], "d": 0.5}}));
        let reference = key(&base, &around(b"x"));
        assert_eq!(reference, key(&cell(json!({"b": {"d": 0.5, "c": [1, 2]}, "a": 1})), &around(b"x")));

        let mut keys = HashSet::from([reference, key(&base, &around(b"y"))]);
        for parameters in [
            json!({"a": 1.0, "b": {"c": [1, 2], "d": 0.5}}),
            json!({"a": "1", "b": {"c": [1, 2], "d": 0.5}}),
            json!({"a": true, "b": {"c": [1, 2], "d": 0.5}}),
            json!({"a": 1, "b": {"c": [2, 1], "d": 0.5}}),
            json!({"a": 1, "b": {"c": [], "d": 0.5}}),
            json!({"a": 1, "b": {"c": {}, "d": 0.5}}),
            json!({"a": 1, "b": {"c": null, "d": 0.5}}),
            json!({"a": 1, "b": {"d": 0.5}}),
            json!({"b": {"c": [1, 2], "d": 0.5}}),
        ] {
            assert!(keys.insert(key(&cell(parameters.clone()), &around(b"x"))), "{parameters}");
        }
        let mut other = cell(json!({"a": 1, "b": {"c": [1, 2], "d": 0.5}}));
        other.env.insert("A".into(), "2".into());
        assert!(keys.insert(key(&other, &around(b"x"))));
        other.env.remove("A");
        assert!(keys.insert(key(&other, &around(b"x"))));
        assert!(keys.insert(key(&base, &Surroundings { device: "gpu", ..around(b"x") })));
    }

    #[test]
    fn cells_that_differ_in_the_parameters_they_continue_with_share_their_lineage() {
        let of = |parameters| lineage_of(&cell(parameters), &around(b"x"));
        let short = of(json!({"epochs": 5, "epochs_more": 1, "rate": 0.1}));
        assert_eq!(short, of(json!({"epochs": 9, "epochs_more": 1, "rate": 0.1})));
        assert_eq!(short, of(json!({"epochs": {"a": 1}, "epochs_more": 1, "rate": 0.1})));
        assert_ne!(short, of(json!({"epochs": 5, "epochs_more": 2, "rate": 0.1})));
        assert_ne!(short, of(json!({"epochs": 5, "epochs_more": 1, "rate": 0.2})));
        assert_ne!(short, lineage_of(&cell(json!({"epochs": 5, "epochs_more": 1, "rate": 0.1})), &around(b"y")));
        let plain = cell(json!({"rate": 0.1}));
        assert_eq!(lineage_of(&plain, &around(b"x")), key(&plain, &around(b"x")));
    }

    #[test]
    fn people_see_the_digest_of_a_variable_and_never_a_secret() {
        let secret = |value: &str| {
            let mut cell = cell(json!({}));
            cell.env.insert("A".into(), value.into());
            explain(&cell, &around(b"x"))
        };
        let (one, two) = (secret("pass-1"), secret("pass-2"));
        assert!(!format!("{one:?}").contains("pass-1") && !format!("{one:?}").contains("TOKEN"));
        assert_eq!(changes(&one, &two).len(), 1);
        // What an index of an earlier version holds.
        let old: Vec<_> = one
            .iter()
            .map(|(name, value)| match name.starts_with(ENV) {
                true => (name.clone(), "pass-1".to_owned()),
                false => (name.clone(), value.clone()),
            })
            .collect();
        assert_eq!(changes(&old, &one), []);
        assert!(!format!("{:?}", changes(&old, &two)).contains("pass"));
        assert!(!format!("{:?}", changes(&old, &[])).contains("pass"));
    }

    #[test]
    fn a_secret_is_no_part_of_the_key() {
        let (with, mut without) = (cell(json!({})), cell(json!({})));
        without.secrets.clear();
        assert_eq!(key(&with, &around(b"x")), key(&without, &around(b"x")));
    }

    #[test]
    fn an_explanation_names_old_and_new_value() {
        let old = explain(&cell(json!({"margin": 0.1, "gone": 1})), &around(b"x"));
        let new = explain(&cell(json!({"margin": 0.2, "fresh": true})), &around(b"x"));
        let text: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["with.fresh: (new) true", "with.margin: 0.1 -> 0.2", "with.gone: 1 -> (removed)"]);
    }
}
