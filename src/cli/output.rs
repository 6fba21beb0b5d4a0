//! Files to write that a command line names: an existing file is replaced only on request.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The flag of every command that writes a file named on the command line.
#[derive(Debug, clap::Args)]
pub struct Overwrite {
    /// Replace the file to write if it exists
    #[arg(long, visible_alias = "force")]
    overwrite: bool,
}

impl Overwrite {
    /// Refuses an existing file before any work is done for it, and in any case one of `inputs`.
    ///
    /// # Errors
    /// One sentence with a hint.
    pub fn check(&self, path: &Path, inputs: &[&Path]) -> Result<(), String> {
        if inputs.iter().any(|input| is_one(path, input)) {
            return Err(is_read(path));
        }
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Err(format!("{} is a folder; name a file to write", path.display())),
            Ok(_) if !self.overwrite => {
                Err(format!("{} exists; name another file, or replace it with --overwrite", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The refusal to write a file that is also read.
pub fn is_read(path: &Path) -> String {
    format!("{}: this file is an input, expected a file to write", path.display())
}

/// Whether both are names of the same existing file.
pub fn is_one(path: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    id(path).is_some_and(|found| id(other) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_known_by_any_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("set/a")).unwrap();
        fs::write(at("set/a/1.png"), "").unwrap();
        fs::hard_link(at("set/a/1.png"), at("second.png")).unwrap();
        std::os::unix::fs::symlink(at("set"), at("link")).unwrap();
        for path in ["set/a/1.png", "link/a/1.png", "set/../set/a/1.png", "second.png"] {
            assert!(is_one(&at(path), &at("set/a/1.png")), "{path}");
        }
        assert!(!is_one(&at("new.png"), &at("new.png")) && !is_one(&at("set"), &at("set/a/1.png")));
    }
}
