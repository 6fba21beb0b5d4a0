//! How cells run: failures, retries, time limits, resources, interrupts, two runs at once.

use std::os::unix::process::ExitStatusExt;

use crate::space::{Ran, Space, set, text};

#[test]
fn a_failed_cell_stops_what_follows_it_and_nothing_else() {
    let space = Space::new(
        r#"
axes: { i: [good, bad] }
stages:
  first: { run: 'echo log of ${i}; test ${i} = good; echo ${i} > ${out.x}', out: [x] }
  second: { run: [cp, '${in.x}', '${out.y}'], in: { x: first }, out: { y: '${i}.txt' } }
"#,
    );
    let ran = space.run(&["run", "-j", "1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("first[i=bad]: exited with code 1"), "{}", ran.err);
    assert!(ran.err.contains("log of bad"), "the end of its log is shown: {}", ran.err);
    assert_eq!(space.read("reports/pipeline/good.txt"), "good\n");
    assert_eq!(space.last_journal("executed"), set(&["first[i=good]", "second[i=good]"]));
    let ran = space.run(&["run", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(document["failures"][0]["cell"], "first[i=bad]");
    assert_eq!(space.last_journal("executed"), set(&[]), "what was done is kept");
}

#[test]
fn a_missing_output_is_a_failure_that_names_it() {
    let space = Space::new("stages: { lazy: { run: 'true', out: { model: model.bin } } }");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("did not write its output `model` (model.bin)"), "{}", ran.err);
}

#[test]
fn failed_cells_are_retried_and_attempts_counted() {
    let space = Space::new(
        r"
stages:
  flaky: { run: 'echo x >> ~/tries; test $(wc -l < ~/tries) -ge 3; cp ~/tries ${out.x}', out: [x], retry: 2 }
",
    );
    assert_eq!(space.run(&["run"]).code, 0);
    assert_eq!(space.read("tries").lines().count(), 3);
    space.write("tries", "");
    space.edit("retry: 2", "retry: 1");
    space.edit("-ge 3", "-ge 9");
    assert_eq!(space.run(&["run"]).code, 1);
    assert_eq!(space.read("tries").lines().count(), 2);
}

#[test]
fn a_cell_that_takes_too_long_is_stopped_with_everything_it_started() {
    let space = Space::new(
        "stages: { slow: { run: 'sleep 600 & echo $! > ~/child; wait; touch ${out.x}', out: [x], timeout: 200ms } }",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("ran out of time"), "{}", ran.err);
    let child: i32 = space.read("child").trim().parse().unwrap();
    let gone = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
        // Killed, and not yet reaped by the process that adopts it.
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    assert!(gone(), "the process that the cell started is still running");
}

#[test]
fn a_request_beyond_the_capacity_of_a_resource_is_refused_before_anything_runs() {
    let space = Space::new("stages: { big: { run: 'touch ${out.x}', out: [x], resources: { gpu: 1 } } }");
    let run = |words: &[&str]| Ran::from(space.command(words).env("CUDA_VISIBLE_DEVICES", "").output().unwrap());
    let ran = run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--resource gpu=1"), "{}", ran.err);
    assert_eq!(run(&["run", "--resource", "gpu=1"]).code, 0);
}

#[test]
fn a_named_resource_limits_how_many_cells_run_at_once() {
    let space = Space::new(
        r#"
axes: { i: 0..6 }
resources: { seat: 1 }
stages:
  sit: { run: 'mkdir ~/seat; rmdir ~/seat; touch ${out.x}', out: [x], resources: { seat: 1 } }
"#,
    );
    space.edit("touch ${out.x}", "echo ${i} > ${out.x}");
    let ran = space.run(&["run", "-j", "6"]);
    assert_eq!(ran.code, 0, "two cells held the one seat: {}", ran.err);
}

#[test]
fn an_interrupt_stops_children_exits_with_130_and_leaves_a_clean_state() {
    let space = Space::new(
        "stages: { slow: { run: 'test -e ~/go || { kill -INT $PPID; sleep 600; }; touch ${out.x}', out: [x] } }",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(ran.err.contains("Interrupted"), "{}", ran.err);
    assert_eq!(std::fs::read_dir(space.path("cache/v1/staging")).unwrap().count(), 0);
    space.write("go", "");
    assert_eq!(space.executed(), set(&["slow"]));
}

#[test]
fn two_runs_at_once_execute_each_cell_once() {
    let space = Space::new(
        r"
axes: { i: 0..12 }
stages:
  count: { run: 'echo ${i} >> ~/ran; echo ${i} > ${out.x}', out: [x] }
  again: { run: 'echo again ${i} >> ~/ran; cp ${in.x} ${out.y}', in: { x: count }, out: [y] }
",
    );
    let runs: Vec<_> = (0..3).map(|_| space.spawn(&["run", "-j", "2"])).collect();
    for run in runs {
        let ran = Ran::from(run.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let mut ran: Vec<String> = space.read("ran").lines().map(str::to_owned).collect();
    ran.sort();
    let total = ran.len();
    ran.dedup();
    assert_eq!((ran.len(), total), (24, 24), "a cell was executed twice, or not at all");
}

#[test]
fn history_tells_a_run_that_is_running_from_a_killed_one() {
    let space = Space::new("stages: { wait: { run: 'read x < ~/gate; touch ${out.x}', out: [x] } }");
    assert!(space.shell("mkfifo gate"));
    let states = || -> Vec<String> {
        let history = space.json(&["history", "--json"]);
        history["runs"].as_array().unwrap().iter().map(|run| text(&run["state"])).collect()
    };
    // Once its journal has a line, it is running: the cell waits at the gate.
    let begun = |runs: usize| {
        let started = states();
        started.len() == runs && started.last().is_some_and(|state| state == "running")
    };
    space.kill_a_run(|| begun(1));
    assert_eq!(states(), ["killed"]);
    let mut child = space.spawn(&["run"]);
    while !begun(2) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the gate was opened");
    }
    assert!(space.run(&["history"]).out.contains("running"));
    space.write("gate", "go\n");
    assert!(child.wait().unwrap().success());
    assert_eq!(states(), ["killed", "ok"]);
}

#[test]
fn a_killed_run_resumes_with_nothing_to_unlock() {
    let space = Space::new(
        r"
axes: { i: 0..4 }
stages:
  make: { run: 'echo ${i} > ${out.x}', out: [x] }
  die: { run: 'test -e ~/go || kill -KILL $PPID $$; cat ${in.x} > ${out.y}', in: { x: make }, out: [y] }
  all: { run: 'cat ${in.y}/* > ${out.all}', in: { y: { from: die, gather: all } }, out: { all: all.txt } }
",
    );
    let killed = space.command(&["run", "-j", "1"]).output().unwrap();
    assert_eq!(killed.status.signal(), Some(9));
    space.write("go", "");
    let executed = space.executed();
    assert!(executed.contains("die[i=0]") && !executed.contains("make[i=0]"), "{executed:?}");
    assert_eq!(space.read("reports/pipeline/all.txt"), "0\n1\n2\n3\n");
    assert_eq!(
        std::fs::read_dir(space.path("cache/v1/staging")).unwrap().count(),
        0,
        "scratch folders of the killed run are removed"
    );
    let history = space.json(&["history", "--json"]);
    let states: Vec<&str> =
        history["runs"].as_array().unwrap().iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["killed", "ok"]);
}

#[test]
fn few_open_files_and_no_environment_are_enough() {
    let space = Space::new("axes: { i: 0..40 }\nstages: { a: { run: 'echo ${i} > ${out.x}', out: [x] } }\n");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -n 30; exec \"$0\" run -j 16", env!("CARGO_BIN_EXE_meanfield")]);
    let ran = shell.current_dir(space.path(".")).env_clear().output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 40);
}
