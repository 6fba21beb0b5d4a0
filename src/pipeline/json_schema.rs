//! JSON Schemas of pipelines and of stage definitions, from the same tables that check them.
//!
//! A schema sees one file: it knows no references' values, no definitions of the project's own and no relation between
//! stages. What it accepts may be refused by the program; what it refuses is always wrong.

use serde_json::{Map, Value, json};

use super::definition::{Definitions, KEYS as DEFINITION_KEYS};
use super::kinds::Kinds;
use super::load::KEYS as PIPELINE_KEYS;
use super::problem::{Report, Span};
use super::schema::TYPES;
use super::stages::KEYS as STAGE_KEYS;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of pipelines that use `definitions`, the built-in stage definitions as (name, YAML text).
pub fn pipeline_schema(kinds: &Kinds, definitions: &[(&str, &str)]) -> Value {
    let mut report = Report::default();
    let mut read = Definitions::built_in(kinds, definitions);
    let mut parameters = Map::new();
    let mut conditions = Vec::new();
    for (name, _) in definitions {
        let Some(definition) = read.get(name, Span::default(), &mut report) else { continue };
        let layers = definition.layers();
        // What a base requires, the definition may preset.
        let required: Vec<&str> = layers[0].1.required().collect();
        let known: Vec<&str> = layers.iter().flat_map(|(_, own)| own.names()).collect();
        let own: Vec<Value> =
            layers.iter().map(|(name, _)| json!({ "$ref": format!("#/$defs/{}", parameters_of(name)) })).collect();
        // Not `additionalProperties`, which does not see through a reference.
        let with = json!({
            "type": ["object", "null"], "allOf": own, "propertyNames": { "enum": known }, "required": required,
        });
        parameters.insert(parameters_of(name), json!({ "properties": layers[0].1.json_schema() }));
        let mut then = json!({ "properties": { "with": { "$ref": format!("#/$defs/{}", with_of(name)) } } });
        if !required.is_empty() {
            then["required"] = json!(["with"]);
        }
        parameters.insert(with_of(name), with);
        let uses = json!({ "properties": { "uses": { "const": name } }, "required": ["uses"] });
        conditions.push(json!({ "if": uses, "then": then }));
    }
    let names: Vec<&str> = definitions.iter().map(|(name, _)| *name).collect();
    parameters.insert("reference".to_owned(), reference());
    let stage = json!({
        "type": "object",
        "description": "A stage: a definition with its parameters, or a command",
        "properties": properties(&STAGE_KEYS, |key| stage_key(key, &names)),
        "additionalProperties": false,
        "oneOf": [{ "required": ["uses"] }, { "required": ["run"] }],
        "allOf": conditions,
    });
    parameters.insert("stage".to_owned(), stage);
    json!({
        "$schema": DIALECT,
        "title": "meanfield pipeline",
        "type": "object",
        "properties": properties(&PIPELINE_KEYS, pipeline_key),
        "additionalProperties": false,
        "required": ["stages"],
        "$defs": parameters,
    })
}

/// The schema of stage definitions.
pub fn definition_schema(kinds: &Kinds) -> Value {
    let names: Vec<&str> = kinds.names().collect();
    let keys =
        DEFINITION_KEYS.into_iter().chain(["description", "with", "cases", "in", "out", "env", "secrets", "shell"]);
    let settings = json!({ "type": ["object", "null"], "additionalProperties": { "$ref": "#/$defs/setting" } });
    let number = json!({ "type": "number" });
    let end = json!({ "type": ["number", "null"] });
    let setting = json!({
        "type": "object",
        "properties": {
            "type": { "enum": TYPES },
            "doc": { "type": ["string", "number", "boolean"], "description": "What the parameter does" },
            "unit": { "type": "string", "description": "What a number counts or measures" },
            "default": { "description": "The value when not given" },
            "required": { "type": "boolean" },
            "one_of": { "type": "array", "description": "The only values that it may have" },
            "range": { "type": "array", "prefixItems": [end, end], "minItems": 2, "maxItems": 2,
                "description": "Least and greatest value; null leaves an end open" },
            "above": number, "below": number,
            "of": { "$ref": "#/$defs/setting" },
            "fields": { "$ref": "#/$defs/settings" },
            "variants": { "type": "object", "additionalProperties": { "$ref": "#/$defs/settings" } },
        },
        "additionalProperties": false,
        "required": ["type"],
    });
    let key = |key: &str| match key {
        "kind" => json!({ "enum": names, "description": "A built-in stage kind" }),
        "params" => {
            json!({ "$ref": "#/$defs/settings", "description": "Parameters with their types, defaults and ranges" })
        }
        "cases" => json!({ "type": "object", "description": "Defaults by the value of a parameter" }),
        "in" => json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "null"] },
            "description": "Inputs by name: a sentence about each, or the path of a file beside the definition" }),
        other => stage_key(other, &[]),
    };
    json!({
        "$schema": DIALECT,
        "title": "meanfield stage definition",
        "type": "object",
        "properties": keys.map(|name| (name.to_owned(), key(name))).collect::<Map<_, _>>(),
        "additionalProperties": false,
        "oneOf": [{ "required": ["kind"] }, { "required": ["run"] }, { "required": ["uses"] }],
        "$defs": {
            "reference": reference(),
            "setting": { "anyOf": [{ "enum": TYPES }, setting] },
            "settings": settings,
        },
    })
}

