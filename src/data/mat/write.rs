//! Writing MATLAB 5 files, little-endian, each variable compressed, as MATLAB and SciPy do.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::{COMPRESSED, MATRIX, MatValue, class};

/// The bytes of a file with `variables`. Numbers become 1 x N arrays of doubles, struct and cell arrays 1 x N.
pub(in crate::data) fn write(variables: &[(&str, MatValue)]) -> std::io::Result<Vec<u8>> {
    let mut file = b"MATLAB 5.0 MAT-file".to_vec();
    file.resize(124, b' ');
    file.extend([0x00, 0x01, b'I', b'M']);
    for (name, value) in variables {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&array(name, value))?;
        let packed = packed.finish()?;
        file.extend(COMPRESSED.to_le_bytes());
        file.extend((packed.len() as u32).to_le_bytes());
        file.extend(packed);
    }
    Ok(file)
}

/// An element with its tag, padded.
fn element(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    if (1..=4).contains(&data.len()) {
        bytes.extend((kind | (data.len() as u32) << 16).to_le_bytes());
    } else {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((data.len() as u32).to_le_bytes());
    }
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn array(name: &str, value: &MatValue) -> Vec<u8> {
    let (class, columns, data) = match value {
        MatValue::Numbers(numbers) => {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            (class::DOUBLE, numbers.len(), element(9, &bytes))
        }
        MatValue::Text(text) => {
            let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            (class::CHAR, units.len() / 2, element(4, &units))
        }
        MatValue::Cells(cells) => (class::CELL, cells.len(), cells.iter().flat_map(|cell| array("", cell)).collect()),
        MatValue::Struct(fields) => {
            let count = fields.first().map_or(0, |(_, values)| values.len());
            let names: Vec<u8> = fields.iter().flat_map(|(name, _)| field_name(name)).collect();
            let mut data = element(5, &(FIELD_NAME as u32).to_le_bytes());
            data.extend(element(1, &names));
            for i in 0..count {
                data.extend(fields.iter().flat_map(|(_, values)| array("", &values[i])));
            }
            (class::STRUCT, count, data)
        }
        MatValue::Other => (class::DOUBLE, 0, element(9, &[])),
    };
    let mut body = element(6, &[class, 0, 0, 0, 0, 0, 0, 0]);
    body.extend(element(5, &[1i32.to_le_bytes(), (columns as i32).to_le_bytes()].concat()));
    body.extend(element(1, name.as_bytes()));
    body.extend(data);
    // An array's element always has a long tag.
    let mut bytes = [MATRIX.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    bytes.extend(body);
    bytes
}

/// Bytes of a field's name, its zero included.
const FIELD_NAME: usize = 32;

fn field_name(name: &str) -> [u8; FIELD_NAME] {
    let mut bytes = [0; FIELD_NAME];
    bytes.iter_mut().zip(name.bytes().take(FIELD_NAME - 1)).for_each(|(to, byte)| *to = byte);
    bytes
}
