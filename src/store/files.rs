//! The store's own files, opened only where they are files: never through a link, never something that waits.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::{IoContext, StoreError};
use crate::regular;

/// What a file of the store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Reading; a missing one is none.
    Reading,
    /// Reading and appending; a missing one is created.
    Appending,
    /// Reading and writing at any place; a missing one is created.
    Mending,
}

/// What is at the path in the place of a regular file; `None` where there is one, or nothing.
pub(crate) fn foreign(path: &Path) -> Option<&'static str> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_symlink() => Some("a link"),
        kind if kind.is_dir() => Some("a folder"),
        kind => regular::special(kind).or(Some("something else")),
    }
}

/// Opens the file at `path`; `None` if it is missing and is only to be read.
///
/// # Errors
/// [`StoreError::Foreign`] for anything but a regular file, which is not opened; the file system's.
pub(crate) fn open(path: &Path, purpose: For) -> Result<Option<File>, StoreError> {
    let refused = |what: &'static str| StoreError::Foreign { path: path.to_owned(), what: what.into() };
    if let Some(what) = foreign(path) {
        return Err(refused(what));
    }
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match purpose {
        For::Reading => {}
        For::Appending => drop(options.append(true).create(true)),
        For::Mending => drop(options.write(true).create(true).truncate(false)),
    }
    match options.open(path) {
        // It may have been replaced since it was looked at.
        Ok(file) if file.metadata().at("read", path)?.is_file() => Ok(Some(file)),
        Ok(_) => Err(refused("something else")),
        Err(error) if error.kind() == ErrorKind::NotFound && purpose == For::Reading => Ok(None),
        Err(error) => Err(error).at("open", path),
    }
}

/// Moves what is at `path`, below the store's `folder`, to `rescued/`, and returns its new path.
pub(crate) fn set_aside(folder: &Path, path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().replace('/', "-");
    let rescued = folder.join("rescued");
    fs::create_dir_all(&rescued).at("create", &rescued)?;
    let free = |path: &PathBuf| path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let mut names = (0u32..).map(|n| rescued.join(if n == 0 { name.clone() } else { format!("{name}-{n}") }));
    let target = names.find(free).unwrap_or_else(|| rescued.join(&name));
    fs::rename(path, &target).at("move", path)?;
    Ok(target)
}

/// Whether the system refused to write, so that what is there can still be read.
pub(crate) fn is_read_only(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if refused(source))
}

fn refused(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_pipes_and_folders_are_named_and_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").unwrap();
        fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", at("dangling")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for purpose in [For::Reading, For::Appending, For::Mending] {
            for (name, what) in
                [("link", "a link"), ("dangling", "a link"), ("folder", "a folder"), ("pipe", "a named pipe")]
            {
                let message = open(&at(name), purpose).unwrap_err().to_string();
                assert!(message.contains(what), "{message}");
            }
            assert!(open(&at("file"), purpose).unwrap().is_some());
        }
        assert!(open(&at("none"), For::Reading).unwrap().is_none());
        assert!(!Path::new("/nowhere/at/all").exists());
        let first = set_aside(folder.path(), &at("link")).unwrap();
        std::os::unix::fs::symlink("x", at("link")).unwrap();
        let second = set_aside(folder.path(), &at("link")).unwrap();
        assert!(first != second && first.symlink_metadata().is_ok() && second.symlink_metadata().is_ok());
    }
}