fn properties(keys: &[&str], schema: impl Fn(&str) -> Value) -> Map<String, Value> {
    keys.iter().map(|key| ((*key).to_owned(), schema(key))).collect()
}

fn reference() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{", "description": "A reference such as ${loss} or ${params.epochs}" })
}

/// The name of the schema of a definition's own parameters, without what a JSON pointer would escape.
fn parameters_of(definition: &str) -> String {
    format!("parameters.{}", definition.replace('/', "."))
}

/// The same of `with:` as a whole, parameters of its bases included.
fn with_of(definition: &str) -> String {
    format!("with.{}", definition.replace('/', "."))
}

fn pipeline_key(key: &str) -> Value {
    let mapping = json!({ "type": ["object", "null"] });
    let points = json!({ "type": "array", "items": { "type": "object" } });
    let (schema, doc) = match key {
        "name" => (json!({ "type": ["string", "number"] }), "Name of the pipeline; the file's name if not given"),
        "description" => (json!({ "type": "string" }), "What the pipeline is for"),
        "params" => (mapping, "Values that `${params.NAME}` looks up"),
        "cases" => (mapping, "Sets of overrides, selected by the value of a parameter"),
        "axes" => (mapping, "Names and values: a list, a range such as 0..5, or a mapping from names to values"),
        "include" => (points, "Axis values; a point of the grid is kept if one of these matches"),
        "exclude" => (points, "Axis values; a point of the grid is left out if one of these matches"),
        "stages" => {
            let stage = json!({ "$ref": "#/$defs/stage" });
            (json!({ "type": "object", "minProperties": 1, "additionalProperties": stage }), "Stages by name")
        }
        other => return stage_key(other, &[]),
    };
    described(schema, doc)
}

fn stage_key(key: &str, definitions: &[&str]) -> Value {
    let text = json!({ "type": ["string", "number", "boolean"] });
    let texts =
        json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "number", "boolean"] } });
    let (schema, doc) = match key {
        "uses" if definitions.is_empty() => (json!({ "type": "string" }), "The definition that this one builds on"),
        "uses" => {
            let known = json!({ "anyOf": [{ "enum": definitions }, { "type": "string" }] });
            (known, "A built-in stage definition, or one of the project's `stages/`")
        }
        "run" => {
            let command = json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": text, "minItems": 1 }] });
            (command, "A command: text for a shell, or a list of a program and its arguments")
        }
        "shell" => (json!({ "type": ["string", "array"] }), "The shell of commands"),
        "in" => {
            let source = json!({ "anyOf": [{ "type": ["string", "null"] }, {
                "type": "object",
                "properties": {
                    "from": { "type": "string", "description": "A stage, or one of its outputs" },
                    "gather": { "description": "Axes to gather over, or all" },
                    "earlier": { "type": "string", "description": "An axis whose earlier values are gathered" },
                    "block": { "description": "Values of `earlier` that run side by side" },
                },
                "required": ["from"],
                "additionalProperties": false,
            }] });
            (
                json!({ "type": ["object", "null"], "additionalProperties": source }),
                "Inputs by name: a stage, an output of a stage, or a path such as ./file",
            )
        }
        "with" => (json!({ "type": ["object", "null"] }), "Parameters of the definition"),
        "out" => (
            json!({ "type": ["object", "array", "null"] }),
            "Outputs of a command by name, as paths in the cell's folder",
        ),
        "env" => (texts, "Environment variables of a command"),
        "secrets" => (
            json!({ "type": ["array", "null"], "items": { "type": "string" } }),
            "Environment variables that are passed on and never shown",
        ),
        "resources" => {
            let amount = json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }] });
            (
                json!({ "type": ["object", "null"], "additionalProperties": amount }),
                "Amounts of resources, such as { gpu: 1 } or { memory: 8GiB }",
            )
        }
        "retry" => (
            json!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 100 }, { "$ref": "#/$defs/reference" }] }),
            "How often a failed cell is run again",
        ),
        "timeout" => (json!({ "type": ["string", "null"] }), "How long a cell may take, such as 90s or 2h"),
        "description" => (text, "What it is for"),
        _ => (json!({}), ""),
    };
    described(schema, doc)
}

fn described(mut schema: Value, doc: &str) -> Value {
    if let Some(schema) = schema.as_object_mut().filter(|_| !doc.is_empty()) {
        schema.insert("description".to_owned(), json!(doc));
    }
    schema
}
