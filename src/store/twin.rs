//! Two files with the same records, so that what one has lost is restored from the other.
//!
//! Records are appended to both by one write each, under an exclusive lock on the first. Readers take no lock and read
//! the first alone, as long as it is whole and as long as its twin. Else both are read, and mended where they may be
//! written: a record is put back where it was; what both have lost is filled, so that it is reported once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::files::{self, For};
use super::lock::lock_for_a_moment;
use super::records::{HEADER, Part, frame, lost, parts, unframe};
use super::{IoContext, Note, StoreError};

/// The kind of a record in the place of lost ones.
pub(super) const FILLER: u8 = 0;

/// A file of more bytes is none of ours: ten million cells take less.
const LONGEST: u64 = 1 << 32;

/// The two files, opened.
#[derive(Debug)]
pub(super) struct Twin {
    paths: [PathBuf; 2],
    /// `None` where one is missing and nothing may be written.
    files: [Option<File>; 2],
    write: bool,
    /// The body of the first record: what the files are.
    format: &'static [u8],
    /// Up to here the first file has been read.
    end: u64,
    /// Whether some of that was no record.
    damaged: bool,
}

/// A reader of records: where each begins, and its body.
pub(super) type Take<'a> = dyn FnMut(u64, &[u8]) + 'a;

impl Twin {
    /// Opens the file at `path` and `path.copy`, creating them where they are missing and `write` says so.
    pub(super) fn open(path: &Path, write: bool, format: &'static [u8]) -> Result<Twin, StoreError> {
        let paths = [path.to_owned(), path.with_extension("copy")];
        let mut twin = Twin { paths, files: [None, None], write, format, end: 0, damaged: false };
        twin.open_files()?;
        Ok(twin)
    }

    fn open_files(&mut self) -> Result<(), StoreError> {
        let purpose = if self.write { For::Appending } else { For::Reading };
        for (file, path) in self.files.iter_mut().zip(&self.paths) {
            *file = files::open(path, purpose)?;
        }
        Ok(())
    }

    /// Reads everything, and mends what is damaged.
    pub(super) fn load(&mut self, take: &mut Take<'_>) -> Result<Vec<Note>, StoreError> {
        self.read_new(take)?;
        if self.is_sound()? {
            return Ok(Vec::new());
        }
        if !self.write {
            let bytes = self.bytes()?;
            let (records, health) = unite([&bytes[0], &bytes[1]]);
            records.into_iter().for_each(|(at, body)| take(at as u64, body));
            return Ok(health.notes(&self.paths, false));
        }
        self.locked(|twin| {
            // Another process may have been at work.
            twin.read_new(take)?;
            if twin.is_sound()? { Ok(Vec::new()) } else { twin.mend(take) }
        })
    }

    /// Reads both files and says how they differ from what they are to be; mends them where they may be written.
    pub(super) fn verify(&mut self, take: &mut Take<'_>) -> Result<Vec<Note>, StoreError> {
        let Some(file) = &self.files[0] else { return Ok(Vec::new()) };
        // A writer has written to one and not yet to the other.
        file.lock_shared().at("lock", &self.paths[0])?;
        let bytes = self.bytes();
        file.unlock().at("unlock", &self.paths[0])?;
        let bytes = bytes?;
        if bytes[0] == bytes[1] && parts(&bytes[0]).all(|part| matches!(part, Part::Record(..))) {
            return Ok(Vec::new());
        }
        match self.write {
            true => self.locked(|twin| twin.mend(take)),
            false => Ok(unite([&bytes[0], &bytes[1]]).1.notes(&self.paths, false)),
        }
    }

