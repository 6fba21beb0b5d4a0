//! Definitions that build on others, as pipelines see them.

use serde_json::{Value, json};

use super::super::fixture::{load_good, message};
use super::super::model::{CellId, Task};

/// The parameters of the cell of a stage that uses `train/short` or what builds on it.
fn told(uses: &str, with: &str) -> Value {
    let text = format!(
        "stages:\n  images: {{ uses: make/glyphs }}\n  x: {{ uses: {uses}, in: {{ images: images }}, with: {with} }}\n"
    );
    let pipeline = load_good(&text, &[]);
    match &pipeline.cells[CellId(1)].task {
        Task::Kind { parameters, .. } => Value::Object((**parameters).clone()),
        other => panic!("{other:?}"),
    }
}

fn refused(definition: &str, with: &str) -> String {
    let stages = format!(
        "images: {{ uses: make/glyphs }}\n  x: {{ uses: {definition}, in: {{ images: images }}, with: {with} }}"
    );
    message(format!("stages:\n  {stages}\n").as_bytes(), &[])
}

#[test]
fn defaults_stand_below_what_is_given_and_above_those_of_the_definition_below() {
    let contrastive = json!({ "kind": "contrastive", "pos_margin": 0.0, "neg_margin": 0.5 });
    let plain = json!({ "epochs": 12, "rate": 0.1, "seed": 0, "backbone": "convnet4", "loss": contrastive });
    assert_eq!(told("train", "{ loss: contrastive }"), plain);
    let short = json!({ "epochs": 3, "rate": 0.1, "seed": 0, "backbone": "resnet50", "loss": contrastive });
    assert_eq!(told("train/short", "{ loss: contrastive }"), short);
    assert_eq!(told("train/short", "{ loss: contrastive, epochs: 4 }")["epochs"], 4);
    // `null` removes the default: that of the base applies.
    assert_eq!(told("train/short", "{ loss: contrastive, epochs: null }")["epochs"], 12);
}

#[test]
fn cases_depend_on_parameters_of_either_definition_and_the_later_ones_win() {
    let anchor = told("train/short", "{ loss: { kind: proxy_anchor } }");
    assert_eq!((&anchor["rate"], &anchor["loss"]), (&json!(0.5), &json!({ "kind": "proxy_anchor", "margin": 0.1 })));
    assert_eq!(told("train/short", "{ loss: proxy_anchor, rate: 0.25 }")["rate"], 0.25);
    assert_eq!(told("train/short", "{ loss: proxy_anchor, faithful: false }")["rate"], 0.75);
    assert_eq!(told("train/short", "{ loss: contrastive, faithful: false }")["rate"], 0.75);
    // A default of the definition below decides where nothing else says.
    assert_eq!(told("train/short", "{ loss: contrastive, backbone: convnet4 }")["seed"], 5);
    // Two steps up: its own parameter fills in one of the definition below it.
    let shorter = told("train/shorter", "{ loss: { kind: contrastive, neg_margin: 1 }, passes: 2 }");
    assert_eq!(shorter["epochs"], 2);
    assert_eq!(shorter["loss"], json!({ "kind": "contrastive", "pos_margin": 0.25, "neg_margin": 1.0 }));
    assert_eq!(
        told("train/shorter", "{ loss: proxy_anchor }")["loss"]["margin"],
        0.1,
        "another kind has no part in it"
    );
    assert_eq!(told("train/shorter", "{ loss: contrastive }")["loss"]["pos_margin"], 0.25, "the bare name of the kind");
    assert_eq!(told("train/shorter", "{}")["loss"]["pos_margin"], 0.25);
}

#[test]
fn mistakes_in_definitions_that_build_on_others_are_told_where_they_are() {
    let found = refused("train/short", "{ loss: contrastive, epoch: 3 }");
    assert!(found.contains("there is no parameter `epoch`") && found.contains("did you mean `epochs`"), "{found}");
    let found = refused("train/short", "{ loss: contrastive, faithful: 3 }");
    assert!(found.contains("`faithful` must be true or false"), "{found}");
    let found = refused("broken/preset", "{ loss: contrastive }");
    assert!(found.contains("stages/broken/preset.yaml") && found.contains("`rate` is 7, out of its range"), "{found}");
    assert!(found.contains("there is no parameter `los`"), "{found}");
    let found = refused("broken/circle", "{}");
    assert!(found.contains("dependency cycle between definitions: `broken/circle` uses `broken/circle`"), "{found}");
    let found = refused("broken/base", "{}");
    assert!(found.contains("there is no stage definition `trian`") && found.contains("broken/base.yaml"), "{found}");
}
