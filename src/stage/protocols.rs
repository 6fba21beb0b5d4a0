//! The stage definitions of the two protocols, compared with tables that were written by hand from the protocols
//! themselves, and the pipelines that use them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{definitions, kinds};
use crate::pipeline::model::{Cell, CellId, Task};

/// docs/protocols.md.
mod page;

/// The resolved parameters of a training that uses `definition` with `with`.
fn resolved(definition: &str, with: &str) -> Map<String, Value> {
    parameters(&format!("{{ uses: {definition}, in: {{ images: images }}, with: {with} }}"))
}

/// The resolved parameters of the last of three stages.
fn parameters(stage: &str) -> Map<String, Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    let text = format!(
        "stages:\n  raw: {{ uses: download/glyphs }}\n  images: {{ uses: preprocess, in: {{ raw: raw }} }}\n  \
         last: {stage}\n"
    );
    std::fs::write(&file, text).unwrap();
    let pipeline =
        crate::pipeline::load(&file, &[], &kinds(), &definitions()).unwrap_or_else(|found| panic!("{found}"));
    match &pipeline.cells[CellId(2)].task {
        Task::Kind { parameters, .. } => Map::clone(parameters),
        other => panic!("{other:?}"),
    }
}

/// The values at some paths, a path per line of `expected`.
fn assert_rows(found: &Map<String, Value>, name: &str, expected: &[(&str, Value)]) {
    let found = Value::Object(found.clone());
    for (path, expected) in expected {
        let value = path.split('.').try_fold(&found, |at, part| at.get(part)).cloned().unwrap_or(Value::Null);
        assert_eq!(value, *expected, "{name}: {path}");
    }
}

