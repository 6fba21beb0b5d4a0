//! A folder with a pipeline in it, and the binary to run there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A temporary folder for one test. It is the `HOME` of every process, so that cells can leave traces in it.
pub struct Space {
    folder: tempfile::TempDir,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Space {
    /// A folder with this `pipeline.yaml`.
    pub fn new(pipeline: &str) -> Space {
        let space = Space { folder: tempfile::tempdir().unwrap() };
        space.write("pipeline.yaml", pipeline);
        space
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Replaces `from`, which must occur, by `to` in the pipeline.
    pub fn edit(&self, from: &str, to: &str) {
        let text = self.read("pipeline.yaml");
        assert!(text.contains(from), "{from:?} is not in the pipeline");
        self.write("pipeline.yaml", text.replace(from, to));
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meanfield"));
        command.args(words).current_dir(self.folder.path()).env("HOME", self.folder.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MEANFIELD_")) {
            command.env_remove(name);
        }
        command
    }

    pub fn spawn(&self, words: &[&str]) -> Child {
        self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a run and kills it once `started` holds, which must be before its end. Its cells end too.
    pub fn kill_a_run(&self, started: impl Fn() -> bool) {
        let mut child = self.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !started() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::from(self.command(words).output().unwrap())
    }

    /// Copies the program to `name`. A process of its own writes the copy: what this one has open for writing, a command that
    /// another test starts at that moment would hold open too, and the copy could not be executed.
    pub fn copy_of_program(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_meanfield")).arg(&copy).status().unwrap();
        assert!(copied.success());
        copy
    }

    /// Runs a shell command in the folder; true if it succeeds.
    pub fn shell(&self, command: &str) -> bool {
        Command::new("sh").args(["-ec", command]).current_dir(self.folder.path()).status().unwrap().success()
    }

    /// Runs a command that must succeed with JSON on standard output.
    pub fn json(&self, words: &[&str]) -> Value {
        self.json_of(words, 0)
    }

    /// Runs a command that must end with `code` and JSON on standard output.
    pub fn json_of(&self, words: &[&str], code: i32) -> Value {
        let ran = self.run(words);
        assert_eq!(ran.code, code, "{}", ran.err);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
    }

    /// Plans and runs, and returns the executed cells. Every cell that the plan would run was executed, and no cell
    /// that it did not list.
    pub fn executed(&self) -> BTreeSet<String> {
        let plan = self.json(&["plan", "--json"]);
        let with = |decision: &str| -> BTreeSet<String> {
            let cells = plan["cells"].as_array().unwrap().iter();
            cells.filter(|cell| cell["decision"] == decision).map(|cell| text(&cell["cell"])).collect()
        };
        let (run, may) = (with("run"), with("may"));
        let ran = self.run(&["run", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let executed = self.last_journal("executed");
        assert!(run.is_subset(&executed), "planned {run:?}, executed {executed:?}");
        let foreseen: BTreeSet<String> = run.union(&may).cloned().collect();
        assert!(executed.is_subset(&foreseen), "foreseen {foreseen:?}, executed {executed:?}");
        executed
    }

    /// The cells with that outcome in the journal of the last run.
    pub fn last_journal(&self, outcome: &str) -> BTreeSet<String> {
        let mut journals: Vec<PathBuf> =
            std::fs::read_dir(self.path("cache/v1/runs")).unwrap().map(|item| item.unwrap().path()).collect();
        journals.sort();
        let lines = std::fs::read_to_string(journals.last().unwrap()).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["outcome"] == outcome).map(|line| text(&line["cell"])).collect()
    }

    /// The stored file behind an output of a cell.
    pub fn blob(&self, cell: &str, output: &str) -> PathBuf {
        let shown = self.json(&["show", cell, "--json"]);
        PathBuf::from(text(&shown[cell]["out"][output]["stored"]))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}

/// Names as a set.
pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Makes a stored file writable and changes one bit of it.
pub fn flip_a_bit(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
