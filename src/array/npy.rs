//! The header of `.npy`: type and memory layout of the elements.
//!
//! `npyz` reads the Python literal in it. What NumPy accepts and `npyz` does not is rewritten first: `4L` of Python 2,
//! `np.int64(4)` of scripts that print a shape of NumPy 2, and `=` for this machine's byte order.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};

use super::{Array, ElementType, Layout};
use crate::format;

const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy refuses longer headers too, since parsing them takes much memory (`numpy.lib.format`, `max_header_size`).
const LONGEST: usize = 10_000;

/// Brackets within brackets that a header may have; a type of fields in fields needs six.
const DEEPEST: usize = 16;

/// Opens the array at `path`.
///
/// # Errors
/// What the file is instead, what in the header is not understood, and which NumPy call writes a readable file.
pub fn open(path: &Path) -> Result<Array<BufReader<File>>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let mut file = BufReader::with_capacity(1 << 16, file);
    let layout = layout(&mut file)?;
    let start = file.stream_position().map_err(|e| e.to_string())?;
    Array::new(layout, file, size.saturating_sub(start))
}

/// Reads a header; `from` is then at the first byte of the data.
///
/// # Errors
/// As [`open`].
pub fn layout(from: &mut impl Read) -> Result<Layout, String> {
    let header = header(from)?;
    let DType::Plain(element) = header.dtype() else {
        return Err(format!(
            "the elements have fields, {}; save each field as an array of its own: numpy.savez('v.npz', embeddings=x['...'], \
             labels=x['...'])",
            header.dtype().descr()
        ));
    };
    let unsupported = |what: &str, help: &str| Err(format!("the elements are {what} ({element}); {help}"));
    let size = usize::try_from(element.size_field()).map_err(|e| e.to_string())?;
    let kind = match (element.type_char(), size) {
        (TypeChar::Bool, _) => ElementType::Bool,
        (TypeChar::Int, 1) => ElementType::I8,
        (TypeChar::Int, 2) => ElementType::I16,
        (TypeChar::Int, 4) => ElementType::I32,
        (TypeChar::Int, 8) => ElementType::I64,
        (TypeChar::Uint, 1) => ElementType::U8,
        (TypeChar::Uint, 2) => ElementType::U16,
        (TypeChar::Uint, 4) => ElementType::U32,
        (TypeChar::Uint, 8) => ElementType::U64,
        (TypeChar::Float, 2) => ElementType::F16,
        (TypeChar::Float, 4) => ElementType::F32,
        (TypeChar::Float, 8) => ElementType::F64,
        (TypeChar::UnicodeStr, _) => ElementType::Text(size),
        (TypeChar::ByteStr, _) => ElementType::Bytes(size),
        (TypeChar::Float, _) => {
            return unsupported("long doubles, which differ from machine to machine", "save x.astype('float64')");
        }
        (TypeChar::Object, _) => {
            return unsupported(
                "Python objects",
                "save vectors as numpy.stack(x).astype('float32'), labels as x.astype(str)",
            );
        }
        (TypeChar::Complex, _) => return unsupported("complex numbers", "save their x.real or abs(x)"),
        (TypeChar::RawData, 2) => {
            return unsupported("of two raw bytes, as bfloat16 is saved", "save x.astype('float32')");
        }
        _ => {
            return unsupported(
                "no numbers and no text",
                "save numbers as x.astype('float32'), labels as x.astype(str)",
            );
        }
    };
    let shape: Option<Vec<usize>> = header.shape().iter().map(|&length| usize::try_from(length).ok()).collect();
    Ok(Layout {
        kind,
        big_endian: element.endianness() == Endianness::Big,
        fortran: header.order() == Order::Fortran,
        shape: shape.ok_or_else(|| format!("the shape {:?} is larger than memory", header.shape()))?,
    })
}

