use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::super::fixture::{load_good, load_in};
use super::super::model::{CellId, Source, Task};
use super::*;

const LOSSES: &str = "name: losses
description: of ${params.what}
params: { what: glyphs, epochs: 3, nested: { rate: 0.5, same: '${params.epochs}' } }
axes:
  set: [glyphs, textures]
  loss:
    contrastive: { kind: contrastive, neg_margin: 1 }
    proxy_anchor: { kind: proxy_anchor }
  seed: 0..3
exclude: [{ set: textures, seed: 1.. }]
resources: { memory: 2GiB, licence: 2 }
stages:
  table: { uses: report, in: { scores: scores, notes: ./notes.md } }
  by_set: { uses: report, in: { scores: scores }, with: { rows: '${set}' } }
  images: { uses: 'make/${set}', description: makes ${params.what} }
  model:
    uses: train
    in: { images: images }
    with: { loss: ${loss}, seed: ${seed}, epochs: ${params.nested.same} }
    resources: { memory: 1GiB, gpu: 1, licence: 1 }
    retry: 2
    timeout: 1m 30s
    env: { SEED: 's${seed}', ONE: 1 }
  scores: { uses: evaluate, in: { model: model.model } }
  small: { uses: convert, in: { from: images }, with: { size: 8 }, env: { SIZE: over } }
  seeds:
    run: [cat, '${in.logs}', '${loss.kind} $${x}', '${out.all}']
    in: { logs: { from: model.log, gather: [seed] } }
    out: { all: '${set}/${loss}.txt', side: side.txt }
  pack: { run: 'tar ${in.table}', in: { table: table }, out: [a.tar] }
";

