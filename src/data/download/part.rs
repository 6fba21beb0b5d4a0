//! The bytes of an unfinished download, and the note of their origin.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{BUFFER, DownloadConfig, DownloadError};
use crate::data::checksum::Verifier;

/// Where the bytes of a part come from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) url: String,
    /// What `If-Range` may carry.
    pub(super) validator: Option<String>,
    /// Size of the whole file.
    pub(super) total: Option<u64>,
}

/// A part that the rest of the file can follow.
pub(super) struct Resume {
    pub(super) offset: u64,
    pub(super) origin: Origin,
}

/// The bytes so far, and the note of their origin.
pub(super) struct Part {
    pub(super) bytes: PathBuf,
    note: PathBuf,
}

impl Part {
    pub(super) fn new(config: &DownloadConfig, dir: &Path) -> Part {
        let mut hasher = blake3::Hasher::new();
        let digests = [&config.sha256, &config.blake3, &config.md5].into_iter().flatten();
        for text in config.urls.iter().chain(digests) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        let name = &hasher.finalize().to_hex()[..16];
        Part { bytes: dir.join(format!("{name}.part")), note: dir.join(format!("{name}.json")) }
    }

    /// Forgets what is there and notes where the next bytes come from.
    ///
    /// The bytes go first: a note beside an empty part resumes nothing.
    pub(super) fn begin(&self, origin: &Origin) -> Result<(), DownloadError> {
        self.clear()?;
        let scratch = self.note.with_extension("json.new");
        let text = serde_json::to_vec(origin).map_err(|e| io::Error::new(ErrorKind::InvalidData, e));
        text.and_then(|text| fs::write(&scratch, text)).map_err(DownloadError::io("write", &scratch))?;
        fs::rename(&scratch, &self.note).map_err(DownloadError::io("write", &self.note))
    }

    pub(super) fn clear(&self) -> Result<(), DownloadError> {
        for path in [&self.bytes, &self.note] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(DownloadError::io("remove", path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a request to `url` may go on from. Without a validator only a digest can prove that the two halves belong
    /// together.
    pub(super) fn resume(&self, url: &str, pinned: bool) -> Result<Option<Resume>, DownloadError> {
        let offset = match fs::metadata(&self.bytes) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DownloadError::io("read", &self.bytes)(e)),
        };
        let origin = fs::read(&self.note).ok().and_then(|text| serde_json::from_slice::<Origin>(&text).ok());
        Ok(origin
            .filter(|origin| offset > 0 && origin.url == url && (origin.validator.is_some() || pinned))
            .filter(|origin| origin.total.is_none_or(|total| offset <= total))
            .map(|origin| Resume { offset, origin }))
    }

    pub(super) fn read_into(&self, verifier: &mut Verifier) -> Result<(), DownloadError> {
        let failed = || DownloadError::io("read", &self.bytes);
        let mut file = File::open(&self.bytes).map_err(failed())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer).map_err(failed())? {
                0 => return Ok(()),
                read => verifier.update(&buffer[..read]),
            }
        }
    }

    pub(super) fn append(&self) -> Result<File, DownloadError> {
        OpenOptions::new().create(true).append(true).open(&self.bytes).map_err(DownloadError::io("open", &self.bytes))
    }

    pub(super) fn publish(&self, destination: &Path) -> Result<(), DownloadError> {
        let failed = || DownloadError::io("write", destination);
        match fs::rename(&self.bytes, destination) {
            Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                let mut near = destination.as_os_str().to_owned();
                near.push(".new");
                fs::copy(&self.bytes, &near).and_then(|_| fs::rename(&near, destination)).map_err(failed())?;
            }
            result => result.map_err(failed())?,
        }
        self.clear()
    }
}
