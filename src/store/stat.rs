//! The stat cache: a file whose (device, inode, size, mtime, ctime) is unchanged has the digest it had.
//!
//! A row is kept only if the file was old enough when it was read: a change within the clock tick of the last one
//! would leave the times as they are ("racy" files; git has the same rule). Losing the cache costs time only.
//!
//! On disk: rows of a fixed length with a check, the first of them saying what the file is, appended. A torn or altered row
//! is dropped, and the file is rewritten then and when most of its rows are stale.

use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;

use super::digest::Digest;
use super::files::{self, For};
use super::{IoContext, Note, StoreError};

/// Bytes of a row: device, inode, size, mtime, ctime, digest, check.
const ROW: usize = 5 * 8 + 32 + 8;
/// A file of more bytes is not ours: fifty million files take less.
const LONGEST: u64 = 1 << 32;
/// The first row.
const FORMAT: [u8; ROW] = {
    let (text, mut row) = (*b"meanfield stat 1\n", [0; ROW]);
    let mut at = 0;
    while at < text.len() {
        row[at] = text[at];
        at += 1;
    }
    row
};

/// What `stat` says of a file, as far as it distinguishes one content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Nanoseconds since the epoch.
    mtime: i64,
    ctime: i64,
    /// The owner's x bit; not part of the row, since changing it changes ctime.
    pub executable: bool,
}

impl Stamp {
    /// The stamp in `metadata`.
    pub fn of(metadata: &Metadata) -> Stamp {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanos(metadata.ctime(), metadata.ctime_nsec()),
            executable: metadata.mode() & 0o100 != 0,
        }
    }

    /// Whether `metadata` is of a file with the same length and time of change: a copy that kept its times.
    pub(crate) fn is_like(&self, metadata: &Metadata) -> bool {
        let other = Stamp::of(metadata);
        (other.size, other.mtime) == (self.size, self.mtime)
    }

    /// Whether the file may have changed after this stamp was taken without changing it, when read at `now`.
    ///
    /// Local file systems stamp with the kernel's tick, ten milliseconds at most; one whose times have no
    /// fraction counts in seconds, and two of them cover FAT.
    fn is_racy(&self, now: SystemTime) -> bool {
        let newest = self.mtime.max(self.ctime);
        let coarse = self.mtime % 1_000_000_000 == 0 && self.ctime % 1_000_000_000 == 0;
        let window = if coarse { Duration::from_secs(2) } else { Duration::from_millis(20) };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        i128::from(newest) + window.as_nanos() as i128 >= now.as_nanos() as i128
    }
}

#[derive(Debug, Clone, Copy)]
struct Row {
    stamp: Stamp,
    digest: Digest,
}

/// Digests of files by their stamps.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    write: bool,
    rows: RwLock<FxHashMap<(u64, u64), Row>>,
    /// Encoded rows that are not on disk yet.
    pending: Mutex<Vec<u8>>,
}

impl StatCache {
    /// Reads the cache at `path`, which is never written unless `write` says so, and says what was damaged.
    pub fn open(path: &Path, write: bool) -> Result<(StatCache, Option<Note>), StoreError> {
        let mut bytes = Vec::new();
        if let Some(mut file) = files::open(path, For::Reading)? {
            let length = file.metadata().at("read", path)?.len();
            if length > LONGEST {
                let what = format!("a file of {length} bytes").into();
                return Err(StoreError::Foreign { path: path.to_owned(), what });
            }
            std::io::Read::read_to_end(&mut file, &mut bytes).at("read", path)?;
        }
        let mut rows = FxHashMap::with_capacity_and_hasher(bytes.len() / ROW, Default::default());
        let (all, torn) = bytes.as_chunks::<ROW>();
        let ours = all.first() == Some(&FORMAT);
        let (mut whole, mut lost) = (0, usize::from(!torn.is_empty()));
        for row in &all[usize::from(ours)..] {
            match decode(row) {
                Some(row) => {
                    whole += 1;
                    rows.insert((row.stamp.device, row.stamp.inode), row);
                }
                None => lost += 1,
            }
        }
        if !ours && whole == 0 && !FORMAT.starts_with(&bytes) {
            let what = "a file without a single row of the store".into();
            return Err(StoreError::Foreign { path: path.to_owned(), what });
        }
        let live = rows.len();
        let cache = StatCache { path: path.to_owned(), write, rows: RwLock::new(rows), pending: Mutex::default() };
        if write && (lost > 0 || whole > 2 * live + 4096 || !(ours || bytes.is_empty())) {
            cache.rewrite()?;
        }
        let what = || format!("{lost} of its {} rows damaged; the files behind them are read again", whole + lost);
        let note = (lost > 0).then(|| Note { path: path.to_owned(), what: what(), lost: 0 });
        Ok((cache, note))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, FxHashMap<(u64, u64), Row>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of the file with that stamp, if it is known.
    pub fn get(&self, stamp: &Stamp) -> Option<Digest> {
        let row = *self.read().get(&(stamp.device, stamp.inode))?;
        let same = row.stamp.size == stamp.size && row.stamp.mtime == stamp.mtime && row.stamp.ctime == stamp.ctime;
        same.then_some(row.digest)
    }

    /// Keeps that the file with `stamp`, taken before it was read, has `digest`.
    pub fn put(&self, stamp: &Stamp, digest: Digest) {
        if !stamp.is_racy(SystemTime::now()) {
            self.keep(stamp, digest);
        }
    }

    /// As [`StatCache::put`] for a blob that this process has just published: nothing else writes to it, so that no
    /// change can hide in its last tick.
    pub(super) fn put_own(&self, stamp: &Stamp, digest: Digest) {
        self.keep(stamp, digest);
    }

    fn keep(&self, stamp: &Stamp, digest: Digest) {
        let row = Row { stamp: *stamp, digest };
        self.rows.write().unwrap_or_else(PoisonError::into_inner).insert((stamp.device, stamp.inode), row);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&encode(&row));
    }

