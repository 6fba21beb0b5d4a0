use super::*;
use npyz::WriterBuilder;
use polars::prelude::{Column, NamedFrom, ParquetWriter};
use std::io::Write;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write_npy<T: npyz::AutoSerialize + Copy>(path: &Path, shape: &[u64], order: Order, values: &[T]) {
    let mut file = File::create(path).unwrap();
    let mut writer =
        npyz::WriteOptions::new().default_dtype().shape(shape).order(order).writer(&mut file).begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
}

const VALUES: [f64; 6] = [1.0, 2.5, -3.0, 4.0, 5.0, 6.0];

fn expected() -> Vectors {
    Vectors { values: Values::F64(VALUES.to_vec()), rows: 3, dim: 2 }
}

fn expected_narrow() -> Vectors {
    Vectors { values: Values::F32(VALUES.map(|x| x as f32).to_vec()), rows: 3, dim: 2 }
}

#[test]
fn npy_arrays_are_read_in_both_widths_and_refused_in_other_shapes() {
    let folder = folder();
    let path = folder.path().join("v.npy");
    let narrow = VALUES.map(|x| x as f32);
    write_npy(&path, &[3, 2], Order::C, &narrow);
    assert_eq!(read_vectors(&path, None).unwrap(), expected_narrow());
    write_npy(&path, &[3, 2], Order::C, &VALUES);
    assert_eq!(read_vectors(&path, None).unwrap(), expected());
    write_npy(&path, &[3, 2], Order::Fortran, &narrow);
    assert!(read_vectors(&path, None).unwrap_err().to_string().contains("Fortran order, expected C order"));
    write_npy(&path, &[6], Order::C, &narrow);
    assert!(read_vectors(&path, None).unwrap_err().to_string().contains("the shape is [6], expected 2-d"));
    write_npy(&path, &[3], Order::C, &[7i64, -7, 7]);
    assert_eq!(read_labels(&path, None).unwrap(), ["7", "-7", "7"]);
    write_npy(&path, &[3], Order::C, &[7u16, 0, 65535]);
    assert_eq!(read_labels(&path, None).unwrap(), ["7", "0", "65535"]);
    assert!(
        read_labels(&path.with_extension("npz"), None).unwrap_err().to_string().contains("expected labels in .npy")
    );
    write_npy(&path, &[3], Order::C, &[0.5f32, 0.0, 1.0]);
    assert!(read_labels(&path, None).unwrap_err().to_string().ends_with("expected integers"));
}

#[test]
fn an_array_shorter_than_its_header_is_refused_before_memory_is_taken() {
    let folder = folder();
    let path = folder.path().join("v.npy");
    write_npy(&path, &[3, 2], Order::C, &VALUES);
    let bytes = fs::read(&path).unwrap();
    let claim = String::from_utf8_lossy(&bytes[..128]).replace("(3, 2), }    ", "(3000000, 2), }").into_bytes();
    fs::write(&path, claim).unwrap();
    let error = read_vectors(&path, None).unwrap_err().to_string();
    assert!(error.contains("expected"), "{error}");
}

#[test]
fn safetensors_are_found_by_name_by_being_alone_and_by_the_usual_name() {
    let folder = folder();
    let path = folder.path().join("v.safetensors");
    let values: Vec<u8> = VALUES.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
    let labels: Vec<u8> = [3i64, 3, 9].iter().flat_map(|x| x.to_le_bytes()).collect();
    let vectors = || TensorView::new(Dtype::F32, vec![3, 2], &values).unwrap();
    let labels = || TensorView::new(Dtype::I64, vec![3], &labels).unwrap();
    let write = |tensors: Vec<(&str, TensorView<'_>)>| safetensors::serialize_to_file(tensors, None, &path).unwrap();
    write(vec![("embeddings", vectors()), ("labels", labels())]);
    assert_eq!(read_vectors(&path, None).unwrap(), expected_narrow());
    assert_eq!(read_labels(&path, None).unwrap(), ["3", "3", "9"]);
    assert!(read_labels(&path, Some("embeddings")).unwrap_err().to_string().contains("the shape is [3, 2]"));
    write(vec![("x", vectors())]);
    assert_eq!(read_vectors(&path, None).unwrap(), expected_narrow());
    let error = read_vectors(&path, Some("y")).unwrap_err().to_string();
    assert!(error.ends_with("v.safetensors: the tensors are x, expected a tensor \"y\""), "{error}");
    fs::write(&path, b"not tensors").unwrap();
    assert!(read_vectors(&path, None).unwrap_err().to_string().contains("expected a .safetensors file"));
}

#[test]
fn parquet_tables_are_read_as_lists_and_as_columns() {
    let folder = folder();
    let path = folder.path().join("v.parquet");
    let write = |columns: Vec<Column>| {
        let mut frame = DataFrame::new_infer_height(columns).unwrap();
        ParquetWriter::new(File::create(&path).unwrap()).finish(&mut frame).unwrap();
    };
    let labels = || Column::new("label".into(), ["a", "b", "a"]);
    let row = |values: &[f32]| Series::new("".into(), values);
    write(vec![labels(), Column::new("v".into(), [row(&[1.0, 2.5]), row(&[-3.0, 4.0]), row(&[5.0, 6.0])])]);
    assert_eq!(read_vectors(&path, None).unwrap(), expected());
    assert_eq!(read_vectors(&path, Some("v")).unwrap(), expected());
    assert_eq!(read_labels(&path, None).unwrap(), ["a", "b", "a"]);
    write(vec![
        Column::new("x".into(), [1.0, -3.0, 5.0]),
        Column::new("label".into(), [1, 2, 1]),
        Column::new("y".into(), [2.5f32, 4.0, 6.0]),
    ]);
    assert_eq!(read_vectors(&path, None).unwrap(), expected());
    assert_eq!(read_labels(&path, None).unwrap(), ["1", "2", "1"]);
    assert!(read_labels(&path, Some("z")).unwrap_err().to_string().contains("the columns are x, label, y"));
    write(vec![Column::new("v".into(), [row(&[1.0, 2.5]), row(&[4.0])])]);
    let error = read_vectors(&path, None).unwrap_err().to_string();
    assert!(error.contains("row 1 has 1 numbers, row 0 has 2"), "{error}");
}

#[test]
fn text_labels_are_lines_and_equal_texts_have_equal_codes() {
    let folder = folder();
    let path = folder.path().join("l.txt");
    File::create(&path).unwrap().write_all("cat\r\n dog \n\ncat, big\n".as_bytes()).unwrap();
    let labels = read_labels(&path, None).unwrap();
    assert_eq!(labels, ["cat", "dog", "cat, big"]);
    let csv = path.with_extension("csv");
    fs::copy(&path, &csv).unwrap();
    assert!(read_labels(&csv, None).unwrap_err().to_string().contains("label 3 holds a comma"));
    let gallery = ["dog".to_owned(), "cow".to_owned()];
    assert_eq!(encode_labels([&labels, &gallery]), [vec![0, 1, 2], vec![1, 3]]);
    let error = read_labels(Path::new("no/such.txt"), None).unwrap_err().to_string();
    assert!(error.starts_with("no/such.txt: "), "{error}");
}
