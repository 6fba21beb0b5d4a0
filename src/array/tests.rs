use std::io::Cursor;
use std::path::Path;

use npyz::WriterBuilder;

use super::npy;
use super::*;

/// The bytes of an `.npy` file with this header.
fn raw(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = [b"\x93NUMPY", &[version, 0][..]].concat();
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    [bytes, header.as_bytes().to_vec(), data.to_vec()].concat()
}

fn of(bytes: &[u8]) -> Result<Array<Cursor<&[u8]>>, String> {
    let mut data = Cursor::new(bytes);
    let layout = npy::layout(&mut data)?;
    let left = bytes.len() as u64 - data.position();
    Array::new(layout, data, left)
}

fn header(descr: &str, fortran: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}")
}

fn matrix(bytes: &[u8]) -> Result<Matrix, String> {
    of(bytes)?.matrix()
}

fn narrow(values: &[f32]) -> Values {
    Values::F32(values.to_vec())
}

const VALUES: [f64; 6] = [1.0, 2.5, -3.0, 4.0, 5.0, 6.0];

fn bytes<T: Copy, const N: usize>(values: &[T], of: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| of(value)).collect()
}

#[test]
fn numbers_of_every_type_and_both_byte_orders_keep_their_values() {
    let singles = VALUES.map(|x| x as f32);
    let whole = [1.0_f32, 0.0, 2.0, 3.0, 100.0, 7.0];
    let read = |descr: &str, data: &[u8]| matrix(&raw(1, &header(descr, "False", "(3, 2)"), data)).unwrap().values;
    assert_eq!(read("<f4", &bytes(&singles, f32::to_le_bytes)), narrow(&singles));
    assert_eq!(read(">f4", &bytes(&singles, f32::to_be_bytes)), narrow(&singles));
    assert_eq!(read("<f8", &bytes(&VALUES, f64::to_le_bytes)), Values::F64(VALUES.to_vec()));
    assert_eq!(read(">f8", &bytes(&VALUES, f64::to_be_bytes)), Values::F64(VALUES.to_vec()));
    let halves = singles.map(f16::from_f32);
    assert_eq!(read("<f2", &bytes(&halves, f16::to_le_bytes)), narrow(&singles));
    assert_eq!(read(">f2", &bytes(&halves, f16::to_be_bytes)), narrow(&singles));
    assert_eq!(read("|i1", &whole.map(|x| x as u8)), narrow(&whole));
    assert_eq!(read("|u1", &whole.map(|x| x as u8)), narrow(&whole));
    assert_eq!(read("<i2", &bytes(&whole.map(|x| x as i16), i16::to_le_bytes)), narrow(&whole));
    assert_eq!(read(">u2", &bytes(&whole.map(|x| x as u16), u16::to_be_bytes)), narrow(&whole));
    let wide = Values::F64(whole.map(f64::from).to_vec());
    assert_eq!(read(">i4", &bytes(&whole.map(|x| x as i32), i32::to_be_bytes)), wide);
    assert_eq!(read("<u4", &bytes(&whole.map(|x| x as u32), u32::to_le_bytes)), wide);
    assert_eq!(read("<i8", &bytes(&whole.map(|x| x as i64), i64::to_le_bytes)), wide);
    assert_eq!(read("<u8", &bytes(&whole.map(|x| x as u64), u64::to_le_bytes)), wide);
    assert_eq!(read("|b1", &[1, 0, 0, 1, 1, 1]), narrow(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
}

#[test]
fn fortran_order_is_turned_into_rows() {
    let columns = [1.0_f32, -3.0, 5.0, 2.5, 4.0, 6.0];
    let found = matrix(&raw(1, &header("<f4", "True", "(3, 2)"), &bytes(&columns, f32::to_le_bytes))).unwrap();
    assert_eq!(found, Matrix { values: narrow(&VALUES.map(|x| x as f32)), rows: 3, dim: 2 });
}

#[test]
fn headers_of_every_version_and_every_writer_are_understood() {
    let data = bytes(&VALUES.map(|x| x as f32), f32::to_le_bytes);
    let plain = header("<f4", "False", "(3, 2)");
    for (version, text) in [
        (1, plain.as_str()),
        (2, &plain),
        (3, &plain),
        (1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 2L), }   \n"),
        (1, "{'descr': '<f4', 'fortran_order': False, 'shape': (np.int64(3), np.int64(2)), }"),
        (1, "{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (3, 2)}"),
        (1, "{'shape':(3,2),'fortran_order':False,'descr':'=f4'}"),
    ] {
        let found = matrix(&raw(version, text, &data));
        assert_eq!(found.map(|found| (found.rows, found.dim)), Ok((3, 2)), "{text}");
    }
}

#[test]
fn what_is_no_matrix_of_numbers_is_refused_with_what_helps() {
    let data = [0; 200];
    for (text, part) in [
        (header("<f4", "False", "(8,)"), "the shape is [8], expected 2-d"),
        (header("<f4", "False", "(4, 2, 1, 1)"), "(numpy.squeeze)"),
        (header("<f4", "False", "(4, 2, 3)"), "x.reshape(len(x), -1)"),
        (header("<f4", "False", "(0, 2)"), "not empty"),
        (header("<f4", "False", "(4, 0)"), "not empty"),
        (header("<c8", "False", "(4, 2)"), "complex numbers (<c8); save their x.real"),
        (header("<f16", "False", "(4, 2)"), "long doubles"),
        (header("<f12", "False", "(4, 2)"), "is not understood"),
        (header("|O", "False", "(4, 2)"), "Python objects (|O); save vectors as numpy.stack(x)"),
        (header("|V2", "False", "(4, 2)"), "bfloat16"),
        (header("<M8[ns]", "False", "(4, 2)"), "no numbers and no text"),
        (header("<U3", "False", "(4, 2)"), "the elements are text, expected numbers"),
        (header("<f4", "False", "(400000, 2)"), "fewer than an array of shape [400000, 2] needs"),
        (header("<f4", "False", "(18446744073709551615, 2)"), "cut short"),
        (header("<f4", "False", "(-1, 2)"), "is not understood"),
        ("{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (4,)}".to_owned(), "numpy.savez"),
        ("{'descr': '<f4'".to_owned(), "is not understood"),
        ("(".repeat(9000), "brackets within brackets"),
        (" ".repeat(20_000), "its header has 20000 bytes"),
    ] {
        let error = matrix(&raw(2, &text, &data)).unwrap_err();
        assert!(error.contains(part), "{text:.80}: {error}");
    }
    for (bytes, part) in [
        (&b""[..], "it is empty"),
        (b"PK\x03\x04rest of an archive", "numpy.savez writes is to be named .npz"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"1.0,2.0\n3.0,4.0\n", "does not begin as an .npy array does"),
        (b"\x93NUMPY\x01", "does not begin"),
        (b"\x93NUMPY\x09\x00\x10\x00", "version 9"),
        (b"\x93NUMPY\x01\x00\xff\x00{'descr'", "within its header"),
    ] {
        let error = matrix(bytes).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn labels_are_integers_texts_truth_values_and_whole_numbers() {
    let read = |descr: &str, shape: &str, data: &[u8]| of(&raw(1, &header(descr, "False", shape), data))?.labels();
    let text =
        |text: &str| text.chars().chain(['\0'; 3]).take(3).flat_map(|c| (c as u32).to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(read("<U3", "(2,)", &[text("cat"), text("ö")].concat()).unwrap(), ["cat", "ö"]);
    let swapped =
        |text: &str| text.chars().chain(['\0'; 3]).take(3).flat_map(|c| (c as u32).to_be_bytes()).collect::<Vec<u8>>();
    assert_eq!(read(">U3", "(1,)", &swapped("dog")).unwrap(), ["dog"]);
    assert_eq!(read("|S3", "(2,)", b"catto\0").unwrap(), ["cat", "to"]);
    assert_eq!(read("|b1", "(2,)", &[0, 1]).unwrap(), ["false", "true"]);
    assert_eq!(read("<f8", "(2, 1)", &bytes(&[3.0, -0.0], f64::to_le_bytes)).unwrap(), ["3", "0"]);
    assert_eq!(read(">i8", "(1,)", &i64::MIN.to_be_bytes()).unwrap(), [i64::MIN.to_string()]);
    assert_eq!(read("<u8", "(1,)", &u64::MAX.to_le_bytes()).unwrap(), [u64::MAX.to_string()]);
    let float = |value: f64| read("<f8", "(2,)", &bytes(&[1.0, value], f64::to_le_bytes)).unwrap_err();
    assert!(float(f64::NAN).contains("row 1 is not a number (NaN): a label is missing"));
    assert!(float(0.5).contains("row 1 is 0.5"));
    assert!(float(f64::INFINITY).contains("row 1 is inf"));
    assert!(float(1e300).contains("row 1 is 1"));
    assert!(read("<U3", "(2,)", &[text("cat"), text("")].concat()).unwrap_err().contains("row 1 is an empty text"));
    assert!(read("|S2", "(1,)", b"\xff\xfe").unwrap_err().contains("row 0 is no UTF-8 text"));
    assert!(read("<i8", "(2, 2)", &[0; 32]).unwrap_err().contains("numpy.argmax"));
    assert!(read("<i8", "(1, 2)", &[0; 16]).unwrap_err().contains("numpy.ravel"));
    assert!(read("<i8", "()", &[0; 8]).unwrap_err().contains("the shape is [], expected 1-d"));
}

#[test]
fn bytes_after_an_array_are_not_of_it_and_a_shorter_reader_is_noticed() {
    let data = bytes(&VALUES, f64::to_le_bytes);
    let whole = raw(1, &header("<f8", "False", "(3, 2)"), &[&data[..], b"more"].concat());
    assert_eq!(matrix(&whole).unwrap().values, Values::F64(VALUES.to_vec()));
    // An entry of an archive may claim more than it holds.
    let array = Array::new(Layout::plain(ElementType::F64, &[3, 2]), &data[..40], 48).unwrap();
    assert!(array.matrix().unwrap_err().contains("ends before its last element"));
}

/// Writes an archive of arrays as `numpy.savez` does, or `numpy.savez_compressed`.
pub(crate) fn write_npz(path: &Path, compressed: bool, arrays: &[(&str, &[u8])]) {
    use std::io::Write;
    use zip::write::SimpleFileOptions;
    let method = if compressed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// The bytes of an `.npy` file of these values.
pub(crate) fn npy_bytes<T: npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn arrays_of_an_archive_come_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.npz");
    let (vectors, labels) = (npy_bytes(&[3, 2], &VALUES), npy_bytes(&[3], &[7_i64, 7, 9]));
    for compressed in [false, true] {
        write_npz(&path, compressed, &[("x", &vectors), ("y", &labels), ("broken", b"no array")]);
        let mut archive = npz::Archive::open(&path).unwrap();
        let names: Vec<&str> = archive.arrays.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x", "y", "broken"]);
        let error = archive.arrays[2].1.as_ref().unwrap_err();
        assert_eq!(error, "it does not begin as an .npy array does; write it with numpy.save");
        assert_eq!(archive.array("x").unwrap().matrix().unwrap().values, Values::F64(VALUES.to_vec()));
        assert_eq!(archive.array("y").unwrap().labels().unwrap(), ["7", "7", "9"]);
        assert_eq!(archive.array("z").err().unwrap(), "z.npy in the archive: specified file not found in archive");
    }
    let whole = std::fs::read(&path).unwrap();
    for (bytes, part) in [
        (&whole[..whole.len() - 30], "the archive is damaged"),
        (b"", "it is empty"),
        (b"\x93NUMPY\x01\x00", "it is a NumPy array, not an .npz archive"),
        (b"no archive", "it is not an archive"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = npz::Archive::open(&path).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    write_npz(&path, false, &[]);
    assert_eq!(npz::Archive::open(&path).unwrap_err(), "the archive holds no .npy array");
}
