//! Locks between processes: one runner for a key on the machine, and folders whose owner lives.
//!
//! No lock is waited for without end: a file system without locks, and a holder that never lets go, are errors.
//!
//! A key is a one-byte range of one lock file, held by an open-file-description lock: it dies with its process, needs
//! no file a key, and leaves nothing to unlock. Two keys that fall on one offset wait for each other, which costs time
//! only.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::digest::Digest;
use super::files::{self, For};
use super::{IoContext, StoreError};

/// How long a lock is waited for that others hold for moments only.
const PATIENCE: Duration = Duration::from_secs(60);

/// The file in a folder whose lock says that the process which made the folder lives.
pub const HELD: &str = "held";

/// Takes the lock of a folder that this process makes, and makes it again where others take it for abandoned and remove it
/// before it is held.
///
/// # Errors
/// A file system without locks, without room, a process without descriptors; a holder that does not let go.
pub fn own(folder: &Path) -> Result<File, StoreError> {
    let start = Instant::now();
    loop {
        fs::create_dir_all(folder).at("create", folder)?;
        match hold(folder)? {
            Some(held) => return Ok(held),
            None => pause(start).at("lock", folder)?,
        }
    }
}

/// Takes the lock of a folder; none if another process has it, or has removed the folder.
///
/// # Errors
/// As [`own`].
pub fn hold(folder: &Path) -> Result<Option<File>, StoreError> {
    let path = folder.join(HELD);
    let file = match files::open(&path, For::Mending) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(path.exists().then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).at("lock", &path),
    }
}

/// Waits for a moment; an error once that has taken too long.
fn pause(start: Instant) -> io::Result<()> {
    if start.elapsed() > PATIENCE {
        let held = format!("another process has held it for {} s; was it stopped?", PATIENCE.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, held));
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

/// Takes the whole-file lock of `file`, at `path`, which its holders hold for moments.
///
/// # Errors
/// A file system without locks, and a holder that does not let go, as one that was stopped does not.
pub(crate) fn lock_for_a_moment(file: &File, path: &Path) -> Result<(), StoreError> {
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", path),
            Err(TryLockError::WouldBlock) => pause(start).at("lock", path)?,
        }
    }
}

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

    /// Takes the key if no process holds it.
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
            Err(errno) => Err(io::Error::from(errno)).at("lock", &self.path),
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
