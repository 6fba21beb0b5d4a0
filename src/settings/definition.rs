//! Settings as a stage definition writes them, as JSON; `pipeline::schema` reads the same language from YAML.

use serde_json::{Map, Value, json};

use super::{Setting, SettingType, Settings};

impl Settings<Value> {
    /// A mapping from names to their types, ranges, defaults and docs.
    pub fn definition(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, setting)| (name.clone(), setting.definition())).collect()
    }
}

impl Setting<Value> {
    fn definition(&self) -> Value {
        let name = match &self.of {
            SettingType::Any => "any",
            SettingType::Bool => "bool",
            SettingType::Int => "int",
            SettingType::Float => "float",
            SettingType::String => "string",
            SettingType::Size => "size",
            SettingType::Duration => "duration",
            SettingType::Seed => "seed",
            SettingType::List(_) => "list",
            SettingType::Map(_) => "map",
            SettingType::Union(_) => "union",
        };
        let mut written = Map::new();
        let mut put = |key: &str, value: Value| written.insert(key.to_owned(), value);
        put("type", json!(name));
        if let SettingType::List(of) = &self.of {
            let of = of.definition();
            // `of: float` is short for `of: { type: float }`.
            let short = of.as_object().filter(|of| of.len() == 1).and_then(|of| of.get("type")).cloned();
            put("of", short.unwrap_or(of));
        }
        match &self.default {
            Some(default) => drop(put("default", default.clone())),
            None if !self.required => drop(put("required", json!(false))),
            None => {}
        }
        if self.bounds.least.is_some() || self.bounds.most.is_some() {
            put("range", json!([self.bounds.least.map(number), self.bounds.most.map(number)]));
        }
        for (key, bound) in [("above", self.bounds.above), ("below", self.bounds.below)] {
            if let Some(bound) = bound {
                put(key, number(bound));
            }
        }
        if !self.one_of.is_empty() {
            put("one_of", json!(self.one_of));
        }
        if let Some(unit) = &self.unit {
            put("unit", json!(unit));
        }
        if let Some(doc) = &self.doc {
            put("doc", json!(doc));
        }
        match &self.of {
            SettingType::Map(settings) => drop(put("fields", Value::Object(settings.definition()))),
            SettingType::Union(variants) => {
                let variant =
                    |(name, settings): &(String, Settings<Value>)| (name.clone(), Value::Object(settings.definition()));
                put("variants", Value::Object(variants.iter().map(variant).collect()));
            }
            _ => {}
        }
        Value::Object(written)
    }
}

/// A whole number without a point.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}
