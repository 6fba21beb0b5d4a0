//! Bytes under their digest: written beside, hashed, made read-only, renamed into place.
//!
//! There is no fsync: a blob that a power cut left short is found by its size or bytes when it is next needed, and
//! counts as missing.

use std::borrow::Cow;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::digest::Digest;
use super::stat::{Stamp, StatCache};
use super::tree::{Entry, Node, Tree};
use super::{Artifact, Damage, Form, IoContext, StoreError};
use crate::regular;

/// The folder of blobs, 256 subfolders by the first byte.
#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
    /// Whether a copy that shares its blocks was refused; asked once a process.
    cannot_share: AtomicBool,
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
        Ok(Blobs { root: root.to_owned(), cannot_share: AtomicBool::new(false) })
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

    /// Stores the output at `path`, on the store's file system: moves the files that are its own, and copies what it
    /// holds by a link or under a second name, so that nothing outside of it is moved or changed. A link to a folder
    /// counts as the folder if that lies in the output's own surroundings or below one of `inputs`.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for what cannot be stored; then nothing has been moved.
    pub fn adopt(&self, path: &Path, inputs: &[PathBuf], stat: &StatCache) -> Result<Artifact, StoreError> {
        let mut content = Content::new(path, inputs);
        let folder = content.add(path, String::new(), true)?;
        let Content { files, folders, .. } = content;
        let stored = each(&files, |file| self.adopt_file(file, stat))?;
        if let (false, [Node::File { executable, digest, size }]) = (folder, &stored[..]) {
            return Ok(Artifact { form: Form::File { executable: *executable }, digest: *digest, size: *size });
        }
        let entries = files.into_iter().zip(stored).map(|(file, node)| Entry { path: file.name, node });
        let empty = folders.into_iter().map(|path| Entry { path, node: Node::EmptyFolder });
        let tree = Tree::new(entries.chain(empty).collect());
        let bytes = tree.encode();
        let digest = Digest::of(&bytes);
        if self.verify(&digest, stat).is_err() {
            let scratch = self.scratch(&digest);
            fs::write(&scratch, &bytes).at("write", &scratch)?;
            let open = File::open(&scratch).at("read", &scratch)?;
            let mode = open.metadata().at("read", &scratch)?.mode();
            self.publish(&scratch, &open, mode, (digest, bytes.len() as u64), stat)?;
        }
        Ok(Artifact { form: Form::Tree, digest, size: tree.size() })
    }

    fn adopt_file(&self, file: &Loose, stat: &StatCache) -> Result<Node, StoreError> {
        let Loose { path, own, mode, size, .. } = file;
        let mut open = File::open(path).at("read", path)?;
        let (digest, size) = Digest::of_reader(&mut open, *size).at("read", path)?;
        let node = Node::File { executable: mode & 0o100 != 0, digest, size };
        if self.verify(&digest, stat).is_ok() {
            return Ok(node);
        }
        if *own {
            self.publish(path, &open, *mode, (digest, size), stat)?;
            return Ok(node);
        }
        // Somebody else may be writing it: what is stored is what was copied.
        let scratch = self.scratch(&digest);
        self.copy(path, size, &scratch, 0o444)?;
        if Digest::of_file(&scratch).at("read", &scratch)? != (digest, size) {
            let _ = fs::remove_file(&scratch);
            return Err(changed(path));
        }
        self.publish(&scratch, &File::open(&scratch).at("read", &scratch)?, *mode, (digest, size), stat)?;
        Ok(node)
    }

    /// A name beside the blob's own that no other thread or process uses.
    fn scratch(&self, digest: &Digest) -> PathBuf {
        self.path(digest).with_extension(format!("{}.{:?}", std::process::id(), std::thread::current().id()))
    }

    /// Makes the file at `path`, which is `open` and was found to hold a digest and a length, the blob, readable for those
    /// that `mode` lets read it. Two processes that store the same bytes at once each rename a whole file: either may win.
    fn publish(
        &self,
        path: &Path,
        open: &File,
        mode: u32,
        (digest, size): (Digest, u64),
        stat: &StatCache,
    ) -> Result<(), StoreError> {
        open.set_permissions(Permissions::from_mode(mode & 0o444 | 0o400)).at("protect", path)?;
        let blob = self.path(&digest);
        fs::rename(path, &blob).at("store", path)?;
        let stamp = Stamp::of(&open.metadata().at("read", path)?);
        if stamp.size != size {
            let _ = fs::remove_file(blob);
            return Err(changed(path));
        }
        stat.put_own(&stamp, digest);
        Ok(())
    }

    /// Gives `artifact` out at `target`, which must not exist.
    pub fn place(&self, artifact: &Artifact, target: &Path, how: Placement) -> Result<(), StoreError> {
        let Form::Tree = artifact.form else {
            let executable = artifact.form == Form::File { executable: true };
            return self.place_file(&artifact.digest, artifact.size, executable, target, how);
        };
        fs::create_dir(target).at("create", target)?;
        let entries = self.tree(&artifact.digest)?.entries;
        let mut made = PathBuf::new();
        for entry in &entries {
            let path = target.join(&entry.path);
            let folder = if entry.node == Node::EmptyFolder { &*path } else { path.parent().unwrap_or(target) };
            if folder != made {
                fs::create_dir_all(folder).at("create", folder)?;
                made = folder.to_owned();
            }
        }
        let place = |entry: &Entry| match entry.node {
            Node::File { executable, digest, size } => {
                self.place_file(&digest, size, executable, &target.join(&entry.path), how)
            }
            Node::EmptyFolder => Ok(()),
        };
        each(&entries, place).map(drop)
    }

    fn place_file(
        &self,
        digest: &Digest,
        size: u64,
        executable: bool,
        target: &Path,
        how: Placement,
    ) -> Result<(), StoreError> {
        let blob = self.path(digest);
        if how == Placement::Link {
            return std::os::unix::fs::symlink(&blob, target).at("link", target);
        }
        self.copy(&blob, size, target, how.mode(executable))
    }

    /// Copies a file of about `size` bytes to `to`, which must not exist, with those of the bits of `mode` that the umask
    /// leaves, sharing its blocks where the file system can.
    fn copy(&self, from: &Path, size: u64, to: &Path, mode: u32) -> Result<(), StoreError> {
        let copied = || -> io::Result<()> {
            let mut source = File::open(from)?;
            let mut target = File::options().write(true).create_new(true).mode(mode).open(to)?;
            if !self.cannot_share.load(Ordering::Relaxed) {
                if reflink_copy::reflink_file(&source, &target).is_ok() {
                    return Ok(());
                }
                self.cannot_share.store(true, Ordering::Relaxed);
            }
            if size > SMALL {
                return io::copy(&mut source, &mut target).map(drop);
            }
            // One byte more than there should be, so that the read that finds the end is the first.
            let mut bytes = Vec::with_capacity(size as usize + 1);
            source.read_to_end(&mut bytes)?;
            target.write_all(&bytes)
        };
        copied().at("copy", from)
    }
}

