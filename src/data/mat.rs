//! Files of MATLAB 5 (`.mat`, "Level 5 MAT-File Format"), as far as annotations of data sets need them: structs, cells,
//! text and real numbers, compressed or not, of either byte order. And the writing of such files, for miniature sets.
//!
//! Files are not trusted: lengths are checked against what is there, nesting and unpacked bytes are
//! bounded.

mod write;

use std::io::Read;

use flate2::read::ZlibDecoder;

pub(super) use self::write::write;

/// The most bytes that the compressed elements of one file may unpack to. Cars-196's annotations take some 15 MB.
const MOST_BYTES: u64 = 1 << 28;
/// Arrays within arrays.
const DEEPEST: usize = 16;

/// The value of a variable.
#[derive(Debug, Clone, PartialEq)]
pub enum MatValue {
    /// Real numbers in the order of the file (column by column).
    Numbers(Vec<f64>),
    /// A char array of one row, or of none.
    Text(String),
    /// A cell array in the order of the file.
    Cells(Vec<MatValue>),
    /// A struct array: each field with its values, one per element.
    Struct(Vec<(String, Vec<MatValue>)>),
    /// Anything else: complex or sparse numbers, objects, functions, text of several rows.
    Other,
}

impl MatValue {
    /// Its text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            MatValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            MatValue::Numbers(numbers) if numbers.len() == 1 => Some(numbers[0]),
            _ => None,
        }
    }
}

