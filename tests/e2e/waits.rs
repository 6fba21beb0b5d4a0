//! Nothing waits forever, and no process of a run outlives it: signals, kills, locks, descriptors, disks, streams.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::space::{Ran, Space, set};

const ONE: &str = "stages: { a: { run: 'echo a > ${out.x}', out: [x] } }";

/// Runs a shell script in the space, with the binary as `$0`; `None` if it exits with 77: the test cannot run on this
/// system.
fn script(space: &Space, script: &str) -> Option<Ran> {
    let output = shell(space, script).output().unwrap();
    let cannot = output.status.code() == Some(77) || String::from_utf8_lossy(&output.stderr).contains("unshare: ");
    (!cannot).then(|| Ran::from(output))
}

fn shell(space: &Space, script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_meanfield")])
        .current_dir(space.path("."))
        .env("HOME", space.path("."));
    command
}

/// Waits until `reached`, and gives up after longer than any machine needs.
fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now();
    }
}

/// Whether the process whose number is in the file `name` has ended.
fn gone(space: &Space, name: &str) -> bool {
    let text = space.read(name);
    // Killed, and not yet reaped by the process that adopts it.
    std::fs::read_to_string(format!("/proc/{}/stat", text.trim())).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_file_system_without_locks_is_reported_as_such() {
    let space = Space::new(ONE);
    for function in ["flock", "fcntl", "fcntl64"] {
        let variadic = if function == "flock" { "int op" } else { "int op, ..." };
        // The commands of open-file-description locks; others are allowed.
        let body = match function {
            "flock" => "errno = ENOLCK; return -1;".to_owned(),
            name => format!(
                "if (op >= 36 && op <= 38) {{ errno = ENOSYS; return -1; }} va_list l; va_start(l, op); void *a = va_arg(l, void *); \
                 int (*real)(int, int, ...) = dlsym(RTLD_NEXT, \"{name}\"); return real(fd, op, a);"
            ),
        };
        let code = format!(
            "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <stdarg.h>\nint {function}(int fd, {variadic}) {{ {body} }}\n"
        );
        space.write("shim.c", code);
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o", "shim.so", "shim.c"])
            .current_dir(space.path("."))
            .status();
        if !built.is_ok_and(|status| status.success()) {
            return;
        }
        let ran = Ran::from(space.command(&["run"]).env("LD_PRELOAD", space.path("shim.so")).output().unwrap());
        // A program uses one of the two names of `fcntl`.
        if function != "flock" && ran.code == 0 {
            space.write("pipeline.yaml", ONE.replace("echo a", &format!("echo {function}")));
            continue;
        }
        assert_eq!(ran.code, 1, "{function}: {}", ran.err);
        assert!(ran.err.starts_with("error: cannot lock "), "{function}: {}", ran.err);
        assert!(ran.err.contains("help: this file system has no file locks"), "{}", ran.err);
    }
}

#[test]
fn too_few_descriptors_are_reported_as_such() {
    let space = Space::new(ONE);
    for files in 4..12 {
        let ran = script(&space, &format!("ulimit -n {files}; exec \"$0\" run")).unwrap();
        // With fewer than the loader needs, the program does not start.
        let started = !ran.err.contains("loading shared libraries");
        let said = ran.code == 1 && ran.err.contains("Too many open files");
        assert!(ran.code == 0 || said || !started, "{files}: {}", ran.err);
    }
    assert_eq!(space.run(&["run"]).code, 0);
}

#[test]
fn running_out_of_inodes_is_reported_as_such() {
    let space = Space::new(ONE);
    std::fs::create_dir(space.path("m")).unwrap();
    for inodes in [258, 262, 264, 266, 268] {
        let mount = format!("mount -t tmpfs -o nr_inodes={inodes} none m || exit 77; exec \"$0\" run --cache m/c");
        let Some(ran) = script(&space, &format!("exec unshare -rm sh -c '{mount}' \"$0\"")) else { return };
        assert!(ran.code == 0 || ran.code == 1 && ran.err.contains("No space left"), "{inodes}: {}", ran.err);
    }
}

#[test]
fn cells_that_fail_at_the_same_time_on_a_full_disk_all_report_the_disk() {
    let space = Space::new(
        "
stages:
  ok: { run: 'echo 1 > ${out.x}', out: { x: x.txt } }
  big: { run: 'head -c 6000000 /dev/zero > ${out.x}', in: { ok: ok }, out: { x: big.bin } }
  two: { run: 'head -c 1300000 /dev/zero > ${out.x}; head -c 1300000 /dev/zero > out/y; cat < ~/fifo', in: { ok: ok }, out: { x: x, y: y } }
",
    );
    // `two` ends when `big` has ended and its folder is gone: there is space again by then.
    space.edit("; cat < ~/fifo", "; while [ -e ../*/out/big.bin ]; do :; done; head -c 9 big.bin");
    std::fs::create_dir(space.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=3m none small || exit 77; exec \"$0\" run --cache small/cache -j 2";
    let Some(ran) = script(&space, &format!("exec unshare -rm sh -c '{mount}' \"$0\"")) else { return };
    assert_eq!(ran.code, 1, "{}", ran.err);
    for cell in ["big", "two"] {
        let line = ran.err.lines().find(|line| line.contains(&format!("Failed {cell}: "))).unwrap_or_default();
        assert!(line.contains("the disk of the store"), "{cell}: {}", ran.err);
    }
}

#[test]
fn a_full_disk_of_the_reports_is_reported_with_a_hint_to_move_the_reports() {
    let space = Space::new("stages: { a: { run: 'head -c 6000000 /dev/zero > ${out.x}', out: { x: x.bin } } }");
    std::fs::create_dir(space.path("small")).unwrap();
    let mount = "mount -t tmpfs -o size=3m none small || exit 77; exec \"$0\" run --reports small/r";
    let Some(ran) = script(&space, &format!("exec unshare -rm sh -c '{mount}' \"$0\"")) else { return };
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("cannot publish small/r/pipeline/x.bin"), "{}", ran.err);
    assert!(ran.err.contains("keep the reports elsewhere with --reports"), "{}", ran.err);
}

#[test]
fn every_signal_that_asks_for_an_end_ends_a_run_cleanly_with_its_own_exit_code() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("USR1", 138), ("USR2", 140), ("XCPU", 152)] {
        let space = Space::new(&format!(
            "stages: {{ slow: {{ run: 'kill -{signal} $PPID; sleep 600; touch ${{out.x}}', out: [x] }} }}"
        ));
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, code, "{signal}: {}", ran.err);
        assert!(ran.err.contains("Interrupted 0 cells run"), "{signal}: {}", ran.err);
        assert_eq!(std::fs::read_dir(space.path("cache/v1/staging")).unwrap().count(), 0);
        assert_eq!(space.json(&["history", "--json"])["runs"][0]["state"], "stopped");
    }
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let space = Space::new("stages: { a: { run: 'kill -HUP $PPID; echo a > ${out.x}', out: [x] } }");
    let ran = script(&space, "trap '' HUP; exec \"$0\" run").unwrap();
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn a_blocked_signal_still_ends_a_run() {
    let space = Space::new("stages: { a: { run: 'kill -TERM $PPID; sleep 600; touch ${out.x}', out: [x] } }");
    let code = "import os,signal,sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); os.execv(sys.argv[1], sys.argv[1:])";
    let mut python = Command::new("python3");
    python.args(["-c", code, env!("CARGO_BIN_EXE_meanfield"), "run"]).current_dir(space.path("."));
    let Ok(output) = python.output() else { return };
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_second_signal_kills_cells_that_do_not_end() {
    let space = Space::new(
        "stages: { deaf: { run: 'trap : TERM; kill -INT $PPID; kill -USR1 $PPID; while :; do sleep 600 & wait; done; touch ${out.x}', out: [x] } }",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert_eq!(std::fs::read_dir(space.path("cache/v1/staging")).unwrap().count(), 0);
}

#[test]
fn a_run_that_cannot_end_is_ended_by_its_third_signal() {
    let space = Space::new("stages: { a: { run: 'echo $PPID > ~/run; sleep 600; touch ${out.x}', out: [x] } }");
    // Nothing reads its output, which is more than a pipe holds: it blocks in a write.
    let mut child = space.command(&["run", "-vv"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let stuffed = std::fs::File::options().write(true).open(format!("/proc/{}/fd/2", child.id())).unwrap();
    nix::fcntl::fcntl(&stuffed, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    while std::io::Write::write(&mut &stuffed, &[b'\n'; 4096]).is_ok() {}
    wait_until("it has not started", || space.path("run").exists() && !space.read("run").is_empty());
    let pid = Pid::from_raw(child.id().cast_signed());
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
        let _ = kill(pid, Signal::SIGTERM);
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_run_takes_its_commands_along_wherever_they_are() {
    let space = Space::new(
        "
axes: { i: [a, b] }
stages:
  a: { run: 'cd /; echo $$ > ~/shell-${i}; sleep 600 & echo $! > ~/child-${i}; wait; touch ${out.x}', out: [x] }
",
    );
    let files = ["shell-a", "child-a", "shell-b", "child-b"];
    let started =
        || files.iter().all(|name| std::fs::read_to_string(space.path(name)).is_ok_and(|text| text.ends_with('\n')));
    let mut child = space.command(&["run", "-j", "2"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the cells have not started", started);
    assert!(files.iter().all(|name| !gone(&space, name)));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("a command lives on", || files.iter().all(|name| gone(&space, name)));
}

#[test]
fn the_guard_of_a_run_ends_with_it() {
    let space = Space::new(
        "stages: { a: { run: 'ls /proc/$PPID/task/*/children > /dev/null; cat /proc/$PPID/task/*/children > ${out.x}; echo $$ >> ${out.x}', out: { x: x.txt } } }",
    );
    assert_eq!(space.run(&["run"]).code, 0);
    let children = space.read("reports/pipeline/x.txt");
    let guards: Vec<&str> = children
        .split_whitespace()
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains("(meanfield) S"))
        })
        .collect();
    assert_eq!(guards, Vec::<&str>::new());
}

#[test]
fn a_guard_ends_whose_run_was_gone_before_it_looked() {
    let space = Space::new(ONE);
    // Any number but that of this process, its parent; a folder in which nothing runs.
    let guard = space.command(&["guard", "1", "reports"]).stdin(std::process::Stdio::null()).spawn().unwrap();
    let guard = std::cell::RefCell::new(guard);
    wait_until("the guard waits for a parent that it never had", || guard.borrow_mut().try_wait().unwrap().is_some());
}

/// Reads the messages of a run until `word`; returns the run.
fn until(space: &Space, word: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = space.command(&["run"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended without {word}");
    }
    (child, said)
}

#[test]
fn a_stopped_command_is_reported_continued_by_hand_and_ended_by_ctrl_c() {
    let space = Space::new("stages: { a: { run: 'echo $$ > ~/pid; kill -STOP $$; echo a > ${out.x}', out: [x] } }");
    let (mut child, mut rest) = until(&space, "Stopped a: SIGSTOP has stopped it");
    kill(Pid::from_raw(space.read("pid").trim().parse().unwrap()), Signal::SIGCONT).unwrap();
    let mut said = String::new();
    rest.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");

    space.edit("echo a >", "echo b >");
    let (mut child, mut rest) = until(&space, "Stopped a: SIGSTOP has stopped it");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    rest.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
}

#[test]
fn a_command_that_asks_for_a_terminal_fails_and_does_not_wait() {
    let space = Space::new("stages: { a: { run: 'kill -TTIN $$; echo a > ${out.x}', out: [x] } }");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("killed by SIGTTIN: it asked for a terminal"), "{}", ran.err);
}

#[test]
fn a_run_completes_whatever_happens_to_its_streams() {
    for (streams, code) in [
        ("2>/dev/full", 1),
        ("2>&-", 1),
        (">&- 2>&-", 1),
        (">/dev/full 2>/dev/full", 1),
        ("<&- >&- 2>&-", 1),
        ("2>&1 | true", 0),
        ("2>&1 | head -1", 0),
        ("-vv 2>/dev/full", 1),
        ("--json >/dev/full", 1),
    ] {
        let space = Space::new(
            "
axes: { i: 0..5 }
stages:
  a: { run: 'echo ${i} > ${out.x}', out: [x] }
  bad: { run: 'exit 3', out: [x] }
",
        );
        let ran = script(&space, &format!("\"$0\" run {streams}")).unwrap();
        assert_eq!(ran.code, code, "{streams}: {}", ran.err);
        assert!(!ran.err.contains("panicked") && !ran.err.contains("bug in meanfield"), "{streams}: {}", ran.err);
        assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 5, "{streams}");
        assert_eq!(space.json(&["history", "--json"])["runs"][0]["state"], "failed", "{streams}");
    }
}

#[test]
fn a_failure_sets_the_exit_code_even_if_nothing_can_be_printed() {
    let space = Space::new("stages: { bad: { run: 'exit 3', out: [x] } }");
    let mut run = space.command(&["run", "--json"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run.stdout(writer).output().unwrap().status.code(), Some(1));
}

#[test]
fn half_published_files_of_a_killed_run_are_removed_by_the_next_run() {
    let space = Space::new("stages: { a: { run: 'echo a > ${out.x}', out: { x: x.txt } } }");
    space.write("reports/pipeline/.publishing-dead/held", "");
    space.write("reports/pipeline/.publishing-dead/new", "half");
    space.write("reports/pipeline/.publishing-mine", "a user's file");
    assert_eq!(space.run(&["run"]).code, 0);
    let left: Vec<String> = std::fs::read_dir(space.path("reports/pipeline"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        left.into_iter().collect::<std::collections::BTreeSet<_>>(),
        set(&["x.txt", ".x.txt.published", ".publishing-mine"])
    );
}

#[test]
fn a_lock_of_a_stopped_process_is_awaited_until_ctrl_c() {
    let space = Space::new(
        "stages: { a: { run: 'echo $PPID > ~/run; while [ -e ~/wait ]; do :; done; echo a > ${out.x}', out: [x] } }",
    );
    space.write("wait", "");
    let mut first = space.command(&["run"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("the first has not started", || space.path("run").exists());
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGSTOP).unwrap();
    let (mut second, mut rest) = until(&space, "Waiting a: another run is executing it");
    kill(Pid::from_raw(second.id().cast_signed()), Signal::SIGINT).unwrap();
    let mut said = String::new();
    rest.read_to_string(&mut said).unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(130), "{said}");
    std::fs::remove_file(space.path("wait")).unwrap();
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGCONT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(0));
}

#[test]
fn extreme_numbers_and_words_do_not_crash() {
    let huge = [
        "-1",
        "0",
        "1e30",
        "1e999",
        "NaN",
        "inf",
        "-0",
        "18446744073709551616",
        "99999999999999999999999999999999",
        "",
        " ",
        "\u{202e}",
        "٣",
    ];
    let space = Space::new(ONE);
    let mut tries: Vec<Vec<String>> = Vec::new();
    for number in huge {
        for option in ["-j", "--jobs"] {
            tries.push(vec!["run".into(), format!("{option}={number}")]);
        }
        for name in ["gpu", "cpu", "memory", "x", ""] {
            tries.push(vec!["run".into(), "--resource".into(), format!("{name}={number}")]);
        }
        tries.push(vec!["history".into(), format!("--limit={number}")]);
        tries.push(vec!["run".into(), "--set".into(), format!("axes.i=[{number}]")]);
        tries.push(vec!["plan".into(), format!("a[i={number}]")]);
        for key in ["timeout", "retry", "resources: { memory", "resources: { cpu", "resources: { gpu"] {
            let close = if key.contains('{') { " }" } else { "" };
            let file = format!("{}.yaml", tries.len());
            space.write(&file, ONE.replace("out: [x]", &format!("out: [x], {key}: {number}{close}")));
            tries.push(vec!["run".into(), file]);
        }
        let file = format!("{}.yaml", tries.len());
        space.write(&file, format!("axes: {{ i: 0..{number} }}\nstages: {{ a: {{ run: 'true', out: [x] }} }}\n"));
        tries.push(vec!["plan".into(), file]);
    }
    for words in tries {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Output { status, stderr, .. } = space.command(&words).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(matches!(status.code(), Some(0..=2)), "{words:?}: {status}: {said}");
        assert!(!said.contains("bug in meanfield"), "{words:?}: {said}");
    }
}
