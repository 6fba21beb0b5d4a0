//! Commands of stages: the shell, quoting, exit codes, and how their logs are shown.

use crate::space::{Space, set};

#[test]
fn a_failure_anywhere_in_a_pipe_fails_the_cell() {
    let space = Space::new(
        r"
stages:
  tee: { run: '(echo 0.5; exit 3) | tee ${out.log}', out: { log: log.txt } }
  tail: { run: '(echo 1; exit 4) | tail -n 1 > ${out.x}', out: [x] }
  zip: { run: 'false | gzip > ${out.z}', out: [z] }
  assigned: { run: 'a=$(false); echo $a > ${out.a}', out: [a] }
  unset: { run: 'echo $nothing > ${out.u}', out: [u] }
",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    for part in ["tee: exited with code 3", "tail: exited with code 4", "zip: exited with code 1", "assigned: exited"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    assert_eq!(space.last_journal("executed"), set(&[]), "none of them is a result");
}

#[test]
fn the_shell_can_be_chosen_and_is_part_of_the_key() {
    let space = Space::new(
        r"
shell: sh
stages:
  pipeline: { run: 'false | cat > ${out.a}', out: [a] }
  stage: { run: 'false | cat > ${out.b} || true; touch ${out.b}', shell: bash, out: [b] }
  words: { run: 'import sys; open(sys.argv[0] and ''${out.c}'', ''w'').write(''3'')', shell: [python3, -c], out: [c] }
",
    );
    assert_eq!(space.run(&["run"]).code, 0);
    assert_eq!(space.read("reports/pipeline/c"), "3");
    space.edit("shell: sh", "shell: bash");
    let ran = space.run(&["run"]);
    assert!(ran.err.contains("pipeline: exited with code 1"), "{}", ran.err);
    assert_eq!(space.last_journal("executed"), set(&[]), "the others keep their keys");
    for (shell, part) in
        [("bsh", "is not a known shell"), ("[no-such-shell, -c]", "there is no `no-such-shell` on PATH")]
    {
        let space = Space::new(&format!("shell: {shell}\nstages: {{ a: {{ run: 'true > ${{out.x}}', out: [x] }} }}"));
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains(part), "{}", ran.err);
    }
}

#[test]
fn paths_and_values_are_one_word_of_the_shell() {
    let space = Space::new(
        r#"
axes:
  who:
    plain: { text: plain }
    apostrophe: { text: "O'Brien" }
    words: { text: "two  words" }
    star: { text: "*" }
    semi: { text: "a; echo injected; $(touch ~/pwned) `touch ~/pwned`" }
    lines: { text: "a\ntouch ~/pwned" }
    empty: { text: "" }
stages:
  bare: { run: 'printf %s ${who.text} > ${out.table}', out: { table: 'my table.txt' } }
  quoted: { run: 'printf %s "${who.text}" > "${out.t}" # ${who.text}', out: { t: "it's.txt" } }
  single: { run: 'printf %s ''${who.text}'' > ${out.t}', out: { t: 's;.txt' } }
  list: { run: [sh, -c, 'printf %s "$1" > "$2"', sh, '${who.text}', '${out.t}'], out: { t: 'u u.txt' } }
  read: { run: 'cat ${in.f} > ${out.t}', in: { f: './in put.t xt' }, out: { t: r.txt } }
"#,
    );
    space.write("in put.t xt", "read");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!space.path("pwned").exists(), "a value was run as a command");
    for stage in ["bare", "quoted", "single", "list"] {
        for (name, text) in [
            ("plain", "plain"),
            ("apostrophe", "O'Brien"),
            ("words", "two  words"),
            ("star", "*"),
            ("semi", "a; echo injected; $(touch ~/pwned) `touch ~/pwned`"),
            ("lines", "a\ntouch ~/pwned"),
            ("empty", ""),
        ] {
            let cell = format!("{stage}[who={name}]");
            let output = if stage == "bare" { "table" } else { "t" };
            assert_eq!(std::fs::read_to_string(space.blob(&cell, output)).unwrap(), text, "{cell}");
        }
    }
    assert_eq!(space.read("reports/pipeline/r.txt"), "read");
}

#[test]
fn a_value_that_cannot_be_quoted_is_refused_up_front_unless_marked_raw() {
    let space = Space::new(
        "params: { flags: -n -e, who: a; touch ~/pwned }\nstages:\n  a: { run: 'sh -c \"echo ${params.who}\" > ${out.x}', out: [x] }\n",
    );
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("error[not_a_word]") && ran.err.contains("${params.who:raw}"), "{}", ran.err);
    assert!(!space.path("pwned").exists());
    space.edit("sh -c \"echo ${params.who}\"", "printf \"%s.\" ${params.flags:raw}");
    assert_eq!(space.run(&["run"]).code, 0);
    assert_eq!(space.read("reports/pipeline/x"), "-n.-e.");
}