/// A file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatError {
    /// Another format.
    #[error("it is not a MATLAB 5 file: {0}; save it with `save -v7` or scipy.io.savemat")]
    Format(&'static str),
    /// A length beyond what is there.
    #[error("at byte {at} of {place}: {what}; fetch the file again")]
    Damaged { place: &'static str, at: usize, what: String },
    /// Nested or compressed beyond the limits.
    #[error("{0}: the file is not an annotation list")]
    TooLarge(&'static str),
}

/// Types of data elements.
const COMPRESSED: u32 = 15;
const MATRIX: u32 = 14;

/// The variables of a file, in its order.
pub fn read(file: &[u8]) -> Result<Vec<(String, MatValue)>, MatError> {
    let Some((head, body)) = file.split_at_checked(128) else {
        return Err(MatError::Format("it has fewer than the 128 bytes of a header"));
    };
    let big_endian = match &head[126..128] {
        b"IM" => false,
        b"MI" => true,
        _ => return Err(MatError::Format("bytes 126 and 127 are neither IM nor MI")),
    };
    let version = if big_endian { head[124] } else { head[125] };
    if version != 1 {
        return Err(MatError::Format("its version is not 1 (version 7.3 is HDF5)"));
    }
    let mut variables = Vec::new();
    let mut reader = Reader { bytes: body, at: 0, big_endian, place: "the body" };
    let mut room = MOST_BYTES;
    while !reader.rest().is_empty() {
        let (kind, data) = reader.element()?;
        let unpacked;
        let mut inner = match kind {
            MATRIX => Reader { bytes: data, at: 0, place: "a variable", ..reader },
            COMPRESSED => {
                unpacked = inflate(data, &mut room).map_err(|what| reader.damaged(what))?;
                let mut inner = Reader { bytes: &unpacked, at: 0, place: "an unpacked variable", ..reader };
                let (kind, data) = inner.element()?;
                if kind != MATRIX {
                    continue;
                }
                Reader { bytes: data, at: 0, ..inner }
            }
            _ => continue,
        };
        if let (Some(name), value) = inner.array(0)? {
            variables.push((name, value));
        }
    }
    Ok(variables)
}

/// Unpacks zlib data within the limit that is left in `room`.
fn inflate(data: &[u8], room: &mut u64) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    ZlibDecoder::new(data).take(*room + 1).read_to_end(&mut unpacked).map_err(|e| e.to_string())?;
    *room = room
        .checked_sub(unpacked.len() as u64)
        .ok_or_else(|| format!("more than {MOST_BYTES} bytes in the compressed elements"))?;
    Ok(unpacked)
}

/// Classes of arrays.
mod class {
    pub const CELL: u8 = 1;
    pub const STRUCT: u8 = 2;
    pub const CHAR: u8 = 4;
    pub const DOUBLE: u8 = 6;
    pub const UINT64: u8 = 15;
}

/// Reads elements out of bytes.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
    /// What `at` counts in.
    place: &'static str,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn damaged(&self, what: String) -> MatError {
        MatError::Damaged { place: self.place, at: self.at, what }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], MatError> {
        let there = self.rest();
        let taken = there.get(..count).ok_or_else(|| {
            self.damaged(format!("an element of {count} bytes goes beyond the end, {} bytes on", there.len()))
        })?;
        self.at += count;
        Ok(taken)
    }

    fn word(&self, bytes: &[u8]) -> u32 {
        let word = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    /// The type and data of the next element, which ends on a multiple of eight bytes.
    fn element(&mut self) -> Result<(u32, &'a [u8]), MatError> {
        let tag = self.take(4)?;
        let tag = self.word(tag);
        // A small element has its length in the upper half of its type, and its data in the four bytes behind.
        if tag >> 16 != 0 {
            let count = (tag >> 16) as usize;
            if count > 4 {
                return Err(self.damaged(format!("a small element of {count} bytes, expected at most 4")));
            }
            return Ok((tag & 0xffff, &self.take(4)?[..count]));
        }
        let count = self.take(4)?;
        let count = self.word(count) as usize;
        let data = self.take(count)?;
        // Compressed elements are not padded; the last element need not be.
        if tag != COMPRESSED {
            self.at = self.at.next_multiple_of(8).min(self.bytes.len());
        }
        Ok((tag, data))
    }

    /// The name and value of an array, whose element this reader spans; no name if the array is empty.
    fn array(&mut self, depth: usize) -> Result<(Option<String>, MatValue), MatError> {
        if depth > DEEPEST {
            return Err(MatError::TooLarge("arrays are nested more than 16 deep"));
        }
        if self.rest().is_empty() {
            return Ok((None, MatValue::Numbers(Vec::new())));
        }
        let (_, flags) = self.element()?;
        if flags.len() < 8 {
            return Err(self.damaged("the flags of an array have fewer than 8 bytes".to_owned()));
        }
        let flags = self.word(flags);
        let (class, complex) = (flags as u8, flags & 0x0800 != 0);
        let (_, dimensions) = self.element()?;
        let count = dimensions.chunks_exact(4).map(|n| self.word(n) as usize).try_fold(1usize, usize::checked_mul);
        let rows = dimensions.chunks_exact(4).next().map_or(0, |n| self.word(n));
        let count = count.ok_or_else(|| self.damaged("the dimensions of an array are too large".to_owned()))?;
        let (_, name) = self.element()?;
        let name = String::from_utf8_lossy(name).into_owned();
        let value = match class {
            class::CELL => MatValue::Cells(self.arrays(count, depth)?),
            class::STRUCT => self.structure(count, depth)?,
            class::CHAR if rows <= 1 => self.text()?,
            class::DOUBLE..=class::UINT64 if !complex => self.numbers(count)?,
            _ => MatValue::Other,
        };
        Ok((Some(name), value))
    }

    /// The next `count` arrays.
    fn arrays(&mut self, count: usize, depth: usize) -> Result<Vec<MatValue>, MatError> {
        self.must_hold(count)?;
        (0..count).map(|_| self.inner_array(depth)).collect()
    }

    fn inner_array(&mut self, depth: usize) -> Result<MatValue, MatError> {
        let (kind, data) = self.element()?;
        if kind != MATRIX {
            return Err(self.damaged(format!("an element of type {kind} where an array is expected")));
        }
        Ok(Reader { bytes: data, at: 0, place: "an array", ..*self }.array(depth + 1)?.1)
    }

    /// Memory is allocated only for arrays that can exist: each has a tag of eight bytes.
    fn must_hold(&self, count: usize) -> Result<(), MatError> {
        if count > self.rest().len() / 8 {
            return Err(self.damaged(format!("{count} arrays are announced, {} bytes follow", self.rest().len())));
        }
        Ok(())
    }

    /// The fields of `count` elements: all fields of the first, then of the second.
    fn structure(&mut self, count: usize, depth: usize) -> Result<MatValue, MatError> {
        let (_, width) = self.element()?;
        let width = if width.len() == 4 { self.word(width) as usize } else { 0 };
        let (_, names) = self.element()?;
        if width == 0 || names.len() % width != 0 {
            return Err(self.damaged(format!("{} bytes of field names, {width} bytes each", names.len())));
        }
        let name =
            |name: &[u8]| String::from_utf8_lossy(name.split(|&b| b == 0).next().unwrap_or_default()).into_owned();
        let mut fields: Vec<(String, Vec<MatValue>)> = names.chunks(width).map(|n| (name(n), Vec::new())).collect();
        self.must_hold(count.saturating_mul(fields.len()))?;
        if !fields.is_empty() {
            for _ in 0..count {
                for (_, values) in &mut fields {
                    values.push(self.inner_array(depth)?);
                }
            }
        }
        Ok(MatValue::Struct(fields))
    }

    fn text(&mut self) -> Result<MatValue, MatError> {
        // The data of an empty text may be left out.
        if self.rest().is_empty() {
            return Ok(MatValue::Text(String::new()));
        }
        let (kind, data) = self.element()?;
        let text = match kind {
            // UTF-8, or single bytes of ASCII.
            1 | 2 | 16 => String::from_utf8_lossy(data).into_owned(),
            // UTF-16, in which MATLAB keeps its characters.
            3 | 4 | 17 => {
                let units = data.chunks_exact(2).map(|unit| {
                    let unit = [unit[0], unit[1]];
                    if self.big_endian { u16::from_be_bytes(unit) } else { u16::from_le_bytes(unit) }
                });
                char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
            }
            5 | 6 | 18 => {
                let code = |unit: &[u8]| char::from_u32(self.word(unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
                data.chunks_exact(4).map(code).collect()
            }
            other => return Err(self.damaged(format!("text of element type {other}"))),
        };
        Ok(MatValue::Text(text))
    }

    /// `count` numbers, of any type that the file stores them in.
    fn numbers(&mut self, count: usize) -> Result<MatValue, MatError> {
        let (kind, data) = if self.rest().is_empty() { (9, &[][..]) } else { self.element()? };
        macro_rules! all {
            ($number:ty) => {
                data.chunks_exact(size_of::<$number>())
                    .map(|bytes| {
                        let mut number = [0; size_of::<$number>()];
                        number.copy_from_slice(bytes);
                        if self.big_endian {
                            <$number>::from_be_bytes(number) as f64
                        } else {
                            <$number>::from_le_bytes(number) as f64
                        }
                    })
                    .collect::<Vec<f64>>()
            };
        }
        let numbers = match kind {
            1 => all!(i8),
            2 => all!(u8),
            3 => all!(i16),
            4 => all!(u16),
            5 => all!(i32),
            6 => all!(u32),
            7 => all!(f32),
            9 => all!(f64),
            12 => all!(i64),
            13 => all!(u64),
            other => return Err(self.damaged(format!("numbers of element type {other}"))),
        };
        if numbers.len() != count {
            return Err(self.damaged(format!("{} numbers, the dimensions say {count}", numbers.len())));
        }
        Ok(MatValue::Numbers(numbers))
    }
}

#[cfg(test)]
mod tests;
