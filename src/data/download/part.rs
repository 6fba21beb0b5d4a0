//! The bytes of an unfinished download, and the note of their origin. One process at a time writes a part.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::fmt::rfc2822;
use nix::libc::O_NOFOLLOW;
use serde::{Deserialize, Serialize};
use tempfile::TempPath;
use ureq::http::HeaderValue;

use super::{DownloadConfig, DownloadError};
use crate::data::checksum::{Expected, Mismatch, Verified, Verifier};

const BUFFER: usize = 1 << 16;

/// How often, and after which pause, a part that another process writes is asked for before this one begins a part of its own. A
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
pub(super) struct Part {
    file: File,
    pub(super) bytes: PathBuf,
    note: PathBuf,
    /// Removes a part of this process's own.
    _own: Option<TempPath>,
}

impl Part {
    /// Takes the part of this download in `dir`. While another process writes it, this one waits a few seconds for its end and
    /// then begins a part of its own, as it does where files cannot be locked.
    pub(super) fn claim(config: &DownloadConfig, dir: &Path) -> Result<Part, DownloadError> {
        Part::claim_within(config, dir, CLAIMS)
    }

    pub(super) fn claim_within(config: &DownloadConfig, dir: &Path, claims: u32) -> Result<Part, DownloadError> {
        let mut hasher = blake3::Hasher::new();
        let digests = [&config.sha256, &config.blake3, &config.md5].into_iter().flatten();
        for text in config.urls.iter().chain(digests) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let name = &hasher.finalize().to_hex()[..16];
        let bytes = dir.join(format!("{name}.part"));
        for claim in 0..claims {
            let file = open(&bytes).map_err(DownloadError::io("open", &bytes))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &bytes) => {
                    let note = bytes.with_extension("json");
                    return Ok(Part { file, bytes, note, _own: None });
                }
                // It was finished or given up, and its name may be another file's.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if claim == 0 {
                        tracing::info!("waits for a download of another run to end");
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::Error(_)) => break,
            }
        }
        let own = tempfile::Builder::new().prefix(&format!("{name}.")).suffix(".part").tempfile_in(dir);
        let (file, path) = own.map_err(DownloadError::io("create a file in", dir))?.into_parts();
        let bytes = path.to_path_buf();
        Ok(Part { file, note: bytes.with_extension("json"), bytes, _own: Some(path) })
    }

    /// Forgets what is there and notes where the next bytes come from.
    ///
    /// The bytes go first: a note beside an empty part resumes nothing.
    pub(super) fn begin(&mut self, origin: &Origin) -> Result<(), DownloadError> {
        self.clear()?;
        let scratch = self.note.with_extension("json.new");
        let text = serde_json::to_vec(origin).map_err(|e| io::Error::new(ErrorKind::InvalidData, e));
        text.and_then(|text| fs::write(&scratch, text)).map_err(DownloadError::io("write", &scratch))?;
        fs::rename(&scratch, &self.note).map_err(DownloadError::io("write", &self.note))
    }

    pub(super) fn clear(&mut self) -> Result<(), DownloadError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(DownloadError::io("empty", &self.bytes))?;
        match fs::remove_file(&self.note) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(DownloadError::io("remove", &self.note)(e)),
            _ => Ok(()),
        }
    }

    /// What a request to `url` may resume. Without a validator only a digest can prove that the two halves belong together.
    pub(super) fn resume(&mut self, url: &str, pinned: bool) -> Result<Option<Resume>, DownloadError> {
        let offset = self.file.seek(io::SeekFrom::End(0)).map_err(DownloadError::io("read", &self.bytes))?;
        let origin = fs::read(&self.note).ok().and_then(|text| serde_json::from_slice::<Origin>(&text).ok());
        Ok(origin
            .filter(|origin| offset > 0 && origin.url == url && (origin.validator().is_some() || pinned))
            .filter(|origin| origin.total.is_none_or(|total| offset <= total))
            .map(|origin| Resume { offset, origin }))
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        self.file.write_all(bytes).map_err(DownloadError::io("write", &self.bytes))
    }

    /// Compares what lies on the disk, not what was received, with what is expected.
    pub(super) fn verify(&mut self, expected: &Expected) -> Result<Result<Verified, Mismatch>, DownloadError> {
        let flushed = self.file.sync_all().and_then(|()| self.file.rewind());
        flushed.map_err(DownloadError::io("flush", &self.bytes))?;
        digest(&mut self.file, expected).map_err(DownloadError::io("read", &self.bytes))
    }

    /// Moves the part, which is as `verified` says, to `destination`.
    pub(super) fn publish(mut self, verified: &Verified, destination: &Path) -> Result<(), DownloadError> {
        let failed = || DownloadError::io("write", destination);
        match fs::rename(&self.bytes, destination) {
            Ok(()) if is_at(&self.file, destination) => {}
            Ok(()) => {
                let other = io::Error::other("another file was in the place of the one that was verified");
                fs::remove_file(destination).map_err(failed())?;
                return Err(failed()(other));
            }
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                let mut near = destination.as_os_str().to_owned();
                near.push(".new");
                fs::copy(&self.bytes, &near).map_err(failed())?;
                let copied = File::open(&near).and_then(|mut copy| digest(&mut copy, &Expected::default()));
                if copied.map_err(failed())?.as_ref() != Ok(verified) {
                    return Err(failed()(io::Error::other("the copy differs from the file that was verified")));
                }
                fs::rename(&near, destination).map_err(failed())?;
                self.clear()?;
            }
            Err(e) => return Err(failed()(e)),
        }
        match fs::remove_file(&self.note) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(DownloadError::io("remove", &self.note)(e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Part {
    /// An empty part is of no use to a later call.
    fn drop(&mut self) {
        if is_at(&self.file, &self.bytes) && self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = fs::remove_file(&self.bytes);
        }
    }
}

/// Opens the file at `path`, made if absent, for reading and appending. A link, a pipe or a folder there is none of ours.
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
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
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
        let mut first = Part::claim(&config, dir.path()).unwrap();
        first.append(b"abc").unwrap();
        let mut second = Part::claim_within(&config, dir.path(), 2).unwrap();
        assert_ne!(first.bytes, second.bytes);
        second.append(b"other").unwrap();
        let own = second.bytes.clone();
        drop(second);
        assert!(!own.exists());
        let bytes = first.bytes.clone();
        drop(first);
        assert_eq!(fs::read(&bytes).unwrap(), b"abc");
        assert_eq!(Part::claim(&config, dir.path()).unwrap().bytes, bytes);
    }

    #[test]
    fn a_file_that_took_the_place_of_the_verified_one_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let mut part = Part::claim(&DownloadConfig::default(), dir.path()).unwrap();
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
        let path = Part::claim(&config, dir.path()).unwrap().bytes.clone();
        let own = dir.path().join("mine");
        fs::write(&own, "mine").unwrap();
        std::os::unix::fs::symlink(&own, &path).unwrap();
        Part::claim(&config, dir.path()).unwrap().append(b"abc").unwrap();
        assert_eq!(fs::read(&own).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Part::claim(&config, dir.path()).unwrap().append(b"abc").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }
}
