use std::fs;
use std::path::Path;

use super::*;

/// Files that SciPy wrote; `make.py` next to them is the script.
fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mat").join(name)).unwrap()
}

fn text(text: &str) -> MatValue {
    MatValue::Text(text.to_owned())
}

fn numbers(numbers: &[f64]) -> MatValue {
    MatValue::Numbers(numbers.to_vec())
}

#[test]
fn what_scipy_writes_is_read_compressed_and_plain() {
    for name in ["annotations.mat", "plain.mat"] {
        let variables = read(&fixture(name)).unwrap();
        let value = |wanted: &str| &variables.iter().find(|(name, _)| name == wanted).unwrap().1;
        let MatValue::Struct(fields) = value("annotations") else { panic!("{:?}", value("annotations")) };
        let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
        assert_eq!(field("relative_im_path"), ["1", "2", "3", "4"].map(|i| text(&format!("car_ims/00000{i}.jpg"))));
        assert_eq!(field("bbox_x1"), [0.0, 112.0, 224.0, 336.0].map(|x| numbers(&[x])));
        assert_eq!(field("class"), [1.0, 2.0, 3.0, 1.0].map(|x| numbers(&[x])));
        let names = ["AM General Hummer SUV 2000", "Ä", "日本 3"].map(text);
        assert_eq!(value("class_names"), &MatValue::Cells(names.to_vec()));
        assert_eq!(value("doubles"), &numbers(&[1.5, -2.0, 1e300]));
        // Column by column.
        assert_eq!(value("wide"), &numbers(&[1.0, 3.0, 2.0, 4.0]));
        assert_eq!(value("bytes"), &numbers(&[-1.0, 127.0]));
        assert_eq!(value("large"), &numbers(&[1_099_511_627_776.0]));
        assert_eq!(value("single"), &numbers(&[0.25]));
        assert_eq!(value("empty"), &numbers(&[]));
        assert_eq!(value("nothing"), &text(""));
        assert_eq!(value("complex"), &MatValue::Other);
        assert_eq!(value("flag"), &numbers(&[1.0]));
    }
}

#[test]
fn what_is_written_is_read() {
    let fields = vec![
        ("relative_im_path".to_owned(), vec![text("a.jpg"), text("Ä.jpg"), text("")]),
        ("class".to_owned(), vec![numbers(&[1.0]), numbers(&[2.0]), numbers(&[])]),
    ];
    let variables =
        [("annotations", MatValue::Struct(fields)), ("names", MatValue::Cells(vec![text("x"), numbers(&[1.0, 2.0])]))];
    let read = read(&write(&variables).unwrap()).unwrap();
    assert_eq!(read, variables.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn no_cut_and_no_changed_byte_makes_the_reader_panic() {
    for name in ["annotations.mat", "plain.mat"] {
        let whole = fixture(name);
        let expected = read(&whole).unwrap();
        for cut in 0..whole.len() {
            // A cut between two variables leaves the first ones.
            if let Ok(variables) = read(&whole[..cut]) {
                assert!(variables.len() < expected.len() && expected.starts_with(&variables), "{name} cut at {cut}");
            }
        }
        for at in 0..whole.len() {
            for byte in [0x00, 0x7f, 0xff, whole[at] ^ 1] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = read(&changed);
            }
        }
    }
}

/// A file of one matrix element that holds `data` and says `count` bytes.
fn file(kind: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut file = vec![b' '; 124];
    file.extend([0x00, 0x01, b'I', b'M']);
    file.extend(kind.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend(data);
    file
}

fn message(file: &[u8]) -> String {
    read(file).unwrap_err().to_string()
}

#[test]
fn hostile_files_are_errors() {
    let mut found = vec![
        message(b"short"),
        message(&[0; 200]),
        message(&[&file(MATRIX, 0, &[])[..124], &[0x00, 0x02, b'I', b'M']].concat()),
        message(&file(MATRIX, u32::MAX, &[0; 8])),
        message(&file(COMPRESSED, 4, b"none")),
    ];

    // A cell array that says it has 2^31 - 1 cells, and one whose dimensions overflow.
    let head = |dimensions: &[u32], class: u8| {
        let mut bytes = [6u32, 8].map(u32::to_le_bytes).concat();
        bytes.extend([class, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([5u32, dimensions.len() as u32 * 4].map(u32::to_le_bytes).concat());
        bytes.extend(dimensions.iter().flat_map(|n| n.to_le_bytes()));
        bytes.extend([1u32, 1].map(u32::to_le_bytes).concat());
        bytes.extend(*b"a\0\0\0\0\0\0\0");
        bytes
    };
    let whole = |body: &[u8]| file(MATRIX, body.len() as u32, body);
    found.push(message(&whole(&head(&[1, i32::MAX as u32], class::CELL))));
    found.push(message(&whole(&head(&[u32::MAX, u32::MAX, u32::MAX, u32::MAX], class::CELL))));
    // Two doubles are announced, one is there.
    let mut short = head(&[1, 2], class::DOUBLE);
    short.extend([9u32, 8].map(u32::to_le_bytes).concat());
    short.extend(1f64.to_le_bytes());
    found.push(message(&whole(&short)));

    // Cells within cells, 40 deep.
    let mut nested = Vec::new();
    for _ in 0..40 {
        let mut outer = head(&[1, 1], class::CELL);
        if !nested.is_empty() {
            outer.extend([MATRIX, nested.len() as u32].map(u32::to_le_bytes).concat());
            outer.extend(&nested);
        } else {
            outer = head(&[1, 0], class::CELL);
        }
        nested = outer;
    }
    found.push(message(&whole(&nested)));

    // 300 MB of zeros in 300 KB.
    let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(300 << 20), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 19);
    found.push(message(&file(COMPRESSED, bomb.len() as u32, &bomb)));
    insta::assert_snapshot!(found.join("\n"));
}
