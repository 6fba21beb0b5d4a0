//! Unpacking archives that nobody vouches for: tar, tar.gz and zip, known by their content.
//!
//! Only regular files and folders come out, with default modes, below one empty folder. Everything else an archive may
//! hold (links, devices, sparse files, encrypted entries, a path twice, paths that lead out) is refused by name.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::Problem;

const BLOCK: u64 = 512;

/// How much may come out of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnpackLimits {
    /// Files and folders. Default 10 million, at least 1.
    pub entries: u64,
    /// Bytes. Default 1 TiB, at least 1.
    pub bytes: u64,
    /// Bytes out of one byte of archive, once more than 64 MiB have come out. Default 200, at least 1.
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

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    pub files: u64,
    pub bytes: u64,
}

/// An archive that was not unpacked, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    /// Unpacking starts from nothing, so that a name clash is always the archive's.
    #[error("{} is not empty: unpack into an empty folder", folder.display())]
    NotEmpty { folder: PathBuf },

    /// Neither a tar, nor a gzip, nor a zip file.
    #[error("{} is no tar, tar.gz or zip archive (it starts with {start}); unpack other formats with a command stage", archive.display())]
    UnknownFormat { archive: PathBuf, start: String },

    /// An entry that this program does not unpack.
    #[error("{}: entry {entry:?} {why}; make an archive without it, or unpack with a command stage if you trust it", archive.display())]
    Refused { archive: PathBuf, entry: String, why: &'static str },

    /// A limit of [`UnpackLimits`].
    #[error("{}: entry {entry:?} exceeds the limit of {limit}; raise it if the archive is meant to be this large", archive.display())]
    TooLarge { archive: PathBuf, entry: String, limit: String },

    /// Truncated or altered.
    #[error("{}: damaged {place}: {what}; fetch it again, and pin its sha256", archive.display())]
    Damaged { archive: PathBuf, place: String, what: String },
}

/// Unpacks `archive` into `into`, which is absent or an empty folder.
///
/// # Errors
/// As [`ArchiveError`] says; what had come out by then stays in `into`.
pub fn unpack(archive: &Path, into: &Path, limits: &UnpackLimits) -> Result<Unpacked, ArchiveError> {
    let io_error = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| ArchiveError::Io { operation, path, source }
    };
    fs::create_dir_all(into).map_err(io_error("create", into))?;
    if fs::read_dir(into).map_err(io_error("read", into))?.next().is_some() {
        return Err(ArchiveError::NotEmpty { folder: into.to_path_buf() });
    }
    let mut file = File::open(archive).map_err(io_error("open", archive))?;
    let size = file.metadata().map_err(io_error("read", archive))?.len();
    let mut start = Vec::new();
    (&mut file).take(BLOCK).read_to_end(&mut start).map_err(io_error("read", archive))?;
    file.seek(SeekFrom::Start(0)).map_err(io_error("read", archive))?;

    let ratio_limit = size.saturating_mul(limits.ratio).max(RATIO_APPLIES_FROM);
    let read = Cell::new(0);
    let mut unpacking = Unpacking {
        archive,
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
        other => {
            let start = other.iter().take(8).map(|b| format!("{b:02x} ")).collect::<String>();
            return Err(ArchiveError::UnknownFormat { archive: archive.to_path_buf(), start: start.trim().to_owned() });
        }
    }
    Ok(unpacking.done)
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

