//! One runner for a key among all processes on the machine.
//!
//! A key is a one-byte range of one lock file, held by an open-file-description lock: it dies with its process, needs
//! no file a key, and leaves nothing to unlock. Two keys that fall on one offset wait for each other, which costs time
//! only.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::digest::Digest;
use super::files::{self, For};
use super::{IoContext, StoreError};

/// The lock file.
#[derive(Debug)]
pub struct KeyLocks {
    path: PathBuf,
}

/// A key held; dropping it lets it go.
#[derive(Debug)]
pub struct KeyLock {
    /// Closing the description releases the range.
    _file: File,
}

impl KeyLocks {
    /// Opens the lock file at `path`, creating it if it is new and `write` says so.
    pub fn open(path: &Path, write: bool) -> Result<KeyLocks, StoreError> {
        let purpose = if write { For::Mending } else { For::Reading };
        files::open(path, purpose).map(|_| KeyLocks { path: path.to_owned() })
    }

    /// A description of its own, so that threads of one process exclude each other too.
    fn description(&self) -> Result<File, StoreError> {
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        files::open(&self.path, For::Mending)?.ok_or_else(missing).at("open", &self.path)
    }

    /// Takes the key if nobody holds it.
    pub fn try_lock(&self, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
        let file = self.description()?;
        let (start, _) = key.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let range = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: (u64::from_le_bytes(*start) >> 2) as libc::off_t,
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => Ok(Some(KeyLock { _file: file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(errno) => Err(std::io::Error::from(errno)).at("lock", &self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_holder_and_is_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let locks = KeyLocks::open(&folder.path().join("locks"), true).unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let held = locks.try_lock(&a).unwrap().unwrap();
        assert!(locks.try_lock(&a).unwrap().is_none());
        assert!(locks.try_lock(&b).unwrap().is_some());
        drop(held);
        assert!(locks.try_lock(&a).unwrap().is_some());
    }
}
