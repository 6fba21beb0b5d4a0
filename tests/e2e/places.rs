//! Unusual locations: store and reports inside inputs and inside each other, a read-only store, folders on several file
//! systems, names that are not UTF-8.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::space::{Ran, Space, set};

#[test]
fn an_input_that_holds_the_store_and_the_reports_is_read_without_them() {
    for input in ["./", "../project", "/"] {
        let space = Space::new("");
        let here = if input == "/" { space.path("project").display().to_string() } else { input.to_owned() };
        let text = format!(
            "stages:\n  all: {{ run: 'ls ${{in.here}} > ${{out.x}}', in: {{ here: {here} }}, out: {{ x: x.txt }} }}\n"
        );
        space.write("project/p.yaml", text);
        space.write("project/data.txt", "1");
        let run = || space.run(&["run", "--json", "project/p.yaml"]);
        let ran = run();
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(space.path("project/reports/p/x.txt").exists() && space.path("project/cache/v1").exists());
        assert!(run().out.contains("\"executed\": 0"), "{input}");
        space.write("project/data.txt", "2");
        assert!(run().out.contains("\"executed\": 1"), "{input}");
    }
}

#[test]
fn reports_and_inputs_inside_the_store_are_refused_before_anything_runs() {
    let space = Space::new("stages: { a: { run: 'cp ${in.f} ${out.x}', in: { f: ./f }, out: { x: x.txt } } }");
    space.write("f", "1");
    let cases = [
        (&["run", "--reports", "cache/v1/reports"][..], "the folder of reports"),
        (&["run", "--reports", "out", "--cache", "out/pipeline/x.txt"], "would be published into the store"),
    ];
    for (words, message) in cases {
        let ran = space.run(words);
        assert_eq!(ran.code, 2, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(message) && ran.err.contains("--reports"), "{words:?}: {}", ran.err);
        assert!(!space.path("cache").exists() && !space.path("out").exists());
    }
    // Both in one folder is allowed.
    assert_eq!(space.run(&["run", "--reports", "out", "--cache", "out/cache"]).code, 0);
    assert_eq!(space.run(&["run", "--reports", "out", "--cache", "out"]).code, 0);
    assert_eq!(space.read("out/pipeline/x.txt"), "1");
    space.edit("./f", "./cache/v1/runs");
    space.write("cache/v1/runs/x", "");
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("cache/v1/runs is inside the store"), "{}", ran.err);
}

/// Runs the program as a user to whom permissions apply.
fn as_a_user(space: &Space, words: &[&str]) -> Ran {
    let given = space.command(words);
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Ran::from(space.command(words).output().unwrap());
    }
    let command = |program: &OsStr| {
        let mut command = Command::new(program);
        command.args(words).current_dir(space.path("")).env_clear().env("HOME", "/").env("PATH", "/usr/bin:/bin");
        command.uid(65534).gid(65534);
        command
    };
    let output = command(given.get_program()).output().or_else(|_| {
        // The binary is in a folder that only its owner can read.
        command(space.copy_of_program("program").as_os_str()).output()
    });
    Ran::from(output.unwrap())
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    let space = Space::new(
        r#"
axes: { i: [1, 2] }
stages:
  make: { run: 'echo "{\"metrics\": {\"score\": ${i}}}" > ${out.x}', out: { x: x.json } }
  table: { uses: report, in: { scores: make }, with: { rows: i } }
"#,
    );
    space.executed();
    assert!(space.shell("chmod -R a+rX,a-w cache reports pipeline.yaml; chmod 755 ."));
    for words in ["plan", "plan --json", "status", "show table", "table", "history", "why", "cache check"] {
        let words: Vec<&str> = words.split(' ').collect();
        let words = &words[..];
        let ran = as_a_user(&space, words);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
        assert_eq!(ran.err, "", "{words:?}");
    }
    assert!(as_a_user(&space, &["plan"]).out.contains("3 up to date"));
    let ran = as_a_user(&space, &["run", "--force"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Permission denied") && ran.err.contains("--cache"), "{}", ran.err);
    assert!(space.shell("rm -rf none; mkdir -m 555 none"));
    let ran = as_a_user(&space, &["plan", "--cache", "none/cache"]);
    assert_eq!((ran.code, ran.out.contains("2 to run")), (0, true), "{}", ran.err);
    assert!(space.shell("chmod -R u+w ."));
}

#[test]
fn an_output_that_cannot_be_stored_fails_its_cell_only() {
    let space = Space::new(
        r"
axes: { k: [file, folder, loop, deep, name] }
stages:
  good: { run: 'echo hi > ${out.x}', out: { x: x.txt } }
  bad:
    run: |
      mkdir ${out.x}; cd ${out.x}; echo a > f
      case ${k} in
        file) chmod 000 f;;
        folder) mkdir g; chmod 000 g .;;
        loop) ln -s link link;;
        deep) p=.; for i in $(seq 300); do p=$p/d; done; mkdir -p $p; touch $p/f;;
        name) touch $(printf 'caf\351');;
      esac
    out: { x: x }