/// What a cell does and reads, in words.
fn described(pipeline: &Pipeline, cell: CellId) -> String {
    let found = &pipeline.cells[cell];
    let source = |source: &Source| match source {
        Source::Cell { cell, output } => format!("{}:{output}", pipeline.cell_name(*cell)),
        Source::Gathered { members, output } => {
            let member = |(label, cell): &(Arc<str>, CellId)| format!("{label}={}", pipeline.cell_name(*cell));
            format!("{:?}:{output}", members.iter().map(member).collect::<Vec<_>>())
        }
        Source::Path(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
    };
    let inputs: Vec<_> =
        found.inputs.iter().map(|input| format!("{}<-{}", input.name, source(&input.source))).collect();
    let (task, outputs, env) = (&found.task, &found.outputs, &found.env);
    format!("{}: {task:?} {inputs:?} {outputs:?} {env:?}", pipeline.cell_name(cell))
}

fn all_described(pipeline: &Pipeline) -> Vec<String> {
    pipeline.cells.ids().map(|cell| described(pipeline, cell)).collect()
}

fn named(pipeline: &Pipeline, name: &str) -> CellId {
    let found = pipeline.cells.ids().find(|cell| pipeline.cell_name(*cell) == name);
    found.unwrap_or_else(|| panic!("no cell {name}"))
}

#[test]
fn stages_and_cells_stand_in_order() {
    let pipeline = load_good(LOSSES, &[]);
    let names: Vec<_> = pipeline.stages.iter().map(|stage| &*stage.name).collect();
    assert_eq!(names, ["images", "model", "scores", "table", "by_set", "small", "seeds", "pack"]);
    assert_eq!(pipeline.stages[2].reads, [1]);
    assert_eq!(pipeline.stages[7].reads, [3]);
    let cells: Vec<_> = pipeline.cells.ids().map(|cell| pipeline.cell_name(cell)).collect();
    assert_eq!(
        cells[..4],
        [
            "images[set=glyphs]",
            "images[set=textures]",
            "model[set=glyphs,loss=contrastive,seed=0]",
            "model[set=glyphs,loss=contrastive,seed=1]",
        ]
    );
    // Six cells on glyphs; on textures only the first seed is left.
    assert_eq!(cells.iter().filter(|name| name.starts_with("model")).count(), 8);
    for (cell, found) in pipeline.cells.entries() {
        for input in &found.inputs {
            let sources: Vec<CellId> = match &input.source {
                Source::Cell { cell, .. } => vec![*cell],
                Source::Gathered { members, .. } => members.iter().map(|(_, cell)| *cell).collect(),
                Source::Path(_) => Vec::new(),
            };
            assert!(sources.iter().all(|source| *source < cell), "a cell comes after its inputs");
            assert!(sources.is_sorted());
        }
    }
    assert_eq!(pipeline.description.as_deref(), Some("of glyphs"));
    assert_eq!(pipeline.stages[0].description.as_deref(), Some("makes glyphs"));
    assert_eq!(pipeline.resources, [("licence".to_owned(), 2), ("memory".to_owned(), 2 << 30)].into());
}

#[test]
fn a_cell_has_resolved_parameters_inputs_environment_and_policy() {
    let pipeline = load_good(LOSSES, &[]);
    let cell = named(&pipeline, "model[set=glyphs,loss=contrastive,seed=2]");
    let found = &pipeline.cells[cell];
    let Task::Kind { name, version, parameters, .. } = &found.task else { panic!("{:?}", found.task) };
    assert_eq!((&**name, *version), ("train", 1));
    let loss = json!({ "kind": "contrastive", "pos_margin": 0.0, "neg_margin": 1.0 });
    let expected =
        json!({ "epochs": 3, "rate": 0.1, "seed": 2, "backbone": "convnet4", "loss": loss }).as_object().cloned();
    assert_eq!(Some(&**parameters), expected.as_ref());
    assert_eq!(found.env, [("ONE".to_owned(), "1".to_owned()), ("SEED".to_owned(), "s2".to_owned())].into());
    assert!(described(&pipeline, cell).contains("images<-images[set=glyphs]:images"));
    let policy = &pipeline.stage_of(cell).policy;
    assert_eq!((policy.retry, policy.timeout.unwrap().as_secs()), (2, 90));
    assert_eq!(policy.resources["memory"], 1 << 30);
    let scores = described(&pipeline, named(&pipeline, "scores[set=glyphs,loss=contrastive,seed=2]"));
    assert!(scores.contains("model<-model[set=glyphs,loss=contrastive,seed=2]:model"), "{scores}");
}

#[test]
fn definitions_of_commands_get_parameters_and_environment() {
    let pipeline = load_good(LOSSES, &[]);
    let found = &pipeline.cells[named(&pipeline, "small[set=textures]")];
    assert!(matches!(&found.task, Task::Shell(script) if script.text == "convert ${in.from} --size 8 > ${out.to}"));
    assert_eq!((found.outputs[0].path.as_str(), &found.outputs[0].publish), ("images.bin", &None));
    assert_eq!(found.env["SIZE"], "over", "a stage's own environment comes last");
}

#[test]
fn gathering_takes_the_axes_that_the_reader_lacks() {
    let pipeline = load_good(LOSSES, &[]);
    let found = |name: &str, input: usize| {
        let cell = named(&pipeline, name);
        let Source::Gathered { members, output } = &pipeline.cells[cell].inputs[input].source else {
            panic!("{}", described(&pipeline, cell))
        };
        let members = members.iter().map(|(label, cell)| (label.to_string(), pipeline.cell_name(*cell)));
        (members.collect::<Vec<_>>(), output.to_string())
    };
    let (all, output) = found("table", 0);
    assert_eq!((all.len(), output.as_str()), (8, "scores"));
    assert_eq!(all[6].0, "set=textures,loss=contrastive,seed=0");
    let (own, _) = found("by_set[set=textures]", 0);
    assert_eq!(
        own[1],
        ("loss=proxy_anchor,seed=0".to_owned(), "scores[set=textures,loss=proxy_anchor,seed=0]".to_owned())
    );
    let (seeds, output) = found("seeds[set=glyphs,loss=proxy_anchor]", 0);
    let labels: Vec<_> = seeds.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!((labels, output.as_str()), (vec!["seed=0", "seed=1", "seed=2"], "log"));
}

#[test]
fn outputs_are_published_where_no_two_can_meet() {
    let pipeline = load_good(LOSSES, &[]);
    let published = |name: &str| -> Vec<Option<String>> {
        let cell = &pipeline.cells[named(&pipeline, name)];
        cell.outputs.iter().map(|output| output.publish.as_ref().map(|path| path.display().to_string())).collect()
    };
    assert_eq!(published("table"), [Some("losses/table".into())]);
    assert_eq!(published("by_set[set=glyphs]"), [Some("losses/by_set/set=glyphs".into())]);
    assert_eq!(published("pack"), [Some("losses/a.tar".into())]);
    assert_eq!(published("images[set=glyphs]"), [None], "the kind does not publish");
    // A path that mentions every axis differs for every cell; one that does not stays as it is.
    assert_eq!(published("seeds[set=glyphs,loss=contrastive]"), [Some("losses/glyphs/contrastive.txt".into()), None]);
}

#[test]
fn commands_keep_references_to_their_files() {
    let pipeline = load_good(LOSSES, &[]);
    let words = ["cat", "${in.logs}", "contrastive ${x}", "${out.all}"].map(str::to_owned).to_vec();
    let cell = named(&pipeline, "seeds[set=glyphs,loss=contrastive]");
    assert_eq!(pipeline.cells[cell].task, Task::Program(words));
}

#[test]
fn flags_change_parameters_axes_and_stages() {
    let flags = [
        ("epochs", "7"),
        ("params.what", "forms"),
        ("axes.loss", "proxy_anchor"),
        ("axes.seed", "1.."),
        ("axes.set", "[glyphs]"),
        ("stages.model.with.rate", "0.25"),
        ("stages.images.with.classes", "4"),
    ];
    let pipeline = load_good(LOSSES, &flags);
    let models: Vec<_> =
        pipeline.cells.ids().map(|cell| pipeline.cell_name(cell)).filter(|name| name.starts_with("model")).collect();
    let expected = ["model[set=glyphs,loss=proxy_anchor,seed=1]", "model[set=glyphs,loss=proxy_anchor,seed=2]"];
    assert_eq!(models, expected, "the rule about textures still holds, although no texture is left");
    let Task::Kind { parameters, .. } = &pipeline.cells[named(&pipeline, &models[1])].task else { panic!("a kind") };
    assert_eq!((&parameters["epochs"], &parameters["rate"]), (&json!(7), &json!(0.25)));
    let images = &pipeline.cells[named(&pipeline, "images[set=glyphs]")].task;
    assert!(matches!(images, Task::Kind { parameters, .. } if parameters["classes"] == json!(4)), "{images:?}");
    assert_eq!(pipeline.description.as_deref(), Some("of forms"));
}

#[test]
fn include_keeps_what_agrees_on_shared_axes() {
    let text = "axes: { a: [x, y], b: 0..3 }
include: [{ a: x, b: [0, 2] }, { a: y }]
stages:
  one: { run: 'echo ${a}', out: [o] }
  two: { run: 'echo ${b}', in: { one: one }, out: [o] }
";
    let pipeline = load_good(text, &[]);
    let cells: Vec<_> = pipeline.cells.ids().map(|cell| pipeline.cell_name(cell)).collect();
    let two = ["two[a=x,b=0]", "two[a=x,b=2]", "two[a=y,b=0]", "two[a=y,b=1]", "two[a=y,b=2]"];
    assert_eq!(cells, [["one[a=x]", "one[a=y]"].as_slice(), &two].concat());
}

#[test]
fn a_definition_beside_the_pipeline_comes_before_a_built_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let stages = folder.path().join("stages/tools");
    std::fs::create_dir_all(&stages).unwrap();
    std::fs::create_dir_all(folder.path().join("pipelines")).unwrap();
    std::fs::write(folder.path().join("stages/train.yaml"), "run: echo\nout: [model]\n").unwrap();
    let own = "run: 'sh ${in.script} ${in.raw}'\nin: { script: ./tool.sh, raw: the archive }\nout: [x]\n";
    std::fs::write(stages.join("own.yaml"), own).unwrap();
    std::fs::write(stages.join("tool.sh"), "").unwrap();
    let text = "stages: { a: { uses: train }, b: { uses: tools/own, in: { raw: a } }, c: { uses: make/glyphs } }";
    let pipeline = load_in(&folder.path().join("pipelines"), text.as_bytes(), &[]).unwrap();
    assert_eq!(pipeline.name, "p");
    assert!(matches!(&pipeline.cells[CellId(0)].task, Task::Shell(script) if script.text == "echo"));
    let Source::Path(script) = &pipeline.cells[CellId(1)].inputs[0].source else {
        panic!("{:?}", pipeline.cells[CellId(1)])
    };
    assert_eq!(script, &stages.join("tool.sh"));
    assert_eq!(&*pipeline.cells[CellId(1)].inputs[1].name, "raw");
}

