//! What runs again after an edit, and what does not.

use crate::space::{Space, flip_a_bit, set};

/// Two data sets, two losses: a chain of four stages whose outputs are their inputs and parameters.
const PIPELINE: &str = r#"
name: small
params: { factor: 3 }
axes:
  data: [red, blue]
  loss:
    plain: { margin: 0.1 }
    fancy: { margin: 0.2 }
stages:
  clean: { run: 'tr a-z A-Z < ${in.raw} > ${out.text}', in: { raw: ./raw/${data}.txt }, out: { text: text } }
  model:
    run: 'cat ${in.text} > ${out.model}; echo "${loss.margin} ${params.factor}" >> ${out.model}'
    in: { text: clean }
    out: { model: model }
  table:
    run: 'for f in ${in.models}/*; do basename $f; cat $f; done > ${out.table}'
    in: { models: { from: model, gather: all } }
    out: { table: table.txt }
"#;

fn space() -> Space {
    let space = Space::new(PIPELINE);
    space.write("raw/red.txt", "roses\n");
    space.write("raw/blue.txt", "violets\n");
    space
}

#[test]
fn the_second_run_executes_nothing_and_the_first_everything() {
    let space = space();
    assert_eq!(space.executed().len(), 7);
    let table = space.read("reports/small/table.txt");
    let expected = "data=blue,loss=fancy\nVIOLETS\n0.2 3\ndata=blue,loss=plain\nVIOLETS\n0.1 3\n\
                    data=red,loss=fancy\nROSES\n0.2 3\ndata=red,loss=plain\nROSES\n0.1 3\n";
    assert_eq!(table, expected);
    assert_eq!(space.executed(), set(&[]));
    let status = space.json(&["status", "--json"]);
    assert_eq!(status["counts"]["cached"], 7);
}

#[test]
fn a_comment_the_order_of_keys_and_names_of_stages_change_nothing() {
    let space = space();
    space.executed();
    space.edit("name: small", "# a comment\nname: small");
    assert_eq!(space.executed(), set(&[]));
    space.edit(
        "    in: { text: clean }\n    out: { model: model }",
        "    out: { model: model }\n    in: { text: clean }",
    );
    assert_eq!(space.executed(), set(&[]));
    space.edit("  clean:", "  tidy:");
    space.edit("text: clean", "text: tidy");
    assert_eq!(space.executed(), set(&[]));
    space.edit(
        "  table:\n",
        "  table:\n    description: all of it\n    retry: 2\n    timeout: 1h\n    resources: { cpu: 1 }\n",
    );
    assert_eq!(space.executed(), set(&[]));
}

