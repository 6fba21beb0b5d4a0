//! Damage to the store's files under the real program: it never hangs, follows a link or gives a wrong result, and it
//! reports the damage. `src/engine/damage.rs` does the same for every file and many bytes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::space::{Ran, Space, flip_a_bit, set};

const PIPELINE: &str = r"
stages:
  make: { run: 'mkdir -p ${out.x}/sub; echo one > ${out.x}/1; echo two > ${out.x}/sub/2; echo said', out: { x: x } }
  use: { run: 'cat ${in.x}/1 ${in.x}/sub/2 > ${out.y}', in: { x: make }, out: { y: y.txt } }
";

/// Runs a command that must not hang.
fn ends(space: &Space, words: &[&str]) -> Ran {
    let mut child = space.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{words:?} does not end");
        }
        std::thread::yield_now();
    }
    Ran::from(child.wait_with_output().unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let items = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    items.filter(|item| item.file_type().is_file()).map(|item| item.into_path()).collect()
}

#[test]
fn any_file_of_the_store_may_be_altered_cut_lost_or_replaced() {
    let space = Space::new(PIPELINE);
    space.executed();
    let store = space.path("cache/v1");
    let whole = space.path("whole");
    assert!(space.shell("cp -a cache/v1 whole; seq 1000 > mine"));
    let mine = space.read("mine");
    for path in files(&whole) {
        let name = path.strip_prefix(&whole).unwrap();
        // Logs are for people, and locks have no content.
        let silent = name.starts_with("logs") || name == Path::new("locks");
        for what in ["altered", "cut", "lost", "a link", "a pipe", "a folder"] {
            if silent && matches!(what, "altered" | "cut") {
                continue;
            }
            assert!(space.shell("rm -rf cache reports; mkdir cache; cp -a whole cache/v1"));
            let harmed = store.join(name);
            match what {
                "altered" => flip_a_bit(&harmed),
                "cut" => {
                    let bytes = fs::read(&harmed).unwrap();
                    fs::remove_file(&harmed).unwrap();
                    fs::write(&harmed, &bytes[..bytes.len() - 1]).unwrap();
                }
                _ => fs::remove_file(&harmed).unwrap(),
            }
            match what {
                "a link" => symlink(space.path("mine"), &harmed).unwrap(),
                "a pipe" => nix::unistd::mkfifo(&harmed, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "a folder" => fs::create_dir(&harmed).unwrap(),
                _ => {}
            }
            let case = format!("{} {what}", name.display());
            let plan = ends(&space, &["plan"]);
            let checked = ends(&space, &["cache", "check"]);
            // Lost: the cache of digests, and history that its owner may delete.
            let forgotten = what == "lost" && (name == Path::new("stat") || name.starts_with("runs"));
            // Opening the store for the plan has repaired what it reads.
            let said = format!("{}{}", plan.err, plan.out);
            let reported =
                checked.code == 1 || plan.code != 0 || said.contains("v1/") || said.contains("stored object");
            assert!(silent || forgotten || reported, "{case}: {plan:?} {checked:?}");

            let mut ran = ends(&space, &["run"]);
            if ran.code != 0 {
                assert!(
                    ran.err.contains(&harmed.display().to_string()) && ran.err.contains("--repair"),
                    "{case}: {ran:?}"
                );
                assert_eq!(ends(&space, &["cache", "check", "--repair"]).code, 0, "{case}");
                ran = ends(&space, &["run"]);
            }
            assert_eq!(ran.code, 0, "{case}: {ran:?}");
            assert_eq!(space.read("reports/pipeline/y.txt"), "one\ntwo\n", "{case}");
            let executed = space.last_journal("executed").len();
            assert!(executed <= usize::from(name.starts_with("blobs")), "{case}: {executed} cells were run again");
            assert_eq!(ends(&space, &["cache", "check", "--repair"]).code, 0, "{case}");
            let checked = ends(&space, &["cache", "check"]);
            assert_eq!(checked.code, 0, "{case}: {checked:?}");
            assert_eq!(space.read("mine"), mine, "{case}");
        }
    }
}

#[test]
fn a_folder_that_is_not_a_store_is_not_touched() {
    let space = Space::new(PIPELINE);
    for name in ["site/v1/index", "site/v1/stat", "site/v1/staging/photos/me.jpg"] {
        space.write(name, "mine");
    }
    let before = files(&space.path("site"));
    for words in [&["run", "--cache", "site"][..], &["cache", "check", "--repair", "--cache", "site"]] {
        let ran = space.run(words);
        assert_eq!(ran.code, 1);
        assert!(
            ran.err.contains("site/v1 holds files and is not a meanfield store") && ran.err.contains("--cache"),
            "{}",
            ran.err
        );
        assert_eq!(files(&space.path("site")), before);
    }
    assert!(before.iter().all(|path| fs::read_to_string(path).unwrap() == "mine"));
    // Next to the store's own folder anything is allowed.
    space.write("cache/.gitignore", "*");
    assert_eq!(space.executed(), set(&["make", "use"]));
}

#[test]
fn a_store_of_an_earlier_version_is_marked_and_keeps_its_results() {
    let space = Space::new(PIPELINE);
    space.executed();
    assert!(space.shell(
        "cd cache/v1; rm meanfield-store index.copy; for f in index:31 stat:81; do tail -c +${f#*:} ${f%:*} > old; mv old ${f%:*}; done"
    ));
    let ran = space.run(&["run"]);
    assert!(ran.err.contains("the store is known by its blobs"), "{}", ran.err);
    assert_eq!(space.last_journal("executed"), set(&[]));
    assert_eq!(space.run(&["cache", "check"]).code, 0);
}

#[test]
fn a_lost_index_is_restored_and_a_check_names_what_is_lost() {
    let space = Space::new(PIPELINE);
    space.executed();
    fs::remove_file(space.path("cache/v1/index")).unwrap();
    let ran = space.run(&["run"]);
    assert!(ran.err.contains("index: ") && ran.err.contains("restored from"), "{}", ran.err);
    assert_eq!(space.last_journal("executed"), set(&[]));

    fs::remove_file(space.blob("use", "y")).unwrap();
    flip_a_bit(&space.blob("make", "x"));
    let checked = space.json_of(&["cache", "check", "--json"], 1);
    assert_eq!(checked["found"].as_array().unwrap().len(), 2, "{checked}");
    let ran = space.run(&["cache", "check", "--repair"]);
    assert!(ran.out.contains("altered; removed") && ran.out.contains("of make, use; forgotten"), "{}", ran.out);
    let checked = space.json_of(&["cache", "check", "--json"], 0);
    assert_eq!((&checked["found"], &checked["results"]), (&serde_json::json!([]), &serde_json::json!(0)));
    assert_eq!(space.executed(), set(&["make", "use"]));
}
