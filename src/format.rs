//! What a file is by its first bytes, for the messages of readers that expected something else.
//!
//! A download that was refused leaves a web page, a clone without Git LFS leaves pointers, and a file keeps its name when
//! it is packed. Each of these under the name of a data file is better named than decoded.

use std::fmt;

/// What a file can be recognised as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Empty,
    /// The stand-in that Git keeps for a large file.
    LfsPointer,
    WebPage,
    Xml,
    Zip,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    SevenZip,
    Rar,
    Tar,
    Png,
    Jpeg,
    Gif,
    Bmp,
    WebP,
    Tiff,
    Avif,
    Heic,
    Pnm,
    Ico,
    Pdf,
    Npy,
    Parquet,
    Hdf5,
    Pickle,
}

/// What the first bytes of a file say it is, if they say it. 512 bytes are enough.
pub fn recognise(bytes: &[u8]) -> Option<Known> {
    let start = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let opens = |tag: &str| start.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag.as_bytes()));
    let brand = |brands: &[&[u8]]| {
        bytes.get(4..8) == Some(b"ftyp") && bytes.get(8..12).is_some_and(|found| brands.contains(&found))
    };
    Some(match bytes {
        [] => Known::Empty,
        _ if bytes.starts_with(b"version https://git-lfs.github.com/spec/") => Known::LfsPointer,
        _ if opens("<!doctype html") || opens("<html") => Known::WebPage,
        _ if opens("<?xml") => Known::Xml,
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Known::Zip,
        [0x1f, 0x8b, ..] => Known::Gzip,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, ..] => Known::Bzip2,
        _ if bytes.starts_with(b"\xfd7zXZ\0") => Known::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Known::Zstd,
        _ if bytes.starts_with(b"7z\xbc\xaf\x27\x1c") => Known::SevenZip,
        _ if bytes.starts_with(b"Rar!\x1a\x07") => Known::Rar,
        _ if bytes.get(257..262) == Some(b"ustar") => Known::Tar,
        _ if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => Known::Png,
        [0xff, 0xd8, 0xff, ..] => Known::Jpeg,
        _ if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") => Known::Gif,
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Known::Bmp,
        _ if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Known::WebP,
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Known::Tiff,
        _ if brand(&[b"avif", b"avis"]) => Known::Avif,
        _ if brand(&[b"heic", b"heix", b"hevc", b"mif1", b"msf1"]) => Known::Heic,
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\n' | b'\r', ..] => Known::Pnm,
        [0, 0, 1, 0, 1..=64, 0, ..] => Known::Ico,
        _ if bytes.starts_with(b"%PDF-") => Known::Pdf,
        _ if bytes.starts_with(b"\x93NUMPY") => Known::Npy,
        _ if bytes.starts_with(b"PAR1") => Known::Parquet,
        _ if bytes.starts_with(b"\x89HDF\r\n\x1a\n") => Known::Hdf5,
        [0x80, 2..=5, ..] => Known::Pickle,
        _ => return None,
    })
}

impl Known {
    /// Whether it is a picture, of whichever format.
    pub fn is_image(self) -> bool {
        use Known::{Avif, Bmp, Gif, Heic, Ico, Jpeg, Png, Pnm, Tiff, WebP};
        matches!(self, Png | Jpeg | Gif | Bmp | WebP | Tiff | Avif | Heic | Pnm | Ico)
    }

    /// `; what to do`, or nothing where the name says it.
    pub fn advice(self) -> &'static str {
        match self {
            Known::Empty => "; fetch or write it again",
            Known::LfsPointer => "; fetch the file itself with `git lfs pull`",
            Known::WebPage => {
                "; the download was answered with a page (an error, a login, a warning): open the address in a browser"
            }
            Known::Zip
            | Known::Gzip
            | Known::Bzip2
            | Known::Xz
            | Known::Zstd
            | Known::SevenZip
            | Known::Rar
            | Known::Tar => "; unpack it",
            _ => "",
        }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Known::Empty => "empty",
            Known::LfsPointer => "a Git-LFS pointer",
            Known::WebPage => "a web page",
            Known::Xml => "XML",
            Known::Zip => "a zip archive",
            Known::Gzip => "compressed with gzip",
            Known::Bzip2 => "compressed with bzip2",
            Known::Xz => "compressed with xz",
            Known::Zstd => "compressed with zstd",
            Known::SevenZip => "a 7z archive",
            Known::Rar => "a rar archive",
            Known::Tar => "a tar archive",
            Known::Png => "a PNG image",
            Known::Jpeg => "a JPEG image",
            Known::Gif => "a GIF image",
            Known::Bmp => "a BMP image",
            Known::WebP => "a WebP image",
            Known::Tiff => "a TIFF image",
            Known::Avif => "an AVIF image",
            Known::Heic => "a HEIC image",
            Known::Pnm => "a PNM image (ppm, pgm, pbm)",
            Known::Ico => "an icon (ico)",
            Known::Pdf => "a PDF document",
            Known::Npy => "a NumPy array",
            Known::Parquet => "a Parquet table",
            Known::Hdf5 => "an HDF5 file (h5, or mat of MATLAB 7.3)",
            Known::Pickle => "a Python pickle",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_name_the_format() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, known) in [
            (&b""[..], Some(Known::Empty)),
            (b"version https://git-lfs.github.com/spec/v1\n", Some(Known::LfsPointer)),
            (b"\xef\xbb\xbf\n  <!DOCTYPE HTML>", Some(Known::WebPage)),
            (b"<HTML>", Some(Known::WebPage)),
            (b"PK\x03\x04....", Some(Known::Zip)),
            (b"\x1f\x8b\x08", Some(Known::Gzip)),
            (b"BZh91AY&SY", Some(Known::Bzip2)),
            (b"\xfd7zXZ\0\0", Some(Known::Xz)),
            (&tar, Some(Known::Tar)),
            (b"II*\0", Some(Known::Tiff)),
            (b"\0\0\0\x1cftypavif", Some(Known::Avif)),
            (b"P6\n9 9\n", Some(Known::Pnm)),
            (b"1 001.Albatross/a.jpg\n", None),
            (b"BM is a name", None),
            (b"cat\ndog\n", None),
        ] {
            assert_eq!(recognise(bytes), known, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
