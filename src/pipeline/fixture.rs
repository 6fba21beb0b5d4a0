//! Kinds, definitions and files that the tests of this module share.

use std::path::Path;

use serde_json::{Map, Value};

use super::kinds::{InputSpec, Inputs, Kind, Kinds, ParameterProblem};
use super::model::Pipeline;
use super::problem::Problems;

pub(super) const DEFINITIONS: &[(&str, &str)] = &[
    ("make/glyphs", "kind: make\nparams: { classes: { type: int, default: 10, range: [1, 100] } }\n"),
    ("make/textures", "kind: make\nparams: { classes: { type: int, default: 10, range: [1, 100] } }\n"),
    (
        "train",
        "kind: train
description: trains a model
params:
  epochs: { type: int, default: 12, range: [1, null], doc: passes over the images }
  rate: { type: float, default: 0.1, range: [0, 1] }
  seed: { type: int, default: 0 }
  backbone: { type: string, default: convnet4, one_of: [convnet4, resnet50] }
  loss:
    type: union
    doc: what is minimised
    variants:
      contrastive:
        pos_margin: { type: float, default: 0, range: [0, 2] }
        neg_margin: { type: float, default: 0.5, range: [0, 2] }
      proxy_anchor:
        margin: { type: float, default: 0.1, range: [0, 1] }
",
    ),
    ("evaluate", "kind: evaluate\nparams: { metrics: { type: list, of: string, default: [p1] } }\n"),
    ("report", "kind: report\nparams: { rows: { type: string, required: false } }\n"),
    (
        "convert",
        "run: 'convert ${in.from} --size ${with.size} > ${out.to}'
params: { size: { type: int, default: 32, range: [1, 512] }, name: { type: string, default: images } }
in: { from: what is converted }
out: { to: '${with.name}.bin' }
env: { SIZE: '${with.size}' }
",
    ),
    ("broken/kind", "kind: trian\n"),
    ("broken/default", "kind: make\nparams: { classes: { type: int, default: many } }\n"),
    ("broken/both", "kind: make\nrun: make\n"),
    ("broken/reference", "run: 'x ${params.epochs} ${out.a}'\nout: [a]\n"),
    (
        "train/short",
        "uses: train
params: { faithful: { type: bool, default: true } }
with: { epochs: 3, backbone: resnet50 }
cases:
  loss: { proxy_anchor: { rate: 0.5 } }
  faithful: { false: { rate: 0.75 } }
  backbone: { convnet4: { seed: 5 } }
",
    ),
    (
        "train/shorter",
        "uses: train/short
params: { passes: { type: int, default: 1 } }
with: { epochs: '${with.passes}', loss: { kind: contrastive, pos_margin: 0.25 } }
",
    ),
    ("broken/preset", "uses: train\nwith: { rate: 7 }\ncases: { los: { contrastive: { rate: 0.1 } } }\n"),
    ("broken/circle", "uses: broken/circle\n"),
    ("broken/base", "uses: trian\n"),
];

pub(super) fn kinds() -> Kinds {
    const fn input(name: &'static str, required: bool) -> InputSpec {
        InputSpec { name, required }
    }
    const TRAIN: &[InputSpec] = &[input("images", true), input("init", false)];
    const EVALUATE: &[InputSpec] = &[input("model", true)];
    let kind = |name, inputs, outputs, publish| Kind {
        name,
        version: 1,
        inputs,
        outputs,
        publish,
        continues: &[],
        secrets: 0,
        check: accept,
    };
    let mut train = kind("train", Inputs::Named(TRAIN), &[("model", "model.bin"), ("log", "log.csv")], false);
    train.check = refuse_thirteen;
    Kinds(vec![
        kind("make", Inputs::Named(&[]), &[("images", "images")], false),
        train,
        kind("evaluate", Inputs::Named(EVALUATE), &[("scores", "scores.json")], false),
        kind("report", Inputs::Gathered { reserved: &["metric"] }, &[("table", "table.md")], true),
    ])
}

fn accept(_: &Map<String, Value>) -> Vec<ParameterProblem> {
    Vec::new()
}

fn refuse_thirteen(parameters: &Map<String, Value>) -> Vec<ParameterProblem> {
    if parameters["epochs"] != 13 {
        return Vec::new();
    }
    vec![ParameterProblem { path: vec!["epochs".into()], message: "is 13, expected another number".into() }]
}

/// Loads a text as `p.yaml` in a folder that has `notes.md` and `tool.sh`.
pub(super) fn load_in(folder: &Path, text: &[u8], flags: &[(&str, &str)]) -> Result<Pipeline, Problems> {
    std::fs::write(folder.join("p.yaml"), text).unwrap();
    std::fs::write(folder.join("notes.md"), "notes").unwrap();
    let flags: Vec<(String, String)> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    super::load(&folder.join("p.yaml"), &flags, &kinds(), DEFINITIONS)
}

/// Loads a text that has no mistake.
pub(super) fn load_good(text: &str, flags: &[(&str, &str)]) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), text.as_bytes(), flags).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The message about a text that has mistakes, without the folder that the test made.
pub(super) fn message(text: &[u8], flags: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let problems = load_in(folder.path(), text, flags).expect_err("this has a mistake");
    problems.to_string().replace(&format!("{}/", folder.path().display()), "")
}
