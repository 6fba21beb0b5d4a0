//! The rules of the house, read from the source: which room may know which, and who may print.

use std::path::{Path, PathBuf};

/// Cells, keys and the store, which know nothing of machine learning.
const ENGINE: [&str; 3] = ["engine", "pipeline", "store"];
/// Machine learning, which knows nothing of YAML, cells or the store.
const LEARNING: [&str; 10] = ["array", "data", "eval", "loss", "math", "nn", "report", "search", "table", "train"];

fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room);
    let files = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    let rust = files.map(|file| file.into_path()).filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Lines of `room` that hold one of `words`, comments left out.
fn lines_with(room: &str, words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let files = sources(room);
    assert!(!files.is_empty(), "src/{room} holds no Rust");
    for (path, text) in files {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word.as_str())) {
                found.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    }
    found
}

fn rooms(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("crate::{name}")).collect()
}

#[test]
fn the_engine_half_knows_no_machine_learning() {
    let mut words = rooms(&LEARNING);
    words.extend(rooms(&["stage", "cli"]));
    words.extend(["dfdx", "polars", "gemm"].map(str::to_owned));
    for room in ENGINE {
        assert_eq!(lines_with(room, &words), Vec::<String>::new());
    }
}

#[test]
fn the_learning_half_knows_no_yaml_cells_or_store() {
    let mut words = rooms(&ENGINE);
    words.extend(rooms(&["stage", "cli"]));
    words.extend(["serde_yaml", "saphyr", "petgraph"].map(str::to_owned));
    for room in LEARNING {
        assert_eq!(lines_with(room, &words), Vec::<String>::new());
    }
}

#[test]
fn nothing_but_the_command_line_prints_or_exits() {
    let words = ["println!", "print!", "process::exit", "dbg!", "todo!", "unimplemented!"].map(str::to_owned);
    for room in ENGINE.iter().chain(&LEARNING).chain(&["stage"]) {
        assert_eq!(lines_with(room, &words), Vec::<String>::new());
    }
}
