//! The bytes of an unfinished download, and the note of their origin. One process at a time writes a part.

use std::fs::TryLockError;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::os::unix::fs::OpenOptionsExt;
use fs_err::{self as fs, File, OpenOptions};
use jiff::fmt::rfc2822;
use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};
use tempfile::TempPath;
use ureq::http::HeaderValue;

use super::{DownloadConfig, DownloadError};
use crate::data::checksum::{Expected, Mismatch, Verified, Verifier};

const BUFFER: usize = 1 << 16;

/// How often, and after which pause, a part that another process writes is requested before this one starts a part of its own. A
/// process whose run was killed ends within a second.
const CLAIMS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// Where the bytes of a part come from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) url: String,
    /// Headers of the answer that began it.
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    pub(super) date: Option<String>,
    /// Size of the whole file.
    pub(super) total: Option<u64>,
}

impl Origin {
    /// What `If-Range` may carry: a strong ETag, else a Last-Modified that was a minute old when it was sent, so that no two
    /// versions of the file have it.
    pub(super) fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        let time = |text: &Option<String>| rfc2822::DateTimeParser::new().parse_timestamp(text.as_deref()?).ok();
        let settled = || match (time(&self.last_modified), time(&self.date)) {
            (Some(modified), Some(sent)) => sent.as_second() - modified.as_second() >= 60,
            _ => false,
        };
        let found = strong.or_else(|| self.last_modified.as_deref().filter(|_| settled()));
        // A note that something else wrote may hold what no header can.
        found.filter(|text| HeaderValue::from_str(text).is_ok())
    }
}

/// A part that the rest of the file can follow.
pub(super) struct Resume {
    pub(super) offset: u64,
    pub(super) origin: Origin,
}

/// The bytes so far, locked, and the note of their origin.
pub(super) struct PartialFile {
    file: File,
    pub(super) bytes: PathBuf,
    note: PathBuf,
    /// Removes a part of this process's own.
    _own: Option<TempPath>,
}

impl PartialFile {
    /// Takes the part of this download in `dir`. While another process writes it, this one waits a few seconds for its end and
    /// then starts a part of its own, as it does where files cannot be locked.
    pub(super) fn claim(config: &DownloadConfig, dir: &Path) -> Result<PartialFile, DownloadError> {
        PartialFile::claim_within(config, dir, CLAIMS)
    }

    pub(super) fn claim_within(config: &DownloadConfig, dir: &Path, claims: u32) -> Result<PartialFile, DownloadError> {
        let mut hasher = blake3::Hasher::new();
        let digests = [&config.sha256, &config.blake3, &config.md5].into_iter().flatten();
        for text in config.urls.iter().chain(digests) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let name = &hasher.finalize().to_hex()[..16];
        let bytes = dir.join(format!("{name}.part"));
        for claim in 0..claims {
            let file = open(&bytes)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &bytes) => {
                    let note = bytes.with_extension("json");
                    return Ok(PartialFile { file, bytes, note, _own: None });
                }
                // It was finished or abandoned, and its name may be that of another file.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if claim == 0 {
                        tracing::info!("waiting for a download of another run");
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::Error(_)) => break,
            }
        }
        let own = tempfile::Builder::new().prefix(&format!("{name}.")).suffix(".part").tempfile_in(dir);
        let unmade = |source| DownloadError::Local { operation: "create a file in", path: dir.to_owned(), source };
        let (file, path) = own.map_err(unmade)?.into_parts();
        let bytes = path.to_path_buf();
        let file = File::from_parts(file, &bytes);
        Ok(PartialFile { file, note: bytes.with_extension("json"), bytes, _own: Some(path) })
    }

    /// Discards the bytes so far and records where the next ones come from.
    ///
    /// The bytes are removed first: a note next to an empty part resumes nothing.
    pub(super) fn begin(&mut self, origin: &Origin) -> Result<(), DownloadError> {
        self.clear()?;
        let scratch = self.note.with_extension("json.new");
        fs::write(&scratch, serde_json::to_vec(origin).map_err(io::Error::other)?)?;
        Ok(fs::rename(&scratch, &self.note)?)
    }

    pub(super) fn clear(&mut self) -> Result<(), DownloadError> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        match fs::remove_file(&self.note) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// What a request to `url` may resume. Without a validator, only a digest proves that the two halves belong together.
    pub(super) fn resume(&mut self, url: &str, pinned: bool) -> Result<Option<Resume>, DownloadError> {
        let offset = self.file.seek(io::SeekFrom::End(0))?;
        let origin = fs::read(&self.note).ok().and_then(|text| serde_json::from_slice::<Origin>(&text).ok());
        Ok(origin
            .filter(|origin| offset > 0 && origin.url == url && (origin.validator().is_some() || pinned))
            .filter(|origin| origin.total.is_none_or(|total| offset <= total))
            .map(|origin| Resume { offset, origin }))
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        Ok(self.file.write_all(bytes)?)
    }

    /// Compares what is on the disk, not what was received, with what is expected.
    pub(super) fn verify(&mut self, expected: &Expected) -> Result<Result<Verified, Mismatch>, DownloadError> {
        self.file.sync_all()?;
        self.file.rewind()?;
        Ok(digest(&mut self.file, expected)?)
    }

    /// Moves the part, which is as `verified` says, to `destination`.
    pub(super) fn publish(mut self, verified: &Verified, destination: &Path) -> Result<(), DownloadError> {
        let changed = |message: &str| {
            let source = io::Error::other(message.to_owned());
            DownloadError::Local { operation: "write", path: destination.to_owned(), source }
        };
        match fs::rename(&self.bytes, destination) {
            Ok(()) if is_at(&self.file, destination) => {}
            Ok(()) => {
                fs::remove_file(destination)?;
                return Err(changed("another file was in the place of the one that was verified"));
            }
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                let mut near = destination.as_os_str().to_owned();
                near.push(".new");
                let near = PathBuf::from(near);
                fs::copy(&self.bytes, &near)?;
                if digest(&mut File::open(&near)?, &Expected::default())?.as_ref() != Ok(verified) {
                    return Err(changed("the copy differs from the file that was verified"));
                }
                fs::rename(&near, destination)?;
                self.clear()?;
            }
            Err(e) => return Err(e.into()),
        }
        match fs::remove_file(&self.note) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for PartialFile {
    /// A later call cannot use an empty part.
    fn drop(&mut self) {
        if is_at(&self.file, &self.bytes) && self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = fs::remove_file(&self.bytes);
        }
    }
}

