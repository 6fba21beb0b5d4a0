//! Settings from the declaration of a Rust type.
//!
//! `schemars` turns the type into a JSON Schema: names and types from serde's view of it, docs from the doc comments, ranges
//! from `#[schemars(range(..))]`, defaults from `#[serde(default)]` and `Default`. Of a doc comment the first paragraph is for
//! users. What JSON Schema has no word for is an extension: `x-type` (`any`, `size`, `duration`, `seed`), `x-unit`,
//! and the marks `x-required` and `x-optional` of a field that has a default in Rust and none for users.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Bounds, Setting, SettingType, Settings, TAG};

static DECLARED: Mutex<BTreeMap<TypeId, &'static Setting<Value>>> = Mutex::new(BTreeMap::new());
static NOTHING: Settings<Value> = Settings(Vec::new());

impl Settings<Value> {
    /// The settings that the fields of `T` declare.
    pub fn of<T: JsonSchema + 'static>() -> &'static Self {
        match &Setting::of::<T>().of {
            SettingType::Map(settings) => settings,
            _ => &NOTHING,
        }
    }

    /// What is wrong with the values of `T`: (path, half a sentence) pairs, none if all are within their ranges. `T` is
    /// declared so that all of it becomes JSON.
    pub fn faults_of<T: JsonSchema + Serialize + 'static>(values: &T) -> Vec<(String, String)> {
        Setting::faults_of(values)
    }
}

impl Setting<Value> {
    /// The setting whose value is a `T`, read from its declaration once.
    pub fn of<T: JsonSchema + 'static>() -> &'static Self {
        let mut declared = DECLARED.lock().unwrap_or_else(PoisonError::into_inner);
        declared.entry(TypeId::of::<T>()).or_insert_with(|| {
            let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
            Box::leak(Box::new(Self::read(settings.into_generator().into_root_schema_for::<T>().as_value())))
        })
    }

    /// As [`Settings::faults_of`], for a union too.
    pub fn faults_of<T: JsonSchema + Serialize + 'static>(value: &T) -> Vec<(String, String)> {
        let json = serde_json::to_value(value).unwrap_or_default();
        Self::of::<T>().check_complete(&json, "").iter().map(super::Fault::message).collect()
    }

    fn read(schema: &Value) -> Self {
        let empty = Map::new();
        let outer = schema.as_object().unwrap_or(&empty);
        // `Option<T>` is `T`, or null.
        let inner = ["anyOf", "oneOf"].into_iter().find_map(|key| {
            let choices: Vec<&Value> = outer.get(key)?.as_array()?.iter().filter(|choice| !is_null(choice)).collect();
            if let [one] = choices[..] { one.as_object() } else { None }
        });
        let schema = inner.unwrap_or(outer);
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let types = match schema.get("type") {
            Some(Value::Array(names)) => names.iter().find(|name| *name != "null").and_then(Value::as_str),
            Some(name) => name.as_str(),
            None => None,
        };
        let mut one_of = Vec::new();
        let of = match (text("x-type"), types, choices(schema)) {
            (Some("size"), ..) => SettingType::Size,
            (Some("duration"), ..) => SettingType::Duration,
            (Some("seed"), ..) => SettingType::Seed,
            (Some(_), ..) => SettingType::Any,
            (None, _, Some(Choices::Words(words))) => {
                one_of = words;
                SettingType::String
            }
            (None, _, Some(Choices::Variants(variants))) => SettingType::Union(variants),
            (None, Some("boolean"), None) => SettingType::Bool,
            (None, Some("integer"), None) => SettingType::Int,
            (None, Some("number"), None) => SettingType::Float,
            (None, Some("string"), None) => SettingType::String,
            (None, Some("array"), None) => {
                SettingType::List(Box::new(Self::read(schema.get("items").unwrap_or(&Value::Null))))
            }
            (None, Some("object"), None) if schema.contains_key("properties") => SettingType::Map(fields(schema, "")),
            _ => SettingType::Any,
        };
        // Of a size or a seed the type says it.
        let number = matches!(of, SettingType::Int | SettingType::Float);
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64).filter(|_| number);
        let mut bounds = Bounds {
            least: bound("minimum"),
            most: bound("maximum"),
            above: bound("exclusiveMinimum"),
            below: bound("exclusiveMaximum"),
        };
        // The least value of the Rust type, which the exclusive bound replaces.
        if bounds.above.is_some() {
            bounds.least = None;
        }
        let described = outer.get("description").or(schema.get("description")).and_then(Value::as_str);
        let doc = described.map(|text| {
            let first = text.split("\n\n").next().unwrap_or_default();
            let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
            line.strip_suffix('.').map_or(line.clone(), str::to_owned)
        });
        let default = outer.get("default").filter(|default| !default.is_null()).map(|default| of.short(default));
        let unit = text("x-unit").map(str::to_owned);
        Self { required: default.is_none(), of, bounds, one_of, default, doc, unit }
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|name| name == "null")
}

