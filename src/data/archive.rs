//! Unpacking archives of unknown origin: tar, tar.gz and zip, known by their content.
//!
//! Only regular files and folders are extracted, with default modes, below one empty folder. Everything else an archive may
//! hold (links, devices, sparse files, encrypted entries, a path twice, paths that lead out) is refused by name.

mod tar;

use std::cell::Cell;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use fs_err::{self as fs, File};
use serde::{Deserialize, Serialize};
use zip::CompressionMethod;

use self::tar::{Member, Members};
use super::Problem;
use crate::format::{self, Known};

const BLOCK: u64 = 512;

/// The most that may be extracted from an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnpackLimits {
    /// Files and folders. Default 10 million, at least 1.
    pub entries: u64,
    /// Bytes. Default 1 TiB, at least 1.
    pub bytes: u64,
    /// Extracted bytes for each byte of the archive, once more than 64 MiB are extracted. Default 200, at least 1.
    pub ratio: u64,
}

/// Small archives of flat images or text legitimately exceed any sensible ratio.
const RATIO_APPLIES_FROM: u64 = 64 << 20;

impl Default for UnpackLimits {
    fn default() -> Self {
        UnpackLimits { entries: 10_000_000, bytes: 1 << 40, ratio: 200 }
    }
}

impl UnpackLimits {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        [("entries", self.entries), ("bytes", self.bytes), ("ratio", self.ratio)]
            .into_iter()
            .filter(|(_, value)| !(1..).contains(value))
            .map(|(field, value)| (field.to_owned(), format!("is {value}, expected at least 1")))
            .collect()
    }
}

/// What was extracted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// An archive that was not unpacked, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system refused; the error names the operation and the path.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// Unpacking starts from nothing, so that a name clash is always the archive's.
    #[error("{} is not empty: unpack into an empty folder", folder.display())]
    NotEmpty { folder: PathBuf },

    /// Neither a tar, nor a gzip, nor a zip file.
    #[error("{archive} is not a tar, tar.gz or zip archive: {what}")]
    UnknownFormat { archive: String, what: String },

    /// An entry that needs a password.
    #[error(
        "{archive}: entry {entry:?} is encrypted; ask its publisher for the password (In-Shop's authors mail it), unpack \
         it by hand (`unzip -P PASSWORD`) and use that folder in place of this stage"
    )]
    Encrypted { archive: String, entry: String },

    /// An entry that this program does not unpack.
    #[error(
        "{archive}: entry {entry:?} {why}; create an archive without it, or unpack with a command stage if you trust it"
    )]
    Refused { archive: String, entry: String, why: &'static str },

    /// A limit of [`UnpackLimits`].
    #[error(
        "{archive}: entry {entry:?} exceeds the limit of {limit}; raise it if the archive is meant to be this large"
    )]
    TooLarge { archive: String, entry: String, limit: String },

    /// Truncated or altered.
    #[error("{archive}: damaged {place}: {what}; fetch it again, and pin its sha256")]
    Damaged { archive: String, place: String, what: String },
}

/// Unpacks `archive` into `into`, which is absent or an empty folder. Messages call it `named`: its URL, say.
///
/// # Errors
/// As [`ArchiveError`] says; what was extracted by then stays in `into`.
pub fn unpack(archive: &Path, named: &str, into: &Path, limits: &UnpackLimits) -> Result<Unpacked, ArchiveError> {
    fs::create_dir_all(into)?;
    if fs::read_dir(into)?.next().is_some() {
        return Err(ArchiveError::NotEmpty { folder: into.to_path_buf() });
    }
    let mut file = File::open(archive)?;
    let size = file.metadata()?.len();
    let mut start = Vec::new();
    (&mut file).take(BLOCK).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    // What is read from here on is part of an entry, and its errors name that.
    let file = file.into_file();

    let ratio_limit = size.saturating_mul(limits.ratio).max(RATIO_APPLIES_FROM);
    let read = Cell::new(0);
    let mut unpacking = Unpacking {
        named,
        into,
        limits,
        bytes_limit: limits.bytes.min(ratio_limit),
        read: &read,
        entries: 0,
        done: Unpacked::default(),
    };
    match start.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => unpacking.zip(file)?,
        [0x1f, 0x8b, ..] => unpacking.tar(MultiGzDecoder::new(BufReader::new(file)))?,
        header if is_tar_header(header) => unpacking.tar(BufReader::new(file))?,
        other => return Err(ArchiveError::UnknownFormat { archive: named.to_owned(), what: unknown(other) }),
    }
    Ok(unpacking.done)
}

