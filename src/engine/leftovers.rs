//! What is never part of an input: files that programs leave next to the user's own, what `.meanfieldignore` names, and
//! the store and the reports of the run, which it writes to itself.
//!
//! An interpreter writes its byte code next to the script it runs, a desktop its thumbnails, an editor its swap file, Git
//! its index. None of them is an edit, so none of them may change a key or fail a cell that reads the
//! folder. The rules are those of `.gitignore`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::store::StoreError;

/// The file of further patterns, in the project's folder or in an input folder.
pub const FILE: &str = ".meanfieldignore";

/// Never part of an input, unless a later pattern takes it back (`!*.pyc`).
pub const ALWAYS: [&str; 25] = [
    "__pycache__/",
    "*.pyc",
    "*.pyo",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".git/",
    ".hg/",
    ".svn/",
    ".jj/",
    ".vscode/",
    ".idea/",
    "*.swp",
    "*.swo",
    "*.swx",
    "*~",
    ".#*",
    "#*#",
    ".DS_Store",
    "._*",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir/",
    ".nfs*",
];

/// The patterns that hold for every input of a run.
#[derive(Debug, Clone, Default)]
pub struct Leftovers {
    /// The lines of the project's file.
    project: Arc<[String]>,
    /// Folders that the run writes to, without links.
    own: Arc<[PathBuf]>,
    /// The matcher of folders without a file of their own; patterns are slow to compile.
    usual: Arc<OnceLock<Arc<Gitignore>>>,
}

impl Leftovers {
    /// With the patterns of `.meanfieldignore` in the folder `project`, if it is there.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is not a pattern.
    pub fn of_project(project: &Path) -> Result<Leftovers, StoreError> {
        let lines = lines(project)?;
        Ok(Leftovers { project: lines.into(), ..Leftovers::default() })
    }

    /// Leaves out `folders` too, where they are below an input; they need not exist yet.
    pub fn without(self, folders: &[&Path]) -> Leftovers {
        Leftovers { own: folders.iter().map(|folder| resolved(folder)).collect(), ..self }
    }

    /// The matcher for what is below the input folder `root`, which may have a file of its own.
    ///
    /// # Errors
    /// As [`Leftovers::of_project`].
    pub fn matcher(&self, root: &Path) -> Result<Matcher, StoreError> {
        let lines = lines(root)?;
        let patterns = match lines.is_empty() {
            true => self.usual.get_or_init(|| self.with(&lines)).clone(),
            false => self.with(&lines),
        };
        let root = if self.own.is_empty() { root.to_owned() } else { resolved(root) };
        let below = self.own.iter().filter_map(|own| own.strip_prefix(&root).ok()?.to_str());
        let own = below.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Ok(Matcher { patterns, own })
    }

    fn with(&self, own: &[String]) -> Arc<Gitignore> {
        let patterns = ALWAYS.iter().copied().chain(self.project.iter().chain(own).map(String::as_str));
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            // Each line was tried when its file was read.
            let _ = builder.add_line(None, pattern);
        }
        Arc::new(builder.build().unwrap_or_else(|_| Gitignore::empty()))
    }
}

/// `folder` without links, as far as it exists.
pub fn resolved(folder: &Path) -> PathBuf {
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = full.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) => full.strip_prefix(above).map_or(real.clone(), |rest| real.join(rest)),
        None => full,
    }
}

/// The lines of the file of patterns in `folder`, each of them a pattern.
fn lines(folder: &Path) -> Result<Vec<String>, StoreError> {
    let path = folder.join(FILE);
    let text = match crate::text::read_unnamed(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::Io { verb: "read", path, source }),
    };
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (i, line) in lines.iter().enumerate() {
        if let Err(error) = GitignoreBuilder::new("").add_line(None, line) {
            let message = format!("line {}: {error}; expected a pattern as in .gitignore", i + 1);
            return Err(StoreError::Io { verb: "follow", path, source: std::io::Error::other(message) });
        }
    }
    Ok(lines)
}

/// What is not part of one input folder.
#[derive(Debug, Clone)]
pub struct Matcher {
    patterns: Arc<Gitignore>,
    /// Folders below it that the run writes to.
    own: Vec<String>,
}

impl Matcher {
    /// A matcher that leaves everything in.
    pub fn nothing() -> Matcher {
        Matcher { patterns: Arc::new(Gitignore::empty()), own: Vec::new() }
    }

    /// Whether what has the name `relative` below the input folder is not part of it. Its parents have been asked before.
    pub fn leaves_out(&self, relative: &str, folder: bool) -> bool {
        self.patterns.matched(relative, folder).is_ignore() || self.own.iter().any(|own| own == relative)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_leftovers_are_left_out_and_files_add_and_take_back() {
        let project = tempfile::tempdir().unwrap();
        let input = tempfile::tempdir().unwrap();
        let plain = Leftovers::default().matcher(input.path()).unwrap();
        for (name, folder, out) in [
            ("__pycache__", true, true),
            ("__pycache__", false, false),
            ("a/b.pyc", false, true),
            ("a/.train.py.swp", false, true),
            ("notes.txt~", false, true),
            (".DS_Store", false, true),
            (".git", true, true),
            (".gitignore", false, false),
            ("a.py", false, false),
            (".hidden", false, false),
        ] {
            assert_eq!(plain.leaves_out(name, folder), out, "{name}");
        }
        std::fs::write(project.path().join(FILE), "\u{feff}# ours\r\n*.log\r\n!*.pyc\r\n").unwrap();
        std::fs::write(input.path().join(FILE), "/drafts/\n!keep.log\n").unwrap();
        let both = Leftovers::of_project(project.path()).unwrap().matcher(input.path()).unwrap();
        for (name, folder, out) in [
            ("a/x.log", false, true),
            ("keep.log", false, false),
            ("b.pyc", false, false),
            ("drafts", true, true),
            ("a/drafts", true, false),
        ] {
            assert_eq!(both.leaves_out(name, folder), out, "{name}");
        }
    }

    #[test]
    fn a_line_that_is_no_pattern_is_refused_with_its_number() {
        let project = tempfile::tempdir().unwrap();
        std::fs::write(project.path().join(FILE), "*.log\n{a\n").unwrap();
        let message = crate::text::chain(&Leftovers::of_project(project.path()).unwrap_err());
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn folders_that_the_run_writes_to_are_left_out_of_what_holds_them() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        std::fs::create_dir_all(at("project/data")).unwrap();
        std::os::unix::fs::symlink("project", at("link")).unwrap();
        let leftovers = Leftovers::default().without(&[&at("link/out/cache"), &at("project")]);
        for root in ["project", "link", "project/data/.."] {
            let matcher = leftovers.matcher(&at(root)).unwrap();
            assert!(matcher.leaves_out("out/cache", true) && !matcher.leaves_out("out", true), "{root}");
            assert!(!matcher.leaves_out("data", true) && !matcher.leaves_out("cache", true), "{root}");
        }
        assert!(!leftovers.matcher(&at("project/data")).unwrap().leaves_out("cache", true));
    }
}
