//! Bytes under their digest: written beside, hashed, made read-only, renamed into place.
//!
//! There is no fsync: a blob that a power cut left short is found by its size or bytes when it is next needed, and
//! counts as missing. Whatever else is found in the place of a blob or of a subfolder is damage too: it is not followed, not
//! waited for, and moved to `rescued/` when its place is needed.

use std::borrow::Cow;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use rayon::prelude::*;

use super::digest::Digest;
use super::files;
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
    /// Opens the folder. Unless nothing may be written, it and those of its subfolders that are missing are created.
    pub fn open(root: &Path, write: bool) -> Result<Blobs, StoreError> {
        let blobs = Blobs { root: root.to_owned(), cannot_share: AtomicBool::new(false) };
        let mut there = [false; 256];
        if root.symlink_metadata().is_ok() && !root.is_dir() {
            return Err(StoreError::Foreign { path: root.to_owned(), what: "no folder".into() });
        }
        let items = match fs::read_dir(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other.at("list", root)?),
        };
        for item in items.into_iter().flatten() {
            let item = item.at("list", root)?;
            let name = item.file_name();
            let Some(byte) = name.to_str().filter(|name| name.len() == 2).and_then(|n| u8::from_str_radix(n, 16).ok())
            else {
                continue;
            };
            if !item.file_type().at("read", root)?.is_dir() {
                let what = "no folder".into();
                return Err(StoreError::Foreign { path: item.path(), what });
            }
            there[usize::from(byte)] = true;
        }
        for folder in blobs.subfolders().zip(there).filter_map(|(folder, there)| (write && !there).then_some(folder)) {
            fs::create_dir_all(&folder).at("create", &folder)?;
        }
        Ok(blobs)
    }

    /// The 256 subfolders.
    pub fn subfolders(&self) -> impl Iterator<Item = PathBuf> {
        (0..=255u8).map(|byte| self.root.join(format!("{byte:02x}")))
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
        let metadata = fs::symlink_metadata(&path).map_err(|error| damage(digest, &path, error))?;
        if !metadata.is_file() {
            return Err(StoreError::Damaged { digest: *digest, damage: Damage::NotAFile });
        }
        let stamp = Stamp::of(&metadata);
        let found = match stat.get(&stamp) {
            Some(found) => found,
            None => stat.digest_open(self.open_blob(digest)?, &path, stamp).map_err(|error| unread(digest, error))?.0,
        };
        if found == *digest { Ok(()) } else { Err(StoreError::Damaged { digest: *digest, damage: Damage::Altered }) }
    }

    /// The file of a blob. A link is not followed, and nothing is waited for.
    fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
        let file = opened.map_err(|error| damage(digest, &path, error))?;
        match file.metadata().at("read", &path)?.is_file() {
            true => Ok(file),
            false => Err(StoreError::Damaged { digest: *digest, damage: Damage::NotAFile }),
        }
    }

    /// The bytes of a blob, checked against the digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let read = self.open_blob(digest)?.read_to_end(&mut bytes);
        read.map_err(|error| damage(digest, &self.path(digest), error))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(StoreError::Damaged { digest: *digest, damage: Damage::Altered }),
        }
    }

    /// The tree stored under `digest`.
    pub fn tree(&self, digest: &Digest) -> Result<Tree, StoreError> {
        let bytes = self.read(digest)?;
        Tree::decode(&bytes).ok_or(StoreError::Damaged { digest: *digest, damage: Damage::Altered })
    }

    /// The tree whose digest begins with `prefix`, if exactly one stored tree has such a digest.
    pub fn find_tree(&self, prefix: &str) -> Option<Tree> {
        let (folder, rest) = prefix.split_at_checked(2)?;
        let names =
            fs::read_dir(self.root.join(folder)).ok()?.flatten().filter_map(|item| item.file_name().into_string().ok());
        let digests =
            names.filter(|name| name.starts_with(rest)).filter_map(|name| format!("{folder}{name}").parse().ok());
        let mut trees = digests.filter_map(|digest| self.tree(&digest).ok());
        let tree = trees.next()?;
        trees.next().is_none().then_some(tree)
    }

    /// Stores the output at `path`: moves the files that are its own, and copies what it holds by a link, under a second
    /// name or on another file system, so that nothing outside of it is moved or changed. A link to a folder
    /// counts as the folder if that lies in the output's own surroundings or below one of `inputs`.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for what cannot be stored or read, and is the output's fault; anything else is the store's.
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
        let digest = self.store_tree(&tree, stat)?;
        Ok(Artifact { form: Form::Tree, digest, size: tree.size() })
    }

    /// Stores the list of a folder's files, and returns its digest.
    pub fn store_tree(&self, tree: &Tree, stat: &StatCache) -> Result<Digest, StoreError> {
        let bytes = tree.encode();
        let digest = Digest::of(&bytes);
        if self.verify(&digest, stat).is_err() {
            let scratch = self.scratch(&digest)?;
            let create = || File::options().read(true).write(true).create_new(true).open(&scratch);
            let mut open = create().at("create", &scratch)?;
            open.write_all(&bytes).at("write", &scratch)?;
            let mode = open.metadata().at("read", &scratch)?.mode();
            self.publish(&scratch, &open, mode, (digest, bytes.len() as u64), stat)?;
        }
        Ok(digest)
    }

    fn adopt_file(&self, file: &Loose, stat: &StatCache) -> Result<Node, StoreError> {
        let Loose { path, own, mode, size, .. } = file;
        // It may have been replaced by a pipe since it was looked at.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut open = opened.map_err(|error| unreadable(path, error))?;
        let (digest, size) = Digest::of_reader(&mut open, *size).map_err(|error| unreadable(path, error))?;
        let node = Node::File { executable: mode & 0o100 != 0, digest, size };
        if self.verify(&digest, stat).is_ok() {
            return Ok(node);
        }
        if *own {
            match self.publish(path, &open, *mode, (digest, size), stat) {
                // Another user's file, or one on another file system: it is copied.
                Err(StoreError::Io { source, .. }) if is_elsewhere(&source) => {}
                Err(StoreError::Io { source, .. }) if is_gone(path, &source) => return Err(unreadable(path, source)),
                other => return other.map(|()| node),
            }
        }
        // Another process may be writing it: what is stored is what was copied.
        let scratch = self.scratch(&digest)?;
        let mut source = File::open(path).map_err(|error| unreadable(path, error))?;
        self.copy(&mut source, size, &scratch, 0o444).at("copy", path)?;
        if Digest::of_file(&scratch).at("read", &scratch)? != (digest, size) {
            let _ = fs::remove_file(&scratch);
            return Err(changed(path));
        }
        self.publish(&scratch, &File::open(&scratch).at("read", &scratch)?, *mode, (digest, size), stat)?;
        Ok(node)
    }

    /// A free name beside the blob's own that no other thread or process uses, in a folder that is there.
    fn scratch(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let blob = self.path(digest);
        let scratch = blob.with_extension(format!("{}.{:?}", std::process::id(), std::thread::current().id()));
        match fs::remove_file(&scratch) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.make_folder(&blob)?,
            other => other.at("remove", &scratch)?,
        }
        Ok(scratch)
    }

    /// Makes the folder of a blob anew if it was removed.
    fn make_folder(&self, blob: &Path) -> Result<(), StoreError> {
        let folder = blob.parent().unwrap_or(&self.root);
        match folder.symlink_metadata() {
            Ok(_) => Ok(()),
            Err(_) => fs::create_dir_all(folder).at("create", folder),
        }
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
        match fs::rename(path, &blob) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                files::set_aside(self.root.parent().unwrap_or(&self.root), &blob)?;
                fs::rename(path, &blob).at("store", path)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_folder(&blob)?;
                fs::rename(path, &blob).at("store", path)?;
            }
            Err(error) => return Err(error).at("store", path),
        }
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
        if how == Placement::Link {
            let blob = self.path(digest);
            let metadata = fs::symlink_metadata(&blob).map_err(|error| damage(digest, &blob, error))?;
            self.check_size(digest, &metadata, size)?;
            return std::os::unix::fs::symlink(&blob, target).at("link", target);
        }
        let mut blob = self.open_blob(digest)?;
        self.check_size(digest, &blob.metadata().at("read", target)?, size)?;
        self.copy(&mut blob, size, target, how.mode(executable)).at("copy a stored object to", target)
    }

    /// What was verified may have been replaced since.
    fn check_size(&self, digest: &Digest, metadata: &fs::Metadata, size: u64) -> Result<(), StoreError> {
        let damage = match metadata.is_file() {
            true if metadata.len() == size => return Ok(()),
            true => Damage::Altered,
            false => Damage::NotAFile,
        };
        Err(StoreError::Damaged { digest: *digest, damage })
    }

    /// Copies a file of about `size` bytes to `to`, which must not exist, with those of the bits of `mode` that the umask
    /// leaves, sharing its blocks where the file system can.
    fn copy(&self, source: &mut File, size: u64, to: &Path, mode: u32) -> io::Result<()> {
        let mut target = File::options().write(true).create_new(true).mode(mode).open(to)?;
        if !self.cannot_share.load(Ordering::Relaxed) {
            if reflink_copy::reflink_file(&*source, &target).is_ok() {
                return Ok(());
            }
            self.cannot_share.store(true, Ordering::Relaxed);
        }
        if size > SMALL {
            return io::copy(source, &mut target).map(drop);
        }
        // One byte more than there should be, so that the read that finds the end is the first.
        let mut bytes = Vec::with_capacity(size as usize + 1);
        source.read_to_end(&mut bytes)?;
        target.write_all(&bytes)
    }
}

