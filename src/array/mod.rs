//! Arrays in the files of other tools: their element types, and their conversion to vectors or labels.
//!
//! | module | holds |
//! | --- | --- |
//! | here | element types, byte orders, shapes; an array with its bytes |
//! | [`npy`] | the header of `.npy`, as every version of NumPy has written it |
//! | [`npz`] | the `.npy` files in an archive of `numpy.savez` |
//!
//! Numbers are read exactly: half-precision floats widen exactly, and only integers beyond 2^53 are rounded. An array
//! that is not numeric or not a matrix is refused with the NumPy call that converts it.

pub mod npy;
pub mod npz;

use std::io::{ErrorKind, Read};

use half::{bf16, f16};

/// Numbers in the narrower of the two widths that holds them exactly.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32 bits.
    F32(Vec<f32>),
    /// 64 bits.
    F64(Vec<f64>),
}

impl Values {
    /// The same numbers in 64 bits.
    pub fn wide(self) -> Vec<f64> {
        match self {
            Values::F32(values) => values.into_iter().map(f64::from).collect(),
            Values::F64(values) => values,
        }
    }
}

/// Numbers in rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// `rows x dim`, row-major.
    pub values: Values,
    /// Number of rows.
    pub rows: usize,
    /// Length of one.
    pub dim: usize,
}

/// The type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    /// The upper half of an `F32`.
    Bf16,
    F32,
    F64,
    /// This many 32-bit code points, padded with zeros at the end.
    Text(usize),
    /// This many bytes, padded with zeros at the end.
    Bytes(usize),
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> Option<usize> {
        Some(match self {
            ElementType::Bool | ElementType::I8 | ElementType::U8 => 1,
            ElementType::I16 | ElementType::U16 | ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::I32 | ElementType::U32 | ElementType::F32 => 4,
            ElementType::I64 | ElementType::U64 | ElementType::F64 => 8,
            ElementType::Text(length) => length.checked_mul(4)?,
            ElementType::Bytes(length) => length,
        })
    }

    /// Whether its elements are numbers, as those of vectors are.
    pub fn is_number(self) -> bool {
        !matches!(self, ElementType::Text(_) | ElementType::Bytes(_))
    }

    /// Whether its elements are what labels are usually made of: no fractions.
    pub fn is_discrete(self) -> bool {
        !matches!(self, ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64)
    }
}

/// The memory layout of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub kind: ElementType,
    /// Whether elements are big-endian.
    pub big_endian: bool,
    /// Whether the first axis varies fastest (column-major).
    pub fortran: bool,
    pub shape: Vec<usize>,
}

impl Layout {
    /// Row-major and little-endian, as most files are.
    pub fn plain(kind: ElementType, shape: &[usize]) -> Self {
        Layout { kind, big_endian: false, fortran: false, shape: shape.to_vec() }
    }

    /// Elements, if they can be counted.
    fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1_usize, |product, &length| product.checked_mul(length))
    }
}

/// An array whose bytes come from `data`.
#[derive(Debug)]
pub struct Array<R> {
    pub layout: Layout,
    data: R,
}

impl<R: Read> Array<R> {
    /// An array in the first of `available` bytes of `data`. No memory is allocated for more than that.
    ///
    /// # Errors
    /// There are fewer bytes than the shape asks for.
    pub fn new(layout: Layout, data: R, available: u64) -> Result<Self, String> {
        let bytes = layout.kind.size().and_then(|size| layout.count()?.checked_mul(size));
        match bytes {
            Some(bytes) if bytes as u64 <= available => Ok(Array { layout, data }),
            _ => Err(format!(
                "it has {available} bytes of data, fewer than an array of shape {:?} needs; it was cut short, or its header \
                 is wrong: write it again",
                layout.shape
            )),
        }
    }

    /// The array as vectors, one per row.
    ///
    /// # Errors
    /// It is not 2-d, empty, or not of numbers; its bytes cannot be read.
    pub fn matrix(self) -> Result<Matrix, String> {
        let shape = &self.layout.shape;
        let (rows, dim) = match **shape {
            [rows, dim] if rows > 0 && dim > 0 => (rows, dim),
            _ => {
                return Err(format!(
                    "the shape is {shape:?}, expected 2-d and not empty: a row a vector{}",
                    reshape(shape)
                ));
            }
        };
        let fortran = self.layout.fortran;
        let values = match self.numbers()? {
            Values::F32(values) if fortran => Values::F32(transposed(&values, rows)),
            Values::F64(values) if fortran => Values::F64(transposed(&values, rows)),
            values => values,
        };
        Ok(Matrix { values, rows, dim })
    }

