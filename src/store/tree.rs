//! Folders as values: a sorted list of (path, mode, digest), itself stored as a blob.
//!
//! The list is flat, one line an entry, so that it can be read with a pager. An executable bit, an empty folder and a
//! file's bytes are part of it; times, owners and other permissions are not.

use std::fmt::Write as _;

use super::digest::Digest;

/// A folder's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Sorted by the bytes of the path, without duplicates.
    pub entries: Vec<Entry>,
}

/// One file or empty folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder, parts joined by `/`.
    pub path: String,
    /// What is there.
    pub node: Node,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File { executable: bool, digest: Digest, size: u64 },
    /// A folder with nothing in it; other folders are implied by their files.
    EmptyFolder,
}

impl Tree {
    /// Sorts `entries` into a tree.
    pub fn new(mut entries: Vec<Entry>) -> Tree {
        entries.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        Tree { entries }
    }

    /// The bytes whose digest names the tree.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::from("tree 1\n");
        for Entry { path, node } in &self.entries {
            // Debug escapes line ends and quotes, which a file name may hold.
            let _ = match node {
                Node::File { executable, digest, size } => {
                    writeln!(text, "{} {digest} {size} {path:?}", if *executable { 'x' } else { 'f' })
                }
                Node::EmptyFolder => writeln!(text, "d {path:?}"),
            };
        }
        text.into_bytes()
    }

    /// Reads [`Tree::encode`]'s bytes; `None` if they are anything else.
    pub fn decode(bytes: &[u8]) -> Option<Tree> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        if lines.next()? != "tree 1" {
            return None;
        }
        let entries = lines.map(decode_entry).collect::<Option<Vec<_>>>()?;
        Some(Tree { entries })
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match entry.node {
                Node::File { size, .. } => size,
                Node::EmptyFolder => 0,
            })
            .sum()
    }
}

fn decode_entry(line: &str) -> Option<Entry> {
    let (mark, rest) = line.split_once(' ')?;
    if mark == "d" {
        return Some(Entry { path: unquote(rest)?, node: Node::EmptyFolder });
    }
    let mut fields = rest.splitn(3, ' ');
    let digest = fields.next()?.parse().ok()?;
    let size = fields.next()?.parse().ok()?;
    let path = unquote(fields.next()?)?;
    let executable = match mark {
        "x" => true,
        "f" => false,
        _ => return None,
    };
    Some(Entry { path, node: Node::File { executable, digest, size } })
}

/// The inverse of `{:?}` on a string.
fn unquote(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'u' => {
                let hex: String = chars.by_ref().skip(1).take_while(|&c| c != '}').collect();
                char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?
            }
            other => other,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encoding_round_trips_for_any_names(names in prop::collection::btree_set(any::<String>(), 0..8), bit: bool) {
            let entries = names.iter().enumerate().map(|(i, name)| Entry {
                path: name.clone(),
                node: if i % 3 == 2 { Node::EmptyFolder } else {
                    Node::File { executable: bit, digest: Digest::of(name.as_bytes()), size: i as u64 }
                },
            });
            let tree = Tree::new(entries.collect());
            prop_assert_eq!(Tree::decode(&tree.encode()), Some(tree));
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "tree 1\n(.*\n)*") {
            let _ = Tree::decode(&bytes);
            let _ = Tree::decode(text.as_bytes());
        }
    }
}
