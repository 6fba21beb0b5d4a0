use std::fs;
use std::path::PathBuf;

use polars::prelude::{Column as PolarsColumn, DataFrame, NamedFrom, ParquetWriter, Series};

use super::*;
use crate::array::Values;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors").join(name)
}

fn open(text: &str) -> Result<Table, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    fs::write(&path, text).unwrap();
    Table::open(&path)
}

fn column(table: &Table, name: &str) -> Vec<Option<String>> {
    table.texts(table.find(name).unwrap().unwrap()).unwrap()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn csv_of_scripts_and_of_spreadsheets_is_the_same_table() {
    for text in [
        "path,label\na.jpg,1\nb.jpg,2\n",
        "path;label\r\na.jpg;1\r\nb.jpg;2\r\n",
        "path\tlabel\na.jpg\t1\nb.jpg\t2",
        "\u{feff}path,label\na.jpg,1\nb.jpg,2\n\n\n",
        "sep=;\npath;label;\na.jpg;1;\nb.jpg;2;\n;;\n",
        "\n Path , LABEL \n\"a.jpg\" , 1\n\nb.jpg,\"2\"\n",
        "label,caption,path\n1,\"two\nlines, and a comma\",a.jpg\n2,\"a \"\"quote\"\"\",b.jpg\n",
    ] {
        let table = open(text).unwrap();
        assert_eq!(
            (column(&table, "path"), column(&table, "label")),
            (some(&["a.jpg", "b.jpg"]), some(&["1", "2"])),
            "{text:?}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.tsv");
    fs::write(&path, "path\tlabel, and more, of it\na.jpg\t1\n").unwrap();
    assert_eq!(Table::open(&path).unwrap().columns().len(), 2);
}

#[test]
fn rows_keep_their_lines_after_blank_lines_and_line_breaks() {
    for end in ["\n", "\r\n"] {
        let text = ["path,label", "", "a.jpg,1", "\"b", ".jpg\",2", "", "", "c.jpg,3", ""].join(end);
        let rows = csv::rows(&text, None).unwrap();
        let lines: Vec<(usize, usize)> = rows.iter().map(|row| (row.line, row.fields.len())).collect();
        assert_eq!(lines, [(1, 2), (2, 0), (3, 2), (4, 2), (6, 0), (7, 0), (8, 2)], "{end:?}");
    }
    assert_eq!(
        csv::rows("\n\na\n\nb\n\n", None).unwrap().iter().map(|row| row.line).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert_eq!(csv::rows("", None).unwrap(), []);
}

#[test]
fn what_a_csv_leaves_open_is_refused_with_its_line() {
    let error = open("path,label\na.jpg,1\nb, c.jpg,2\n").unwrap_err();
    assert!(error.contains("line 3 has 3 fields, the header 2"), "{error}");
    let table = open("path,label\na.jpg,\"1\nb.jpg,2\n").unwrap();
    let error = table.texts(1).unwrap_err();
    assert!(error.contains("line 2 has a value with a line break"), "{error}");
    let table = open("label,Label\n1,2\n").unwrap();
    assert_eq!(table.find("label").unwrap(), Some(0));
    assert!(table.find("LABEL").unwrap_err().contains("2 columns are called \"LABEL\""));
    assert!(open("label,label\n1,2\n").unwrap().find("label").is_err());
    assert_eq!(open("path,label\na.jpg\n").unwrap().texts(1).unwrap(), [None]);
    assert!(open("caf\u{e9}").is_ok());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.csv");
    fs::write(&path, b"path,label\na\xe9.jpg,1\n").unwrap();
    assert!(Table::open(&path).unwrap_err().contains("line 2 has the byte 0xe9"));
    assert!(Table::open(&folder.path().join("t.xlsx")).unwrap_err().contains(".csv, .tsv or .parquet"));
}

#[test]
fn every_type_of_parquet_that_is_a_label_is_its_text() {
    let table = Table::open(&fixture("types.parquet")).unwrap();
    let mut seen = 0;
    for (at, Column { name, .. }) in table.columns().iter().enumerate() {
        let expected = match name.as_bytes()[0] {
            b'l' => some(&["0", "0", "1", "1"]),
            b't' => some(&["cat", "cat", "dog", "dog"]),
            b'b' => some(&["false", "false", "true", "true"]),
            _ => continue,
        };
        assert_eq!(table.texts(at).unwrap(), expected, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 17);
    assert_eq!(column(&table, "o_null"), [None, None, None, None]);
    assert_eq!(column(&table, "n_null")[..2], [Some("0".to_owned()), None]);
    for (name, part) in [
        ("n_nan", "row 1 is not a number (NaN)"),
        ("n_fraction", "row 1 is 0.5"),
        ("n_decimal", "row 0 is a decimal that is not whole"),
        ("o_struct", "is structs, expected integers or text"),
        ("o_date", "is dates"),
        ("o_timestamp", "is timestamps"),
        ("o_time", "is times of day"),
        ("v_list", "is lists of float32"),
    ] {
        let error = table.texts(table.find(name).unwrap().unwrap()).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

const VALUES: [f32; 8] = [1.0, 2.5, -3.0, 4.0, 5.0, 6.0, 0.5, -0.25];

#[test]
fn every_type_of_parquet_that_is_a_list_of_numbers_is_a_matrix() {
    let table = Table::open(&fixture("types.parquet")).unwrap();
    let matrix = |name: &str| table.matrix(&[table.find(name).unwrap().unwrap()]);
    for name in ["v_list", "v_fixed", "v_half", "v_fixed_half"] {
        assert_eq!(matrix(name).unwrap(), Matrix { values: Values::F32(VALUES.to_vec()), rows: 4, dim: 2 }, "{name}");
    }
    assert_eq!(matrix("v_large").unwrap().values, Values::F64(VALUES.map(f64::from).to_vec()));
    assert_eq!(matrix("i_int8").unwrap().values, Values::F32(vec![1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 7.0, 8.0]));
    for (name, part) in [
        ("x_lists", "is lists of lists, expected numbers"),
        ("x_null_row", "has no value in row 1"),
        ("x_null_element", "has no value in row 1 at element 0"),
        ("x_ragged", "row 1 has 1 numbers, row 0 has 2"),
        ("t_text", "is text, expected numbers"),
        ("n_null", "has no value in row 1"),
    ] {
        let error = matrix(name).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    // Columns side by side, the widest deciding.
    let places = |names: [&str; 2]| names.map(|name| table.find(name).unwrap().unwrap());
    let found = table.matrix(&places(["l_int8", "l_half"])).unwrap();
    assert_eq!(found, Matrix { values: Values::F32(vec![0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), rows: 4, dim: 2 });
    let found = table.matrix(&places(["n_decimal", "l_uint8"])).unwrap();
    assert_eq!(found.values, Values::F64(vec![0.5, 0.0, 0.5, 0.0, 0.5, 1.0, 0.5, 1.0]));
}

#[test]
fn every_codec_and_several_row_groups_are_read() {
    let table = Table::open(&fixture("codecs.parquet")).unwrap();
    assert_eq!(table.names(), "snappy, gzip, brotli, lz4, zstd, none");
    for at in 0..6 {
        assert_eq!(table.matrix(&[at]).unwrap().values, Values::F32(VALUES.to_vec()), "{}", table.columns()[at].name);
    }
}

#[test]
fn index_columns_of_pandas_are_known_by_its_own_metadata() {
    let index = |name: &str| {
        let table = Table::open(&fixture(name)).unwrap();
        table.columns().iter().filter(|column| column.index).map(|column| column.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(index("shuffled.parquet"), ["__index_level_0__"]);
    assert_eq!(index("named_index.parquet"), ["row"]);
    assert_eq!(index("numbers.parquet"), [""; 0]);
}

#[test]
fn what_is_no_parquet_is_refused_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let whole = fs::read(fixture("types.parquet")).unwrap();
    for (bytes, part) in [
        (&b""[..], "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"path,label\n", "does not begin as a .parquet table does"),
        (b"PAR1", "the file is damaged"),
        (&whole[..whole.len() - 9], "the file is damaged"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = Table::open(&path).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn impossible_counts_are_refused_before_memory_is_allocated_for_them() {
    let damaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/damaged");
    let error = Table::open(&damaged.join("footer_of_182_gib.parquet")).unwrap_err();
    assert!(error.contains("the file is damaged: its footer: "), "{error}");
    let table = Table::open(&damaged.join("page_header_of_4_gib.parquet")).unwrap();
    let errors: Vec<String> = (0..table.columns().len()).filter_map(|at| table.matrix(&[at]).err()).collect();
    assert!(errors.iter().any(|error| error.contains("the file is damaged: a page header: ")), "{errors:#?}");
}

/// A decoder that panics must not end the program: every byte of a file, corrupted in several ways, gives a table or a
/// message.
#[test]
fn a_file_with_spoilt_bytes_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let rows: Vec<Series> = VALUES.chunks(2).map(|row| Series::new("".into(), row)).collect();
    let columns =
        vec![PolarsColumn::new("v".into(), rows), PolarsColumn::new("label".into(), ["cat", "dog", "cat", "dog"])];
    let mut frame = DataFrame::new_infer_height(columns).unwrap();
    ParquetWriter::new(fs::File::create(&path).unwrap())
        .with_statistics(Default::default())
        .finish(&mut frame)
        .unwrap();
    let whole = fs::read(&path).unwrap();
    let (mut read, mut refused) = (0, 0);
    for at in 4..whole.len() {
        for value in [0, 0x7f, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            fs::write(&path, bytes).unwrap();
            let outcome = Table::open(&path).and_then(|table| {
                (0..table.columns().len()).try_for_each(|at| match table.columns()[at].kind {
                    ColumnKind::List => table.matrix(&[at]).map(|_| ()),
                    _ => table.texts(at).map(|_| ()),
                })
            });
            *if outcome.is_ok() { &mut read } else { &mut refused } += 1;
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}
