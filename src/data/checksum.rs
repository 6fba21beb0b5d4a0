//! Digests and sizes that a file is expected to have, verified while it streams by.

use md5::Md5;
use sha2::{Digest, Sha256};

use super::Problem;

/// What is known of a file beforehand: any subset, all of it verified. Digests are in hexadecimal, either case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    pub sha256: Option<String>,
    pub blake3: Option<String>,
    pub md5: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
}

impl Expected {
    /// Digests that are not digests.
    pub fn check(&self) -> Vec<Problem> {
        [("sha256", &self.sha256, 64), ("blake3", &self.blake3, 64), ("md5", &self.md5, 32)]
            .into_iter()
            .filter_map(|(field, value, digits)| {
                let value = value.as_ref()?;
                let valid = value.len() == digits && value.bytes().all(|b| b.is_ascii_hexdigit());
                (!valid).then(|| (field.to_owned(), format!("is {value:?}, expected {digits} hexadecimal digits")))
            })
            .collect()
    }

    /// Whether a digest pins the content.
    pub fn pins_content(&self) -> bool {
        self.sha256.is_some() || self.blake3.is_some() || self.md5.is_some()
    }
}

/// One expectation that the file did not meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {found}, expected {expected}")]
pub struct Mismatch {
    /// `size`, `sha256`, `blake3` or `md5`.
    pub what: &'static str,
    pub expected: String,
    pub found: String,
}

/// The size and SHA-256 of a file that met every expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// In bytes.
    pub size: u64,
    /// In hexadecimal; computed even when nothing was expected, so that the user can pin it.
    pub sha256: String,
}

/// Digests of a stream, computed as it passes.
pub struct Verifier {
    expected: Expected,
    sha256: Sha256,
    blake3: Option<blake3::Hasher>,
    md5: Option<Md5>,
    size: u64,
}

impl Verifier {
    /// Starts at the first byte of the file.
    pub fn new(expected: &Expected) -> Verifier {
        Verifier {
            sha256: Sha256::new(),
            blake3: expected.blake3.as_ref().map(|_| blake3::Hasher::new()),
            md5: expected.md5.as_ref().map(|_| Md5::new()),
            size: 0,
            expected: expected.clone(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(blake3) = &mut self.blake3 {
            blake3.update(bytes);
        }
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Compares with what was expected.
    pub fn finish(self) -> Result<Verified, Mismatch> {
        let sha256 = hex(&self.sha256.finalize());
        let expected = self.expected;
        let size = (expected.size.map(|n| n.to_string()), self.size.to_string());
        let digests = [
            ("size", size.0, Some(size.1)),
            ("sha256", expected.sha256, Some(sha256.clone())),
            ("blake3", expected.blake3, self.blake3.map(|h| h.finalize().to_hex().to_string())),
            ("md5", expected.md5, self.md5.map(|h| hex(&h.finalize()))),
        ];
        for (what, expected, found) in digests {
            if let (Some(expected), Some(found)) = (expected, found)
                && !expected.eq_ignore_ascii_case(&found)
            {
                return Err(Mismatch { what, expected, found });
            }
        }
        Ok(Verified { size: self.size, sha256 })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of the three bytes "abc": FIPS 180-2 appendix B.1, RFC 1321 appendix A.5, b3sum.
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
    const BLAKE3: &str = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";

    fn verify(expected: &Expected) -> Result<Verified, Mismatch> {
        let mut verifier = Verifier::new(expected);
        verifier.update(b"a");
        verifier.update(b"bc");
        verifier.finish()
    }

    fn all() -> Expected {
        Expected { sha256: Some(SHA256.into()), blake3: Some(BLAKE3.into()), md5: Some(MD5.into()), size: Some(3) }
    }

    #[test]
    fn published_digests_are_met_in_either_case() {
        let verified = Verified { size: 3, sha256: SHA256.into() };
        assert_eq!(verify(&Expected::default()), Ok(verified.clone()));
        assert_eq!(verify(&all()), Ok(verified.clone()));
        assert_eq!(verify(&Expected { md5: Some(MD5.to_uppercase()), ..Expected::default() }), Ok(verified));
    }

    #[test]
    fn each_expectation_is_verified_and_named() {
        let zeros = |n: usize| Some("0".repeat(n));
        for (what, expected) in [
            ("size", Expected { size: Some(4), ..all() }),
            ("sha256", Expected { sha256: zeros(64), ..all() }),
            ("blake3", Expected { blake3: zeros(64), ..all() }),
            ("md5", Expected { md5: zeros(32), ..all() }),
        ] {
            assert!(expected.check().is_empty());
            assert_eq!(verify(&expected).map_err(|m| m.what), Err(what));
        }
    }

    #[test]
    fn a_digest_of_the_wrong_length_or_alphabet_is_refused() {
        let wrong = Expected { sha256: Some(MD5.into()), md5: Some("z".repeat(32)), ..Expected::default() };
        let fields: Vec<_> = wrong.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["sha256", "md5"]);
    }
}