    /// Reads what other processes have appended to the first file.
    pub(super) fn read_new(&mut self, take: &mut Take<'_>) -> Result<(), StoreError> {
        let Some(file) = &self.files[0] else { return Ok(()) };
        let path = &self.paths[0];
        let length = file.metadata().at("read", path)?.len();
        self.check_length(0, length)?;
        if length < self.end {
            // Cut from outside: what was read stays true.
            (self.end, self.damaged) = (length, true);
        }
        let mut bytes = vec![0; (length - self.end) as usize];
        file.read_exact_at(&mut bytes, self.end).at("read", path)?;
        let begin = self.end;
        let mut gap = false;
        for part in parts(&bytes) {
            // A gap at the end may be a record that is being written.
            let Part::Record(at, body) = part else {
                gap = true;
                continue;
            };
            self.damaged |= std::mem::take(&mut gap);
            take(begin + at as u64, body);
            self.end = begin + (at + HEADER + body.len()) as u64;
        }
        Ok(())
    }

    /// Whether all bytes of both files are records, as far as that is seen without reading the second.
    fn is_sound(&self) -> Result<bool, StoreError> {
        let mut lengths = [0, 0];
        for ((length, file), path) in lengths.iter_mut().zip(&self.files).zip(&self.paths) {
            *length = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|m| m.len())).at("read", path)?;
        }
        let made = lengths[0] > 0 || !self.write;
        Ok(made && !self.damaged && lengths == [self.end, self.end])
    }

    /// Refuses a file that is too long to be read: a stray hole makes one of any length.
    fn check_length(&self, at: usize, length: u64) -> Result<(), StoreError> {
        if length > LONGEST {
            let path = self.paths[at].clone();
            return Err(StoreError::Foreign { path, what: format!("a file of {length} bytes").into() });
        }
        Ok(())
    }

    fn bytes(&self) -> Result<[Vec<u8>; 2], StoreError> {
        let mut bytes = [Vec::new(), Vec::new()];
        for (at, bytes) in bytes.iter_mut().enumerate() {
            let (Some(file), path) = (&self.files[at], &self.paths[at]) else { continue };
            let length = file.metadata().at("read", path)?.len();
            self.check_length(at, length)?;
            bytes.resize(length as usize, 0);
            file.read_exact_at(bytes, 0).at("read", path)?;
        }
        for (this, other) in [(0, 1), (1, 0)] {
            if !is_ours(&bytes[this], &bytes[other]) {
                let path = self.paths[this].clone();
                return Err(StoreError::Foreign { path, what: "a file without a single record of the store".into() });
            }
        }
        Ok(bytes)
    }

    /// Makes both files whole and equal, and reads them anew. The lock is held.
    fn mend(&mut self, take: &mut Take<'_>) -> Result<Vec<Note>, StoreError> {
        let bytes = self.bytes()?;
        let (records, health) = unite([&bytes[0], &bytes[1]]);
        let earlier = !bytes[0].is_empty() && !records.iter().any(|(_, body)| *body == self.format);
        let whole = lay(self.format, &records);
        for (path, old) in self.paths.iter().zip(&bytes) {
            write_difference(path, old, &whole)?;
        }
        (self.end, self.damaged) = (whole.len() as u64, false);
        for part in parts(&whole) {
            if let Part::Record(at, body) = part {
                take(at as u64, body);
            }
        }
        // A file of an earlier version has no copy yet.
        let first_copy = earlier && bytes[1].is_empty();
        Ok(Health { copied: if first_copy { 0 } else { health.copied }, ..health }.notes(&self.paths, true))
    }

    /// Appends `records` to both files, and reads what is new.
    pub(super) fn append(&mut self, records: &[u8], take: &mut Take<'_>) -> Result<(), StoreError> {
        let notes = self.locked(|twin| {
            twin.read_new(take)?;
            let notes = if twin.is_sound()? { Vec::new() } else { twin.mend(take)? };
            for (file, path) in twin.files.iter().zip(&twin.paths) {
                if let Some(mut file) = file.as_ref() {
                    file.write_all(records).at("append to", path)?;
                }
            }
            twin.read_new(take)?;
            Ok(notes)
        })?;
        notes.iter().for_each(Note::warn);
        Ok(())
    }

    /// Does something while no other process writes to the files.
    fn locked<T>(&mut self, work: impl FnOnce(&mut Twin) -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            let path = &self.paths[0];
            let Some(file) = self.files[0].as_ref().filter(|_| self.write) else {
                return Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)).at("append to", path);
            };
            lock_for_a_moment(file, path)?;
            if self.is_in_place()? {
                break;
            }
            // Deleted or replaced from outside.
            self.open_files()?;
            (self.end, self.damaged) = (0, true);
        }
        let done = work(self);
        let unlocked = self.files[0].as_ref().map_or(Ok(()), File::unlock);
        done.and_then(|done| unlocked.at("unlock", &self.paths[0]).map(|()| done))
    }

    /// Whether the first file is still the one at its path.
    fn is_in_place(&self) -> Result<bool, StoreError> {
        let path = &self.paths[0];
        let Some(file) = &self.files[0] else { return Ok(true) };
        let open = file.metadata().at("read", path)?;
        Ok(fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino())))
    }

    /// The body of the record at `at`, with so many bytes, from either file.
    pub(super) fn record(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        self.files.iter().flatten().find_map(|file| {
            let mut bytes = vec![0; HEADER + length];
            file.read_exact_at(&mut bytes, at).ok()?;
            unframe(&bytes).map(<[u8]>::to_vec)
        })
    }
}