    /// Digest and stamp of the file at `path`, reading it only if its stamp is new.
    pub fn digest_file(&self, path: &Path) -> Result<(Digest, Stamp), StoreError> {
        self.digest_of(path, Stamp::of(&std::fs::metadata(path).at("read", path)?))
    }

    /// As [`StatCache::digest_file`] where the file's stamp was just taken.
    pub fn digest_of(&self, path: &Path, stamp: Stamp) -> Result<(Digest, Stamp), StoreError> {
        if let Some(digest) = self.get(&stamp) {
            return Ok((digest, stamp));
        }
        self.digest_open(File::open(path).at("read", path)?, path, stamp)
    }

    /// As [`StatCache::digest_file`] for an open file of whose stamp nothing is known.
    pub(super) fn digest_open(&self, mut file: File, path: &Path, stamp: Stamp) -> Result<(Digest, Stamp), StoreError> {
        let (digest, _) = Digest::of_reader(&mut file, stamp.size).at("read", path)?;
        // A file that changed under our hands must not enter with the digest of neither version.
        let after = Stamp::of(&file.metadata().at("read", path)?);
        if after == stamp {
            self.put(&stamp, digest);
        }
        Ok((digest, stamp))
    }

    /// Appends what is new to the file. Cheap when nothing is.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if pending.is_empty() || !self.write {
            return Ok(());
        }
        let Some(mut file) = files::open(&self.path, For::Appending)? else { return Ok(()) };
        let length = file.metadata().at("read", &self.path)?.len();
        let mut first = [0; ROW];
        if length == 0 {
            pending.splice(..0, FORMAT);
        } else if file.read_exact_at(&mut first, 0).is_err() || first != FORMAT {
            let what = "a file without a single row of the store".into();
            return Err(StoreError::Foreign { path: self.path.clone(), what });
        }
        if length % ROW as u64 != 0 {
            // The tail of a killed process; rows of a second writer that may be lost with it cost time only.
            file.set_len(length - length % ROW as u64).at("shorten", &self.path)?;
        }
        file.write_all(&pending).at("append to", &self.path)
    }

    fn rewrite(&self) -> Result<(), StoreError> {
        let mut bytes = FORMAT.to_vec();
        self.read().values().for_each(|row| bytes.extend_from_slice(&encode(row)));
        let Some(file) = files::open(&self.path, For::Mending)? else { return Ok(()) };
        file.write_all_at(&bytes, 0).at("write", &self.path)?;
        file.set_len(bytes.len() as u64).at("shorten", &self.path)
    }
}

fn encode(row: &Row) -> [u8; ROW] {
    let mut bytes = [0; ROW];
    let numbers = [row.stamp.device, row.stamp.inode, row.stamp.size, row.stamp.mtime as u64, row.stamp.ctime as u64];
    for (slot, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *slot = number.to_le_bytes();
    }
    bytes[40..72].copy_from_slice(&row.digest.0);
    let check = check(&bytes[..72]);
    bytes[72..].copy_from_slice(&check);
    bytes
}

fn decode(bytes: &[u8; ROW]) -> Option<Row> {
    if check(&bytes[..72]) != bytes[72..] {
        return None;
    }
    let number = |i: usize| u64::from_le_bytes(bytes.as_chunks::<8>().0[i]);
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[40..72]);
    Some(Row {
        stamp: Stamp {
            device: number(0),
            inode: number(1),
            size: number(2),
            mtime: number(3) as i64,
            ctime: number(4) as i64,
            executable: false,
        },
        digest: Digest(digest),
    })
}