/// Counts what is read over all entries and stops at the limit, so that no bomb gets further than that.
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
    archive: &'a Path,
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
        let mut tar = tar::Archive::new(Metered { inner: stream, read, limit: self.bytes_limit });
        let at = || format!("at byte {} of the tar", read.get());
        let mut end = 0;
        for entry in tar.entries().map_err(|e| self.broken(&at(), &e))? {
            let mut entry = entry.map_err(|e| self.broken(&at(), &e))?;
            let name = entry.path_bytes().into_owned();
            let kind = entry.header().entry_type();
            let size = entry.size();
            end = (entry.raw_file_position() + size).next_multiple_of(BLOCK);
            if kind.is_pax_global_extensions() {
                continue;
            }
            if kind.is_symlink() || kind.is_hard_link() {
                return Err(self.refused(&name, "is a link"));
            }
            if kind.is_gnu_sparse() {
                return Err(self.refused(&name, "is a sparse file"));
            }
            if !(kind.is_file() || kind.is_contiguous() || kind.is_dir()) {
                return Err(self.refused(&name, "is neither a file nor a folder"));
            }
            self.entry(&name, kind.is_dir() || name.ends_with(b"/"), size, &mut entry)?;
        }
        // A tar that was cut between two entries lacks only the zeros that end it.
        if read.get() <= end {
            return Err(self.damaged(&at(), "it ends without an end mark"));
        }
        // What follows the end mark is padding; reading it verifies the checksum of a gzip.
        io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(|e| self.broken(&at(), &e))?;
        Ok(())
    }

    fn zip(&mut self, file: File) -> Result<(), ArchiveError> {
        let mut zip =
            zip::ZipArchive::new(BufReader::new(file)).map_err(|e| self.damaged("directory", &e.to_string()))?;
        if zip.has_duplicate_names() {
            return Err(self.damaged("directory", "it lists a name twice"));
        }
        for i in 0..zip.len() {
            let place = format!("entry {i}");
            let entry = zip.by_index_data(i).map_err(|e| self.damaged(&place, &e.to_string()))?;
            let name = entry.name_raw().to_vec();
            if entry.encrypted() {
                return Err(self.refused(&name, "is encrypted"));
            }
            // The file type of Unix in the upper bits: 0 (not given), a regular file or a folder.
            match entry.unix_mode().unwrap_or(0) & 0o170_000 {
                0 | 0o100_000 | 0o040_000 => {}
                0o120_000 => return Err(self.refused(&name, "is a link")),
                _ => return Err(self.refused(&name, "is neither a file nor a folder")),
            }
            let (folder, size) = (entry.is_dir(), entry.size());
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
            return fs::create_dir_all(&path).map_err(|e| self.not_made(name, &path, e));
        }
        if path == self.into {
            return Err(self.refused(name, "has no name"));
        }
        let parent = path.parent().unwrap_or(self.into);
        fs::create_dir_all(parent).map_err(|e| self.not_made(name, parent, e))?;
        let mut file = File::create_new(&path).map_err(|e| self.not_made(name, &path, e))?;
        let mut buffer = vec![0; 1 << 16];
        let mut written = 0;
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.broken(&format!("entry {:?}", String::from_utf8_lossy(name)), &e)),
            };
            file.write_all(&buffer[..read]).map_err(|source| ArchiveError::Io {
                operation: "write",
                path: path.clone(),
                source,
            })?;
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

    /// A name that is taken was taken by an earlier entry, for the folder was empty.
    fn not_made(&self, name: &[u8], path: &Path, source: io::Error) -> ArchiveError {
        match source.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => self.refused(name, "is there twice"),
            _ => ArchiveError::Io { operation: "create", path: path.to_path_buf(), source },
        }
    }

    fn refused(&self, name: &[u8], why: &'static str) -> ArchiveError {
        let entry = String::from_utf8_lossy(name).into_owned();
        ArchiveError::Refused { archive: self.archive.to_path_buf(), entry, why }
    }

    fn too_large(&self, name: &[u8], limit: String) -> ArchiveError {
        let entry = String::from_utf8_lossy(name).into_owned();
        ArchiveError::TooLarge { archive: self.archive.to_path_buf(), entry, limit }
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
        ArchiveError::Damaged { archive: self.archive.to_path_buf(), place: place.to_owned(), what: what.to_owned() }
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
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use tar::{EntryType, Header};
    use zip::write::SimpleFileOptions;

    use super::*;

    /// A tar of (name, type, content), without the end mark.
    fn tar_blocks(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, kind, content) in entries {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(*kind);
            header.set_mode(0o6777);
            let size = if matches!(kind, EntryType::Regular) { content.len() } else { 0 };
            header.set_size(size as u64);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(&content[..size]);
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
        out
    }

    fn tar(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
        let mut out = tar_blocks(entries);
        out.resize(out.len() + 1024, 0);
        out
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, mode, content) in entries {
            let options = SimpleFileOptions::default().unix_permissions(*mode);
            writer.start_file(*name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn unpack_bytes(bytes: &[u8], limits: &UnpackLimits) -> (tempfile::TempDir, Result<Unpacked, ArchiveError>) {
        let room = tempfile::tempdir().unwrap();
        let archive = room.path().join("archive");
        fs::write(&archive, bytes).unwrap();
        let result = unpack(&archive, &room.path().join("outer/out"), limits);
        (room, result)
    }

    fn message(bytes: &[u8]) -> String {
        unpack_bytes(bytes, &UnpackLimits::default()).1.unwrap_err().to_string()
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn the_three_formats_give_the_same_files_with_plain_modes() {
        use std::os::unix::fs::PermissionsExt;
        let entries: [(&[u8], EntryType, &[u8]); 3] = [
            (b"./set/", EntryType::Directory, b""),
            (b"./set/a.txt", FILE, b"alpha"),
            (b"set/deep/er/b.bin", FILE, &[7; 700]),
        ];
        let zipped = zip_of(&[("set/a.txt", 0o777, b"alpha"), ("set/deep/er/b.bin", 0o600, &[7; 700])]);
        for bytes in [tar(&entries), gz(&tar(&entries)), zipped] {
            let (room, result) = unpack_bytes(&bytes, &UnpackLimits::default());
            assert_eq!(result.unwrap(), Unpacked { files: 2, bytes: 705 });
            let out = room.path().join("outer/out/set");
            assert_eq!(fs::read(out.join("a.txt")).unwrap(), b"alpha");
            assert_eq!(fs::read(out.join("deep/er/b.bin")).unwrap(), [7; 700]);
            assert_eq!(fs::metadata(out.join("a.txt")).unwrap().permissions().mode() & 0o7111, 0);
        }
    }

    #[test]
    fn long_names_and_global_headers_of_real_tars_are_understood() {
        let long = format!("{}/file.png", "folder".repeat(30));
        let mut builder = tar::Builder::new(Vec::new());
        let mut global = Header::new_ustar();
        global.set_entry_type(EntryType::XGlobalHeader);
        global.set_size(0);
        global.set_cksum();
        builder.append(&global, io::empty()).unwrap();
        let mut header = Header::new_gnu();
        header.set_size(3);
        builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
        let (room, result) = unpack_bytes(&builder.into_inner().unwrap(), &UnpackLimits::default());
        assert_eq!(result.unwrap().files, 1);
        assert_eq!(fs::read(room.path().join("outer/out").join(long)).unwrap(), b"abc");
    }

    #[test]
    fn entries_that_lead_out_or_are_no_files_are_refused_by_name() {
        let hostile: [(&[u8], EntryType, &[u8], &str); 11] = [
            (b"../evil", FILE, b"x", "leads out"),
            (b"a/../../evil", FILE, b"x", "leads out"),
            (b"/evil", FILE, b"x", "absolute"),
            (b"C:/evil", FILE, b"x", "drive"),
            (b"a\\..\\evil", FILE, b"x", "backslash"),
            (b"evil", EntryType::Symlink, b"/etc", "link"),
            (b"evil", EntryType::Symlink, b"inside", "link"),
            (b"evil", EntryType::Link, b"../evil", "link"),
            (b"evil", EntryType::Char, b"", "neither"),
            (b"evil", EntryType::Fifo, b"", "neither"),
            (b"./", FILE, b"", ""),
        ];
        for (name, kind, content, why) in hostile {
            let (room, result) =
                unpack_bytes(&tar(&[(b"ok", FILE, b"1"), (name, kind, content)]), &UnpackLimits::default());
            if why.is_empty() {
                assert!(result.is_ok(), "an old tar marks a folder only by its slash");
                continue;
            }
            let message = result.unwrap_err().to_string();
            assert!(message.contains(why) && message.contains("evil"), "{message}");
            assert!(!room.path().join("evil").exists() && !room.path().join("outer/evil").exists());
        }
        for (name, mode) in [("../evil", 0o644), ("/evil", 0o644), ("x\\evil", 0o644)] {
            let message = message(&zip_of(&[(name, mode, b"x")]));
            assert!(message.contains("entry") && message.contains("evil"), "{message}");
        }
    }

    #[test]
    fn a_link_in_a_zip_is_refused() {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        writer.add_symlink("evil", "/etc", SimpleFileOptions::default()).unwrap();
        let message = message(&writer.finish().unwrap().into_inner());
        assert!(message.contains("\"evil\" is a link"), "{message}");
    }

    #[test]
    fn a_path_twice_is_refused() {
        let twice = tar(&[(b"a", FILE, b"1"), (b"./a", FILE, b"2")]);
        let file_as_folder = tar(&[(b"a", FILE, b"1"), (b"a/b", FILE, b"2")]);
        let folder_as_file = tar(&[(b"a/b", FILE, b"1"), (b"a", FILE, b"2")]);
        // Two names of one length, made equal in both the local header and the directory.
        let mut zip = zip_of(&[("aaaa", 0o644, b"1"), ("bbbb", 0o644, b"2")]);
        for i in 0..zip.len() - 4 {
            if zip[i..i + 4] == *b"bbbb" {
                zip[i..i + 4].copy_from_slice(b"aaaa");
            }
        }
        for bytes in [twice, file_as_folder, folder_as_file, zip] {
            let message = message(&bytes);
            assert!(message.contains("twice"), "{message}");
        }
    }

    #[test]
    fn limits_on_entries_bytes_and_ratio_hold() {
        let limits = UnpackLimits { entries: 2, bytes: 1 << 20, ratio: 200 };
        let three: [(&[u8], EntryType, &[u8]); 3] = [(b"a", FILE, b""), (b"b", FILE, b""), (b"c", FILE, b"")];
        let large = vec![0; (1 << 20) + 1];
        let bomb = vec![0; 70 << 20];
        for (bytes, limits, word) in [
            (tar(&three), &limits, "2 entries"),
            (tar(&[(b"c", FILE, &large)]), &limits, "1048576 bytes"),
            (gz(&tar(&[(b"c", FILE, &large)])), &limits, "1048576 bytes"),
            (zip_of(&[("c", 0o644, &large)]), &limits, "1048576 bytes"),
            (gz(&tar(&[(b"c", FILE, &bomb)])), &UnpackLimits::default(), "ratio"),
            (zip_of(&[("c", 0o644, &bomb)]), &UnpackLimits::default(), "ratio"),
        ] {
            let message = unpack_bytes(&bytes, limits).1.unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("\"c\""), "{message}");
        }
        // A gzip tail of zeros after the end mark is a bomb as well.
        let message = message(&gz(&[tar(&three), bomb].concat()));
        assert!(message.contains("ratio"), "{message}");
    }

    #[test]
    fn a_zip_that_understates_its_size_is_damaged() {
        let mut zip = zip_of(&[("a", 0o644, &[9; 100])]);
        // The uncompressed size of the directory entry: byte 24 after its signature.
        let at = zip.windows(4).position(|w| w == b"PK\x01\x02").unwrap() + 24;
        zip[at] = 50;
        let (_, result) = unpack_bytes(&zip, &UnpackLimits::default());
        assert!(matches!(result, Err(ArchiveError::Damaged { .. })), "{result:?}");
    }

    #[test]
    fn every_truncation_is_noticed() {
        let entries: [(&[u8], EntryType, &[u8]); 2] = [(b"a", FILE, &[1; 600]), (b"b", FILE, &[2; 512])];
        let (blocks, whole) = (tar_blocks(&entries), tar(&entries));
        for cut in [1, 512, 700, 1536, 1537, 2048, blocks.len() - 1, blocks.len()] {
            let (_, result) = unpack_bytes(&whole[..cut], &UnpackLimits::default());
            assert!(result.is_err(), "tar cut at {cut}");
        }
        let zipped = gz(&whole);
        for cut in 1..zipped.len() {
            let (_, result) = unpack_bytes(&zipped[..cut], &UnpackLimits::default());
            assert!(result.is_err(), "tar.gz cut at {cut}");
        }
        let zip = zip_of(&[("a", 0o644, &[1; 600])]);
        for cut in 1..zip.len() {
            assert!(unpack_bytes(&zip[..cut], &UnpackLimits::default()).1.is_err(), "zip cut at {cut}");
        }
    }

    #[test]
    fn damage_names_the_entry_or_the_place() {
        let mut zip = zip_of(&[("kept", 0o644, b"12345")]);
        let content = zip.windows(4).position(|w| w == b"kept").unwrap() + 4;
        zip[content + 1] ^= 0x55;
        let message_of_zip = message(&zip);
        assert!(message_of_zip.contains("\"kept\""), "{message_of_zip}");

        let mut tar = tar(&[(b"a", FILE, b"1"), (b"b", FILE, b"2")]);
        tar[1024 + 5] ^= 1;
        let message_of_tar = message(&tar);
        assert!(message_of_tar.contains("at byte 1536"), "{message_of_tar}");
    }

    #[test]
    fn other_formats_and_filled_folders_are_refused() {
        let message = message(b"\xfd7zXZ\0 and so on");
        assert!(message.contains("fd 37 7a 58"), "{message}");
        let room = tempfile::tempdir().unwrap();
        let archive = room.path().join("a");
        fs::write(&archive, tar(&[])).unwrap();
        let result = unpack(&archive, room.path(), &UnpackLimits::default());
        assert!(matches!(result, Err(ArchiveError::NotEmpty { .. })));
    }

    proptest! {
        /// Whatever the name, the path stays below the folder.
        #[test]
        fn no_name_leads_out(name in prop::collection::vec(prop::sample::select(b"/\\.:aC\0".to_vec()), 0..12)) {
            if let Ok(path) = safe_path(&name) {
                let all_normal = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
                prop_assert!(all_normal, "{path:?}");
                prop_assert!(path.is_relative());
            }
        }

        /// No byte sequence makes the unpacker panic or write outside.
        #[test]
        fn altered_archives_never_panic(at in 0usize..4096, bit in 0u8..8, which in 0usize..3) {
            let tar = tar(&[(b"a", FILE, &[3; 300]), (b"b/c", FILE, b"22")]);
            let mut bytes = [tar.clone(), gz(&tar), zip_of(&[("a", 0o644, &[3; 300]), ("b/c", 0o644, b"22")])][which].clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let (room, _) = unpack_bytes(&bytes, &UnpackLimits::default());
            prop_assert_eq!(fs::read_dir(room.path()).unwrap().count(), 2);
            prop_assert_eq!(fs::read_dir(room.path().join("outer")).unwrap().count(), 1);
        }
    }
}