/// Whether a file may be written to: it holds a record, or was cut or altered from what its twin is.
fn is_ours(bytes: &[u8], twin: &[u8]) -> bool {
    let alike = || bytes.iter().zip(twin).filter(|(a, b)| a == b).count();
    let record = || parts(bytes).any(|part| matches!(part, Part::Record(..)));
    bytes.is_empty() || record() || (bytes.len() <= twin.len() && 2 * alike() > bytes.len())
}

/// What was found in the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Health {
    /// Records that neither has.
    lost: usize,
    /// Records that only the second has.
    restored: usize,
    /// Records that only the first has.
    copied: usize,
}

impl Health {
    fn notes(self, [first, second]: &[PathBuf; 2], mended: bool) -> Vec<Note> {
        let from = |count: usize, other: &Path| {
            let done = if mended { "restored" } else { "read" };
            format!("{} damaged or missing; {done} from {}", records(count), other.display())
        };
        let mut notes = Vec::new();
        if self.restored > 0 {
            notes.push(Note { path: first.clone(), what: from(self.restored, second), lost: 0 });
        }
        if self.copied > 0 {
            notes.push(Note { path: second.clone(), what: from(self.copied, first), lost: 0 });
        }
        if self.lost > 0 {
            let what = format!("{} damaged and lost; what it held runs again", records(self.lost));
            notes.push(Note { path: first.clone(), what, lost: self.lost });
        }
        notes
    }
}

fn records(count: usize) -> String {
    if count == 1 { "1 record was".into() } else { format!("{count} records were") }
}

/// The records of both files by their places, and what each lacked.
fn unite(bytes: [&[u8]; 2]) -> (Vec<(usize, &[u8])>, Health) {
    let whole = bytes.map(|bytes| {
        parts(bytes).filter_map(|part| match part {
            Part::Record(at, body) => Some((at, body)),
            Part::Gap(..) => None,
        })
    });
    let [first, second]: [BTreeMap<usize, &[u8]>; 2] = whole.map(Iterator::collect);
    let lacks = |these: &BTreeMap<usize, &[u8]>, those: &BTreeMap<usize, &[u8]>| {
        those.iter().filter(|(at, body)| these.get(at) != Some(body)).count()
    };
    let mut health = Health { lost: 0, restored: lacks(&first, &second), copied: lacks(&second, &first) };
    // Two records at one place: the files were written apart. None is dropped.
    let strays = second.iter().filter(|(at, body)| first.get(at).is_some_and(|other| other != *body));
    let strays: Vec<(usize, &[u8])> = strays.map(|(at, body)| (*at, *body)).collect();
    let mut records: Vec<(usize, &[u8])> =
        second.into_iter().chain(first).collect::<BTreeMap<_, _>>().into_iter().collect();
    let mut place = 0;
    for (at, body) in &records {
        if *at > place {
            health.lost += bytes[0].get(place..*at).map_or(1, lost);
        }
        place = place.max(at + HEADER + body.len());
    }
    let tail = bytes.iter().filter_map(|bytes| bytes.get(place..)).max_by_key(|tail| tail.len());
    health.lost += tail.filter(|tail| !tail.is_empty()).map_or(0, lost);
    records.extend(strays);
    (records, health)
}