/// Eight bytes that a torn or altered row does not have. A wrong digest would be a wrong result, so this is the
/// cryptographic hash, truncated; who could forge the file could also write the blobs.
fn check(bytes: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path, seconds: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    fn stamp(path: &Path) -> Stamp {
        Stamp::of(&std::fs::metadata(path).unwrap())
    }

    /// A stamp as it will look once the file is old: ctime cannot be set, so the stamp is.
    fn aged(path: &Path) -> Stamp {
        let mut stamp = stamp(path);
        stamp.ctime -= 10_000_000_000;
        stamp.mtime -= 10_000_000_000;
        stamp
    }

    fn open(path: &Path) -> StatCache {
        let (cache, note) = StatCache::open(path, true).unwrap();
        assert!(note.is_none());
        cache
    }

    #[test]
    fn a_file_changed_within_the_tick_of_its_last_change_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let cache = open(&folder.path().join("stat"));
        std::fs::write(&path, "one").unwrap();
        age(&path, 60);
        cache.put(&stamp(&path), Digest::of(b"one"));
        assert_eq!(cache.get(&stamp(&path)), None, "ctime is now, so the row must not be trusted");
        cache.put(&aged(&path), Digest::of(b"one"));
        assert_eq!(cache.get(&aged(&path)), Some(Digest::of(b"one")));
    }

    #[test]
    fn rows_survive_reopening_and_a_torn_or_altered_row_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("stat");
        let stamps: Vec<Stamp> = (0..3)
            .map(|i| {
                let path = folder.path().join(format!("file{i}"));
                std::fs::write(&path, "x").unwrap();
                aged(&path)
            })
            .collect();
        let cache = open(&at);
        for (i, stamp) in stamps.iter().enumerate() {
            cache.put(stamp, Digest::of(&[i as u8]));
        }
        cache.flush().unwrap();
        let mut bytes = std::fs::read(&at).unwrap();
        assert_eq!(bytes.len(), 4 * ROW);
        bytes[2 * ROW + 50] ^= 1;
        bytes.truncate(4 * ROW - 1);
        std::fs::write(&at, &bytes).unwrap();

        assert!(StatCache::open(&at, false).unwrap().1.is_some());
        let (cache, note) = StatCache::open(&at, true).unwrap();
        assert!(note.unwrap().what.starts_with("2 of its 3 rows"));
        let found: Vec<_> = stamps.iter().map(|s| cache.get(s)).collect();
        assert_eq!(found, [Some(Digest::of(&[0])), None, None]);
        cache.put(&stamps[2], Digest::of(&[2]));
        cache.flush().unwrap();
        assert_eq!(open(&at).get(&stamps[2]), Some(Digest::of(&[2])));
    }

    #[test]
    fn any_difference_of_the_stamp_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let cache = open(&folder.path().join("stat"));
        let stamp = aged(&path);
        cache.put(&stamp, Digest::of(b"x"));
        for other in [
            Stamp { size: stamp.size + 1, ..stamp },
            Stamp { mtime: stamp.mtime + 1, ..stamp },
            Stamp { ctime: stamp.ctime + 1, ..stamp },
            Stamp { inode: stamp.inode + 1, ..stamp },
            Stamp { device: stamp.device + 1, ..stamp },
        ] {
            assert_eq!(cache.get(&other), None);
        }
    }

    #[test]
    fn rows_of_an_earlier_version_are_read_and_a_file_of_the_users_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("stat");
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let cache = open(&at);
        cache.put(&aged(&file), Digest::of(b"x"));
        cache.flush().unwrap();
        let bytes = std::fs::read(&at).unwrap();
        std::fs::write(&at, &bytes[ROW..]).unwrap();
        assert_eq!(open(&at).get(&aged(&file)), Some(Digest::of(b"x")));
        assert_eq!(std::fs::read(&at).unwrap(), bytes);
        for text in ["mine", &"line\n".repeat(99)] {
            std::fs::write(&at, text).unwrap();
            assert!(matches!(StatCache::open(&at, true), Err(StoreError::Foreign { .. })));
            assert_eq!(std::fs::read_to_string(&at).unwrap(), text);
        }
        // Its first row altered or cut, it is still known by its other rows, or by nothing being lost.
        let mut altered = bytes.clone();
        altered[3] ^= 4;
        for damaged in [&altered[..], &bytes[..ROW - 1], &bytes[..0]] {
            std::fs::write(&at, damaged).unwrap();
            assert_eq!(StatCache::open(&at, true).unwrap().1.is_some(), !damaged.is_empty());
            open(&at);
        }
    }
}