#[test]
fn anchors_stand_for_what_they_name() {
    let text = "params: { a: &a { rate: 0.5, epochs: 2 } }
stages:
  images: { uses: make/glyphs }
  model: { uses: train, in: { images: images }, with: { loss: contrastive, epochs: ${params.b.epochs} } }
"
    .replace("} }\nstages", "}, b: *a }\nstages");
    let pipeline = load_good(&text, &[]);
    assert!(
        matches!(&pipeline.cells[CellId(1)].task, Task::Kind { parameters, .. } if parameters["epochs"] == json!(2))
    );
}

/// The stages of [`LOSSES`] and the entries of the model stage, to be shuffled.
fn shuffled(stages: &[usize], keys: &[usize], comments: &[bool]) -> String {
    let (head, rest) = LOSSES.split_once("stages:\n").unwrap();
    let mut blocks: Vec<String> = Vec::new();
    for line in rest.lines() {
        if line.starts_with("    ") {
            let block = blocks.last_mut().unwrap();
            block.push_str(line);
            block.push('\n');
        } else {
            blocks.push(format!("{line}\n"));
        }
    }
    for block in &mut blocks {
        if block.starts_with("  model") {
            let lines: Vec<&str> = block.lines().collect();
            let moved: Vec<&str> = keys.iter().map(|&key| lines[1 + key]).collect();
            *block = format!("{}\n{}\n", lines[0], moved.join("\n"));
        }
    }
    let mut text = format!("stages:\n{}", stages.iter().map(|&stage| blocks[stage].as_str()).collect::<String>());
    text.push_str(head);
    let commented = text.lines().zip(comments.iter().cycle()).map(|(line, comment)| match comment {
        true => format!("# a: {{ comment\n{line} # more\n"),
        false => format!("{line}\n"),
    });
    commented.collect()
}

