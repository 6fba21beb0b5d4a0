//! A hyper-parameter search as cells: trials on two folds, the best trial, and its final runs.

use crate::space::{Space, set};

const SEARCH: &str = r"
name: search
axes:
  trial: 0..6
  fold: 0..2
stages:
  raw: { uses: download/glyphs, with: { classes: 8, per_class: 6, size: 16 } }
  images: { uses: preprocess, in: { raw: raw }, with: { size: 16 } }
  suggest:
    uses: search
    in: { past: { from: model.epochs, earlier: trial }, tried: { from: suggest, earlier: trial } }
    with:
      at: ${trial}
      startup: 3
      objective: test_map_at_r
      space: { loss.margin: { range: [-0.2, 2] }, learning_rate: { range: [1.0e-4, 0.1], scale: log } }
  model:
    uses: train
    in: { images: images, suggestion: suggest }
    with: { loss: triplet, epochs: 2, steps_per_epoch: 3, dim: 8, batch: { draw: in_turn, size: 12, per_class: 3 }, seed: ${fold}, validate: { on: test } }
  best:
    uses: search
    in: { past: model.epochs, tried: suggest }
    with: { pick: best, objective: test_map_at_r, space: { loss.margin: { range: [-0.2, 2] }, learning_rate: { range: [1.0e-4, 0.1], scale: log } } }
  final:
    uses: train
    in: { images: images, suggestion: best }
    with: { loss: triplet, epochs: 2, steps_per_epoch: 3, dim: 8, batch: { draw: shuffled, size: 12 }, seed: ${fold}, validate: { on: test } }
  vectors: { uses: embed, in: { model: final, images: images } }
  scores: { uses: evaluate, in: { vectors: vectors } }
  joined: { uses: concat, in: { vectors: { from: vectors, gather: [fold] } } }
  joined_scores: { uses: evaluate, in: { vectors: joined } }
  table: { uses: report, in: { scores: scores, concatenated: joined_scores }, with: { rows: fold } }
";

/// The suggestions of the first trials, and the best.
fn suggestions(space: &Space, trials: u32) -> Vec<String> {
    let read = |cell: &str| std::fs::read_to_string(space.blob(cell, "suggestion")).unwrap();
    (0..trials).map(|trial| read(&format!("suggest[trial={trial}]"))).chain([read("best")]).collect()
}

#[test]
fn a_killed_search_resumes_and_a_longer_one_runs_only_its_new_trials() {
    let whole = Space::new(SEARCH);
    let ran = whole.run(&["run", "-j", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    // The best trial is the one with the best value in the table.
    assert!(ran.out.contains("Selected on the test split by its best MAP@R epoch"), "{}", ran.out);
    assert!(ran.out.contains("concatenated"), "{}", ran.out);
    let found = suggestions(&whole, 6);
    assert!(
        found.iter().all(|text| text.contains("\"loss.margin\"") && text.contains("\"learning_rate\"")),
        "{found:?}"
    );
    assert!((1..6).all(|trial| found[trial] != found[trial - 1]) && found[..6].contains(&found[6]), "{found:?}");

    let killed = Space::new(SEARCH);
    let trained = || std::fs::read_dir(killed.path("cache/v1/resume")).map_or(0, Iterator::count);
    // During the third trial.
    killed.kill_a_run(|| trained() >= 5);
    let executed = killed.executed();
    assert!(!executed.contains("suggest[trial=0]") && executed.contains("suggest[trial=5]"), "{executed:?}");
    assert_eq!(suggestions(&killed, 6), found);
    assert_eq!(killed.executed(), set(&[]));

    whole.edit("trial: 0..6", "trial: 0..8");
    let executed = whole.executed();
    let new = ["suggest[trial=6]", "suggest[trial=7]", "model[trial=6,fold=0]", "model[trial=7,fold=1]", "best"];
    assert!(new.iter().all(|cell| executed.contains(*cell)), "{executed:?}");
    let old = |cell: &&String| (0..6).any(|trial| cell.contains(&format!("trial={trial}")));
    assert_eq!(executed.iter().find(old), None);
    assert_eq!(suggestions(&whole, 6)[..6], found[..6]);
}

#[test]
fn a_search_is_planned_explained_and_drawn() {
    let space = Space::new(SEARCH);
    let plan = space.json(&["plan", "--json"]);
    let decision = |cell: &str| {
        let cells = plan["cells"].as_array().unwrap();
        cells.iter().find(|found| found["cell"] == cell).unwrap_or_else(|| panic!("{cell}"))["decision"].clone()
    };
    assert_eq!((decision("suggest[trial=0]"), decision("suggest[trial=1]")), ("run".into(), "may".into()));
    let graph = space.run(&["graph"]).out;
    assert!(
        graph.contains("\"model\" -> \"suggest\" [style=dashed]") && graph.contains("\"suggest\" -> \"model\";"),
        "{graph}"
    );
    let drawn = space.run(&["graph", "--format", "svg"]);
    assert!(drawn.code == 0 && drawn.out.contains("stroke-dasharray"), "{}", drawn.err);
    assert!(space.run(&["status"]).code == 0 && space.run(&["why", "suggest[trial=3]"]).code == 0);
    let shown = space.json(&["show", "suggest[trial=2]", "--json"]);
    assert_eq!(shown["suggest[trial=2]"]["in"]["past"].as_array().unwrap().len(), 4);
    assert_eq!(space.run(&["run", "suggest[trial=1]"]).code, 0);
    assert!(!space.last_journal("executed").contains("model[trial=1,fold=0]"));
}

#[test]
fn a_suggestion_for_an_unknown_parameter_fails_with_the_known_names() {
    let space = Space::new(SEARCH);
    space.edit("loss.margin", "loss.alpha");
    let ran = space.run(&["run", "model"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the suggestion is for `loss.alpha`") && ran.err.contains("loss.margin"), "{}", ran.err);
    space.edit("range: [1.0e-4, 0.1], scale: log", "range: [0, 0.1], scale: log");
    let ran = space.run(&["plan"]);
    assert!(ran.code == 2 && ran.err.contains("expected numbers above 0 on a log scale"), "{}", ran.err);
}

#[test]
fn a_command_finds_the_earlier_cells_of_its_own_stage_in_a_folder() {
    let space = Space::new(
        "axes: { step: 0..70 }\nstages:\n  count:\n    run: 'ls ${in.past} | wc -l > ${out.n}; echo ${step} >> ${out.n}'\n    \
         in: { past: { from: count, earlier: step } }\n    out: [n]\n",
    );
    let plan = space.json(&["plan", "--json"]);
    let with =
        |decision: &str| plan["cells"].as_array().unwrap().iter().filter(|cell| cell["decision"] == decision).count();
    assert_eq!((with("run"), with("may")), (1, 69));
    space.edit("0..70", "0..4");
    assert_eq!(space.executed().len(), 4);
    let counted = |step: u32| {
        let text = std::fs::read_to_string(space.blob(&format!("count[step={step}]"), "n")).unwrap();
        text.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!([0, 1, 3].map(counted), [[0, 0], [1, 1], [3, 3]]);
    space.edit("0..4", "0..6");
    assert_eq!(space.executed(), set(&["count[step=4]", "count[step=5]"]));
    let why = space.run(&["why", "count[step=5]"]);
    assert_eq!(why.code, 0, "{}", why.err);
}
