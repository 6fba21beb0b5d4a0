//! The JSON Schemas of `docs/schema/`: what they are, what they accept and what they refuse.

use std::fs;
use std::path::{Path, PathBuf};

use boon::{Compiler, Schemas};
use serde_json::Value;

use super::{definitions, kinds};
use crate::pipeline::{definition_schema, pipeline_schema};
use crate::text::assert_committed;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// YAML as a pipeline has it: the braces of a reference need no quotes.
fn read(yaml: &str) -> Value {
    let mut text = String::new();
    let mut rest = yaml;
    while let Some(start) = rest.find("${") {
        let end = start + rest[start..].find('}').unwrap();
        text.extend([&rest[..start], "$\u{e000}", &rest[start + 2..end], "\u{e001}"]);
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    fn back(value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(text.replace('\u{e000}', "{").replace('\u{e001}', "}")),
            Value::Array(items) => items.into_iter().map(back).collect(),
            Value::Object(map) => map.into_iter().map(|(key, value)| (key, back(value))).collect(),
            other => other,
        }
    }
    back(serde_yaml::from_str(&text).unwrap())
}

/// A validator's message for each text; nothing for one that the schema accepts.
fn refusals<'a>(schema: &Value, texts: impl IntoIterator<Item = &'a str>) -> Vec<Option<String>> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("https://meanfield.invalid/schema.json", schema.clone()).unwrap();
    let index = compiler.compile("https://meanfield.invalid/schema.json", &mut schemas).unwrap();
    let refusal = |text: &str| {
        let value = read(text);
        schemas.validate(&value, index).err().map(|error| error.to_string())
    };
    texts.into_iter().map(refusal).collect()
}

fn yaml_files(folder: &str) -> Vec<(PathBuf, String)> {
    let files = walkdir::WalkDir::new(root().join(folder)).sort_by_file_name().into_iter().map(Result::unwrap);
    let yaml = files.map(|file| file.into_path()).filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    yaml.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn the_committed_schemas_are_those_of_the_program() {
    let schemas =
        [("pipeline", pipeline_schema(&kinds(), &definitions())), ("definition", definition_schema(&kinds()))];
    for (name, schema) in schemas {
        let path = root().join(format!("docs/schema/{name}.json"));
        assert_committed(&path, &format!("{schema:#}\n"), "committed_schemas");
    }
}

#[test]
fn every_shipped_pipeline_names_its_schema_and_is_valid() {
    let pipelines = yaml_files("pipelines");
    assert!(pipelines.len() >= 13);
    let schema = pipeline_schema(&kinds(), &definitions());
    let refused = refusals(&schema, pipelines.iter().map(|(_, text)| text.as_str()));
    for ((path, text), refusal) in pipelines.iter().zip(refused) {
        let first = text.lines().next().unwrap();
        assert_eq!(first, "# yaml-language-server: $schema=../docs/schema/pipeline.json", "{}", path.display());
        assert_eq!(refusal, None, "{}", path.display());
    }
}

#[test]
fn every_shipped_definition_is_valid() {
    let definitions = yaml_files("stages");
    let refused = refusals(&definition_schema(&kinds()), definitions.iter().map(|(_, text)| text.as_str()));
    for ((path, _), refusal) in definitions.iter().zip(refused) {
        assert_eq!(refusal, None, "{}", path.display());
    }
}

#[test]
fn a_wrong_pipeline_is_refused_where_it_is_wrong() {
    let model = |with: &str| format!("stages: {{ model: {{ uses: train, in: {{ images: x }}, with: {with} }} }}");
    let wrong = [
        "name: empty".to_owned(),
        "stages: {}".to_owned(),
        "stage: { a: { run: 'true' } }\nstages: { a: { run: 'true' } }".to_owned(),
        "stages: { a: { in: { x: y } } }".to_owned(),
        "stages: { a: { run: 'true', uses: train } }".to_owned(),
        "stages: { a: { run: 'true', retry: 101 } }".to_owned(),
        "stages: { model: { uses: train } }".to_owned(),
        model("{ epochs: 10 }"),
        model("{ loss: contrastive, epoch: 10 }"),
        model("{ loss: contrastive, epochs: 0 }"),
        model("{ loss: contrastive, dropout: 1 }"),
        model("{ loss: contrastive, backbone: resnet19 }"),
        model("{ loss: { kind: contrastive, pos_margin: 9 } }"),
        model("{ loss: { kind: contrastive, margin: 1 } }"),
        model("{ loss: contrastve }"),
        model("{ loss: contrastive, optimiser: { kind: sgd, momentum: fast } }"),
        model("{ loss: contrastive, batch: { draw: shufled } }"),
        "stages: { x: { uses: embed, with: { split: tests } } }".to_owned(),
    ];
    let schema = pipeline_schema(&kinds(), &definitions());
    let refused = refusals(&schema, wrong.iter().map(String::as_str));
    let mut shown = String::new();
    for (text, refusal) in wrong.iter().zip(refused) {
        let refusal = refusal.unwrap_or_else(|| panic!("{text} is accepted"));
        shown.push_str(&format!("{text}\n{refusal}\n\n"));
    }
    insta::assert_snapshot!(shown);
    let right = [
        model("{ loss: contrastive }"),
        model(
            "{ loss: ${loss}, epochs: ${params.epochs}, optimiser: { kind: sgd, momentum: ${m} }, seed: [${fold}, 0] }",
        ),
        model("{ loss: { kind: triplet, margin: 0.2 }, validate: { on: test, patience: } }"),
        "stages: { a: { uses: mine/own, with: { anything: 1 } } }".to_owned(),
    ];
    assert_eq!(refusals(&schema, right.iter().map(String::as_str)), [const { None::<String> }; 4]);
}