fn header(from: &mut impl Read) -> Result<NpyHeader, String> {
    let mut start = Vec::new();
    from.by_ref().take(8).read_to_end(&mut start).map_err(|e| e.to_string())?;
    if !start.starts_with(MAGIC) || start.len() < 8 {
        from.by_ref().take(504).read_to_end(&mut start).map_err(|e| e.to_string())?;
        return Err(match format::recognise(&start) {
            Some(format::Known::Zip) => {
                "it is a zip archive, not an .npy array; what numpy.savez writes is to be named .npz".to_owned()
            }
            Some(format::Known::Npy) | None => {
                "it does not begin as an .npy array does; write it with numpy.save".to_owned()
            }
            Some(known) => format!("it is {known}, not an .npy array{}", known.advice()),
        });
    }
    let bytes_of_length = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => {
            return Err(format!("its header is of version {version}, expected 1 to 3; write it with numpy.save"));
        }
    };
    let short = |_| "it ends within its header; it was cut short: write it again".to_owned();
    let mut length = [0; 4];
    from.read_exact(&mut length[..bytes_of_length]).map_err(short)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(format!("its header has {length} bytes, expected at most {LONGEST}; write it with numpy.save"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text).map_err(short)?;
    // Versions 1 and 2 are in Latin-1, which only names of fields can show.
    let text =
        String::from_utf8(text).unwrap_or_else(|e| e.into_bytes().iter().map(|&byte| char::from(byte)).collect());
    let text = plain(&text)?;
    let mut whole = [MAGIC, &[3, 0]].concat();
    whole.extend((text.len() as u32).to_le_bytes());
    whole.extend(text.as_bytes());
    NpyHeader::from_reader(Cursor::new(whole))
        .map_err(|e| format!("its header {:?} is not understood: {e}; write it with numpy.save", text.trim_end()))
}

/// The literal without what only Python understands: suffixes and calls around integers, and native byte order.
fn plain(text: &str) -> Result<String, String> {
    let (mut out, mut rest, mut depth, mut calls) = (String::new(), text, 0, Vec::new());
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match first {
            '\'' | '"' => {
                taken += rest[1..]
                    .find(first)
                    .ok_or_else(|| format!("its header {text:?} has a quote that is not closed"))?
                    + 1;
                let inner = &rest[1..taken - 1];
                out.push(first);
                match inner.strip_prefix('=') {
                    Some(native) => out.extend([if cfg!(target_endian = "big") { ">" } else { "<" }, native]),
                    None => out.push_str(inner),
                }
                out.push(first);
            }
            '(' | '[' | '{' => {
                depth += 1;
                if depth > DEEPEST {
                    return Err(format!("its header has more than {DEEPEST} brackets within brackets"));
                }
                out.push(first);
            }
            ')' if calls.last() == Some(&depth) => {
                calls.pop();
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                out.push(first);
            }
            '0'..='9' => {
                taken = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                out.push_str(&rest[..taken]);
                taken += usize::from(rest[taken..].starts_with('L'));
            }
            'a'..='z' | 'A'..='Z' => {
                taken = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._".contains(c))).unwrap_or(rest.len());
                let word = &rest[..taken];
                let integer =
                    word.rsplit('.').next().is_some_and(|name| name.starts_with("int") || name.starts_with("uint"));
                if integer && rest[taken..].starts_with('(') {
                    taken += 1;
                    calls.push(depth);
                } else {
                    out.push_str(word);
                }
            }
            _ => out.push(first),
        }
        rest = &rest[taken..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_python_understands_is_made_plain() {
        for (text, expected) in [
            ("{'descr': '=f4', 'shape': (4L, 2L)}\n", "{'descr': '<f4', 'shape': (4, 2)}\n"),
            ("{'shape': (np.int64(4), numpy.uint8(2),)}", "{'shape': (4, 2,)}"),
            (
                "{'descr': [('int64(4L)', '<f4')], 'fortran_order': False}",
                "{'descr': [('int64(4L)', '<f4')], 'fortran_order': False}",
            ),
        ] {
            assert_eq!(plain(text).as_deref(), Ok(expected));
        }
        assert!(plain("{'descr").unwrap_err().contains("not closed"));
        assert!(plain(&"(".repeat(9_000)).unwrap_err().contains("brackets within brackets"));
    }
}
