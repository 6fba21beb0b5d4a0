//! A run never moves, changes or deletes a user's file, whatever its commands do with links and whatever is below the
//! reports folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use crate::space::Space;

/// A pipeline of one stage that works on the folder `data` and the file `one.txt`.
fn pipeline(commands: &str) -> String {
    let commands: String = commands.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "stages:\n  a:\n    run: |\n{commands}    in: {{ raw: ./data, one: ./one.txt }}\n    out: {{ view: view }}\n"
    )
}

/// `data` with three files, two of them one, in two folders, and `one.txt`.
fn users_files(folder: &Path) {
    fs::create_dir_all(folder.join("data/sub")).unwrap();
    for name in ["data/1.txt", "data/sub/2.txt", "one.txt"] {
        fs::write(folder.join(name), format!("{name}\n")).unwrap();
    }
    fs::hard_link(folder.join("data/1.txt"), folder.join("data/again.txt")).unwrap();
    age(folder);
}

/// Waits for a tick of the file system's clock, so that a command's folder is younger than the user's files.
fn age(folder: &Path) {
    let born = |path: &Path| fs::metadata(path).unwrap().created().unwrap();
    let (first, later) = (folder.join(".first"), folder.join(".later"));
    fs::write(&first, "").unwrap();
    while !later.exists() || born(&later) <= born(&first) {
        let _ = fs::remove_file(&later);
        fs::write(&later, "").unwrap();
    }
    fs::remove_file(first).unwrap();
    fs::remove_file(later).unwrap();
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    File(Vec<u8>, u32),
    Link(PathBuf),
    Folder(u32),
}

/// Everything below `folder/name`, by its path below `folder`; paths in links are shown without `folder`.
fn tree(folder: &Path, name: &str) -> BTreeMap<PathBuf, Thing> {
    let shorten = |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_owned();
    let things = walkdir::WalkDir::new(folder.join(name)).into_iter().filter_map(Result::ok).map(|item| {
        let metadata = item.metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        let thing = match item.file_type() {
            kind if kind.is_dir() => Thing::Folder(mode),
            kind if kind.is_symlink() => Thing::Link(shorten(&fs::read_link(item.path()).unwrap())),
            _ => Thing::File(fs::read(item.path()).unwrap(), mode),
        };
        (shorten(item.path()), thing)
    });
    things.collect()
}

fn users_tree(folder: &Path) -> BTreeMap<PathBuf, Thing> {
    let mut all = tree(folder, "data");
    all.extend(tree(folder, "one.txt"));
    all
}

#[test]
fn outputs_that_lead_to_the_users_files_are_copies_or_refused() {
    for (command, code, stored) in [
        ("cp -r ${in.raw} ${out.view}", 0, 3),
        ("cp -a ${in.raw} ${out.view}", 0, 3),
        ("mv ${in.raw} ${out.view}", 0, 3),
        ("ln -s ../in/raw ${out.view}", 0, 3),
        ("ln -s $HOME/data ${out.view}", 0, 3),
        ("cp -rL ${in.raw} ${out.view}", 0, 3),
        ("mkdir ${out.view}; cp -r ${in.raw} ${out.view}/sub", 0, 3),
        ("mkdir ${out.view}; ln -s ../../in/raw/1.txt ${out.view}/x", 0, 1),
        ("mkdir ${out.view}; ln ${in.raw}/1.txt ${out.view}/x", 0, 1),
        ("ln ${in.raw}/1.txt ${out.view}", 0, 1),
        ("mv ${in.one} ${out.view}", 0, 1),
        ("ln -s $HOME/other ${out.view}", 1, 0),
        ("mkdir ${out.view}; ln -s .. ${out.view}/up", 1, 0),
        ("mkdir ${out.view}; mkfifo ${out.view}/pipe", 1, 0),
        ("mkdir ${out.view}; mv ${in.raw}/1.txt ${in.raw}/sub ${out.view}/", 1, 0),
        ("mkdir ${out.view}; mv ${in.raw}/sub ${out.view}/; exit 3", 1, 0),
        ("mkdir ${out.view}; mv ${in.raw}/1.txt ${in.raw}/again.txt ${out.view}/", 1, 0),
    ] {
        let space = Space::new(&pipeline(command));
        users_files(&space.path("."));
        space.write("other/file", "x");
        let before = users_tree(&space.path("."));
        let ran = space.run(&["run"]);
        assert_eq!(users_tree(&space.path(".")), before, "{command}\n{}", ran.err);
        assert_eq!(ran.code, code, "{command}\n{}", ran.err);
        let published = tree(&space.path("."), "reports/pipeline/view");
        let files = published.values().filter(|thing| matches!(thing, Thing::File(..))).count();
        assert_eq!(files, stored, "{command}: {published:?}");
    }
}

