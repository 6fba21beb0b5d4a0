use std::fs;

use polars::prelude::{Column, DataFrame, NamedFrom, ParquetWriter, Series};
use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::array::tests::{npy_bytes, write_npz};

const VALUES: [f32; 8] = [1.0, 2.5, -3.0, 4.0, 5.0, 6.0, 0.5, -0.25];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors").join(name)
}

fn expected() -> Matrix {
    Matrix { values: Values::F32(VALUES.to_vec()), rows: 4, dim: 2 }
}

fn vectors(path: &Path) -> Result<Vectors, String> {
    read_vectors(path, Names::default()).map_err(|error| error.to_string())
}

fn labels(path: &Path, name: Option<&str>) -> Result<Vec<String>, String> {
    read_labels(path, name).map(|labels| labels.texts).map_err(|error| error.to_string())
}

fn others(vectors: &Vectors) -> Vec<&str> {
    vectors.others.iter().map(|other| other.name.as_str()).collect()
}

/// A table with a column of numbers for each of `names`, the row's number in all of them but the last character's digit.
fn table(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let columns = names.iter().enumerate().map(|(at, name)| match *name {
        "list" | "boxes" | "embedding" => {
            let rows: Vec<Series> = (0..3).map(|row| Series::new("".into(), [row as f32, at as f32])).collect();
            Column::new((*name).into(), rows)
        }
        "text" | "f1_text" => Column::new(name.trim_end_matches("_text").into(), ["a", "b", "c"]),
        name => Column::new(name.into(), [at as f64, 10.0, 20.0]),
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let mut frame = DataFrame::new_infer_height(columns.collect()).unwrap();
    ParquetWriter::new(fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    (folder, path)
}

/// Which columns are vectors, and which are left out, or the message.
fn rule(names: &[&str], asked: Names<'_>) -> Result<(String, Vec<String>), String> {
    let (_folder, path) = table(names);
    let found = read_vectors(&path, asked).map_err(|error| error.to_string())?;
    let others = found.others.into_iter().map(|other| other.name).collect();
    Ok((found.name.unwrap(), others))
}

#[test]
fn the_columns_of_a_table_that_are_vectors_follow_one_rule() {
    let none = Names::default();
    for (columns, taken, left) in [
        (&["f0", "f1", "label"][..], "f0 to f1", &["label"][..]),
        (&["image_id", "f0", "f1", "f2", "label", "score"], "f0 to f2", &["image_id", "label", "score"]),
        (&["0", "1", "2", "id"], "0 to 2", &["id"]),
        (
            &["emb_10", "emb_2", "emb_1", "emb_9", "emb_3", "emb_4", "emb_5", "emb_6", "emb_7", "emb_8"],
            "emb_1 to emb_10",
            &[],
        ),
        (&["('x', 0)", "('x', 1)", "id"], "('x', 0) to ('x', 1)", &["id"]),
        (&["f000", "f001"], "f000 to f001", &[]),
        (&["f0", "f1", "__index_level_0__"], "f0 to f1", &["__index_level_0__"]),
        (&["list", "id", "label"], "list", &["id", "label"]),
        (&["embedding", "boxes", "label"], "embedding", &["boxes", "label"]),
        // One usual name, whatever else there is.
        (&["f0", "f1", "boxes", "bbox_0", "bbox_1"], "f0 to f1", &["boxes", "bbox_0", "bbox_1"]),
        (&["x0", "x1", "fold1"], "x0 to x1", &["fold1"]),
    ] {
        let (name, others) = rule(columns, none).unwrap();
        assert_eq!(
            (name.as_str(), others.as_slice()),
            (taken, left.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>().as_slice())
        );
    }
    for (columns, part) in [
        (
            &["x", "label", "y"][..],
            "none are numbered: x (float64), label (float64), y (float64); name the vectors with --vectors-name",
        ),
        (&["label"], "none of the columns is a list of numbers"),
        (&["f0"], "none are numbered"),
        (&["f0", "f1", "e0", "e1"], "these may all be vectors: e0 to e1, f0 to f1"),
        (&["embedding", "f0", "f1"], "these may all be vectors: embedding, f0 to f1"),
        (&["list", "x0", "x1"], "these may all be vectors: list, x0 to x1"),
        (&["list", "boxes"], "these may all be vectors: list, boxes"),
        (&["f0", "f1", "f3"], "f3 comes after f1, expected consecutive numbers"),
        (&["f0", "f1", "f01"], "expected consecutive numbers"),
        (&["f2", "f3"], "numbered from 2, expected from 0 or 1"),
        (&["f0", "f1_text", "f2"], "f1 is text, expected numbers"),
    ] {
        let error = rule(columns, none).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_user_names_columns_one_several_or_a_series() {
    let of = |name| Names { vectors: Some(name), ..Names::default() };
    let columns = ["y", "f10", "f9", "list", "x", "f0"];
    for (asked, taken, left) in [
        ("list", 1, 5),
        ("x,y", 2, 4),
        ("x, list_of_nothing", 0, 0),
        ("f*", 3, 3),
        ("F0", 1, 5),
        ("f*,y", 4, 2),
        ("x,x", 0, 0),
        ("q*", 0, 0),
    ] {
        let (_folder, path) = table(&columns);
        match read_vectors(&path, of(asked)) {
            Ok(found) => assert_eq!(
                (if asked == "list" { 1 } else { found.matrix.dim }, found.others.len()),
                (taken, left),
                "{asked}"
            ),
            Err(error) => assert_eq!(taken, 0, "{error}"),
        }
    }
    // In the order of their numbers, not of the file.
    let (_folder, path) = table(&columns);
    let found = read_vectors(&path, of("f*")).unwrap().matrix;
    assert_eq!(found.values.wide()[..3], [5.0, 2.0, 1.0]);
    let error = read_vectors(&path, of("x,list")).unwrap_err().to_string();
    assert!(error.contains("column \"list\" is lists of float32, expected numbers"), "{error}");
}

#[test]
fn the_label_is_never_an_element_of_the_vectors() {
    let class = Names { labels: Some("f2"), ..Names::default() };
    assert_eq!(rule(&["f0", "f1", "f2"], class).unwrap(), ("f0 to f1".to_owned(), vec!["f2".to_owned()]));
    let both = Names { labels: Some("f1"), vectors: Some("f*") };
    assert_eq!(rule(&["f0", "f1", "f2"], both).unwrap().1, ["f1"]);
    assert_eq!(rule(&["boxes", "list"], Names { labels: Some("boxes"), ..Names::default() }).unwrap().0, "list");
}

#[test]
fn frames_of_pandas_give_the_same_vectors_whatever_is_beside_them() {
    for (name, left, texts) in [
        ("named_index.parquet", &["label", "row"][..], ["cat", "cat", "dog", "dog"]),
        ("numbers.parquet", &["label"], ["0", "0", "1", "1"]),
    ] {
        let found = vectors(&fixture(name)).unwrap();
        assert_eq!((&found.matrix, others(&found)), (&expected(), left.to_vec()), "{name}");
        assert_eq!(labels(&fixture(name), None).unwrap(), texts, "{name}");
    }
    let found = vectors(&fixture("shuffled.parquet")).unwrap();
    assert_eq!(found.matrix.values, Values::F32(vec![0.5, -0.25, -3.0, 4.0, 1.0, 2.5, 5.0, 6.0]));
    let index: Vec<(&str, bool)> = found.others.iter().map(|other| (other.name.as_str(), other.index)).collect();
    assert_eq!(index, [("image_id", false), ("label", false), ("score", false), ("__index_level_0__", true)]);
    assert_eq!(labels(&fixture("shuffled.parquet"), None).unwrap(), ["dog", "cat", "cat", "dog"]);
}

#[test]
fn labels_of_a_table_have_a_usual_name_or_are_named() {
    let names = |columns: &[&str]| {
        let (_folder, path) = table(columns);
        read_labels(&path, None).map(|labels| labels.name.unwrap()).map_err(|error| error.to_string())
    };
    for (columns, name) in [
        (&["label", "labels", "class"][..], "labels"),
        (&["class", "label"], "label"),
        (&["x", "Target"], "Target"),
        (&["id"], "id"),
        (&["__index_level_0__", "id"], "id"),
    ] {
        assert_eq!(names(columns).unwrap(), name);
    }
    assert!(
        names(&["target", "class"])
            .unwrap_err()
            .contains("the columns are target, class, expected one called \"label\"")
    );
    assert!(names(&["x", "y"]).unwrap_err().contains("--labels-name"));
    let error = labels(&fixture("types.parquet"), Some("n_null")).unwrap_err();
    assert!(error.ends_with("types.parquet: column \"n_null\" has no label in row 1"), "{error}");
    let error = labels(&fixture("types.parquet"), Some("z")).unwrap_err();
    assert!(error.contains("v_list, v_fixed") && error.contains("and 25 more, expected a column \"z\""), "{error}");
}

/// The bytes of a safetensors file with this header.
fn safe(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn safetensors_of_every_width_are_read_by_usual_names_or_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.safetensors");
    let singles: Vec<u8> = VALUES.iter().flat_map(|x| x.to_le_bytes()).collect();
    let halves: Vec<u8> = VALUES.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
    let upper: Vec<u8> = VALUES.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    let codes: Vec<u8> = [3_i64, 3, 9, 9].iter().flat_map(|x| x.to_le_bytes()).collect();
    let floats: Vec<u8> = [3.0_f32, 3.0, 9.0, 9.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let matrix = |dtype, bytes| view(dtype, &[4, 2], bytes);
    let write = |tensors: Vec<(&str, TensorView<'_>)>| safetensors::serialize_to_file(tensors, None, &path).unwrap();
    let numbers = || view(Dtype::I64, &[4], &codes);
    for (dtype, bytes) in [(Dtype::F32, &singles), (Dtype::F16, &halves), (Dtype::BF16, &upper)] {
        for names in [["embeddings", "labels"], ["features", "targets"], ["x", "y"]] {
            write(vec![(names[0], matrix(dtype, bytes)), (names[1], numbers())]);
            let found = vectors(&path).unwrap();
            assert_eq!((&found.matrix, others(&found)), (&expected(), vec![names[1]]));
            assert_eq!(labels(&path, None).unwrap(), ["3", "3", "9", "9"]);
        }
    }
    for label in
        [view(Dtype::I8, &[4], &[3, 3, 9, 9]), view(Dtype::I64, &[4, 1], &codes), view(Dtype::F32, &[4], &floats)]
    {
        write(vec![("embeddings", matrix(Dtype::F32, &singles)), ("labels", label)]);
        assert_eq!(labels(&path, None).unwrap(), ["3", "3", "9", "9"]);
    }
    write(vec![("embeddings", matrix(Dtype::F32, &singles)), ("labels", view(Dtype::BOOL, &[4], &[0, 0, 1, 1]))]);
    assert_eq!(labels(&path, None).unwrap(), ["false", "false", "true", "true"]);

    write(vec![("a", matrix(Dtype::F32, &singles)), ("b", matrix(Dtype::F32, &singles)), ("c", numbers())]);
    assert!(vectors(&path).unwrap_err().contains("the arrays are a [4, 2], b [4, 2], c [4], expected one called \"embeddings\"; name the vectors with --vectors-name"));
    assert!(labels(&path, Some("a")).unwrap_err().contains("array \"a\": the shape is [4, 2], expected 1-d"));
    assert!(labels(&path, Some("d")).unwrap_err().contains("expected an array \"d\""));
    write(vec![("x", matrix(Dtype::F32, &singles))]);
    assert_eq!(vectors(&path).unwrap().matrix, expected());
    assert!(
        labels(&path, None).unwrap_err().contains("expected one called \"labels\"; name the labels with --labels-name")
    );

    let entry = r#""embeddings":{"dtype":"F32","shape":[4,2],"data_offsets":[0,32]}"#;
    for (bytes, part) in [
        (safe(&format!("{{{entry},{entry}}}"), &singles), "the header has \"embeddings\" twice"),
        (safe(&format!("{{{entry}}}"), &singles[4..]), "expected a .safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "git lfs pull"),
        (b"<!DOCTYPE html><html>".to_vec(), "a web page"),
        (Vec::new(), "it is empty"),
        (b"not tensors".to_vec(), "expected a .safetensors file"),
        (safe(r#"{"v":{"dtype":"F8_E4M3","shape":[4,2],"data_offsets":[0,8]}}"#, &singles[..8]), "are F8_E4M3"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = vectors(&path).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn archives_of_numpy_are_read_by_the_same_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.npz");
    let (matrix, codes) = (npy_bytes(&[4, 2], &VALUES), npy_bytes(&[4], &[7_i64, 7, 9, 9]));
    for names in [["embeddings", "labels"], ["arr_0", "arr_1"], ["Features", "y"]] {
        write_npz(&path, true, &[(names[0], &matrix), (names[1], &codes)]);
        assert_eq!(vectors(&path).unwrap().matrix, expected());
        assert_eq!(labels(&path, None).unwrap(), ["7", "7", "9", "9"]);
    }
    write_npz(&path, false, &[("embeddings", &matrix), ("labels", b"no array")]);
    assert!(labels(&path, None).unwrap_err().contains("array \"labels\": it does not begin as an .npy array"));
}

#[test]
fn tensors_of_torch_are_read_where_32_bits_hold_them() {
    let found = vectors(&fixture("dict.pt")).unwrap();
    assert_eq!((&found.matrix, others(&found)), (&expected(), vec!["labels", "epoch"]));
    assert_eq!(labels(&fixture("dict.pt"), None).unwrap(), ["0", "0", "1", "1"]);
    assert!(vectors(&fixture("wide.pt")).unwrap_err().contains("the elements are F64"));
    assert!(labels(&fixture("wide.pt"), None).unwrap_err().contains("too large an integer"));
    assert!(
        labels(&fixture("list.pt"), None).unwrap_err().contains("array \"labels\": it is a list, expected a tensor")
    );
    assert!(vectors(&fixture("bare.pt")).unwrap_err().contains("torch.save({'embeddings': x, 'labels': y}, path)"));
}

#[test]
fn labels_in_text_are_lines_or_a_column_with_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str, text: &[u8], label| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        labels(&path, label)
    };
    let animals = ["cat", "dog", "cat, big"];
    assert_eq!(read("l.txt", b"cat\r\n dog \ncat, big\n\n \n", None).unwrap(), animals);
    assert_eq!(read("l.txt", b"\xef\xbb\xbfcat\n", None).unwrap(), ["cat"]);
    for text in [
        "cat\ndog\n\"cat, big\"\n",
        "label\r\ncat\r\ndog\r\n\"cat, big\"\r\n",
        "\u{feff}id;Label\n1;cat\n2;dog\n3;cat, big\n",
        ",label\n0,cat\n1,dog\n2,\"cat, big\"\n",
    ] {
        assert_eq!(read("l.csv", text.as_bytes(), None).unwrap(), animals, "{text:?}");
    }
    assert_eq!(read("l.tsv", b"id\tspecies\n1\tcat\n", Some("species")).unwrap(), ["cat"]);
    assert_eq!(read("l.csv", b"species\ncat\n", Some("species")).unwrap(), ["cat"]);
    for (name, text, part) in [
        ("l.txt", &b"cat\n\ndog\n"[..], "line 2 is blank, expected a label"),
        ("l.csv", b"cat\n\ndog\n", "line 2 is blank, expected a label"),
        ("l.csv", b"label\ncat\n\"\"\ndog\n", "line 3 is blank, expected a label"),
        ("l.csv", b"id,label\n1,cat\n2,\n", "column \"label\" has no label in line 3"),
        ("l.csv", b"cat\ndog\ncat, big\n", "line 3 has 2 fields, expected one"),
        ("l.csv", b"1,cat\n2,dog\n", "line 1 has 2 fields"),
        ("l.txt", b"caf\xe9\n", "line 1 has the byte 0xe9"),
        ("l.json", b"[]", "the extension is \"json\", expected labels in .npy"),
    ] {
        let error = read(name, text, None).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(read("l.txt", b"", None).unwrap(), [""; 0]);
    let gallery = ["dog".to_owned(), "cow".to_owned()];
    assert_eq!(encode_labels([&animals.map(str::to_owned), &gallery]), [vec![0, 1, 2], vec![1, 3]]);
    let error = labels(Path::new("no/such.txt"), None).unwrap_err();
    assert_eq!(error, "failed to open file `no/such.txt`: No such file or directory (os error 2)");
    assert!(labels(folder.path(), None).unwrap_err().contains("it is a folder, expected a file"));
}
