//! External changes: altered blobs, inputs that change while a cell runs, results that do not repeat.

use crate::space::{Space, flip_a_bit, set};

const CHAIN: &str = r"
stages:
  make: { run: 'echo content > ${out.x}', out: [x] }
  use: { run: 'tr a-z A-Z < ${in.x} > ${out.y}', in: { x: make }, out: { y: y.txt } }
";

#[test]
fn an_altered_blob_is_reported_and_rebuilt() {
    let space = Space::new(CHAIN);
    space.executed();
    flip_a_bit(&space.blob("make", "x"));
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("of make is altered; made again"), "{}", ran.err);
    assert_eq!(space.last_journal("executed"), set(&["make"]));
    assert_eq!(space.executed(), set(&[]));
}

#[test]
fn a_deleted_blob_is_reported_and_rebuilt() {
    let space = Space::new(CHAIN);
    space.executed();
    std::fs::remove_file(space.blob("use", "y")).unwrap();
    std::fs::remove_dir_all(space.path("reports")).unwrap();
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("of use is missing; made again"), "{}", ran.err);
    assert_eq!(space.read("reports/pipeline/y.txt"), "CONTENT\n");
}

#[test]
fn an_input_that_changes_while_its_cell_runs_does_not_enter_the_store() {
    let space = Space::new(
        "stages: { copy: { run: 'cp ${in.a} ${out.b}; echo more >> ~/a.txt', in: { a: ./a.txt }, out: [b] } }",
    );
    space.write("a.txt", "one\n");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("a.txt changed while it ran"), "{}", ran.err);
    assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 0);
}

#[test]
fn a_forced_run_that_differs_is_reported_and_the_first_result_is_kept() {
    let space = Space::new("stages: { count: { run: 'echo x >> ~/n; wc -l < ~/n > ${out.n}', out: { n: n.txt } } }");
    space.executed();
    let ran = space.run(&["run", "--force"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("count: its output differs from the first run's, which is kept"), "{}", ran.err);
    assert_eq!(space.read("reports/pipeline/n.txt").trim(), "1");
    assert!(space.run(&["why", "count"]).out.contains("a later result differs from it"));
}

#[test]
fn a_missing_file_is_refused_before_anything_runs() {
    let space = Space::new(
        "axes: { i: [a, b] }\nstages: { copy: { run: [cp, '${in.x}', '${out.y}'], in: { x: './${i}.txt' }, out: [y] } }",
    );
    space.write("a.txt", "a");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("copy[i=b]") && ran.err.contains("b.txt"), "{}", ran.err);
    assert!(!space.path("cache/v1/runs").exists(), "nothing was run");
}

#[test]
fn an_error_in_the_pipeline_has_exit_code_2_and_a_position() {
    let space = Space::new("stages:\n  copy: { rn: 'true', out: [y] }\n");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("pipeline.yaml:2:11"), "{}", ran.err);
}

#[test]
fn a_store_that_cannot_be_written_is_an_error_and_not_a_crash() {
    let space = Space::new(CHAIN);
    space.write("cache", "a file where the store should be");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("error: cannot create "), "{}", ran.err);
}
