//! BLAKE3 digests: the names of everything stored.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

/// 256 bits of BLAKE3, never truncated where two things could be confused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// Digest and length of a file's content.
    pub fn of_file(path: &Path) -> io::Result<(Digest, u64)> {
        Digest::of_reader(&mut File::open(path)?, 0)
    }

    /// Digest and length of what a reader has from here on. A small one is not asked for more than the `expected` bytes,
    /// unless that is zero: the caller then compares the file's length afterwards.
    pub fn of_reader(file: &mut impl Read, expected: u64) -> io::Result<(Digest, u64)> {
        // Most cells write small files: one read into a small buffer saves the hasher and the large one.
        let mut first = [0u8; 16 * 1024];
        let mut filled = 0;
        while filled < first.len() {
            match file.read(&mut first[filled..])? {
                0 => break,
                n => filled += n,
            }
            if filled as u64 == expected {
                break;
            }
        }
        if filled < first.len() {
            return Ok((Digest::of(&first[..filled]), filled as u64));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&first);
        let mut size = filled as u64;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok((Digest(*hasher.finalize().as_bytes()), size));
            }
            hasher.update(&buffer[..n]);
            size += n as u64;
        }
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest has 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Digest, NotADigest> {
        blake3::Hash::from_hex(text).map(|hash| Digest(*hash.as_bytes())).map_err(|_| NotADigest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes_at_every_size_around_the_first_buffer() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, (1 << 20) + 16 * 1024 + 7] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let path = folder.path().join("file");
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(Digest::of_file(&path).unwrap(), (Digest::of(&bytes), size as u64));
        }
    }

    #[test]
    fn text_form_round_trips_and_refuses_anything_else() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("00".parse::<Digest>(), Err(NotADigest));
        assert_eq!("g".repeat(64).parse::<Digest>(), Err(NotADigest));
    }
}