#[test]
fn a_changed_margin_reruns_its_cells_and_their_readers_and_why_explains_it() {
    let space = space();
    space.executed();
    space.edit("margin: 0.2", "margin: 0.25");
    let why = space.run(&["why", "model[data=red]"]);
    let expected = "model[data=red,loss=plain]: up to date";
    assert!(why.out.contains(expected), "{}", why.out);
    assert!(why.out.contains("model[data=red,loss=fancy]: will run: these changed since it last ran:"), "{}", why.out);
    assert!(why.out.contains(r#"echo "0.2 3" >> ${out.model} -> "#), "{}", why.out);
    assert_eq!(space.executed(), set(&["model[data=red,loss=fancy]", "model[data=blue,loss=fancy]", "table"]));
    space.edit("margin: 0.25", "margin: 0.2");
    assert_eq!(space.executed(), set(&[]), "the first results are still known");
}

const FOLDERS: &str = r"
params: { lines: 'a b c' }
stages:
  split: { run: 'mkdir ${out.parts}; for l in ${params.lines:raw}; do echo $l > ${out.parts}/$l; done', out: { parts: parts } }
  count: { run: 'ls ${in.raw} ${in.parts} | wc -l > ${out.n}', in: { raw: ./raw, parts: split }, out: [n] }
";

#[test]
fn why_names_the_files_that_changed_inside_folders() {
    let space = Space::new(FOLDERS);
    for name in ["raw/same", "raw/old", "raw/sub/edited"] {
        space.write(name, name);
    }
    space.executed();
    let reason = |space: &Space| space.json(&["why", "count", "--json"])["cells"][0]["reason"].clone();
    std::fs::remove_file(space.path("raw/old")).unwrap();
    space.write("raw/sub/edited", "other bytes");
    space.write("raw/new", "new");
    let expected = "in.raw: new added, old removed, sub/edited changed";
    for command in ["why", "plan"] {
        let ran = space.run(&[command, "count"]);
        assert!(ran.out.contains(expected), "{}", ran.out);
    }
    let changes = reason(&space)["changes"].clone();
    assert_eq!((&changes[0]["field"], changes.as_array().unwrap().len()), (&"in.raw".into(), 1), "{changes}");
    assert_ne!(changes[0]["old"], changes[0]["new"]);
    let files = serde_json::json!([
        { "path": "new", "change": "added" },
        { "path": "old", "change": "removed" },
        { "path": "sub/edited", "change": "changed" },
    ]);
    assert_eq!(changes[0]["folder"], serde_json::json!({ "files": files, "more": 0 }));
    // Another cell's folder, once that cell has run.
    space.executed();
    space.edit("a b c", "a c d");
    assert_eq!(space.run(&["run", "split"]).code, 0);
    assert!(space.run(&["why", "count"]).out.contains("in.parts: b removed, d added"));
    // Many files are counted.
    space.executed();
    (0..30).for_each(|i| space.write(&format!("raw/many/{i:02}"), ""));
    assert!(space.run(&["why", "count"]).out.contains("many/09 added and 20 more\n"));
    assert_eq!(reason(&space)["changes"][0]["folder"]["more"], 20);
    // A damaged list of files costs the names and nothing else.
    space.executed();
    space.write("raw/later", "");
    let holds = |path: &std::path::Path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"many/01\""));
    let blobs = walkdir::WalkDir::new(space.path("cache/v1/blobs")).into_iter().map(|item| item.unwrap().into_path());
    blobs.filter(|path| holds(path)).for_each(|path| flip_a_bit(&path));
    let why = space.run(&["why", "count"]);
    assert!(why.out.contains("in.raw: ") && !why.out.contains("added"), "{}", why.out);
    assert_eq!(space.run(&["run"]).code, 0);
    assert_eq!(space.executed(), set(&[]));
}

#[test]
fn one_file_changed_runs_only_the_cells_of_its_data_set() {
    let space = space();
    space.executed();
    space.write("raw/blue.txt", "cornflowers\n");
    let expected = ["clean[data=blue]", "model[data=blue,loss=plain]", "model[data=blue,loss=fancy]", "table"];
    assert_eq!(space.executed(), set(&expected));
}

#[test]
fn an_upstream_cell_with_equal_output_stops_there() {
    let space = space();
    space.executed();
    space.write("raw/blue.txt", "Violets\n");
    assert_eq!(space.executed(), set(&["clean[data=blue]"]));
    assert_eq!(space.last_journal("up_to_date").len(), 3, "the cells behind it were looked at and kept");
}

#[test]
fn a_parameter_from_outside_counts_like_one_in_the_file() {
    let space = space();
    space.executed();
    let plan = space.json(&["plan", "--json", "--set", "factor=4"]);
    assert_eq!(plan["counts"]["run"], 4);
    let plan = space.json(&["plan", "--json", "--set", "factor=3"]);
    assert_eq!(plan["counts"]["run"], 0);
}

#[test]
fn a_selector_runs_its_cells_and_what_they_need() {
    let space = space();
    let ran = space.run(&["run", "model[loss=pl*,data=red]"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(space.last_journal("executed"), set(&["clean[data=red]", "model[data=red,loss=plain]"]));
    let ran = space.run(&["run", "modl"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("model"), "{}", ran.err);
}

#[test]
fn declared_variables_are_seen_and_in_the_key_and_others_are_neither() {
    let space = Space::new(
        r#"
axes: { i: [a] }
stages:
  see: { run: 'echo "${i} $SHOWN ${HIDDEN:-nothing}" > ${out.seen}', env: { SHOWN: one }, out: { seen: "${i}.txt" } }
"#,
    );
    // `${HIDDEN:-nothing}` is left to the shell: it is not a reference of the pipeline.
    space.edit("${HIDDEN:-nothing}", "$${HIDDEN:-nothing}");
    let run = || {
        let output = space.command(&["run"]).env("HIDDEN", "something").env("SHOWN", "other").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        space.read("reports/pipeline/a.txt")
    };
    assert_eq!(run(), "a one nothing\n");
    space.edit("SHOWN: one", "SHOWN: two");
    assert_eq!(run(), "a two nothing\n");
}
