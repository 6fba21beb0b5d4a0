//! Bytes under their digest: written beside, hashed, made read-only, renamed into place.
//!
//! There is no fsync: a blob that a power cut left short is found by its size or bytes when it is next needed, and
//! counts as missing.

use std::fs::{self, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::stat::{Stamp, StatCache};
use super::tree::{Entry, Node, Tree};
use super::{Artifact, Damage, Form, IoContext, StoreError};

/// The folder of blobs, 256 subfolders by the first byte.
#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the folder, creating it and its subfolders if it is new.
    pub fn open(root: &Path) -> Result<Blobs, StoreError> {
        // The last subfolder is made last: if it is there, all are.
        if !root.join("ff").is_dir() {
            for byte in 0..=255u8 {
                let folder = root.join(format!("{byte:02x}"));
                fs::create_dir_all(&folder).at("create", &folder)?;
            }
        }
        Ok(Blobs { root: root.to_owned() })
    }

    /// Where the blob lies or would lie.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + name.len() + 2);
        path.push(&self.root);
        path.push(&name[..2]);
        path.push(&name[2..]);
        path
    }

    /// Whether the blob is there with its own bytes, reading it only if its stamp is new.
    pub fn verify(&self, digest: &Digest, stat: &StatCache) -> Result<(), StoreError> {
        let path = self.path(digest);
        let found = match stat.digest_file(&path) {
            Ok((found, _)) => found,
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(StoreError::Damaged { digest: *digest, damage: Damage::Missing });
            }
            Err(other) => return Err(other),
        };
        if found == *digest { Ok(()) } else { Err(StoreError::Damaged { digest: *digest, damage: Damage::Altered }) }
    }

    /// The bytes of a blob, checked against the digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == *digest => Ok(bytes),
            Ok(_) => Err(StoreError::Damaged { digest: *digest, damage: Damage::Altered }),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(StoreError::Damaged { digest: *digest, damage: Damage::Missing })
            }
            Err(e) => Err(e).at("read", &path),
        }
    }

    /// The tree stored under `digest`.
    pub fn tree(&self, digest: &Digest) -> Result<Tree, StoreError> {
        let bytes = self.read(digest)?;
        Tree::decode(&bytes).ok_or(StoreError::Damaged { digest: *digest, damage: Damage::Altered })
    }

    /// Moves the file or folder at `path`, on the store's file system, into the store.
    pub fn adopt(&self, path: &Path, stat: &StatCache) -> Result<Artifact, StoreError> {
        let metadata = fs::metadata(path).at("read", path)?;
        if !metadata.is_dir() {
            let (executable, digest, size) = self.adopt_file(path, &metadata, stat)?;
            return Ok(Artifact { form: Form::File { executable }, digest, size });
        }
        let mut entries = Vec::new();
        self.adopt_folder(path, &mut String::new(), &mut entries, stat)?;
        let tree = Tree::new(entries);
        let bytes = tree.encode();
        let digest = Digest::of(&bytes);
        self.insert(&digest, stat, |path| fs::write(path, &bytes).at("write", path))?;
        Ok(Artifact { form: Form::Tree, digest, size: tree.size() })
    }

    fn adopt_folder(
        &self,
        folder: &Path,
        prefix: &mut String,
        entries: &mut Vec<Entry>,
        stat: &StatCache,
    ) -> Result<(), StoreError> {
        for item in fs::read_dir(folder).at("list", folder)? {
            let path = item.at("list", folder)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                return Err(StoreError::Unsupported { path, what: "named in something else than UTF-8" });
            };
            // A link counts as the file behind it: it may point into the store or to an input of the user's.
            let metadata = fs::metadata(&path).at("read", &path)?;
            let length = prefix.len();
            prefix.push_str(name);
            if metadata.is_dir() {
                if path.is_symlink() {
                    return Err(StoreError::Unsupported { path, what: "a link to a folder" });
                }
                prefix.push('/');
                let before = entries.len();
                self.adopt_folder(&path, prefix, entries, stat)?;
                if entries.len() == before {
                    entries.push(Entry { path: prefix.trim_end_matches('/').to_owned(), node: Node::EmptyFolder });
                }
            } else {
                let (executable, digest, size) = self.adopt_file(&path, &metadata, stat)?;
                entries.push(Entry { path: prefix.clone(), node: Node::File { executable, digest, size } });
            }
            prefix.truncate(length);
        }
        Ok(())
    }

    fn adopt_file(
        &self,
        path: &Path,
        metadata: &Metadata,
        stat: &StatCache,
    ) -> Result<(bool, Digest, u64), StoreError> {
        if !metadata.is_file() {
            return Err(StoreError::Unsupported { path: path.to_owned(), what: "neither a file nor a folder" });
        }
        let (digest, size) = Digest::of_file(path).at("read", path)?;
        // A link, or a file with a second name, may be written through that name: take a copy.
        let own = !path.is_symlink() && std::os::unix::fs::MetadataExt::nlink(metadata) == 1;
        self.insert(
            &digest,
            stat,
            |target| {
                if own { fs::rename(path, target).at("move", path) } else { copy(path, target) }
            },
        )?;
        Ok((Stamp::of(metadata).executable, digest, size))
    }

    /// Publishes a blob that `make` writes to the path it is given, unless a whole one is there already.
    fn insert(
        &self,
        digest: &Digest,
        stat: &StatCache,
        make: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if self.verify(digest, stat).is_ok() {
            return Ok(());
        }
        let target = self.path(digest);
        // Two processes that store the same bytes at once each rename a whole file: either may win.
        let scratch = target.with_extension(format!("{}.{:?}", std::process::id(), std::thread::current().id()));
        make(&scratch)?;
        fs::set_permissions(&scratch, Permissions::from_mode(0o444)).at("protect", &scratch)?;
        fs::rename(&scratch, &target).at("publish", &target)?;
        stat.put_own(&Stamp::of(&fs::metadata(&target).at("read", &target)?), *digest);
        Ok(())
    }

    /// Gives `artifact` out at `target`, which must not exist.
    pub fn place(&self, artifact: &Artifact, target: &Path, how: Placement) -> Result<(), StoreError> {
        let Form::Tree = artifact.form else {
            let executable = artifact.form == Form::File { executable: true };
            return self.place_file(&artifact.digest, executable, target, how);
        };
        fs::create_dir(target).at("create", target)?;
        let mut made = PathBuf::new();
        for entry in self.tree(&artifact.digest)?.entries {
            let path = target.join(&entry.path);
            let folder = if entry.node == Node::EmptyFolder { &*path } else { path.parent().unwrap_or(target) };
            if folder != made {
                fs::create_dir_all(folder).at("create", folder)?;
                made = folder.to_owned();
            }
            if let Node::File { executable, digest, .. } = entry.node {
                self.place_file(&digest, executable, &path, how)?;
            }
        }
        Ok(())
    }

    fn place_file(&self, digest: &Digest, executable: bool, target: &Path, how: Placement) -> Result<(), StoreError> {
        let blob = self.path(digest);
        if how == Placement::Link {
            let blob = std::path::absolute(&blob).at("find", &blob)?;
            return std::os::unix::fs::symlink(&blob, target).at("link", target);
        }
        copy(&blob, target)?;
        let writable = if how == Placement::Writable { 0o200 } else { 0 };
        let mode = 0o444 | writable | if executable { 0o111 } else { 0 };
        fs::set_permissions(target, Permissions::from_mode(mode)).at("protect", target)
    }
}