/// Opens the file at `path`, created if absent, for reading and appending. A link, a pipe or a folder there was not
/// created by this program and is removed.
fn open(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)?,
        Ok(metadata) if !metadata.is_file() => fs::remove_file(path)?,
        _ => {}
    }
    OpenOptions::new().read(true).append(true).create(true).custom_flags(O_NOFOLLOW).open(path)
}

/// Whether `path` names that very file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => id(open) == id(there),
        _ => false,
    }
}

fn digest(file: &mut File, expected: &Expected) -> io::Result<Result<Verified, Mismatch>> {
    let mut verifier = Verifier::new(expected);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(verifier.finish()),
            Ok(read) => verifier.update(&buffer[..read]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_validator_only_once_it_has_settled() {
        let origin = |etag: Option<&str>, date: &str| Origin {
            url: String::new(),
            etag: etag.map(str::to_owned),
            last_modified: Some("Sat, 28 Nov 2026 10:00:00 GMT".to_owned()),
            date: Some(date.to_owned()),
            total: None,
        };
        let late = "Sat, 28 Nov 2026 10:01:00 GMT";
        assert_eq!(origin(Some("\"a\""), late).validator(), Some("\"a\""));
        assert_eq!(origin(None, late).validator(), Some("Sat, 28 Nov 2026 10:00:00 GMT"));
        assert_eq!(origin(Some("W/\"a\""), late).validator(), Some("Sat, 28 Nov 2026 10:00:00 GMT"));
        assert_eq!(origin(None, "Sat, 28 Nov 2026 10:00:59 GMT").validator(), None);
        assert_eq!(origin(None, "just now").validator(), None);
        assert_eq!(origin(Some("\"a\"\r\nX: y"), "just now").validator(), None);
    }

    #[test]
    fn a_part_that_is_written_is_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let config = DownloadConfig::default();
        let mut first = PartialFile::claim(&config, dir.path()).unwrap();
        first.append(b"abc").unwrap();
        let mut second = PartialFile::claim_within(&config, dir.path(), 2).unwrap();
        assert_ne!(first.bytes, second.bytes);
        second.append(b"other").unwrap();
        let own = second.bytes.clone();
        drop(second);
        assert!(!own.exists());
        let bytes = first.bytes.clone();
        drop(first);
        assert_eq!(fs::read(&bytes).unwrap(), b"abc");
        assert_eq!(PartialFile::claim(&config, dir.path()).unwrap().bytes, bytes);
    }

    #[test]
    fn a_file_that_took_the_place_of_the_verified_one_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = PartialFile::claim(&DownloadConfig::default(), dir.path()).unwrap();
        part.append(b"abc").unwrap();
        let verified = part.verify(&Expected::default()).unwrap().unwrap();
        fs::remove_file(&part.bytes).unwrap();
        fs::write(&part.bytes, "other").unwrap();
        let destination = dir.path().join("file");
        assert!(part.publish(&verified, &destination).is_err());
        assert!(!destination.exists());
    }

    #[test]
    fn what_lies_in_place_of_a_part_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let config = DownloadConfig::default();
        let path = PartialFile::claim(&config, dir.path()).unwrap().bytes.clone();
        let own = dir.path().join("mine");
        fs::write(&own, "mine").unwrap();
        std::os::unix::fs::symlink(&own, &path).unwrap();
        PartialFile::claim(&config, dir.path()).unwrap().append(b"abc").unwrap();
        assert_eq!(fs::read(&own).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        PartialFile::claim(&config, dir.path()).unwrap().append(b"abc").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }
}
