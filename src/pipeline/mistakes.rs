//! Every mistake that a pipeline can have, with the message that it gets.

use super::fixture::message;

/// Wraps stages into a pipeline that has axes, parameters and three stages that are right.
fn pipeline(stages: &str) -> String {
    format!(
        "name: t
params: {{ epochs: 5, rates: {{ slow: 0.01 }} }}
axes:
  loss:
    contrastive: {{ kind: contrastive, pos_margin: 0.0 }}
    proxy_anchor: {{ kind: proxy_anchor }}
  seed: 0..3
stages:
  images: {{ uses: make/glyphs }}
  model:
    uses: train
    in: {{ images: images }}
    with: {{ loss: ${{loss}}, seed: ${{seed}} }}
  scores: {{ uses: evaluate, in: {{ model: model }} }}
{stages}"
    )
}

/// Snapshots the message about each text.
macro_rules! mistakes {
    ($($name:ident: $text:expr $(, set: $flags:expr)?;)*) => {
        $(#[test]
        fn $name() {
            let flags: &[(&str, &str)] = &[$(($flags.0, $flags.1))?];
            insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(stringify!($name), message($text.as_ref(), flags));
            });
        })*
    };
}

mistakes! {
    // The file.
    file_is_empty: "";
    file_has_comments_only: "# nothing\n";
    file_is_a_list: "- a\n- b\n";
    file_is_not_utf8: b"name: t\nparams: { a: \xff }\n";
    file_has_a_syntax_error: "name: t\nstages:\n  a: { run: [true }\n";
    file_has_a_tab: "name: t\nstages:\n\ta: { run: 'true' }\n";
    file_has_not_a_number: "name: t\nparams: { a: .nan }\n";
    file_has_carriage_returns_and_a_mark: "\u{feff}name: t\r\nstagse:\r\n  a: 1\r\n";
    duplicate_key: pipeline("  model: { run: 'true', out: [a] }\n");
    reference_is_not_closed: pipeline("  x: { run: 'echo ${seed', out: [a] }\n");

    // The top level.
    unknown_key_at_the_top: "name: t\nexlude: []\nstages: { a: { run: 'true', out: [x] } }\n";
    no_stages: "name: t\n";
    bad_pipeline_name: "name: a/b\nstages: { a: { run: 'true', out: [x] } }\n";
    parameters_in_a_circle: "params: { a: '${params.b}', b: 'x${params.a}' }\nstages: { a: { run: 'true', out: [x] } }\n";
    resource_has_an_unknown_unit: "resources: { memory: 8GX }\nstages: { a: { run: 'true', out: [x], resources: { memory: 8Q, gpu: 0.5 } } }\n";
    resource_is_unknown: "resources: { licence: 2 }\nstages: { a: { run: 'true', out: [x], resources: { license: 1, licence: 3 } } }\n";

    // Axes.
    axis_is_empty: "axes: { seed: [], i: 3..3 }\nstages: { a: { run: 'echo ${seed}${i}', out: [x] }, b: { uses: report, in: { a: a } } }\n";
    axis_value_cannot_name_a_file: "axes: { path: [a/b, ok, ok, [1]] }\nstages: { a: { run: 'echo ${path}', out: [x] } }\n";
    axis_is_a_scalar: "axes: { seed: 3, in: [a], l: { x: 0.1 } }\nstages: { a: { run: 'echo ${seed}', out: [x] } }\n";
    excluded_axis_value_is_unknown: "axes: { set: [glyphs, textures], seed: 0..3 }\nexclude: [{ set: glyph, seed: 5.. }]\nstages: { a: { run: 'echo ${set}', out: [x] } }\n";
    included_axis_is_unknown: "axes: { seed: 0..3 }\ninclude: [{ sed: 1 }, 4]\nstages: { a: { run: 'echo ${seed}', out: [x] } }\n";
    everything_is_excluded: "axes: { seed: 0..3 }\nexclude: [{ seed: '*' }]\nstages: { a: { run: 'echo ${seed}', out: [x] } }\n";
    too_many_cells: "axes: { a: 0..2000, b: 0..2000 }\nstages: { s: { run: 'echo ${a} ${b}', out: [x] } }\n";
    axis_is_too_long: "axes: { a: 0..3000000000 }\nstages: { s: { run: 'echo ${a}', out: [x] } }\n";

    // Stages.
    unknown_key_in_a_stage: pipeline("  x: { run: 'true', out: [a], timeuot: 3s }\n");
    stage_has_neither_uses_nor_run: pipeline("  x: { out: [a] }\n");
    stage_has_both_uses_and_run: pipeline("  x: { uses: train, run: 'true' }\n");
    stage_is_unknown: pipeline("  x: { uses: evaluate, in: { model: modle } }\n");
    stage_is_a_path_without_its_dot: pipeline("  x: { run: 'true', in: { a: data/raw.csv }, out: [a] }\n");
    output_is_unknown: pipeline("  x: { run: 'true', in: { a: model.modl }, out: [a] }\n");
    input_is_unknown: pipeline("  x: { uses: evaluate, in: { model: model, mode: model } }\n");
    input_is_missing: pipeline("  x: { uses: evaluate }\n  y: { uses: report }\n");
    input_file_is_missing: pipeline("  x: { run: 'true', in: { a: ./note.md, b: ../nowhere/at/all }, out: [a] }\n");
    definition_is_unknown: pipeline("  x: { uses: trian, in: { images: images } }\n");
    definition_is_unknown_for_a_value: "axes: { set: [glyphs, emoji] }\nstages: { a: { uses: make/${set} } }\n";
    stages_in_a_circle: pipeline("  a: { run: 'true', in: { x: c }, out: [a] }\n  b: { run: 'true', in: { x: a }, out: [b] }\n  c: { run: 'true', in: { x: b, y: scores }, out: [c] }\n");
    stage_reads_itself: pipeline("  a: { run: 'true', in: { x: a }, out: [a] }\n");
    two_stages_write_one_path: pipeline("  a: { run: 'true', out: { x: all/result.txt } }\n  b: { run: 'true', out: { x: all/result.txt, y: all } }\n");
    one_stage_writes_one_path_twice: pipeline("  a: { run: 'true ${seed}', out: { x: r, y: r/z } }\n");
    two_cells_write_one_path: "axes: { a: [1, 11], b: [1, 11] }\nstages: { s: { run: 'true', out: { x: '${a}${b}' } } }\n";
    output_path_leaves_the_cell: pipeline("  a: { run: 'true', out: { x: ../y, z: /tmp/q } }\n");
    command_has_no_output: pipeline("  a: { run: 'true' }\n");
    keys_are_misplaced: pipeline("  a: { run: 'true', out: [a], with: { b: 1 } }\n  b: { uses: make/glyphs, out: { x: y } }\n");
    command_names_unknown_files: pipeline("  a: { run: 'cp ${in.imges} ${out.b}', in: { images: images }, out: [a] }\n");
    retry_and_timeout_are_wrong: pipeline("  a: { run: 'true', out: [a], retry: 101, timeout: 90 }\n  b: { run: 'true', out: [b], retry: often, timeout: soon }\n");
    gathering_is_wrong: pipeline("  a: { run: 'true', in: { x: { from: images, gather: [seed] }, y: { from: scores, gather: [sed] }, z: { from: scores } }, out: [a] }\n  b: { uses: evaluate, in: { model: { from: model, gather: all } } }\n");
    earlier_cells_are_read_wrongly: pipeline("  a: { run: 'true', in: { x: { from: images, earlier: seed }, y: { from: model, earlier: sed, block: 0 }, z: { from: model, earlier: seed, gather: all } }, out: [a] }\n  b: { uses: evaluate, in: { model: { from: model, earlier: seed } } }\n  c: { run: 'true', in: { x: { from: model, gather: all, block: 2 } }, out: [c] }\n");
    a_circle_is_not_broken_by_its_axis: pipeline("  a: { run: 'echo ${seed}', in: { x: { from: b, earlier: seed } }, out: [a] }\n  b: { run: 'true', in: { x: { from: c, gather: all } }, out: [b] }\n  c: { run: 'echo ${seed}', in: { x: a }, out: [c] }\n  d: { run: 'true', in: { x: { from: e, earlier: seed } }, out: [d] }\n  e: { run: 'echo ${loss}', in: { x: d, y: { from: d, earlier: loss } }, out: [e] }\n");
    nothing_to_gather: "axes: { set: [a, b], seed: 0..2 }\nexclude: [{ set: b, seed: 0.. }]\nstages:\n  s: { run: 'echo ${set} ${seed}', out: [x] }\n  t: { run: 'echo ${set}', in: { s: { from: s, gather: all } }, out: [y] }\n";

    // References.
    name_is_unknown: pipeline("  x: { run: 'echo ${epochs} ${params.epoch} ${sede} ${HOME}', out: [a] }\n");
    axis_has_no_such_field: pipeline("  x: { run: 'echo ${loss.pos_margin} ${loss.knd}', out: [a] }\n");
    value_cannot_stand_in_text: pipeline("  x: { run: 'echo ${params.rates}', out: [a] }\n");
    axis_stands_where_it_cannot: pipeline("  x: { run: 'true', out: [a], resources: { gpu: '${seed}' }, env: { A: '${in.x}' } }\n");

    // Parameters.
    parameter_is_unknown: pipeline("  x: { uses: train, in: { images: images }, with: { loss: contrastive, epoch: 3 } }\n");
    parameter_is_missing: pipeline("  x: { uses: train, in: { images: images }, with: { epochs: 3 } }\n");
    parameter_has_a_wrong_type: pipeline("  x: { uses: train, in: { images: images }, with: { loss: contrastive, epochs: many, seed: [1] } }\n");
    parameter_is_out_of_range: pipeline("  x: { uses: train, in: { images: images }, with: { loss: contrastive, epochs: 0, rate: '${params.epochs}' } }\n");
    parameter_is_not_one_of: pipeline("  x: { uses: train, in: { images: images }, with: { loss: contrastiv, backbone: convnet } }\n");
    parameter_is_refused_by_its_kind: pipeline("  x: { uses: train, in: { images: images }, with: { loss: contrastive, epochs: 13 } }\n");
    axis_field_is_out_of_range: "axes:\n  loss:\n    contrastive: { kind: contrastive, pos_margin: 3.0, negmargin: 1 }\n    proxy_anchor: { kind: proxy_anchor, margin: x }\n  seed: 0..3\nstages:\n  images: { uses: make/glyphs }\n  model: { uses: train, in: { images: images }, with: { loss: ${loss}, seed: ${seed} } }\n";

    // Definitions.
    definition_has_an_unknown_kind: "stages: { a: { uses: broken/kind } }\n";
    definition_has_a_wrong_default: "stages: { a: { uses: broken/default } }\n";
    definition_has_kind_and_run: "stages: { a: { uses: broken/both } }\n";
    definition_looks_outside: "stages: { a: { uses: broken/reference } }\n";
    definition_parameter_is_out_of_range: pipeline("  x: { uses: convert, in: { from: images }, with: { size: 0 } }\n");

    // Flags.
    flag_names_an_unknown_parameter: pipeline(""), set: ("epoch", "3");
    flag_names_an_unknown_axis_value: pipeline(""), set: ("axes.loss", "[contrastive, proxy_anchr]");
    flag_names_an_unknown_axis: pipeline(""), set: ("axes.sed", "[1]");
    flag_names_an_unknown_stage: pipeline(""), set: ("stages.modle.with.epochs", "3");
    flag_value_has_a_wrong_type: pipeline(""), set: ("stages.model.with.epochs", "many");
    flag_value_is_no_yaml: pipeline(""), set: ("epochs", "[1");
    flag_sets_below_a_text: pipeline(""), set: ("stages.model.with.loss.margin", "1");

    flag_sets_a_stage: pipeline(""), set: ("stages.scores", "x");
    flag_removes_an_unknown_stage: pipeline(""), set: ("stages.score", "");

    // Secrets.
    secrets_are_wrong: pipeline("  x: { run: 'echo', out: [a], secrets: [A, 1, B=2], env: { A: a, C: } }\n  y: { run: 'echo', out: [b], secrets: TOKEN }\n");
    secrets_of_a_kind_without: pipeline("  x: { uses: make/glyphs, secrets: [TOKEN] }\n");
    secret_is_in_env_too: pipeline("  x: { uses: convert, in: { from: images }, secrets: [SIZE] }\n");

    // Cases.
    cases_are_no_mapping: format!("cases: [tiny]\n{}", pipeline(""));
    case_of_an_unknown_parameter: format!("cases: {{ epoch: {{ 5: {{}} }} }}\n{}", pipeline(""));
    case_is_unknown: format!("cases: {{ epochs: {{ 5: {{}}, 12: {{}} }} }}\n{}", pipeline("")), set: ("epochs", "13");
    case_sets_an_unknown_parameter: format!("cases: {{ epochs: {{ 5: {{ rates.slwo: 1 }} }} }}\n{}", pipeline(""));
    case_is_no_mapping: format!("cases: {{ epochs: {{ 5: [a] }} }}\n{}", pipeline(""));

    // Many at once: none hides another.
    many_mistakes_at_once: "nmae: t
axes: { seed: 0..3, empty: [] }
exclude: [{ seed: 7 }]
stages:
  images: { uses: make/glyphs, with: { classes: 1000 } }
  model: { uses: train, in: { images: imags }, with: { epochs: x, loss: contrastive } }
  a: { run: 'true', in: { b: b }, out: { r: r.txt } }
  b: { run: 'true', in: { a: a }, out: { r: r.txt } }
  c: { run: 'echo ${sed}', out: [c] }
";
}

#[test]
fn a_missing_file_is_told_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("losses.yaml"), "").unwrap();
    let file = folder.path().join("loses.yaml");
    let problems = super::load(&file, &[], &super::fixture::kinds(), &[]).unwrap_err();
    let text = problems.to_string().replace(&format!("{}/", folder.path().display()), "");
    assert!(text.contains("there is no file `loses.yaml`") && text.contains("did you mean `losses.yaml`?"), "{text}");
}