const CASES: &str = "
name: t
params: { scale: full, size: 64, epochs: 60 }
cases:
  scale:
    full: {}
    tiny: { size: 8, epochs: 2, stages.a.with.epochs: 1, axes.seed: 0..2 }
axes: { seed: 0..5 }
stages:
  raw: { uses: make/glyphs, with: { classes: '${params.size}' } }
  a: { uses: train, in: { images: raw }, with: { epochs: '${params.epochs}', seed: '${seed}', loss: contrastive } }
";

#[test]
fn a_case_is_a_group_of_flags_that_a_parameter_picks() {
    let full = load_good(CASES, &[]);
    assert_eq!(full.cells.len(), 6);
    let flags = [("size", "8"), ("epochs", "2"), ("stages.a.with.epochs", "1"), ("axes.seed", "0..2")];
    assert_eq!(all_described(&load_good(CASES, &[("scale", "tiny")])), all_described(&load_good(CASES, &flags)));
}

#[test]
fn a_flag_gives_an_input_and_takes_inputs_and_stages_away() {
    let text = CASES.replace("images: raw }", "images: raw, init: raw }");
    let found = load_good(&text, &[("stages.a.in.init", ""), ("axes.seed", "[0]")]);
    assert_eq!(all_described(&found), all_described(&load_good(CASES, &[("axes.seed", "[0]")])));
    let found = load_good(CASES, &[("stages.a.in.init", "raw"), ("axes.seed", "[0]")]);
    assert_eq!(all_described(&found), all_described(&load_good(&text, &[("axes.seed", "[0]")])));
    assert_eq!(load_good(CASES, &[("stages.a", "")]).cells.len(), 1);
    assert_eq!(load_good(CASES, &[("stages.a", ""), ("stages.a", "")]).cells.len(), 1);
    let other = load_good(CASES, &[("stages.raw", "{ uses: make/textures, with: { classes: 3 } }")]);
    assert!(described(&other, CellId(0)).contains("\"classes\": Number(3)"), "{}", described(&other, CellId(0)));
}

