//! What is recorded is what ran, only the project's own files are code, and secrets are never written.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::space::{Ran, Space, text};

/// A value that occurs nowhere else on the machine.
const SECRET: &str = "tok-8f41c7e2b90d";

fn program(space: &Space, name: &str, text: &str) {
    space.write(name, format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(space.path(name), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_program_that_was_edited_since_the_plan_makes_no_result() {
    let space = Space::new(
        "stages:
  a: { run: 'sed -i s/old/new/ $HOME/tool.sh; touch ${out.x}', out: { x: x } }
  b: { run: [./tool.sh, '${out.y}', '${in.a}'], in: { a: a }, out: { y: y } }
",
    );
    program(&space, "tool.sh", "echo old > $1");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("its program ./tool.sh changed since the run began"), "{}", ran.err);
    program(&space, "tool.sh", "echo old > $1");
    assert_eq!(space.run(&["run"]).code, 0);
    assert_eq!(space.read("reports/pipeline/y"), "old\n");
}

#[test]
fn a_program_that_changes_while_it_runs_makes_no_result() {
    for change in ["echo : >> $HOME/tool.sh", "rm $HOME/tool.sh", "ln -sf /bin/true $HOME/tool.sh"] {
        let space = Space::new("stages: { a: { run: [./tool.sh, '${out.x}'], out: { x: x } } }");
        program(&space, "tool.sh", &format!("touch $1; {change}; exit"));
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 1, "{change}");
        assert!(ran.err.contains("its program ./tool.sh changed while it ran"), "{}", ran.err);
        assert_eq!(space.run(&["plan", "--json"]).out.matches("\"cached\": 1").count(), 0);
    }
    // Rewriting the same bytes is not a change.
    let space = Space::new("stages: { a: { run: [./tool.sh, '${out.x}'], out: { x: x } } }");
    program(&space, "tool.sh", "touch $1; cp -p $0 $0.new; mv $0.new $0; exit");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn a_relative_program_starts_from_every_folder_and_pipeline_name() {
    let space = Space::new("stages: { a: { run: [./bin/tool.sh, '${out.x}'], out: { x: x } } }");
    program(&space, "bin/tool.sh", "touch $1");
    fs::create_dir_all(space.path("below/deep")).unwrap();
    let full = space.path("pipeline.yaml").display().to_string();
    for (folder, name) in [
        (".", "pipeline.yaml"),
        (".", "./pipeline.yaml"),
        ("below", "../pipeline.yaml"),
        ("below/deep", "../../below/../pipeline.yaml"),
        ("below", &full),
    ] {
        let mut command = space.command(&["run", "--force", name]);
        let ran = Ran::from(command.current_dir(space.path(folder)).output().unwrap());
        assert_eq!(ran.code, 0, "{folder} {name}\n{}", ran.err);
    }
}

#[test]
fn a_run_outlives_its_own_program() {
    for change in ["rm $HOME/mf", "echo garbage > $HOME/mf.new; mv $HOME/mf.new $HOME/mf"] {
        let space = Space::new("");
        space.write("data.bin", "data");
        let url = format!("file://{}", space.path("data.bin").display());
        space.write(
            "pipeline.yaml",
            format!(
                "stages:
  a: {{ run: '{change}; touch ${{out.x}}', out: {{ x: x }} }}
  b: {{ uses: download, with: {{ urls: ['{url}'], unpack: false }} }}
"
            ),
        );
        space.copy_of_program("mf");
        let mut command = Command::new(space.path("mf"));
        command.args(["run", "-j", "1"]).current_dir(space.path(".")).env("HOME", space.path("."));
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.code, 0, "{change}\n{}", ran.err);
        assert!(ran.err.contains("2 cells run"), "{}", ran.err);
    }
}

const REPORT: &str = "
axes: { k: [u, v] }
stages:
  s: { run: \"echo '{\\\"metrics\\\": {\\\"acc\\\": 0.5}}' > ${out.s} # ${k}\", out: { s: s.json } }
  t: { uses: report, in: { s: s }, with: { rows: k, columns: [metric] } }
";

/// A `stages/report.yaml` below `folder` that leaves `pwned` behind.
fn plant(space: &Space, folder: &str) {
    space.write(
        &format!("{folder}/stages/report.yaml"),
        "params: { rows: { type: any, doc: r }, columns: { type: any, doc: c } }
in: { s: scores }
out: { report: report }
run: 'mkdir ${out.report}; touch ~/pwned'
",
    );
}

fn run_below(space: &Space, words: &[&str]) -> Ran {
    Ran::from(space.command(words).current_dir(space.path("scratch/project")).output().unwrap())
}

#[test]
fn a_stages_folder_above_the_project_is_not_used() {
    for (mark, used) in [(None, false), (Some("scratch/project/.git"), false), (Some("scratch/.git"), true)] {
        let space = Space::new("");
        space.write("scratch/project/pipeline.yaml", REPORT);
        plant(&space, "scratch");
        if let Some(mark) = mark {
            fs::create_dir_all(space.path(mark)).unwrap();
        }
        let plan = run_below(&space, &["plan"]);
        let ran = run_below(&space, &["run"]);
        assert_eq!(ran.code, 0, "{mark:?}\n{}", ran.err);
        assert_eq!(space.path("pwned").exists(), used, "{mark:?}");
        assert_eq!(plan.out.contains("stages/report.yaml replaces the built-in `report`"), used, "{}", plan.out);
        assert_eq!(ran.err.contains("stages/report.yaml in place of the built-in `report`"), used, "{}", ran.err);
        let replaced = serde_json::from_str::<serde_json::Value>(&run_below(&space, &["plan", "--json"]).out).unwrap();
        assert_eq!(replaced["replaced"].as_array().unwrap().len(), usize::from(used));
    }
}

#[test]
fn definitions_that_others_wrote_or_could_write_are_refused_by_name() {
    let space = Space::new("");
    space.write("scratch/project/pipeline.yaml", REPORT);
    fs::create_dir(space.path("scratch/.git")).unwrap();
    plant(&space, "scratch");
    let refused = |path: &str, why: &str| {
        let ran = run_below(&space, &["run"]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains("the definition `report` is not used: "), "{}", ran.err);
        assert!(ran.err.contains(&format!("{} {why}", space.path(path).display())), "{}", ran.err);
        assert!(!space.path("pwned").exists());
    };
    for (path, mode) in [("scratch", 0o777), ("scratch/stages", 0o777), ("scratch/stages/report.yaml", 0o666)] {
        let before = fs::metadata(space.path(path)).unwrap().permissions();
        fs::set_permissions(space.path(path), fs::Permissions::from_mode(mode)).unwrap();
        refused(path, "can be written to by every user");
        fs::set_permissions(space.path(path), before).unwrap();
    }
    // Only root can change the owner of a file.
    for path in ["scratch/stages/report.yaml", "scratch/stages"] {
        if chown(space.path(path), Some(4711), None).is_ok() {
            refused(path, "belongs to user 4711");
        }
    }
    // An exact copy of the built-in definition is harmless.
    fs::set_permissions(space.path("scratch/stages"), fs::Permissions::from_mode(0o777)).unwrap();
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/report.yaml");
    fs::copy(built_in, space.path("scratch/stages/report.yaml")).unwrap();
    let ran = run_below(&space, &["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.contains("in place of"), "{}", ran.err);
}

#[test]
fn a_pipeline_that_others_could_write_runs_only_if_it_is_named() {
    let space = Space::new("stages: { a: { run: 'touch ${out.x}', out: { x: x } } }");
    fs::set_permissions(space.path("pipeline.yaml"), fs::Permissions::from_mode(0o666)).unwrap();
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("pipeline.yaml can be written to by every user"), "{}", ran.err);
    assert_eq!(space.run(&["run", "pipeline.yaml"]).code, 0);
}

/// What `words` do with the secret in the environment.
fn with_secret(space: &Space, words: &[&str]) -> Ran {
    Ran::from(space.command(words).env("TOKEN", SECRET).output().unwrap())
}

/// No file below the space and nothing that a command prints holds `value`.
fn assert_nowhere(space: &Space, value: &str, others: &[&Ran]) {
    for item in walkdir::WalkDir::new(space.path(".")).into_iter().map(Result::unwrap) {
        let named = item.path().to_string_lossy().contains(value);
        let holds = item.file_type().is_file() && contains(&fs::read(item.path()).unwrap(), value);
        assert!(!named && !holds, "{}", item.path().display());
    }
    for words in
        [&["show"][..], &["show", "--json"], &["why"], &["plan"], &["plan", "--json"], &["status"], &["history"]]
    {
        let ran = with_secret(space, words);
        assert!(!ran.out.contains(value) && !ran.err.contains(value), "{words:?}\n{}{}", ran.out, ran.err);
    }
    for ran in others {
        assert!(!ran.out.contains(value) && !ran.err.contains(value), "{}{}", ran.out, ran.err);
    }
}

fn contains(bytes: &[u8], value: &str) -> bool {
    bytes.windows(value.len()).any(|window| window == value.as_bytes())
}

#[test]
fn a_secret_reaches_its_command_and_no_file_and_no_message() {
    let space = Space::new(
        r#"
stages:
  a:
    secrets: [TOKEN]
    run: |
      [ $${#TOKEN} = 16 ]
      echo "the token is $TOKEN."; printf %s "$${TOKEN:0:7}"; printf '%s\n' "$${TOKEN:7}" >&2
      mkfifo pat; printenv TOKEN > pat &
      cat /proc/[0-9]*/cmdline 2> err | grep -ac -f pat && exit 3 || touch ${out.x}
    out: { x: x }
  b: { run: 'echo $${TOKEN-none} > ${out.y}', in: { a: a }, out: { y: y } }
"#,
    );
    let ran = with_secret(&space, &["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(space.read("reports/pipeline/y"), "none\n");
    let log = text(&space.json(&["show", "a", "--json"])["a"]["log"]);
    assert_eq!(fs::read_to_string(log).unwrap(), "the token is ***.\n***\n0\n");
    assert_eq!(space.json(&["show", "a", "--json"])["a"]["secrets"][0], "TOKEN");
    assert_nowhere(&space, SECRET, &[&ran]);

    // Another value, or none, does not cause a rerun.
    assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 2);
    let ran = Ran::from(space.command(&["run"]).env("TOKEN", "another").output().unwrap());
    assert!(ran.err.contains("0 cells run"), "{}", ran.err);

    for mode in ["index", "runs", "logs"] {
        for item in walkdir::WalkDir::new(space.path("cache/v1").join(mode)).into_iter().map(Result::unwrap) {
            let open = item.metadata().unwrap().permissions().mode() & 0o077;
            assert!(mode == "index" || item.file_type().is_dir() || open == 0, "{}", item.path().display());
        }
    }
}

#[test]
fn a_failure_shows_no_secret() {
    let space = Space::new(
        "stages: { a: { run: 'echo \"$TOKEN: not found\" >&2; exit 127', secrets: [TOKEN], out: { x: x } } }",
    );
    let ran = with_secret(&space, &["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("***: not found"), "{}", ran.err);
    let json = with_secret(&space, &["run", "--json"]);
    assert_nowhere(&space, SECRET, &[&ran, &json]);
}

#[test]
fn a_missing_secret_is_named_with_its_stage_before_anything_runs() {
    let space = Space::new(
        "stages:
  a: { run: 'touch ${out.x}', out: { x: x } }
  b: { run: 'touch ${out.y}', secrets: [NO_SUCH_TOKEN, NOR_THIS], in: { a: a }, out: { y: y } }
",
    );
    for set in [false, true] {
        let mut command = space.command(&["run"]);
        if set {
            command.env("NO_SUCH_TOKEN", "");
        }
        let ran = Ran::from(command.output().unwrap());
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains("stage `b` needs the secret NO_SUCH_TOKEN"), "{}", ran.err);
        assert!(ran.err.contains("NOR_THIS"), "{}", ran.err);
        assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 0);
    }
    // Cells that do not need it run, and cached cells do not need it.
    assert_eq!(space.run(&["run", "a"]).code, 0);
    let ran = space.command(&["run"]).env("NO_SUCH_TOKEN", "a").env("NOR_THIS", "b").output().unwrap();
    assert!(ran.status.success());
    assert_eq!(space.run(&["run"]).code, 0);
}

#[test]
fn a_process_that_a_command_leaves_behind_does_not_keep_its_log_open() {
    let space = Space::new(
        "stages:
  a:
    secrets: [TOKEN]
    run: |
      setsid sh -c 'echo $$ > ~/pid; echo $TOKEN; exec sleep 600' &
      until [ -s ~/pid ]; do :; done
      echo done; touch ${out.x}
    out: { x: x }
",
    );
    let ran = with_secret(&space, &["run"]);
    let _ = Command::new("kill").arg(space.read("pid").trim()).stderr(Stdio::null()).status();
    assert_eq!(ran.code, 0, "{}", ran.err);
    let log = text(&space.json(&["show", "a", "--json"])["a"]["log"]);
    assert!(fs::read_to_string(log).unwrap().contains("done"));
}

#[test]
fn what_env_holds_is_shown_as_a_digest_and_is_part_of_the_key() {
    let space = Space::new(
        "params: { token: none }
stages: { a: { run: 'touch ${out.x}', env: { API: 'key ${params.token}' }, out: { x: x } } }
",
    );
    // Different from the value of the other tests, which look for theirs in the list of processes.
    let value = "pass-52e0a1";
    let set = format!("token={value}");
    let ran = space.run(&["run", "--set", &set]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(space.run(&["plan"]).out.contains("env.API: digest "), "{}", space.run(&["plan"]).out);
    let shown = space.run(&["show", "--set", &set]);
    assert!(shown.out.contains("API: digest "), "{}", shown.out);
    assert!(space.run(&["history"]).out.contains("--set token=digest "));
    let now = ["plan", "why"].map(|command| space.run(&[command, "--set", &set]));
    assert_eq!(space.json(&["plan", "--json", "--set", &set])["counts"]["cached"], 1);
    assert_nowhere(&space, value, &[&ran, &shown, &now[0], &now[1]]);
}

/// Serves a file to clients that send the token; returns the port.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut line, mut known) = (String::new(), false);
            while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                known |= line.to_ascii_lowercase().starts_with("authorization:")
                    && line.contains(&format!("Bearer {SECRET}"));
                line.clear();
            }
            let (status, body) = if known { ("200 OK", "weights\n") } else { ("401 Unauthorized", "") };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
        }
    });
    port
}

#[test]
fn a_download_shows_its_secret_to_the_server_alone() {
    let download = format!("uses: download, with: {{ urls: ['http://127.0.0.1:{}/a.bin'], unpack: false }}", serve());
    let space = Space::new(&format!("stages: {{ a: {{ {download} }} }}"));
    let ran = space.run(&["run"]);
    assert!(ran.err.contains("HTTP status 401") && ran.err.contains("`secrets:`"), "{}", ran.err);
    space.edit("uses: download,", "uses: download, secrets: [TOKEN],");
    let ran = with_secret(&space, &["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_nowhere(&space, SECRET, &[&ran]);
    assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 1);
    space.edit("http://", "https://me:pass-1@");
    let ran = space.run(&["plan"]);
    assert!(ran.code == 2 && ran.err.contains("holds a name or password"), "{}", ran.err);
}

#[test]
fn an_output_file_never_replaces_an_input_even_by_force() {
    let space = Space::new("");
    fs::create_dir_all(space.path("set/a")).unwrap();
    let picture = |name: &str| image::RgbImage::new(3, 3).save(space.path(name)).unwrap();
    ["set/a/1.png", "set/a/2.png", "old.png"].into_iter().for_each(picture);
    fs::hard_link(space.path("set/a/1.png"), space.path("again.png")).unwrap();
    let sheet = |words: &[&str]| space.run(&[&["data", "inspect", "set", "--contact-sheet"], words].concat());
    let before = fs::read(space.path("set/a/1.png")).unwrap();
    for (words, said) in [
        (&["set/a/1.png"][..], "exists; name another file"),
        (&["set/a/1.png", "--force"], "this file is an input"),
        (&["again.png", "--overwrite"], "this file is an input"),
        (&["sheet.csv"], "a name that ends in .png"),
        (&["old.png"], "exists; name another file"),
    ] {
        let ran = sheet(words);
        assert_eq!(ran.code, 2, "{words:?}");
        assert!(ran.err.contains(said), "{words:?}\n{}", ran.err);
        assert_eq!(fs::read(space.path("set/a/1.png")).unwrap(), before);
    }
    sheet(&["old.png", "--force"]);
    assert_ne!(fs::read(space.path("old.png")).unwrap(), before);
}