",
    );
    assert!(space.shell("chmod 777 ."));
    let ran = as_a_user(&space, &["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    for (k, words) in [
        ("file", "out/x/f is not readable"),
        ("folder", "out/x is not readable"),
        ("loop", "out/x/link is a link to link, which cannot be read"),
        ("deep", "nested more than 256 folders deep"),
        ("name", "named in something else than UTF-8"),
    ] {
        let start = format!("bad[k={k}]: its output `x` cannot be stored: ");
        let line = ran.err.lines().find(|line| line.contains(&start)).unwrap_or_else(|| panic!("{k}: {}", ran.err));
        assert!(line.contains(words), "{line}");
    }
    assert_eq!(space.read("reports/pipeline/x.txt"), "hi\n");
    assert_eq!(space.last_journal("failed").len(), 5);
    assert_eq!(fs::read_dir(space.path("cache/v1/staging")).unwrap().count(), 0, "nothing is left");
    assert_eq!(space.run(&["cache", "check"]).code, 0);
}

/// A folder on another file system than `path`, if there is one.
fn elsewhere(path: &Path) -> Option<tempfile::TempDir> {
    let device = fs::metadata(path).unwrap().dev();
    let rooms = ["/dev/shm", "/var/tmp", "/tmp", env!("CARGO_TARGET_TMPDIR")];
    let other = rooms.iter().find(|room| fs::metadata(room).is_ok_and(|room| room.dev() != device))?;
    tempfile::tempdir_in(other).ok()
}

#[test]
fn store_and_reports_may_be_on_other_file_systems() {
    let pipeline = r"
stages:
  make: { run: 'mkdir ${out.x}; echo 1 > ${out.x}/1; cp ${out.x}/1 ${out.x}/run; chmod +x ${out.x}/run; echo said', out: { x: x } }
  use: { run: 'test -x ${in.x}/run; ls ${in.x} > ${out.y}', in: { x: make }, out: { y: y.txt } }
";
    for moved in ["cache/v1/staging", "cache/v1/blobs", "cache/v1/logs", "cache", "reports"] {
        let space = Space::new(pipeline);
        // Without another file system, this tests links only.
        let other = elsewhere(&space.path("")).unwrap_or_else(|| tempfile::tempdir().unwrap());
        assert_eq!(space.run(&["plan"]).code, 0);
        let _ = fs::remove_dir_all(space.path(moved));
        symlink(other.path(), space.path(moved)).unwrap();
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 0, "{moved}: {}", ran.err);
        assert_eq!(space.read("reports/pipeline/y.txt"), "1\nrun\n", "{moved}");
        assert_eq!(space.executed(), set(&[]), "{moved}");
        assert_eq!(fs::read_dir(space.path("cache/v1/staging")).unwrap().count(), 0, "{moved}");
        assert_eq!(fs::read_dir(space.path("cache/v1/logs")).unwrap().count(), 1, "{moved}");
        let checked = space.run(&["cache", "check"]);
        assert_eq!(checked.code, 0, "{moved}: {}", checked.out);
    }
}

#[test]
fn a_folder_that_is_not_named_in_utf_8_is_read_from_and_refused_as_a_store() {
    let space = Space::new("");
    let odd = space.path("").join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("p.yaml"), "stages: { a: { run: 'cp ${in.f} ${out.x}', in: { f: ./f }, out: { x: x.txt } } }")
        .unwrap();
    fs::write(odd.join("f"), "1").unwrap();
    let run = |words: &[&str]| Ran::from(space.command(words).current_dir(&odd).output().unwrap());
    let ran = run(&["run", "p.yaml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("is not named in UTF-8") && ran.err.contains("--cache"), "{}", ran.err);
    let ran = run(&["run", "p.yaml", "--cache", "../cache", "--reports", "../reports"]);
    assert_eq!(ran.code, 2, "a path through the folder is one in it: {}", ran.err);
    let (cache, reports) = (space.path("cache"), space.path("reports"));
    let words = ["run", "p.yaml", "--cache", cache.to_str().unwrap(), "--reports", reports.to_str().unwrap()];
    let ran = run(&words);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(space.read("reports/p/x.txt"), "1");
    assert_eq!(fs::metadata(reports.join("p/x.txt")).unwrap().permissions().mode() & 0o200, 0o200);
}
