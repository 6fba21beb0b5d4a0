//! Settings as a JSON Schema, for editors.
//!
//! Where a pipeline has a value it may have a reference instead, such as `${loss}` or `${params.epochs}`, which only the program
//! can resolve: the schema accepts it anywhere, by the definition `reference` of the document.

use serde_json::{Map, Value, json};

use super::{Look, Readable, Setting, SettingType, Settings, TAG};

impl<V: Readable> Settings<V> {
    /// The properties of a mapping. Whether it lacks something is not said: presets may give it.
    pub fn json_schema(&self) -> Map<String, Value> {
        self.0.iter().map(|(name, setting)| (name.clone(), setting.json_schema())).collect()
    }

    /// The names of those that must be given.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(|(_, setting)| setting.required && setting.default.is_none())
            .map(|(name, _)| name.as_str())
    }

    fn object(&self, more: Map<String, Value>) -> Value {
        let properties: Map<String, Value> = more.into_iter().chain(self.json_schema()).collect();
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}

impl<V: Readable> Setting<V> {
    fn json_schema(&self) -> Value {
        let mut alternatives = self.alternatives();
        if alternatives.is_empty() {
            return self.described(Map::new());
        }
        alternatives.push(json!({ "$ref": "#/$defs/reference" }));
        if !self.required {
            alternatives.push(json!({ "type": "null" }));
        }
        self.described(Map::from_iter([("anyOf".to_owned(), Value::Array(alternatives))]))
    }

    /// What the value may be, any of these; anything at all if empty.
    fn alternatives(&self) -> Vec<Value> {
        if !self.one_of.is_empty() {
            return vec![json!({ "enum": self.one_of.iter().map(to_json).collect::<Vec<_>>() })];
        }
        let number = |name: &str| {
            let mut schema = Map::from_iter([("type".to_owned(), json!(name))]);
            let bounds = [
                ("minimum", self.bounds.least),
                ("maximum", self.bounds.most),
                ("exclusiveMinimum", self.bounds.above),
                ("exclusiveMaximum", self.bounds.below),
            ];
            schema.extend(bounds.into_iter().filter_map(|(key, bound)| Some((key.to_owned(), json!(bound?)))));
            Value::Object(schema)
        };
        let whole = json!({ "type": "integer", "minimum": 0 });
        match &self.of {
            SettingType::Any => Vec::new(),
            SettingType::Bool => vec![json!({ "type": "boolean" })],
            SettingType::Int => vec![number("integer")],
            SettingType::Float => vec![number("number")],
            SettingType::String => vec![json!({ "type": "string" })],
            SettingType::Size => vec![whole, json!({ "type": "string", "pattern": "^\\s*[0-9]" })],
            SettingType::Duration => vec![json!({ "type": "string", "pattern": "^\\s*[0-9]" })],
            SettingType::Seed => {
                let items = json!({ "anyOf": [whole, { "$ref": "#/$defs/reference" }] });
                vec![whole.clone(), json!({ "type": "array", "minItems": 1, "items": items })]
            }
            SettingType::List(of) => vec![json!({ "type": "array", "items": of.json_schema() })],
            SettingType::Map(settings) => vec![settings.object(Map::new())],
            SettingType::Union(variants) => {
                let names: Vec<&str> = variants.iter().map(|(name, _)| name.as_str()).collect();
                let variant = |(name, settings): &(String, Settings<V>)| {
                    settings.object(Map::from_iter([(TAG.to_owned(), json!({ "const": name }))]))
                };
                let mut all = vec![json!({ "enum": names })];
                all.extend(variants.iter().map(variant));
                all
            }
        }
    }

    fn described(&self, mut schema: Map<String, Value>) -> Value {
        if let Some(doc) = &self.doc {
            schema.insert("description".to_owned(), json!(doc));
        }
        if let Some(default) = &self.default {
            schema.insert("default".to_owned(), to_json(default));
        }
        Value::Object(schema)
    }
}

fn to_json<V: Readable>(value: &V) -> Value {
    match value.look() {
        Look::Null => Value::Null,
        Look::Bool(value) => json!(value),
        Look::Number(number) => Value::Number(number.clone()),
        Look::Text(text) => json!(text),
        Look::List(items) => items.iter().map(to_json).collect(),
        Look::Map => Value::Object(value.pairs().map(|(key, value)| (key.to_owned(), to_json(value))).collect()),
    }
}
