//! docs/protocols.md compared with the definitions: every value in a column with a definition's name is what that
//! definition sets, and every switch does what the page says.
//!
//! What is in `code` in such a column is YAML. `given` are the row's further parameters, `switch` what changes it,
//! `then` the result where that is more than the switch itself.

use serde_json::{Map, Value, json};

use super::super::definitions;
use super::parameters;

/// The tables of docs/protocols.md: rows of cells, the heading first.
fn tables() -> Vec<Vec<Vec<&'static str>>> {
    let text = include_str!("../../../docs/protocols.md");
    let lines: Vec<&str> = text.lines().collect();
    let tables = lines.split(|line| !line.starts_with('|')).filter(|table| !table.is_empty());
    let cells = |line: &&'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    tables.map(|table| table.iter().map(cells).filter(|row| !row[0].starts_with("---")).collect()).collect()
}

/// What is in `code` in a cell.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The mappings in `code` in a cell, merged into one.
fn settings(cell: &str) -> Value {
    let read = |text: &str| -> Map<String, Value> {
        serde_yaml::from_str(text).unwrap_or_else(|error| panic!("`{text}` is no `name: value`: {error}"))
    };
    let mut all = json!({});
    code(cell).into_iter().for_each(|text| put(&mut all, &Value::Object(read(text))));
    all
}

/// Puts `over` on top of `under`, field by field, unless they are of different kinds.
fn put(under: &mut Value, over: &Value) {
    match (&mut *under, over) {
        (Value::Object(under), Value::Object(over)) if !over.contains_key("kind") => {
            over.iter().for_each(|(name, value)| put(under.entry(name).or_insert(Value::Null), value));
        }
        _ => under.clone_from(over),
    }
}

/// What of `expected` is not so in `found`: an absent value is null, and `1` is `1.0`.
fn missing(found: &Value, expected: &Value) -> Option<String> {
    match (found, expected) {
        (_, Value::Object(fields)) => fields.iter().find_map(|(name, expected)| {
            missing(found.get(name).unwrap_or(&Value::Null), expected).map(|inner| format!("{name}: {inner}"))
        }),
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            found.iter().zip(expected).find_map(|(found, expected)| missing(found, expected))
        }
        (Value::Number(_), Value::Number(_)) if found.as_f64() == expected.as_f64() => None,
        _ => (found != expected).then(|| format!("{found}, and the page says {expected}")),
    }
}

/// Plans a stage of `definition` with `with`, and compares the result with `expected`. Returns the number of values
/// compared.
fn hold(definition: &str, with: &Value, expected: &Value) -> usize {
    let mut told = if definition.starts_with("search") { json!({ "at": 0 }) } else { json!({}) };
    put(&mut told, &json!({ "loss": "mean_field_class_wise_multi_similarity" }));
    with.as_object().into_iter().flatten().for_each(|(name, value)| put(&mut told[name], value));
    let inputs = if definition.starts_with("search") { "past: raw, tried: raw" } else { "images: images" };
    let found = parameters(&format!("{{ uses: {definition}, in: {{ {inputs} }}, with: {told} }}"));
    // A loss may be written by its name.
    let mut expected = expected.clone();
    if let Some(kind) = expected.get("loss").and_then(Value::as_str).map(str::to_owned) {
        expected["loss"] = json!({ "kind": kind });
    }
    if let Some(wrong) = missing(&Value::Object(found), &expected) {
        panic!("{definition} with {with}: {wrong}");
    }
    fn leaves(value: &Value) -> usize {
        value.as_object().map_or(1, |fields| fields.values().map(leaves).sum())
    }
    leaves(&expected)
}

#[test]
fn every_value_and_switch_on_the_protocols_page_matches_the_definitions() {
    let known: Vec<&str> = definitions().iter().map(|(name, _)| *name).collect();
    let of = |head: &str| -> Vec<&str> {
        let [name] = code(head)[..] else { return Vec::new() };
        let all = |known: &&str| name.strip_suffix('*').map_or(*known == name, |prefix| known.starts_with(prefix));
        if head == format!("`{name}`") { known.iter().copied().filter(all).collect() } else { Vec::new() }
    };
    let (mut held, mut switched) = (0, 0);
    for table in tables() {
        let (head, rows) = table.split_first().unwrap();
        let place = |name: &str| head.iter().position(|cell| *cell == name);
        // A column for each parameter, a row for each definition or value of one parameter.
        let by_value = head[0].split_once(" with ").map(|(definition, name)| (code(definition)[0], code(name)[0]));
        if head[0] == "definition" || by_value.is_some() {
            for row in rows {
                for name in code(row[0]) {
                    let (definition, with) = match by_value {
                        Some((definition, parameter)) => (definition.to_owned(), json!({ parameter: name })),
                        None => (format!("train/traditional/{name}"), json!({})),
                    };
                    for (path, cell) in head.iter().zip(row).skip(1) {
                        let value = serde_yaml::from_str(cell).unwrap();
                        let nest = |value, name: &str| json!({ name: value });
                        held += hold(&definition, &with, &code(path)[0].split('.').rev().fold(value, nest));
                    }
                }
            }
            continue;
        }
        for row in rows {
            let given = place("given").map_or(json!({}), |place| settings(row[place]));
            let mut used = Vec::new();
            for (head, cell) in head.iter().zip(row) {
                for definition in of(head) {
                    used.push(definition);
                    held += hold(definition, &given, &settings(cell));
                }
            }
            if let (Some(switch), Some(then), [definition, ..]) = (place("switch"), place("then"), &used[..]) {
                let (switch, then) = (settings(row[switch]), settings(row[then]));
                let mut with = given.clone();
                put(&mut with, &switch);
                let expected = if then == json!({}) { &switch } else { &then };
                assert_ne!(expected, &json!({}), "{row:?}");
                assert!(
                    missing(&settings(row[place(&format!("`{definition}`")).unwrap()]), expected).is_some(),
                    "{row:?}"
                );
                hold(definition, &with, expected);
                switched += 1;
            }
        }
    }
    assert!(held > 300 && switched >= 15, "{held} values, {switched} switches");
}