/// What a file is instead of an archive that is unpacked here, and what to do.
fn unknown(start: &[u8]) -> String {
    match format::recognise(start) {
        Some(known @ (Known::Bzip2 | Known::Xz | Known::Zstd)) => {
            format!("it is {known}; unpack it with a command stage (`tar -xf FILE -C ${{out.data}}`)")
        }
        Some(known @ (Known::SevenZip | Known::Rar)) => {
            format!("it is {known}; unpack it with a command stage (`7z x FILE -o${{out.data}}`)")
        }
        Some(Known::Empty) => "it is empty; fetch it again".to_owned(),
        Some(known @ (Known::WebPage | Known::LfsPointer)) => format!("it is {known}{}", known.advice()),
        Some(known) => format!("it is {known}; with `unpack: false` it is kept as it is"),
        None => {
            let start: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
            let script = if start.starts_with(&["23".to_owned(), "21".to_owned()]) { ", as a script does" } else { "" };
            format!("it starts with {}{script}; unpack other formats with a command stage", start.join(" "))
        }
    }
}

/// Whether a block is a tar header with a right checksum, or the zeros that end an empty tar.
fn is_tar_header(block: &[u8]) -> bool {
    let Ok(block) = <&[u8; BLOCK as usize]>::try_from(block) else { return false };
    let sum: u32 =
        block.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) }).sum();
    let stored = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    u32::from_str_radix(stored.trim_matches(['\0', ' ']), 8) == Ok(sum) || block.iter().all(|&b| b == 0)
}

/// The path of an entry below the folder; empty for the folder itself.
fn safe_path(name: &[u8]) -> Result<PathBuf, &'static str> {
    if name.starts_with(b"/") {
        return Err("is an absolute path");
    }
    if name.contains(&b'\\') {
        return Err("has a backslash in its path");
    }
    if name.contains(&0) {
        return Err("has a zero byte in its path");
    }
    if let [letter, b':', ..] = name
        && letter.is_ascii_alphabetic()
    {
        return Err("names a drive");
    }
    if std::str::from_utf8(name).is_err() {
        return Err("has a name that is not UTF-8");
    }
    let mut path = PathBuf::new();
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err("leads out of the folder"),
            other => path.push(std::ffi::OsString::from_vec(other.to_vec())),
        }
    }
    Ok(path)
}

/// The name of a zip's entry: UTF-8 where it is that, else as the format says of names without that mark (code page 437),
/// and with the separators of this system. Windows tools write backslashes, which the format forbids; there they
/// separate folders. An ASCII name may be replaced by the one in Info-ZIP's extra field.
fn zip_name(raw: &[u8], decoded: &str) -> Vec<u8> {
    let name = std::str::from_utf8(raw).ok().filter(|name| !name.is_ascii()).unwrap_or(decoded);
    name.replace('\\', "/").into_bytes()
}

/// Counts what is read over all entries and stops at the limit, which stops decompression bombs.
struct Metered<'a, R> {
    inner: R,
    read: &'a Cell<u64>,
    limit: u64,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        if self.read.get() > self.limit { Err(io::Error::other("too large")) } else { Ok(read) }
    }
}

/// One call of [`unpack`].
struct Unpacking<'a> {
    named: &'a str,
    into: &'a Path,
    limits: &'a UnpackLimits,
    bytes_limit: u64,
    /// Bytes unpacked, tar headers and padding included.
    read: &'a Cell<u64>,
    entries: u64,
    done: Unpacked,
}

