//! Which files of a changed folder changed. A key holds the digest of a folder; the two lists of files behind an old and a
//! new digest give the answer.
//!
//! The list of a stage's folder is stored with it. That of a user's folder is stored by [`Sources::keep_trees`] when a run
//! executes cells; results of earlier versions lack it, and of these the digests are all that is known.
//!
//! [`Sources::keep_trees`]: super::sources::Sources::keep_trees

use std::fmt;

use serde::Serialize;

use crate::store::tree::{Entry, Node, Tree};

/// How many files of a folder are named; the others are counted.
const NAMED: usize = 10;

/// The difference between two states of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FolderChange {
    /// The first files that differ, by their names; an empty folder ends in `/`.
    pub files: Vec<FileChange>,
    /// How many more differ.
    pub more: usize,
}

/// A file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Relative to the folder.
    pub path: String,
    pub change: FileChangeKind,
}

/// How a file differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChangeKind {
    Added,
    Removed,
    /// Other bytes, or another executable bit.
    Changed,
}

impl FolderChange {
    /// What changed from `old` to `new`, both sorted by the bytes of their names.
    pub fn between(old: &Tree, new: &Tree) -> FolderChange {
        let mut found = FolderChange { files: Vec::new(), more: 0 };
        let mut add = |entry: &Entry, change| {
            if found.files.len() == NAMED {
                found.more += 1;
                return;
            }
            let end = if entry.node == Node::EmptyFolder { "/" } else { "" };
            found.files.push(FileChange { path: format!("{}{end}", entry.path), change });
        };
        let (mut old, mut new) = (old.entries.iter().peekable(), new.entries.iter().peekable());
        loop {
            match (old.peek().copied(), new.peek().copied()) {
                (Some(a), Some(b)) if a.path == b.path => {
                    if a.node != b.node {
                        add(b, FileChangeKind::Changed);
                    }
                    old.next();
                    new.next();
                }
                (Some(a), b) if b.is_none_or(|b| a.path.as_bytes() < b.path.as_bytes()) => {
                    add(a, FileChangeKind::Removed);
                    old.next();
                }
                (_, Some(b)) => {
                    add(b, FileChangeKind::Added);
                    new.next();
                }
                _ => return found,
            }
        }
    }
}

impl fmt::Display for FolderChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, FileChange { path, change }) in self.files.iter().enumerate() {
            let change = match change {
                FileChangeKind::Added => "added",
                FileChangeKind::Removed => "removed",
                FileChangeKind::Changed => "changed",
            };
            write!(f, "{}{path} {change}", if i > 0 { ", " } else { "" })?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::Digest;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let node = |text: &str| match text {
            "" => Node::EmptyFolder,
            text => Node::File { executable: false, digest: Digest::of(text.as_bytes()), size: 1 },
        };
        Tree::new(files.iter().map(|(path, text)| Entry { path: (*path).into(), node: node(text) }).collect())
    }

    #[test]
    fn added_removed_and_changed_files_are_named_in_order_and_the_rest_is_counted() {
        let old = tree(&[("a", "1"), ("a/b", "1"), ("c", "1"), ("d", ""), ("z", "1")]);
        let new = tree(&[("a", "2"), ("a/b", "1"), ("b", "1"), ("z", "1"), ("zz", "")]);
        let text = |old: &Tree, new: &Tree| FolderChange::between(old, new).to_string();
        assert_eq!(text(&old, &new), "a changed, b added, c removed, d/ removed, zz/ added");
        assert_eq!(text(&old, &old), "");
        let names: Vec<String> = (10..40).map(|i| i.to_string()).collect();
        let many = tree(&names.iter().map(|name| (&**name, "1")).collect::<Vec<_>>());
        let change = FolderChange::between(&many, &tree(&[]));
        assert_eq!((change.files.len(), change.more), (NAMED, 20));
        assert!(change.to_string().ends_with("19 removed and 20 more"), "{change}");
    }
}