#[test]
fn the_traditional_protocol_is_that_of_the_released_commands() {
    // Data set and backbone, batch, rate, warm-up, batch normalisation frozen, decay step and factor.
    let rows = [
        ("cub", "bn_inception", 180, 1e-4, 1, true, 10, 0.5),
        ("cub_resnet50", "resnet50", 120, 1e-4, 5, true, 5, 0.5),
        ("cars196", "bn_inception", 180, 1e-4, 1, true, 20, 0.5),
        ("cars196_resnet50", "resnet50", 120, 1e-4, 5, true, 10, 0.5),
        ("sop", "bn_inception", 180, 6e-4, 1, false, 20, 0.25),
        ("inshop", "bn_inception", 180, 6e-4, 1, false, 20, 0.25),
    ];
    for (name, backbone, batch, rate, warm_up, frozen, every, factor) in rows {
        let definition = format!("train/traditional/{name}");
        let loss = "{ loss: mean_field_class_wise_multi_similarity }";
        let batch_norm = |frozen_as: &str| json!(if frozen { frozen_as } else { "batch" });
        let found = resolved(&definition, loss);
        assert_rows(
            &found,
            name,
            &[
                ("backbone", json!(backbone)),
                ("pooling", json!("average_max")),
                ("head", json!("linear")),
                ("dim", json!(512)),
                ("epochs", json!(60)),
                ("steps_per_epoch", Value::Null),
                ("batch.draw", json!("shuffled")),
                ("batch.size", json!(batch)),
                ("augment.kind", json!("crop")),
                ("augment.size", json!(224)),
                ("augment.scale", json!([0.08, 1.0])),
                ("augment.ratio", json!([0.75, 4.0 / 3.0])),
                ("augment.flip", json!(0.5)),
                ("augment.short_side", Value::Null),
                ("evaluation_short_side", json!(256)),
                ("optimiser", json!({ "kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8 })),
                ("learning_rate", json!(rate)),
                ("head_learning_rate", Value::Null),
                ("loss_rate_ratio", json!(2000.0)),
                ("weight_decay", json!(1e-4)),
                ("head_weight_decay", Value::Null),
                ("loss_weight_decay", json!(1e-4)),
                ("schedule", json!({ "kind": "step", "every": every, "factor": factor })),
                ("warm_up", Value::Null),
                ("freeze_backbone_epochs", json!(warm_up)),
                ("batch_norm", batch_norm("frozen_statistics")),
                ("clip", json!(10.0)),
                ("clip_loss", Value::Null),
                ("clip_norm", Value::Null),
                ("validate.on", json!("test")),
                ("validate.every", json!(1)),
                ("validate.metric", json!("map_at_r")),
                ("validate.patience", json!(0)),
                ("validate.keep", json!("best")),
                ("loss.alpha", json!(0.01)),
                ("loss.beta", json!(80.0)),
                ("loss.base", json!(0.8)),
                ("loss.mf_reg", json!(0.0)),
            ],
        );
        let parts = if name == "inshop" { [json!("query"), json!("gallery")] } else { [Value::Null, Value::Null] };
        let [query, gallery] = parts;
        assert_rows(&found, name, &[("validate.query", query), ("validate.gallery", gallery)]);

        let fixed = "{ loss: mean_field_contrastive, faithful_patience: false, faithful_selection: false, \
                     faithful_batch_norm: false, faithful_clip: false }";
        assert_rows(
            &resolved(&definition, fixed),
            name,
            &[
                ("validate.patience", json!(10)),
                ("validate.on", json!("validation")),
                ("batch_norm", batch_norm("frozen")),
                ("clip_loss", json!(true)),
                ("loss_rate_ratio", json!(2000.0)),
            ],
        );
    }
}

#[test]
fn losses_of_the_traditional_protocol_have_the_parameters_of_its_codes() {
    let of = |loss: &str| resolved("train/traditional/cub", &format!("{{ loss: {loss} }}"));
    let anchor = [("loss_rate_ratio", json!(100.0)), ("loss.alpha", json!(32.0)), ("loss.margin", json!(0.1))];
    assert_rows(&of("proxy_anchor"), "proxy_anchor", &anchor);
    let nca = [("loss_rate_ratio", json!(1.0)), ("loss.softmax_scale", json!(32.0))];
    assert_rows(&of("proxy_nca"), "proxy_nca", &nca);
    let similarity = [
        ("loss.alpha", json!(2.0)),
        ("loss.beta", json!(50.0)),
        ("loss.base", json!(0.5)),
        ("loss.miner", json!("multi_similarity")),
        ("loss.miner_epsilon", json!(0.1)),
    ];
    assert_rows(&of("multi_similarity"), "multi_similarity", &similarity);
    let triplet = [("loss.margin", json!(0.1)), ("loss.triplets", json!("semi_hard"))];
    assert_rows(&of("triplet"), "triplet", &triplet);
    assert_rows(&of("contrastive"), "contrastive", &[("loss.neg_margin", json!(0.5))]);
    // Values of the pipeline take precedence; the other defaults remain.
    let found =
        resolved("train/traditional/cub", "{ loss: { kind: triplet, margin: 0.3 }, validate: { patience: 4 } }");
    let given = [
        ("loss.margin", json!(0.3)),
        ("loss.triplets", json!("semi_hard")),
        ("validate.patience", json!(4)),
        ("validate.on", json!("test")),
    ];
    assert_rows(&found, "given", &given);
}

#[test]
fn mlrcs_protocol_is_that_of_its_paper() {
    for (dataset, every, patience) in [("cub", 2, 9), ("cars196", 5, 14), ("sop", 20, 39)] {
        let found = resolved("train/mlrc", &format!("{{ dataset: {dataset}, loss: contrastive }}"));
        assert_rows(
            &found,
            dataset,
            &[
                ("backbone", json!("bn_inception")),
                ("pooling", json!("average")),
                ("head", json!("linear_default")),
                ("dim", json!(128)),
                ("epochs", json!(1000)),
                ("steps_per_epoch", json!(100)),
                ("batch.draw", json!("in_turn")),
                ("batch.size", json!(32)),
                ("batch.per_class", json!(4)),
                ("augment.kind", json!("crop")),
                ("augment.size", json!(227)),
                ("augment.scale", json!([0.16, 1.0])),
                ("augment.ratio", json!([0.75, 1.33])),
                ("augment.flip", json!(0.5)),
                ("augment.short_side", json!(256)),
                ("evaluation_short_side", json!(256)),
                ("optimiser.kind", json!("rmsprop")),
                ("optimiser.momentum", json!(0.9)),
                ("optimiser.alpha", json!(0.99)),
                ("learning_rate", json!(1e-6)),
                ("loss_rate_ratio", Value::Null),
                ("weight_decay", json!(1e-4)),
                ("loss_weight_decay", json!(1e-4)),
                ("schedule.kind", json!("constant")),
                ("warm_up", Value::Null),
                ("freeze_backbone_epochs", json!(0)),
                ("batch_norm", json!("frozen_statistics")),
                ("clip", json!(1e30)),
                ("validate.on", json!("validation")),
                ("validate.every", json!(every)),
                ("validate.metric", json!("map_at_r")),
                ("validate.patience", json!(patience)),
                ("validate.keep", json!("best")),
                ("not_finite", json!("stop")),
            ],
        );
    }
    let images = |loss: &str| resolved("train/mlrc", &format!("{{ loss: {loss} }}"))["batch"]["per_class"].clone();
    for loss in ["contrastive", "triplet", "nt_xent", "margin", "fast_ap", "snr_contrastive", "multi_similarity"] {
        assert_eq!(images(loss), 4, "{loss}");
    }
    for loss in ["proxy_nca", "normalized_softmax", "cosface", "arcface", "soft_triple"] {
        assert_eq!(images(loss), 1, "{loss}");
    }
    let margin = resolved("train/mlrc", "{ loss: { kind: margin, boundary: per_class } }");
    assert_rows(&margin, "margin", &[("loss_weight_decay", json!(0.0)), ("loss.boundary", json!("per_class"))]);
    assert_rows(&resolved("train/mlrc", "{ loss: arcface }"), "arcface", &[("loss.large_angle", json!("plain"))]);
}

#[test]
fn every_space_that_mlrc_searched_is_of_parameters_within_their_ranges() {
    // Loss, parameters of the loss, and whether the rate of its own parameters is searched.
    let rows = [
        ("contrastive", "neg_margin pos_margin", false),
        ("triplet", "margin", false),
        ("nt_xent", "temperature", false),
        ("margin", "beta margin", true),
        ("fast_ap", "num_bins", false),
        ("snr_contrastive", "neg_margin pos_margin zero_mean_reg", false),
        ("multi_similarity", "alpha base beta", false),
        ("proxy_nca", "softmax_scale", true),
        ("normalized_softmax", "temperature", true),
        ("cosface", "margin scale", true),
        ("arcface", "margin_degrees scale", true),
        ("soft_triple", "gamma la margin tau", true),
        ("proxy_anchor", "alpha margin", true),
        ("class_wise_multi_similarity", "alpha base beta", false),
        ("mean_field_contrastive", "neg_margin pos_margin", true),
        ("mean_field_class_wise_multi_similarity", "alpha base beta", true),
    ];
    let sets = ["", "/cub", "/cars196", "/sop"];
    for ((loss, names, rate), set) in rows.iter().flat_map(|row| sets.map(|set| (*row, set))) {
        let of = |with: &str| {
            parameters(&format!(
                "{{ uses: search/mlrc{set}, in: {{ past: raw, tried: raw }}, with: {{ loss: {loss}{with} }} }}"
            ))
        };
        let told = of(", at: 3");
        let rest = [("objective", json!("validation_map_at_r")), ("method", json!("tpe")), ("startup", json!(10))];
        assert_rows(&told, loss, &rest);
        let space = told["space"].as_object().unwrap();
        let mut found: Vec<&str> = space.keys().filter_map(|name| name.strip_prefix("loss.")).collect();
        found.sort_unstable();
        assert_eq!(found.join(" "), names, "{loss}");
        assert_eq!(space.contains_key("loss_learning_rate"), rate, "{loss}");
        assert_eq!(space.len(), found.len() + usize::from(rate), "{loss}");
        // Both ends are values that a training takes.
        for end in 0..2 {
            let values = found.iter().map(|name| format!("{name}: {}", space[&format!("loss.{name}")]["range"][end]));
            let values: Vec<String> = values.collect();
            resolved("train/mlrc", &format!("{{ loss: {{ kind: {loss}, {} }} }}", values.join(", ")));
        }
        // More of it may be searched.
        let more = of(", pick: best, space: { learning_rate: { range: [1.0e-7, 1.0e-5], scale: log } }");
        assert_eq!(more["space"].as_object().unwrap().len(), space.len() + 1, "{loss}");
    }
}

/// The resolved parameters of the cells of a stage of a pipeline that comes with the program, each with the cell's name.
fn cells(pipeline: &str, stage: &str, changes: &[(&str, &str)]) -> Vec<(String, Map<String, Value>)> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/{pipeline}.yaml"));
    let changes: Vec<(String, String)> = changes.iter().map(|(to, value)| ((*to).into(), (*value).into())).collect();
    let pipeline =
        crate::pipeline::load(&file, &changes, &kinds(), &definitions()).unwrap_or_else(|found| panic!("{found}"));
    let of = pipeline.cells.entries().filter(|(_, cell)| *pipeline.stages[cell.stage as usize].name == *stage);
    let read = |(id, cell): (CellId, &Cell)| match &cell.task {
        Task::Kind { parameters, .. } => (pipeline.cell_name(id), Map::clone(parameters)),
        other => panic!("{other:?}"),
    };
    of.map(read).collect()
}

#[test]
fn every_mlrc_fold_and_run_has_its_own_seed_and_run_0_repeats_the_best_trial() {
    for scale in ["full", "tiny"] {
        let small =
            [("scale", scale), ("axes.dataset", "[sop]"), ("axes.loss", "[contrastive]"), ("axes.trial", "0..2")];
        let (trials, runs) = (cells("mlrc", "trial", &small), cells("mlrc", "model", &small));
        let seeds: BTreeSet<String> = runs.iter().map(|(_, told)| told["seed"].to_string()).collect();
        assert_eq!(seeds.len(), runs.len(), "{scale}: {seeds:?}");
        assert_eq!((trials.len(), runs.len()), (8, if scale == "full" { 44 } else { 8 }));
        // All parameters of a trial except the suggestion, fold by fold.
        for (name, told) in trials {
            let fold = name.split(['[', ',', ']']).find(|part| part.starts_with("fold=")).unwrap().to_owned();
            let first = runs.iter().find(|(run, _)| run.contains(&fold) && run.contains("run=0"));
            assert_eq!(told, first.unwrap().1, "{scale}: {name}");
        }
    }
    let without =
        cells("mlrc", "model", &[("axes.dataset", "[cub]"), ("axes.loss", "[arcface]"), ("axes.run", "1..11")]);
    assert_eq!(without.len(), 40);
    assert!(without.iter().all(|(name, _)| !name.contains("run=0")));
}

#[test]
fn a_search_of_mlrc_has_the_bounds_of_its_data_set() {
    let greatest = |set: &str| {
        let only = [("axes.dataset", set), ("axes.loss", "[arcface]"), ("axes.trial", "0..1")];
        let found = [cells("mlrc", "suggest", &only), cells("mlrc", "best", &only)].concat();
        found.iter().map(|(_, told)| told["space"]["loss.scale"]["range"][1].as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((greatest("[cub]"), greatest("[sop]")), (vec![200.0; 2], vec![300.0; 2]));
}

#[test]
fn pipelines_select_as_the_released_commands_or_by_proxy_anchors_rule() {
    for name in ["cub", "cars196", "sop", "inshop"] {
        let one = ("axes.loss", "[proxy_anchor]");
        let inshop = |part: &str| if name == "inshop" { json!(part) } else { Value::Null };
        let parts = [("validate.query", inshop("query")), ("validate.gallery", inshop("gallery"))];
        let rows = |metric: &str, patience: Value| {
            let rest =
                [("validate.metric", json!(metric)), ("validate.patience", patience), ("validate.on", json!("test"))];
            [&parts[..], &rest].concat()
        };
        for (_, told) in cells(name, "model", &[one]) {
            assert_rows(&told, name, &rows("map_at_r", json!(0)));
        }
        let switch = [("stages.model.with.validate.metric", "r@1"), ("stages.model.with.validate.patience", "")];
        for (_, told) in
            cells(name, "model", &[&[one][..], &switch, &[("stages.model.with.faithful_clip", "false")]].concat())
        {
            assert_rows(&told, name, &[&rows("r@1", Value::Null)[..], &[("clip_loss", json!(true))]].concat());
        }
    }
}