/// The bytes of a file with `records`, each where it was if that can be.
fn lay(format: &[u8], records: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if records.first().is_none_or(|(_, body)| *body != format) {
        bytes = frame(format);
    }
    for (at, body) in records {
        if *at > bytes.len() + HEADER {
            bytes.extend(frame(&vec![FILLER; at - bytes.len() - HEADER]));
        }
        bytes.extend(frame(body));
    }
    bytes
}

/// Writes what differs between `old`, which the file holds, and `new`.
fn write_difference(path: &Path, old: &[u8], new: &[u8]) -> Result<(), StoreError> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    if same == old.len() && same == new.len() {
        return Ok(());
    }
    let Some(file) = files::open(path, For::Mending)? else { return Ok(()) };
    file.write_all_at(&new[same..], same as u64).at("mend", path)?;
    file.set_len(new.len() as u64).at("mend", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMAT: &[u8] = b"\x05test 1";

    fn open(path: &Path, write: bool) -> (Vec<Vec<u8>>, Vec<Note>, Twin) {
        let mut twin = Twin::open(path, write, FORMAT).unwrap();
        let mut found = BTreeMap::new();
        let notes = twin.load(&mut |at, body| drop(found.insert(at, body.to_vec()))).unwrap();
        let kept = |body: &Vec<u8>| body != FORMAT && body[0] != FILLER;
        (found.into_values().filter(kept).collect(), notes, twin)
    }

    fn add(twin: &mut Twin, body: &[u8]) {
        twin.append(&frame(body), &mut |_, _| {}).unwrap();
    }

    /// A file with the records 1, 2, ... `count`.
    fn made(path: &Path, count: u8) -> Vec<Vec<u8>> {
        let (_, notes, mut twin) = open(path, true);
        assert_eq!(notes.len(), 0);
        let bodies: Vec<Vec<u8>> = (1..=count).map(|i| vec![i; 3 + usize::from(i)]).collect();
        bodies.iter().for_each(|body| add(&mut twin, body));
        bodies
    }

    /// Damage of one file: bytes from a place on are altered, or it is cut there.
    fn spoil(path: &Path, from: usize, garbage: &[u8], cut: bool) -> bool {
        let before = fs::read(path).unwrap();
        let mut bytes = before.clone();
        let from = from % bytes.len();
        let to = (from + garbage.len()).min(bytes.len());
        match cut {
            true => bytes.truncate(from),
            false => bytes[from..to].copy_from_slice(&garbage[..to - from]),
        }
        fs::write(path, &bytes).unwrap();
        bytes != before
    }

    proptest! {
        /// Damage of one of the two files costs nothing, is reported once, and the next writer resumes; to a reader
        /// that may not write it costs nothing either.
        #[test]
        fn what_one_file_has_lost_the_other_restores(
            second: bool, from in 0usize..400, garbage in prop::collection::vec(any::<u8>(), 0..30), cut: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("index");
            let mut bodies = made(&path, 9);
            let spoilt = if second { path.with_extension("copy") } else { path.clone() };
            let changed = spoil(&spoilt, from, &garbage, cut);
            let (found, notes, _) = open(&path, false);
            prop_assert_eq!(&found, &bodies);
            // The copy is not read where the first file is whole and as long.
            prop_assert!(!changed || second || !notes.is_empty());
            let (found, notes, mut twin) = open(&path, true);
            prop_assert_eq!(&found, &bodies);
            prop_assert!(!changed || second || !notes.is_empty());
            prop_assert!(notes.iter().all(|note| note.lost == 0));
            add(&mut twin, &[9; 4]);
            bodies.push(vec![9; 4]);
            let (found, notes, _) = open(&path, true);
            prop_assert_eq!((&found, notes.len()), (&bodies, 0));
        }

        /// Damage at one place of both files costs the records there, no others, and is reported once.
        #[test]
        fn what_both_have_lost_is_reported_and_nothing_else_is_lost(
            from in 30usize..400, garbage in prop::collection::vec(any::<u8>(), 1..30), cut: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("index");
            let bodies = made(&path, 9);
            let length = fs::metadata(&path).unwrap().len() as usize;
            let from = 30 + from % (length - 30);
            spoil(&path, from, &garbage, cut);
            spoil(&path.with_extension("copy"), from, &garbage, cut);
            let bytes = fs::read(&path).unwrap();
            let whole = parts(&bytes).filter(|part| matches!(part, Part::Record(..))).count() - 1;
            let gaps = parts(&bytes).any(|part| matches!(part, Part::Gap(..)));
            let (found, notes, mut twin) = open(&path, true);
            prop_assert_eq!(found.len(), whole);
            prop_assert!(found.iter().all(|body| bodies.contains(body)));
            // Both cut between two records look as if the later ones had never been written.
            prop_assert_eq!(notes.iter().any(|note| note.lost > 0), gaps);
            add(&mut twin, &[9; 4]);
            let (found, notes, _) = open(&path, true);
            prop_assert_eq!((found.len(), notes.len()), (whole + 1, 0));
        }
    }

    #[test]
    fn what_is_not_ours_is_neither_followed_nor_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let bodies = made(&path, 3);
        let mine = folder.path().join("mine");
        for copy in [false, true] {
            let at = if copy { path.with_extension("copy") } else { path.clone() };
            let bytes = fs::read(&at).unwrap();
            for link in [true, false] {
                fs::write(&mine, "line\n".repeat(40)).unwrap();
                fs::remove_file(&at).unwrap();
                match link {
                    true => std::os::unix::fs::symlink(&mine, &at).unwrap(),
                    false => fs::copy(&mine, &at).map(drop).unwrap(),
                }
                let refused = Twin::open(&path, true, FORMAT).and_then(|mut twin| twin.load(&mut |_, _| {}));
                assert!(matches!(refused, Err(StoreError::Foreign { path, .. }) if path == at));
                assert_eq!(fs::read(&at).unwrap(), "line\n".repeat(40).as_bytes());
            }
            fs::remove_file(&at).unwrap();
            fs::write(&at, bytes).unwrap();
            assert_eq!(open(&path, true).0, bodies);
        }
    }

    #[test]
    fn a_hole_behind_the_records_is_refused_or_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let bodies = made(&path, 3);
        let stretch = |to: u64| File::options().write(true).open(&path).unwrap().set_len(to).unwrap();
        stretch(LONGEST + 1);
        let refused = Twin::open(&path, true, FORMAT).and_then(|mut twin| twin.load(&mut |_, _| {}));
        assert!(matches!(refused, Err(StoreError::Foreign { .. })));
        stretch(100_000);
        let (found, notes, _) = open(&path, true);
        assert_eq!((found, notes.len()), (bodies, 1));
        assert_eq!(fs::read(&path).unwrap(), fs::read(path.with_extension("copy")).unwrap());
    }

    #[test]
    fn a_file_that_is_deleted_between_two_writes_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let bodies = made(&path, 3);
        let (_, _, mut twin) = open(&path, true);
        fs::remove_file(&path).unwrap();
        add(&mut twin, &[7]);
        let (found, notes, _) = open(&path, true);
        assert_eq!((found.len(), notes.len()), (bodies.len() + 1, 0));
    }
}