/// What an error in the place of a blob means.
fn damage(digest: &Digest, path: &Path, error: io::Error) -> StoreError {
    let damage = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => Damage::Missing,
        Some(Errno::ELOOP | Errno::ENXIO | Errno::EISDIR) => Damage::NotAFile,
        Some(Errno::EACCES | Errno::EPERM | Errno::EIO) => Damage::Unreadable,
        _ => return StoreError::Io { verb: "read", path: path.to_owned(), source: error },
    };
    StoreError::Damaged { digest: *digest, damage }
}

/// As [`damage`] where the error has its path.
fn unread(digest: &Digest, error: StoreError) -> StoreError {
    match error {
        StoreError::Io { path, source, .. } => damage(digest, &path, source),
        other => other,
    }
}

/// What an error in reading an output means: a fault of the output's.
fn unreadable(path: &Path, error: io::Error) -> StoreError {
    let what = match error.kind() {
        ErrorKind::NotFound => "gone: it was removed while it was stored".into(),
        _ => format!("not readable ({error})").into(),
    };
    StoreError::Unsupported { path: path.to_owned(), what }
}

/// Whether a file cannot be moved, but may be copied.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::CrossesDevices)
}

/// Whether it is the file, not its place in the store, that is not there.
fn is_gone(path: &Path, error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound && path.symlink_metadata().is_err()
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

/// How many folders an output may be nested: more than paths may be long is no use, and each takes a file and some stack.
const DEEPEST: usize = 256;

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
        if self.way.len() > DEEPEST {
            return Err(unsupported(format!("nested more than {DEEPEST} folders deep").into()));
        }
        let here = fs::symlink_metadata(path).map_err(|error| unreadable(path, error))?;
        let link = here.file_type().is_symlink();
        let metadata = match link {
            false => here,
            true => fs::metadata(path).map_err(|error| {
                let to = fs::read_link(path).unwrap_or_default();
                let why = match error.kind() {
                    ErrorKind::NotFound => "is not there".to_owned(),
                    _ => format!("cannot be read ({error})"),
                };
                unsupported(format!("a link to {}, which {why}", to.display()).into())
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
        for item in fs::read_dir(path).map_err(|error| unreadable(path, error))? {
            let item = item.map_err(|error| unreadable(path, error))?;
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
        let whole = |path: &Path| fs::canonicalize(path).map_err(|error| unreadable(path, error));
        let folder = whole(link)?;
        let home = whole(self.path.parent().unwrap_or(Path::new(".")))?;
        let inputs = self.inputs.iter().filter_map(|input| fs::canonicalize(input).ok());
        let unsupported = |what| Err(StoreError::Unsupported { path: link.to_owned(), what });
        if !inputs.chain([home]).any(|root| folder.starts_with(root)) {
            let what = format!(
                "a link to the folder {}, which is not an input of this stage; copy what is needed",
                folder.display()
            );
            return unsupported(what.into());
        }
        for way in &self.way {
            if whole(way)?.starts_with(&folder) {
                return unsupported("a link to a folder that contains it".into());
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
        for (to, what) in
            [(&*other, "which is not an input of this stage"), (Path::new(".."), "a folder that contains it")]
        {
            std::os::unix::fs::symlink(to, out.join("link")).unwrap();
            let message = store.blobs.adopt(&out, &[], &store.stat).unwrap_err().to_string();
            assert!(message.contains("link is a link to") && message.contains(what), "{message}");
            assert!(out.join("file").exists() && other.join("file").exists());
            fs::remove_file(out.join("link")).unwrap();
        }
    }
}
