//! The members of a tar, with the records that extend them: POSIX.1-2001's (pax) and GNU's long names.
//!
//! The `tar` crate reads the headers. Its own iteration splits pax records at line breaks, which their values may hold, and
//! takes the map of a sparse file for the file (GNU's dialects 0.0, 0.1 and 1.0 in pax), so the members are followed here.

use std::io::{self, ErrorKind, Read};

use tar::{EntryType, Header};

use super::BLOCK;

/// The most that the records of one member may take. GNU tar and bsdtar write a few hundred bytes.
const RECORDS: u64 = 1 << 20;

/// Larger sizes are invalid: the sum of two valid ones does not overflow.
const LARGEST: u64 = 1 << 60;

/// One file or folder, or what else a tar may hold.
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryType,
    /// Of its content, in bytes.
    pub(super) size: u64,
    /// Whether the content is not the file, but a map of its holes and of what is between them.
    pub(super) sparse: bool,
}

/// What records say of a member.
#[derive(Debug, Default, PartialEq, Eq)]
struct Records {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    /// The name of a sparse file, which `path` does not give.
    sparse_name: Option<Vec<u8>>,
}

/// The members of a tar in their order; reading gives the content of the last one.
pub(super) struct Members<R> {
    stream: R,
    /// Bytes of the current content, and of the padding behind it, that were not read.
    left: u64,
    padding: u64,
}

impl<R: Read> Members<R> {
    pub(super) fn new(stream: R) -> Members<R> {
        Members { stream, left: 0, padding: 0 }
    }

    /// The next member; `None` at the end mark.
    ///
    /// # Errors
    /// The stream's, and [`ErrorKind::InvalidData`] with what is wrong.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let (mut long_name, mut records) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                return match (long_name, records) {
                    (None, None) => Ok(None),
                    _ => Err(wrong("it ends behind the records of a member")),
                };
            };
            let kind = header.entry_type();
            let size = header.entry_size()?;
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.records(size)?;
                    name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
                    twice(long_name.replace(name).is_some())?;
                }
                // Links are refused, wherever they lead.
                EntryType::GNULongLink => drop(self.records(size)?),
                EntryType::XHeader => {
                    let read =
                        Records::parse(&self.records(size)?).ok_or_else(|| wrong("its records are malformed"))?;
                    twice(records.replace(read).is_some())?;
                }
                EntryType::XGlobalHeader => {
                    // `git archive` writes a comment. It holds neither name nor size of a member.
                    let read =
                        Records::parse(&self.records(size)?).ok_or_else(|| wrong("its records are malformed"))?;
                    if read != Records::default() {
                        return Err(wrong("a record gives all members one name or size"));
                    }
                }
                kind => {
                    let records = records.unwrap_or_default();
                    let name = match (records.sparse_name.or(records.path), long_name) {
                        (Some(one), Some(other)) if one != other => return Err(wrong("a member has two names")),
                        (Some(name), _) | (None, Some(name)) => name,
                        (None, None) => header.path_bytes().into_owned(),
                    };
                    let size = records.size.unwrap_or(size);
                    self.content(size)?;
                    return Ok(Some(Member { name, kind, size, sparse: records.sparse || kind.is_gnu_sparse() }));
                }
            }
        }
    }

    /// The next header with a right checksum; `None` at a block of zeros.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.stream).take(rest), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        let mut header = Header::new_old();
        let ended = |e: io::Error| match e.kind() {
            ErrorKind::UnexpectedEof => wrong("it ends without an end mark"),
            _ => e,
        };
        if skipped < rest {
            return Err(wrong("it ends within a member"));
        }
        self.stream.read_exact(header.as_mut_bytes()).map_err(ended)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if !super::is_tar_header(bytes) {
            return Err(wrong("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn content(&mut self, size: u64) -> io::Result<()> {
        if size > LARGEST {
            return Err(wrong("a member has no sensible size"));
        }
        (self.left, self.padding) = (size, size.next_multiple_of(BLOCK) - size);
        Ok(())
    }

    /// The content of a member that describes the next one.
    fn records(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > RECORDS {
            return Err(wrong("the records of a member are too long"));
        }
        self.content(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// What follows the end mark.
    pub(super) fn rest(self) -> R {
        self.stream
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.stream).take(self.left).read(buffer)?;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Records {
    /// Reads `LENGTH KEY=VALUE\n` one after the other. The last one of a key counts, and an empty value means none.
    fn parse(mut bytes: &[u8]) -> Option<Records> {
        let mut records = Records::default();
        while !bytes.is_empty() {
            // GNU tar pads nothing, others do with zeros.
            if bytes.iter().all(|&byte| byte == 0) {
                break;
            }
            let blank = bytes.iter().position(|&byte| byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
            let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
            bytes = &bytes[length..];
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let given = (!value.is_empty()).then(|| value.to_vec());
            match key {
                b"path" => records.path = given,
                b"size" => {
                    let number = |text: Vec<u8>| std::str::from_utf8(&text).ok()?.parse().ok();
                    records.size = match given {
                        Some(text) => Some(number(text)?),
                        None => None,
                    };
                }
                b"GNU.sparse.name" => (records.sparse_name, records.sparse) = (given, true),
                b"SCHILY.realsize" => records.sparse = true,
                key if key.starts_with(b"GNU.sparse.") => records.sparse = true,
                _ => {}
            }
        }
        Some(records)
    }
}

fn twice(there: bool) -> io::Result<()> {
    if there { Err(wrong("a member is described twice")) } else { Ok(()) }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