    /// The array as labels: integers, texts, truth values, or numbers that are whole, by their text.
    ///
    /// # Errors
    /// It is neither 1-d nor of one column; an element is not a label, by its row; its bytes cannot be read.
    pub fn labels(mut self) -> Result<Vec<String>, String> {
        match *self.layout.shape {
            [_] | [_, 1] => {}
            ref shape => {
                let help = match shape {
                    [1, _] => " (numpy.ravel)",
                    [_, _] => " (of one column a class, numpy.argmax(x, axis=1) gives it)",
                    _ => "",
                };
                return Err(format!("the shape is {shape:?}, expected 1-d: a label a vector{help}"));
            }
        }
        macro_rules! decimal {
            ($integer:ty) => {
                Ok(self.elements(<$integer>::from_le_bytes)?.into_iter().map(|x| x.to_string()).collect())
            };
        }
        match self.layout.kind {
            ElementType::Bool => Ok(self.elements(|[byte]| (byte != 0).to_string())?),
            ElementType::I8 => decimal!(i8),
            ElementType::I16 => decimal!(i16),
            ElementType::I32 => decimal!(i32),
            ElementType::I64 => decimal!(i64),
            ElementType::U8 => decimal!(u8),
            ElementType::U16 => decimal!(u16),
            ElementType::U32 => decimal!(u32),
            ElementType::U64 => decimal!(u64),
            ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => {
                let numbers = self.numbers()?.wide().into_iter().enumerate();
                numbers.map(|(row, number)| whole(number).map_err(|what| format!("row {row} {what}"))).collect()
            }
            ElementType::Text(length) => self.texts(4 * length, |bytes, big| {
                let units = bytes.as_chunks().0.iter();
                let unit = |bytes: &[u8; 4]| if big { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) };
                units.map(unit).map(char::from_u32).collect::<Option<String>>()
            }),
            ElementType::Bytes(length) => self.texts(length, |bytes, _| String::from_utf8(bytes.to_vec()).ok()),
        }
    }

    /// All elements in the order of the bytes.
    fn numbers(mut self) -> Result<Values, String> {
        Ok(match self.layout.kind {
            ElementType::Bool => Values::F32(self.elements(|[byte]| f32::from(u8::from(byte != 0)))?),
            ElementType::I8 => Values::F32(self.elements(|bytes| f32::from(i8::from_le_bytes(bytes)))?),
            ElementType::U8 => Values::F32(self.elements(|[byte]| f32::from(byte))?),
            ElementType::I16 => Values::F32(self.elements(|bytes| f32::from(i16::from_le_bytes(bytes)))?),
            ElementType::U16 => Values::F32(self.elements(|bytes| f32::from(u16::from_le_bytes(bytes)))?),
            ElementType::F16 => Values::F32(self.elements(|bytes| f16::from_le_bytes(bytes).to_f32())?),
            ElementType::Bf16 => Values::F32(self.elements(|bytes| bf16::from_le_bytes(bytes).to_f32())?),
            ElementType::F32 => Values::F32(self.elements(f32::from_le_bytes)?),
            ElementType::F64 => Values::F64(self.elements(f64::from_le_bytes)?),
            ElementType::I32 => Values::F64(self.elements(|bytes| f64::from(i32::from_le_bytes(bytes)))?),
            ElementType::U32 => Values::F64(self.elements(|bytes| f64::from(u32::from_le_bytes(bytes)))?),
            ElementType::I64 => Values::F64(self.elements(|bytes| i64::from_le_bytes(bytes) as f64)?),
            ElementType::U64 => Values::F64(self.elements(|bytes| u64::from_le_bytes(bytes) as f64)?),
            ElementType::Text(_) | ElementType::Bytes(_) => {
                return Err("the elements are text, expected numbers (numpy.ndarray.astype('float32'))".to_owned());
            }
        })
    }

    /// All elements of `N` bytes each, lowest byte first.
    fn elements<const N: usize, T>(&mut self, element: impl Fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        let count = self.layout.count().unwrap_or(0);
        let mut elements = Vec::with_capacity(count);
        let mut piece = vec![0; N * PIECE.min(count)];
        while elements.len() < count {
            let bytes = &mut piece[..N * PIECE.min(count - elements.len())];
            fill(&mut self.data, bytes)?;
            let chunks = bytes.as_chunks().0.iter();
            if self.layout.big_endian {
                elements.extend(chunks.map(|&(mut bytes)| {
                    bytes.reverse();
                    element(bytes)
                }));
            } else {
                elements.extend(chunks.map(|&bytes| element(bytes)));
            }
        }
        Ok(elements)
    }

    /// All texts of `size` bytes each, less the zeros at their ends.
    fn texts(&mut self, size: usize, text: impl Fn(&[u8], bool) -> Option<String>) -> Result<Vec<String>, String> {
        let mut bytes = vec![0; size];
        let mut texts = Vec::new();
        for row in 0..self.layout.count().unwrap_or(0) {
            fill(&mut self.data, &mut bytes)?;
            let found = text(&bytes, self.layout.big_endian).ok_or_else(|| format!("row {row} is no UTF-8 text"))?;
            match found.trim_end_matches('\0') {
                "" => return Err(format!("row {row} is an empty text, expected a label")),
                found => texts.push(found.to_owned()),
            }
        }
        Ok(texts)
    }
}

/// Elements decoded at a time.
const PIECE: usize = 1 << 14;

fn fill(data: &mut impl Read, bytes: &mut [u8]) -> Result<(), String> {
    data.read_exact(bytes).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => "it ends before its last element; it was cut short: write it again".to_owned(),
        _ => e.to_string(),
    })
}

/// Row-major from column-major.
fn transposed<T: Copy>(columns: &[T], rows: usize) -> Vec<T> {
    (0..rows).flat_map(|row| columns[row..].iter().step_by(rows).copied()).collect()
}

/// The decimal digits of a number that is an integer.
///
/// # Errors
/// What it is instead, to come after the name of its row.
pub fn whole(number: f64) -> Result<String, String> {
    match number {
        _ if number.is_nan() => Err("is not a number (NaN): a label is missing".to_owned()),
        // From 2^63 on the digits would be more than the number has.
        _ if number.fract() == 0.0 && number.abs() < 2.0_f64.powi(63) => Ok((number as i64).to_string()),
        _ => Err(format!("is {number}, expected an integer or a text as a label")),
    }
}

/// How to reshape an array of another shape into rows.
fn reshape(shape: &[usize]) -> &'static str {
    match shape {
        [] | [_] | [_, _] => "",
        _ if shape.iter().filter(|&&length| length != 1).count() <= 2 => " (numpy.squeeze)",
        _ => " (x.reshape(len(x), -1) makes one of all axes but the first)",
    }
}

#[cfg(test)]
pub(crate) mod tests;