impl Unpacking<'_> {
    fn tar(&mut self, stream: impl Read) -> Result<(), ArchiveError> {
        let read = self.read;
        let mut members = Members::new(Metered { inner: stream, read, limit: self.bytes_limit });
        let at = || format!("at byte {} of the tar", read.get());
        while let Some(member) = members.next().map_err(|e| self.broken(&at(), &e))? {
            let Member { name, kind, size, sparse } = member;
            if kind.is_symlink() || kind.is_hard_link() {
                return Err(self.refused(&name, "is a link"));
            }
            if sparse {
                return Err(self.refused(&name, "is a sparse file"));
            }
            if !(kind.is_file() || kind.is_contiguous() || kind.is_dir()) {
                return Err(self.refused(&name, "is neither a file nor a folder"));
            }
            self.entry(&name, kind.is_dir() || name.ends_with(b"/"), size, &mut members)?;
        }
        // What follows the end mark is padding; reading it verifies the checksum of a gzip.
        io::copy(&mut members.rest(), &mut io::sink()).map_err(|e| self.broken(&at(), &e))?;
        Ok(())
    }

    fn zip(&mut self, file: std::fs::File) -> Result<(), ArchiveError> {
        let mut zip =
            zip::ZipArchive::new(BufReader::new(file)).map_err(|e| self.damaged("directory", &e.to_string()))?;
        if zip.has_duplicate_names() {
            return Err(self.damaged("directory", "it lists a name twice"));
        }
        for i in 0..zip.len() {
            let place = format!("entry {i}");
            let entry = zip.by_index_data(i).map_err(|e| self.damaged(&place, &e.to_string()))?;
            let decoded = entry.name().map_err(|e| self.damaged(&place, &e.to_string()))?;
            let name = zip_name(entry.name_raw(), &decoded);
            if entry.encrypted() {
                return Err(ArchiveError::Encrypted {
                    archive: self.named.to_owned(),
                    entry: String::from_utf8_lossy(&name).into_owned(),
                });
            }
            if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
                return Err(self.refused(&name, "is compressed with something else than deflate"));
            }
            // The file type of Unix in the upper bits: 0 (not given), a regular file or a folder.
            match entry.unix_mode().unwrap_or(0) & 0o170_000 {
                0 | 0o100_000 | 0o040_000 => {}
                0o120_000 => return Err(self.refused(&name, "is a link")),
                _ => return Err(self.refused(&name, "is neither a file nor a folder")),
            }
            let (folder, size) = (entry.is_dir() || name.ends_with(b"/"), entry.size());
            let entry = zip.by_index(i).map_err(|e| self.damaged(&place, &e.to_string()))?;
            self.entry(&name, folder, size, &mut Metered { inner: entry, read: self.read, limit: self.bytes_limit })?;
        }
        Ok(())
    }

    /// Writes one file or folder of `size` bytes.
    fn entry(&mut self, name: &[u8], folder: bool, size: u64, content: &mut dyn Read) -> Result<(), ArchiveError> {
        let path = self.into.join(safe_path(name).map_err(|why| self.refused(name, why))?);
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(self.too_large(name, format!("{} entries", self.limits.entries)));
        }
        if self.read.get().saturating_add(size) > self.bytes_limit {
            return Err(self.too_large(name, self.bytes_limit_words()));
        }
        if folder {
            return fs::create_dir_all(&path).map_err(|e| self.not_made(name, e));
        }
        if path == self.into {
            return Err(self.refused(name, "has no name"));
        }
        let parent = path.parent().unwrap_or(self.into);
        fs::create_dir_all(parent).map_err(|e| self.not_made(name, e))?;
        let mut file = File::create_new(&path).map_err(|e| self.not_made(name, e))?;
        let mut buffer = vec![0; 1 << 16];
        let mut written = 0;
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.broken(&format!("entry {:?}", String::from_utf8_lossy(name)), &e)),
            };
            file.write_all(&buffer[..read])?;
            written += read as u64;
        }
        if written != size {
            let place = format!("entry {:?}", String::from_utf8_lossy(name));
            return Err(self.damaged(&place, &format!("it has {written} of {size} bytes")));
        }
        self.done.files += 1;
        self.done.bytes += written;
        Ok(())
    }

    /// A name that exists belongs to an earlier entry, since the folder was empty.
    fn not_made(&self, name: &[u8], error: io::Error) -> ArchiveError {
        match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => self.refused(name, "is there twice"),
            _ => error.into(),
        }
    }

    fn refused(&self, name: &[u8], why: &'static str) -> ArchiveError {
        let entry = String::from_utf8_lossy(name).into_owned();
        ArchiveError::Refused { archive: self.named.to_owned(), entry, why }
    }

    fn too_large(&self, name: &[u8], limit: String) -> ArchiveError {
        let entry = String::from_utf8_lossy(name).into_owned();
        ArchiveError::TooLarge { archive: self.named.to_owned(), entry, limit }
    }

    fn bytes_limit_words(&self) -> String {
        let (bytes, ratio) = (self.limits.bytes, self.limits.ratio);
        if self.bytes_limit == bytes {
            format!("{bytes} bytes")
        } else {
            format!("{} bytes (ratio: {ratio} times the size of the archive, or 64 MiB)", self.bytes_limit)
        }
    }

    fn damaged(&self, place: &str, what: &str) -> ArchiveError {
        ArchiveError::Damaged { archive: self.named.to_owned(), place: place.to_owned(), what: what.to_owned() }
    }

    /// An error from the stream: the meter's, or the decoder's.
    fn broken(&self, place: &str, error: &io::Error) -> ArchiveError {
        if self.read.get() > self.bytes_limit {
            return self.too_large(place.as_bytes(), self.bytes_limit_words());
        }
        self.damaged(place, &error.to_string())
    }
}

#[cfg(test)]
mod tests;