#[test]
fn an_output_below_a_link_to_the_users_folder_is_refused_and_stays_there() {
    for (command, path) in [
        ("rmdir out/view/sub; rmdir out/view; ln -s $HOME/data out/view", "view/sub/2.txt"),
        ("rmdir out/view/sub; ln -s $HOME/data/sub out/view/sub", "view/sub/2.txt"),
        ("rm -r out; ln -s $HOME out", "data/sub"),
        ("rm -r out; ln -s in/raw out", "sub"),
    ] {
        let space = Space::new(&pipeline(command).replace("view: view", &format!("view: {path}")));
        users_files(&space.path("."));
        let before = users_tree(&space.path("."));
        let ran = space.run(&["run"]);
        assert_eq!(users_tree(&space.path(".")), before, "{command}\n{}", ran.err);
        assert_eq!(ran.code, 1, "{command}");
        assert!(ran.err.contains("is reached through a link"), "{command}\n{}", ran.err);
    }
    // A link within the cell's folder is harmless.
    let command = "mkdir out/one; rmdir out/view; ln -s one out/view; touch ${out.view}";
    let space = Space::new(&pipeline(command).replace("view: view", "view: view/x"));
    users_files(&space.path("."));
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn what_a_command_does_to_its_inputs_is_reported() {
    for (command, said) in [
        ("rm ${in.raw}/1.txt; touch ${out.view}", "its input ./data changed while it ran (1.txt is gone)"),
        ("echo more >> ${in.raw}/sub/2.txt; touch ${out.view}", "(sub/2.txt has other bytes)"),
        ("touch ${in.raw}/new ${out.view}", "(new is new)"),
        (
            "echo more >> ${in.one}; exit 7",
            "exited with code 7; its input ./one.txt changed while it ran (it has other bytes)",
        ),
        (
            "mkdir ${out.view}; mv ${in.raw}/sub ${out.view}",
            "it moved ./data/sub out of its input ./data; it was moved back: let the command copy instead",
        ),
    ] {
        let space = Space::new(&pipeline(command));
        users_files(&space.path("."));
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 1, "{command}");
        assert!(ran.err.replace("./", "").contains(&said.replace("./", "")), "{command}\n{}", ran.err);
    }
}

#[test]
fn a_file_that_a_failed_command_moved_into_its_folder_is_kept_and_reported() {
    let space = Space::new("stages: { a: { run: 'mv ~/precious ${out.x}; exit 1', out: { x: x } } }");
    space.write("precious", "bytes\n");
    age(&space.path("."));
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("Kept cache/v1/rescued/"), "{}", ran.err);
    let kept = tree(&space.path("."), "cache/v1/rescued").into_values().find(|thing| matches!(thing, Thing::File(..)));
    assert!(matches!(kept, Some(Thing::File(bytes, _)) if bytes == b"bytes\n"));
}

const PAGES: &str = "
params: { text: one }
stages:
  a:
    run: 'mkdir ${out.pages}; echo ${params.text} > ${out.pages}/index.html; [ ${params.text} = two ] || echo > ${out.pages}/old.html'
    out: { pages: pages }
";