#[test]
fn exit_codes_are_explained() {
    let space = Space::new(
        r#"
stages:
  child: { run: "sh -c 'kill -9 $$'; true", out: [a] }
  direct: { run: [sh, -c, 'kill -9 $$'], out: [b] }
  crash: { run: "sh -c 'kill -11 $$'; true", out: [c] }
  pipe: { run: "yes | head -n 1 > ${out.d}", out: [d] }
  missing: { run: "no-such-program --x > ${out.e}", out: [e] }
  plain: { run: "exit 200", out: [f] }
"#,
    );
    let ran = space.run(&["run"]);
    for part in [
        "child: exited with code 137: a program that it ran was killed by SIGKILL, often because memory ran out",
        "direct: killed by SIGKILL, often because memory ran out",
        "crash: exited with code 139: a program that it ran was killed by SIGSEGV",
        "pipe: exited with code 141: a program that it ran was killed by SIGPIPE",
        "missing: exited with code 127: `no-such-program` was not found",
        "plain: exited with code 200\n",
    ] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
}

#[test]
fn a_log_is_shown_as_a_terminal_would_have_left_it_and_kept_as_it_is() {
    let space = Space::new(
        r#"
stages:
  bar:
    run: 'printf "\033[31mred\033[0m\033]0;title\007\n"; for i in 1 2 3; do printf "\r%s%%" $i; done; printf "\nlast\n"; exit 1'
    out: [x]
  silent: { run: 'exit 7', out: [y] }
  mute: { run: 'exit 7 # 2', out: [z] }
"#,
    );
    let ran = space.run(&["run"]);
    assert!(ran.err.contains("| red\n") && ran.err.contains("| 3%\n") && ran.err.contains("| last\n"), "{}", ran.err);
    assert!(!ran.err.contains('\u{1b}') && !ran.err.contains('\r') && !ran.err.contains("1%"), "{}", ran.err);
    assert!(!ran.err.contains("same last words"), "nothing was said: {}", ran.err);
    let logs = std::fs::read_dir(space.path("cache/v1/logs")).unwrap();
    let logs: Vec<Vec<u8>> = logs.map(|log| std::fs::read(log.unwrap().path()).unwrap()).collect();
    assert_eq!(logs.len(), 1);
    assert!(logs[0].starts_with(b"\x1b[31mred") && logs[0].windows(3).any(|part| part == b"\r1%"));
}

/// Needs permission to mount a file system; skipped otherwise.
#[test]
fn a_command_that_fails_on_a_full_disk_reports_the_disk() {
    let space = Space::new("stages: { big: { run: 'head -c 6000000 /dev/zero > ${out.x}', out: [x] } }");
    std::fs::create_dir(space.path("small")).unwrap();
    let script = "mount -t tmpfs -o size=3m none small || exit 77; \"$0\" run --cache small/cache; exit $?";
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_meanfield")]).current_dir(space.path("."));
    let Ok(output) = command.output() else { return };
    let err = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || err.contains("unshare") {
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("big: exited with code 1") && err.contains("the disk of the store"), "{err}");
}

#[test]
fn a_panic_is_reported_as_a_bug_without_a_stack_trace() {
    let space = Space::new("");
    let ran = space.run(&["panic"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.starts_with("error: this is a bug in meanfield ") && ran.err.contains("src/cli/mod.rs:"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("please report it") && !ran.err.contains("stack backtrace"), "{}", ran.err);
}

#[test]
fn huge_numbers_and_names_that_are_not_utf8_do_not_crash() {
    use std::os::unix::ffi::OsStrExt;
    let space = Space::new("stages: { a: { run: 'echo hi > ${out.x}', out: [x], timeout: 18446744073709551615s } }");
    assert_eq!(space.run(&["run", "--resource", "gpu=18446744073709551615"]).code, 0);
    for option in ["--cache", "--reports"] {
        let mut command = space.command(&["run", option]);
        let ran = command.arg(std::ffi::OsStr::from_bytes(b"r\xff")).output().unwrap();
        assert_eq!(ran.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&ran.stderr).contains("not named in UTF-8"));
    }
    space.edit("timeout: 18446744073709551615s", "resources: { gpu: 18446744073709551615 }");
    assert_eq!(space.run(&["run", "--resource", "gpu=18446744073709551615"]).code, 2);
}