/// How a blob is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// A symbolic link into the store, for readers of our own that never write.
    Link,
    /// A read-only copy, sharing its blocks where the file system can.
    ReadOnly,
    /// A copy that its owner may change.
    Writable,
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    reflink_copy::reflink_or_copy(from, to).at("copy", from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_folder_comes_back_as_it_went_in() {
        let (folder, store) = store();
        let out = folder.path().join("out");
        fs::create_dir_all(out.join("a/b")).unwrap();
        fs::create_dir_all(out.join("empty")).unwrap();
        fs::write(out.join("a/b/file \"1\"\n"), "one").unwrap();
        fs::write(out.join("run"), "#!").unwrap();
        fs::set_permissions(out.join("run"), Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("run", out.join("link")).unwrap();
        let artifact = store.blobs.adopt(&out, &store.stat).unwrap();
        assert_eq!(artifact.size, 3 + 2 + 2);
        store.verify(&artifact).unwrap();

        for how in [Placement::Link, Placement::ReadOnly, Placement::Writable] {
            let back = folder.path().join(format!("{how:?}"));
            store.blobs.place(&artifact, &back, how).unwrap();
            assert_eq!(fs::read_to_string(back.join("a/b/file \"1\"\n")).unwrap(), "one");
            assert!(back.join("empty").is_dir());
            assert_eq!(fs::read_to_string(back.join("link")).unwrap(), "#!");
            if how != Placement::Link {
                let mode = fs::metadata(back.join("run")).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, if how == Placement::ReadOnly { 0o555 } else { 0o755 });
            }
        }
    }

    #[test]
    fn a_flipped_byte_and_a_deleted_blob_are_seen() {
        let (folder, store) = store();
        let out = folder.path().join("out");
        fs::write(&out, "some bytes").unwrap();
        let artifact = store.blobs.adopt(&out, &store.stat).unwrap();
        let blob = store.blobs.path(&artifact.digest);
        fs::set_permissions(&blob, Permissions::from_mode(0o644)).unwrap();
        fs::write(&blob, "some bytez").unwrap();
        let damage = |store: &Store| match store.verify(&artifact) {
            Err(StoreError::Damaged { damage, .. }) => damage,
            other => panic!("{other:?}"),
        };
        assert_eq!(damage(&store), Damage::Altered);
        fs::remove_file(&blob).unwrap();
        assert_eq!(damage(&store), Damage::Missing);

        fs::write(&out, "some bytes").unwrap();
        assert_eq!(store.blobs.adopt(&out, &store.stat).unwrap(), artifact);
        store.verify(&artifact).unwrap();
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let (folder, store) = store();
        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", out.join("broken")).unwrap();
        let message = store.blobs.adopt(&out, &store.stat).unwrap_err().to_string();
        assert!(message.contains("broken"), "{message}");
    }
}