#[test]
fn a_flag_goes_before_a_case() {
    let found = load_good(CASES, &[("size", "16"), ("axes.seed", "[3]"), ("scale", "tiny")]);
    let flags = [("size", "16"), ("stages.a.with.epochs", "1"), ("axes.seed", "[3]")];
    assert_eq!(all_described(&found), all_described(&load_good(CASES, &flags)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_comments_change_no_cell(
        stages in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(),
        keys in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
        comments in proptest::collection::vec(any::<bool>(), 1..9),
    ) {
        let mut plain = all_described(&load_good(LOSSES, &[]));
        let mut moved = all_described(&load_good(&shuffled(&stages, &keys, &comments), &[]));
        plain.sort();
        moved.sort();
        prop_assert_eq!(plain, moved);
    }
}

/// Trials that each read those before them, on two folds.
const SEARCH: &str = "axes: { set: [a, b], trial: 0..5, fold: 0..2 }
stages:
  suggest:
    run: 'echo ${set} ${in.past}'
    in: { past: { from: scores, earlier: trial }, tried: { from: suggest, earlier: trial } }
    out: [x]
  best: { run: 'cat ${in.all}', in: { all: { from: scores, gather: [trial, fold] } }, out: [y] }
  scores: { run: 'cat ${fold} ${in.model}', in: { model: model }, out: [z] }
  model: { run: 'cat ${in.suggestion}', in: { suggestion: suggest }, out: [m] }
";

/// The cells that an input of a cell reads.
fn read_by(pipeline: &Pipeline, cell: &str, input: usize) -> Vec<String> {
    let Source::Gathered { members, .. } = &pipeline.cells[named(pipeline, cell)].inputs[input].source else {
        panic!("{cell} gathers")
    };
    members.iter().map(|(label, cell)| format!("{label}: {}", pipeline.cell_name(*cell))).collect()
}

#[test]
fn earlier_cells_have_earlier_values_and_every_cell_follows_them() {
    let pipeline = load_good(SEARCH, &[]);
    let names: Vec<&str> = pipeline.stages.iter().map(|stage| &*stage.name).collect();
    assert_eq!(names, ["suggest", "model", "scores", "best"]);
    assert_eq!((&pipeline.stages[0].reads[..], &pipeline.stages[0].recalls[..]), (&[][..], &[0, 2][..]));
    let axes = |stage: usize| pipeline.stages[stage].axes.clone();
    assert_eq!([axes(0), axes(1), axes(2), axes(3)], [vec![0, 1], vec![0, 1], vec![0, 1, 2], vec![0]]);
    assert!(read_by(&pipeline, "suggest[set=a,trial=0]", 0).is_empty());
    assert_eq!(
        read_by(&pipeline, "suggest[set=b,trial=1]", 0),
        ["trial=0,fold=0: scores[set=b,trial=0,fold=0]", "trial=0,fold=1: scores[set=b,trial=0,fold=1]",]
    );
    let tried: Vec<String> = (0..4).map(|trial| format!("trial={trial}: suggest[set=a,trial={trial}]")).collect();
    assert_eq!(read_by(&pipeline, "suggest[set=a,trial=4]", 1), tried);
    for (id, cell) in pipeline.cells.entries() {
        let reads = cell.inputs.iter().flat_map(|input| match &input.source {
            Source::Cell { cell, .. } => vec![*cell],
            Source::Gathered { members, .. } => members.iter().map(|(_, cell)| *cell).collect(),
            Source::Path(_) => Vec::new(),
        });
        assert!(reads.into_iter().all(|read| read < id), "{}", pipeline.cell_name(id));
    }
    assert_eq!(pipeline.cells.len(), 10 + 10 + 20 + 2);
}

#[test]
fn a_block_of_values_stands_side_by_side() {
    let text = SEARCH.replace("from: scores, earlier: trial", "from: scores, earlier: trial, block: 2");
    let pipeline = load_good(&text, &[]);
    let counts = (0..5).map(|trial| read_by(&pipeline, &format!("suggest[set=a,trial={trial}]"), 0).len());
    assert_eq!(counts.collect::<Vec<_>>(), [0, 0, 4, 4, 8]);
    // A value that is left out has no cell, and the others keep their places.
    let text = SEARCH.replacen("axes:", "exclude: [{ trial: 1 }]\naxes:", 1);
    let pipeline = load_good(&text, &[]);
    assert_eq!(read_by(&pipeline, "suggest[set=a,trial=2]", 1), ["trial=0: suggest[set=a,trial=0]"]);
}

/// What an edit may put anywhere into a pipeline, a flag or a selector.
const PIECES: [&str; 40] = [
    "${",
    "}",
    "${in.",
    ":raw}",
    "${params.epochs}",
    "${loss}",
    "$$",
    "$",
    "0..",
    "..",
    "..3",
    "0..18446744073709551615",
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    ",",
    "- ",
    "&a ",
    "*a",
    "!!int ",
    "null",
    "~",
    "yes",
    "010",
    "99999999999999999999",
    "-1",
    "1e400",
    "-.inf",
    "\u{a0}",
    "\u{feff}",
    "\"",
    "'",
    "|\n",
    "#",
    "\n  ",
    "\t",
    "é\0",
];

/// A place, as a share of the length, how much is removed there, and what is inserted.
fn edits() -> impl Strategy<Value = Vec<(f64, usize, &'static str)>> {
    prop::collection::vec((0.0..1.0, 0usize..12, prop::sample::select(&PIECES[..])), 0..5)
}

fn edited(text: &str, edits: &[(f64, usize, &str)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, out, put) in edits {
        let at = (at * chars.len() as f64) as usize;
        let end = (at + out).min(chars.len());
        chars.splice(at..end, put.chars());
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_flag_or_selector_is_too_broken_to_be_told_so(
        text in edits(), key in edits(), value in edits(), selector in edits(), which in 0usize..4,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let keys = ["stages.model.with.loss.neg_margin", "axes.seed", "epochs", "params.nested"];
        let values = ["0.5", "0..5", "{ kind: contrastive, neg_margin: 1 }", "[glyphs, textures]"];
        let key = edited(keys[which], &key[..key.len().min(1)]);
        let value = edited(values[which], &value);
        let flags: &[(&str, &str)] = if value.len().is_multiple_of(2) { &[(&key, &value)] } else { &[] };
        match load_in(folder.path(), edited(LOSSES, &text).as_bytes(), flags) {
            Ok(pipeline) => {
                let selector = edited("model[loss=contrast*,seed=0..2]", &selector);
                if let Err(error) = crate::pipeline::select::select(&pipeline, &[selector]) {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
            Err(problems) => {
                prop_assert!(problems.iter().count() > 0);
                prop_assert!(problems.render(true).lines().count() > 2);
            }
        }
    }
}