/// What an enum may be.
enum Choices {
    /// Words.
    Words(Vec<Value>),
    /// Mappings with a tag.
    Variants(Vec<(String, Settings<Value>)>),
}

fn choices(schema: &Map<String, Value>) -> Option<Choices> {
    let listed = schema.get("enum").and_then(Value::as_array);
    if let Some(words) = listed {
        return Some(Choices::Words(words.iter().filter(|word| !word.is_null()).cloned().collect()));
    }
    let choices = schema.get("oneOf").and_then(Value::as_array)?;
    let (mut words, mut variants) = (Vec::new(), Vec::new());
    for choice in choices {
        if let Some(word) = choice.get("const") {
            words.push(word.clone());
        } else if let Some(more) = choice.get("enum").and_then(Value::as_array) {
            words.extend(more.iter().cloned());
        } else if let Some(name) = choice.pointer(&format!("/properties/{TAG}/const")).and_then(Value::as_str) {
            variants.push((name.to_owned(), choice.as_object().map(|choice| fields(choice, TAG)).unwrap_or_default()));
        }
    }
    Some(if variants.is_empty() { Choices::Words(words) } else { Choices::Variants(variants) })
}

/// The properties of an object, without its tag if it has one.
fn fields(schema: &Map<String, Value>, tag: &str) -> Settings<Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let required = schema.get("required").and_then(Value::as_array);
    let fields = properties.into_iter().flatten().filter(|(name, _)| *name != tag);
    let field = |(name, schema): (&String, &Value)| {
        let mut setting = Setting::read(schema);
        let marked = |mark: &str| schema.get(mark).is_some_and(|mark| mark == true);
        setting.required = required.is_some_and(|required| required.iter().any(|other| other == name));
        if marked("x-required") || marked("x-optional") {
            setting.default = None;
            setting.required = marked("x-required");
        }
        (name.clone(), setting)
    };
    Settings(fields.map(field).collect())
}

impl SettingType<Value> {
    /// A default as people write it: the bare name of a variant whose settings have their defaults, and only those settings
    /// of a mapping that differ from theirs.
    fn short(&self, default: &Value) -> Value {
        let Value::Object(values) = default else { return default.clone() };
        let differ = |settings: &Settings<Value>| -> Map<String, Value> {
            let given = |(name, value): (&String, &Value)| {
                let setting = settings.get(name)?;
                let value = setting.of.short(value);
                let same = setting.default.as_ref() == Some(&value) || (setting.default.is_none() && value.is_null());
                (!same).then(|| (name.clone(), value))
            };
            values.iter().filter_map(given).collect()
        };
        match self {
            Self::Map(settings) => Value::Object(differ(settings)),
            Self::Union(variants) => {
                let tag = values.get(TAG);
                let variant = variants.iter().find(|(name, _)| tag.is_some_and(|tag| tag == name));
                let rest = variant.map(|(_, settings)| differ(settings)).unwrap_or_default();
                match tag {
                    Some(tag) if rest.is_empty() => tag.clone(),
                    Some(tag) => Value::Object([(TAG.to_owned(), tag.clone())].into_iter().chain(rest).collect()),
                    None => default.clone(),
                }
            }
            _ => default.clone(),
        }
    }
}