#[test]
fn a_user_file_next_to_published_files_is_kept_and_reported() {
    let space = Space::new(PAGES);
    assert_eq!(space.run(&["run"]).code, 0);
    space.write("reports/pipeline/pages/notes.txt", "mine\n");
    space.write("reports/pipeline/pages/more/deep.txt", "mine too\n");
    let ran = space.run(&["run", "--set", "text=two"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("notes.txt in reports/pipeline/pages, which no run put there"), "{}", ran.err);
    assert_eq!(space.read("reports/pipeline/pages/index.html"), "two\n");
    assert_eq!(space.read("reports/pipeline/pages/notes.txt"), "mine\n");
    assert_eq!(space.read("reports/pipeline/pages/more/deep.txt"), "mine too\n");
    assert!(!space.path("reports/pipeline/pages/old.html").exists());
}

#[test]
fn an_edited_published_file_is_kept_and_reported_as_not_written() {
    let space = Space::new(PAGES);
    assert_eq!(space.run(&["run"]).code, 0);
    space.write("reports/pipeline/pages/index.html", "edited\n");
    let ran = space.run(&["run", "--set", "text=two"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("Not written reports/pipeline/pages: no run put reports/pipeline/pages/index.html there"),
        "{}",
        ran.err
    );
    assert_eq!(space.read("reports/pipeline/pages/index.html"), "edited\n");
    assert!(space.path("reports/pipeline/pages/old.html").exists());
    fs::rename(space.path("reports/pipeline/pages/index.html"), space.path("mine.html")).unwrap();
    let ran = space.run(&["run", "--set", "text=two"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(space.read("reports/pipeline/pages/index.html"), "two\n");
}

#[test]
fn a_user_file_folder_or_link_with_the_name_of_an_output_is_kept() {
    type Make = fn(&Space);
    let own: [(&str, Make); 4] = [
        ("a folder", |space| space.write("reports/pipeline/pages/index.html", "mine\n")),
        ("a file", |space| space.write("reports/pipeline/pages", "mine\n")),
        ("a file for a folder above", |space| space.write("reports/pipeline", "mine\n")),
        ("a link", |space| {
            space.write("elsewhere/index.html", "mine\n");
            fs::create_dir_all(space.path("reports/pipeline")).unwrap();
            symlink(space.path("elsewhere"), space.path("reports/pipeline/pages")).unwrap();
        }),
    ];
    for (what, make) in own {
        let space = Space::new(PAGES);
        make(&space);
        let both = |space: &Space| [tree(&space.path("."), "reports"), tree(&space.path("."), "elsewhere")];
        let before = both(&space);
        let ran = space.run(&["run"]);
        assert_eq!(ran.code, 1, "{what}: {}", ran.err);
        assert!(ran.err.contains("Not written"), "{what}: {}", ran.err);
        assert_eq!(both(&space), before, "{what}");
    }
}

#[test]
fn a_named_pipe_as_input_is_refused_before_anything_runs() {
    let space = Space::new(&pipeline("ls ${in.raw} > ${out.view}"));
    users_files(&space.path("."));
    nix::unistd::mkfifo(&space.path("data/sub/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ran = space.run(&["run"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("data/sub/pipe is a named pipe"), "{}", ran.err);
    space.write(".meanfieldignore", "pipe\n");
    assert_eq!(space.run(&["run"]).code, 0);
}

#[test]
fn files_that_programs_leave_in_an_input_folder_are_not_part_of_it() {
    let space = Space::new(&pipeline(
        "mkdir -p ${in.raw}/__pycache__; date +%N > ${in.raw}/__pycache__/a.pyc; cp -rL ${in.raw} ${out.view}",
    ));
    users_files(&space.path("."));
    assert_eq!(space.run(&["run"]).code, 0);
    space.write("data/.DS_Store", "x");
    assert_eq!(space.json(&["plan", "--json"])["counts"]["cached"], 1);
    space.write("data/new.txt", "x");
    assert_eq!(space.json(&["plan", "--json"])["counts"]["run"], 1);
}

const VERBS: [&str; 17] = [
    "cp",
    "cp -r",
    "cp -a",
    "cp -rL",
    "mv",
    "mv -T",
    "ln -s",
    "ln",
    "rm",
    "rm -r",
    "mkdir",
    "mkdir -p",
    "echo x >>",
    "chmod go-rx",
    "chmod +x",
    "touch",
    "rmdir",
];
/// What may be below an input, an output or the user's folder.
const INSIDE: [&str; 8] = ["", "/a", "/b", "/a/c", "/a/b", "/link", "/empty", "/a/c/a"];
const NAMES: [&str; 7] = ["a", "b", "a/b", "a/c", "a/c/a", "link", "empty"];
const TARGETS: [&str; 4] = ["a", "b", "../one.txt", "a/c"];
const NOTES: [&str; 4] =
    ["reports/pipeline/view", "reports/pipeline/view/a", "reports/pipeline/view/note", "reports/pipeline/view/a/note"];
const LOOKS: [&str; 5] = ["plan", "status", "show", "history", "table"];

/// One line of a random command.
#[derive(Debug, Clone)]
struct Line(String);

/// Paths that a command may name: its inputs and their contents, its output, and the user's folder itself.
fn place() -> impl Strategy<Value = String> {
    let root = prop_oneof![4 => Just("in/raw"), 4 => Just("out/view"), 1 => Just("$HOME/data"), 1 => Just("out")];
    prop_oneof![9 => (root, prop::sample::select(&INSIDE[..])).prop_map(|(root, name)| format!("{root}{name}")), 1 => Just("in/one.txt".to_owned())]
}

fn line() -> impl Strategy<Value = Line> {
    let apart = |(verb, from, to): &(&str, String, String)| {
        // A folder copied into itself is copied until its path is too long for the kernel.
        let whole = |path: &str| path.replace("$HOME/data", "in/raw");
        !verb.starts_with("cp") || !whole(to).starts_with(&whole(from))
    };
    let words = (prop::sample::select(&VERBS[..]), place(), place()).prop_filter("a copy into itself", apart);
    words.prop_map(|(verb, from, to)| {
        let two = verb.starts_with("cp") || verb.starts_with("mv") || verb.starts_with("ln");
        Line(format!("{verb} {from}{} || true", if two { format!(" {to}") } else { String::new() }))
    })
}

/// A run, or what a user does between two runs.
#[derive(Debug, Clone)]
enum Step {
    /// A run of these lines that succeeds or fails.
    Run(Vec<Line>, bool),
    Force,
    /// A new file in the reports, or an edit of a published one.
    Note(&'static str, u8),
    /// A command that only looks.
    Look(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (prop::collection::vec(line(), 1..7), prop::bool::weighted(0.8)).prop_map(|(lines, well)| Step::Run(lines, well)),
        1 => Just(Step::Force),
        2 => (prop::sample::select(&NOTES[..]), any::<u8>()).prop_map(|(path, text)| Step::Note(path, text)),
        1 => prop::sample::select(&LOOKS[..]).prop_map(Step::Look),
    ]
}

/// What the user has before the first step.
#[derive(Debug, Clone)]
enum Have {
    File(u8),
    Folder,
    LinkTo(&'static str),
    SecondNameOf(&'static str),
}

fn have() -> impl Strategy<Value = BTreeMap<&'static str, Have>> {
    let thing = prop_oneof![
        3 => any::<u8>().prop_map(Have::File),
        3 => Just(Have::Folder),
        1 => prop::sample::select(&TARGETS[..]).prop_map(Have::LinkTo),
        1 => prop::sample::select(&TARGETS[..]).prop_map(Have::SecondNameOf),
    ];
    prop::collection::btree_map(prop::sample::select(&NAMES[..]), thing, 0..7)
}

/// Makes what can be made; two calls make the same.
fn make(folder: &Path, things: &BTreeMap<&str, Have>) {
    let data = folder.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(folder.join("one.txt"), "one\n").unwrap();
    for (name, thing) in things {
        let path = data.join(name);
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match thing {
            Have::File(text) => fs::write(&path, [*text]).unwrap(),
            Have::Folder => fs::create_dir(&path).unwrap(),
            Have::LinkTo(to) => symlink(to, &path).unwrap(),
            Have::SecondNameOf(of) => drop(fs::hard_link(data.join(of), &path)),
        }
    }
    age(folder);
}

/// By (device, inode), where the user's files, folders and links are.
fn inodes(folder: &Path) -> Vec<(PathBuf, (u64, u64))> {
    users_tree(folder).into_keys().map(|name| (name.clone(), inode(&folder.join(name)))).collect()
}

fn inode(path: &Path) -> (u64, u64) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

/// The reference: the command alone, in a folder like a cell's, next to a copy of the user's files; then what it moved
/// into that folder is moved back. Returns the bytes of the user's files that could not go back, since something took
/// their place.
fn reference(twin: &Path, commands: &str) -> Vec<Vec<u8>> {
    let before = inodes(twin);
    let cell = tempfile::tempdir_in(twin).unwrap();
    for name in ["in", "out"] {
        fs::create_dir(cell.path().join(name)).unwrap();
    }
    symlink(twin.join("data"), cell.path().join("in/raw")).unwrap();
    symlink(twin.join("one.txt"), cell.path().join("in/one.txt")).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", commands]).current_dir(cell.path()).env("HOME", twin);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let born = |path: &Path| path.symlink_metadata().unwrap().created().unwrap();
    let taken = || -> Vec<PathBuf> {
        let items = walkdir::WalkDir::new(cell.path()).min_depth(1).into_iter().filter_map(Result::ok);
        items.map(|item| item.into_path()).filter(|path| born(path) < born(cell.path())).collect()
    };
    for (name, id) in &before {
        let target = twin.join(name);
        if target.symlink_metadata().is_err()
            && let Some(from) = taken().into_iter().find(|path| inode(path) == *id)
        {
            // The command may have replaced a parent folder by a link.
            let _ = fs::create_dir_all(target.parent().unwrap()).and_then(|()| fs::rename(from, target));
        }
    }
    let left = taken().into_iter().filter(|path| {
        let metadata = path.symlink_metadata().unwrap();
        metadata.is_file() && metadata.nlink() == 1 && before.iter().any(|(_, id)| *id == inode(path))
    });
    left.map(|path| fs::read(path).unwrap()).collect()
}

/// Whether the one cell has that answer; a pipeline whose input is gone has none.
fn planned(space: &Space, answer: &str) -> bool {
    let ran = space.run(&["plan", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_default();
    ran.code != 0 && answer == "blocked" || plan["counts"][answer] == 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_users_files_are_what_the_commands_alone_would_have_left(
        things in have(),
        steps in prop::collection::vec(step(), 1..6),
    ) {
        let (space, twin) = (Space::new(&pipeline("true")), tempfile::tempdir().unwrap());
        make(&space.path("."), &things);
        make(twin.path(), &things);
        let mut notes: BTreeMap<&str, u8> = BTreeMap::new();
        let mut commands = String::from("mkdir out/view");
        for step in steps {
            age(&space.path("."));
            age(twin.path());
            let mut rescued = Vec::new();
            match step {
                Step::Run(lines, well) => {
                    let lines: Vec<String> = lines.into_iter().map(|line| line.0).collect();
                    commands = format!("{}\nexit {}", lines.join("\n"), if well { 0 } else { 5 });
                    let text = pipeline(&commands);
                    space.write("pipeline.yaml", text);
                    let runs = planned(&space, "run");
                    let ran = space.run(&["run"]);
                    prop_assert!(ran.code < 3, "{}", ran.err);
                    if runs {
                        rescued = reference(twin.path(), &commands);
                    }
                }
                Step::Force => {
                    let runs = !planned(&space, "blocked");
                    let ran = space.run(&["run", "--force"]);
                    if runs {
                        rescued = reference(twin.path(), &commands);
                    }
                    prop_assert!(ran.code < 3, "{}", ran.err);
                }
                Step::Note(path, text) => {
                    let target = space.path(path);
                    let parent = target.parent().unwrap();
                    if fs::create_dir_all(parent).is_ok() && fs::write(&target, [text]).is_ok() {
                        notes.insert(path, text);
                    }
                }
                Step::Look(verb) => drop(space.run(&[verb])),
            }
            prop_assert_eq!(users_tree(&space.path(".")), users_tree(twin.path()), "{}", commands);
            for (path, text) in &notes {
                prop_assert_eq!(fs::read(space.path(path)).ok(), Some(vec![*text]), "{}", path);
            }
            let kept = tree(&space.path("."), "cache/v1/rescued");
            for bytes in rescued {
                let found = kept.values().any(|thing| matches!(thing, Thing::File(kept, _) if *kept == bytes));
                prop_assert!(found, "{:?} is lost after\n{}", bytes, commands);
            }
        }
    }
}