/// What `f` gives for each of `items`, in their order, or the first error.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    f: impl Fn(&T) -> Result<R, StoreError> + Sync,
) -> Result<Vec<R>, StoreError> {
    // Below a few files the threads cost more than they save.
    if items.len() < 64 { items.iter().map(&f).collect() } else { items.par_iter().map(&f).collect() }
}

/// Up to this size a file is copied by one read and one write; the kernel's own copying takes more calls.
const SMALL: u64 = 64 * 1024;

/// A file of an output, before it is stored.
struct Loose {
    /// Below the output; empty if the output is the file.
    name: String,
    path: PathBuf,
    /// Whether it may be moved: it lies in the output itself, under this name alone.
    own: bool,
    /// Its permission bits.
    mode: u32,
    /// Its length when it was listed.
    size: u64,
}

/// Somebody writes to the file that is being stored.
fn changed(path: &Path) -> StoreError {
    StoreError::Unsupported { path: path.to_owned(), what: "changed while it was stored; run again".into() }
}

/// What an output holds.
struct Content<'a> {
    /// The output.
    path: &'a Path,
    /// What links to folders may lead to, beside the folder that the output lies in, which is the cell's own.
    inputs: &'a [PathBuf],
    /// The folders that are being listed, to see a link that leads back to one of them.
    way: Vec<PathBuf>,
    files: Vec<Loose>,
    /// Empty ones.
    folders: Vec<String>,
}

impl<'a> Content<'a> {
    fn new(path: &'a Path, inputs: &'a [PathBuf]) -> Content<'a> {
        Content { path, inputs, way: Vec::new(), files: Vec::new(), folders: Vec::new() }
    }

    /// Adds what lies at `path` under `name`, and says whether it is a folder. `own` says that no link has been followed.
    fn add(&mut self, path: &Path, name: String, own: bool) -> Result<bool, StoreError> {
        let unsupported = |what: Cow<'static, str>| StoreError::Unsupported { path: path.to_owned(), what };
        let here = fs::symlink_metadata(path).at("read", path)?;
        let link = here.file_type().is_symlink();
        let metadata = match link {
            false => here,
            true => fs::metadata(path).map_err(|_| {
                let to = fs::read_link(path).unwrap_or_default();
                unsupported(format!("a link to {}, which is not there", to.display()).into())
            })?,
        };
        if let Some(what) = regular::special(metadata.file_type()) {
            return Err(unsupported(what.into()));
        }
        let own = own && !link;
        if !metadata.is_dir() {
            // A second name may be the user's own.
            let own = own && metadata.nlink() == 1;
            self.files.push(Loose { name, path: path.to_owned(), own, mode: metadata.mode(), size: metadata.len() });
            return Ok(false);
        }
        if link {
            self.check_link(path)?;
        }
        self.way.push(path.to_owned());
        let mut empty = true;
        for item in fs::read_dir(path).at("list", path)? {
            let item = item.at("list", path)?;
            let Ok(below) = item.file_name().into_string() else {
                let what = "named in something else than UTF-8".into();
                return Err(StoreError::Unsupported { path: item.path(), what });
            };
            empty = false;
            let below = if name.is_empty() { below } else { format!("{name}/{below}") };
            self.add(&item.path(), below, own)?;
        }
        self.way.pop();
        if empty && !name.is_empty() {
            self.folders.push(name);
        }
        Ok(true)
    }

    /// Refuses a link to a folder that is neither the cell's own nor below one of its inputs, or that leads to where it
    /// lies.
    fn check_link(&self, link: &Path) -> Result<(), StoreError> {
        let whole = |path: &Path| fs::canonicalize(path).at("find", path);
        let folder = whole(link)?;
        let home = whole(self.path.parent().unwrap_or(Path::new(".")))?;
        let inputs = self.inputs.iter().filter_map(|input| fs::canonicalize(input).ok());
        let unsupported = |what| Err(StoreError::Unsupported { path: link.to_owned(), what });
        if !inputs.chain([home]).any(|root| folder.starts_with(root)) {
            let what = format!(
                "a link to the folder {}, which is no input of this stage; copy what is needed",
                folder.display()
            );
            return unsupported(what.into());
        }
        for way in &self.way {
            if whole(way)?.starts_with(&folder) {
                return unsupported("a link to a folder that it lies in".into());
            }
        }
        Ok(())
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

impl Placement {
    /// The permission bits of a copied file, before the umask.
    fn mode(self, executable: bool) -> u32 {
        let mode = if self == Placement::Writable { 0o666 } else { 0o444 };
        mode | if executable { 0o111 } else { 0 }
    }
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
        let artifact = store.blobs.adopt(&out, &[], &store.stat).unwrap();
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
        let artifact = store.blobs.adopt(&out, &[], &store.stat).unwrap();
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
        assert_eq!(store.blobs.adopt(&out, &[], &store.stat).unwrap(), artifact);
        store.verify(&artifact).unwrap();
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let (folder, store) = store();
        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", out.join("broken")).unwrap();
        let message = store.blobs.adopt(&out, &[], &store.stat).unwrap_err().to_string();
        assert!(message.contains("broken is a link to /nowhere/at/all, which is not there"), "{message}");
        fs::remove_file(out.join("broken")).unwrap();
        nix::unistd::mkfifo(&out.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let message = store.blobs.adopt(&out, &[], &store.stat).unwrap_err().to_string();
        assert!(message.contains("pipe is a named pipe"), "{message}");
    }

    #[test]
    fn what_an_output_links_to_is_copied_and_stays_where_it_is() {
        let (folder, store) = store();
        let (input, out) = (folder.path().join("input"), folder.path().join("cell/out"));
        fs::create_dir_all(input.join("a")).unwrap();
        fs::create_dir_all(&out).unwrap();
        for name in ["a/1", "a/2", "3"] {
            fs::write(input.join(name), name).unwrap();
        }
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, out.join(name)).unwrap();
        link(&input, "whole");
        fs::create_dir(out.join("parts")).unwrap();
        link(&input.join("a"), "parts/a");
        link(&input.join("3"), "parts/three");
        fs::hard_link(input.join("3"), out.join("parts/second name")).unwrap();
        let entries = |output: &str| -> Vec<String> {
            let artifact = store.blobs.adopt(&out.join(output), std::slice::from_ref(&input), &store.stat).unwrap();
            store.verify(&artifact).unwrap();
            store.blobs.tree(&artifact.digest).unwrap().entries.into_iter().map(|entry| entry.path).collect()
        };
        assert_eq!(entries("whole"), ["3", "a/1", "a/2"]);
        assert_eq!(entries("parts"), ["a/1", "a/2", "second name", "three"]);
        for name in ["a/1", "a/2", "3"] {
            let path = input.join(name);
            assert_eq!(fs::read_to_string(&path).unwrap(), name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        }
    }

    #[test]
    fn a_link_to_a_folder_elsewhere_or_back_is_refused_and_nothing_is_moved() {
        let (folder, store) = store();
        let (other, out) = (folder.path().join("other"), folder.path().join("cell/out"));
        for path in [&other, &out] {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
        }
        for (to, what) in [(&*other, "which is no input of this stage"), (Path::new(".."), "a folder that it lies in")]
        {
            std::os::unix::fs::symlink(to, out.join("link")).unwrap();
            let message = store.blobs.adopt(&out, &[], &store.stat).unwrap_err().to_string();
            assert!(message.contains("link is a link to") && message.contains(what), "{message}");
            assert!(out.join("file").exists() && other.join("file").exists());
            fs::remove_file(out.join("link")).unwrap();
        }
    }
}
