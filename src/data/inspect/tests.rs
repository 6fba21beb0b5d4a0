use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::data::generate::{Family, GeneratedLayout, GeneratorSpec, generate};
use crate::data::layout::{self, Source};

/// Four classes of three PNG files, of which 000 and 001 train.
fn set() -> TempDir {
    let room = tempfile::tempdir().unwrap();
    let layout = GeneratedLayout::Folder;
    let spec = GeneratorSpec { family: Family::Textures, classes: 4, per_class: 3, size: 16, seed: 2, layout };
    generate(&spec, room.path()).unwrap();
    room
}

fn listing(room: &Path) -> Listing {
    layout::read(&Source::default(), room).unwrap()
}

fn look_at(room: &Path) -> Inspection {
    inspect(&listing(room), 1000, &mut |_, _| {})
}

/// What it is, the two verdicts, and the paths.
fn words(repeated: &[Repeated]) -> Vec<(Same, bool, bool, Vec<&str>)> {
    repeated
        .iter()
        .map(|r| (r.same, r.leak, r.contradiction, r.images.iter().map(|i| i.path.as_str()).collect()))
        .collect()
}

#[test]
fn a_sound_set_is_counted() {
    let room = set();
    fs::write(room.path().join("001/notes.txt"), b"").unwrap();
    fs::remove_file(room.path().join("003/00.png")).unwrap();
    let mut seen = Vec::new();
    let found = inspect(&listing(room.path()), 1000, &mut |done, total| seen.push((done, total)));
    let part = |split, images| SplitCounts { split, group: None, images, classes: 2 };
    assert_eq!(found.parts, [part(Split::Train, 6), part(Split::Test, 5)]);
    assert_eq!(found.class_sizes[&Split::Train], BTreeMap::from([(3, 2)]));
    assert_eq!(found.class_sizes[&Split::Test], BTreeMap::from([(2, 1), (3, 1)]));
    assert_eq!(found.dimensions, Some(Dimensions { width: [16; 3], height: [16; 3] }));
    assert_eq!((found.ignored, found.unlisted, seen), (1, 0, vec![(11, 11)]));
    assert!(found.is_sound() && found.repeated.is_empty());
}

#[test]
fn the_same_image_is_found_across_splits_first_and_in_other_bytes() {
    let room = set();
    let copy = |from: &str, to: &str| fs::copy(room.path().join(from), room.path().join(to)).unwrap();
    copy("000/00.png", "000/copy.png");
    copy("000/01.png", "001/copy.png");
    copy("001/01.png", "002/copy.png");
    // The same pixels in another file: a chunk of text behind the header, with its checksum.
    let png = fs::read(room.path().join("003/02.png")).unwrap();
    let mut chunk = b"tEXta\0b".to_vec();
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    chunk.extend(crc.sum().to_be_bytes());
    let again = [&png[..33], &3u32.to_be_bytes(), &chunk, &png[33..]].concat();
    fs::write(room.path().join("000/again.png"), again).unwrap();

    let found = look_at(room.path());
    let expected = [
        (Same::Pixels, true, true, vec!["000/again.png", "003/02.png"]),
        (Same::Bytes, true, true, vec!["001/01.png", "002/copy.png"]),
        (Same::Bytes, false, false, vec!["000/00.png", "000/copy.png"]),
        (Same::Bytes, false, true, vec!["000/01.png", "001/copy.png"]),
    ];
    assert_eq!(words(&found.repeated), expected);
    assert_eq!((found.leaks().count(), found.is_sound()), (2, false));
    // Without decoding, equal bytes are all that shows.
    assert_eq!(words(&leaks(&listing(room.path()))), expected[1..2]);
}

#[test]
fn broken_images_are_named_with_their_reason_and_compared_by_bytes() {
    let room = set();
    for path in ["000/02.png", "002/02.png"] {
        fs::write(room.path().join(path), b"not an image").unwrap();
    }
    let found = look_at(room.path());
    let paths: Vec<&str> = found.broken.iter().map(|broken| broken.path.as_str()).collect();
    assert_eq!(paths, ["000/02.png", "002/02.png"]);
    assert!(found.broken[0].reason.contains("content"), "{:?}", found.broken);
    assert_eq!(words(&found.repeated), [(Same::Bytes, true, true, vec!["000/02.png", "002/02.png"])]);
    assert!(!found.is_sound());
}

#[test]
fn a_path_in_two_groups_is_no_leak_and_groups_are_counted() {
    let room = set();
    let list =
        "path,label,split,group\n000/00.png,a,test,query\n000/00.png,a,test,gallery\n000/01.png,a,test,gallery\n";
    fs::write(room.path().join("list.csv"), list).unwrap();
    let layout = serde_json::from_str(r#"{"kind": "list"}"#).unwrap();
    let listing = layout::read(&Source { layout, ..Source::default() }, room.path()).unwrap();
    let found = inspect(&listing, 1000, &mut |_, _| {});
    assert_eq!(words(&found.repeated), [(Same::Path, false, false, vec!["000/00.png"; 2])]);
    let groups: Vec<_> = found.parts.iter().map(|part| (part.group.as_deref(), part.images)).collect();
    assert_eq!(groups, [(Some("gallery"), 2), (Some("query"), 1)]);
    assert!(found.is_sound());
}

#[test]
fn a_sheet_has_a_row_a_class_and_leaves_broken_images_white() {
    let room = set();
    fs::write(room.path().join("003/02.png"), b"not an image").unwrap();
    let sheet = contact_sheet(&listing(room.path()), 2, 9, 1000);
    // Two of four classes, three images each.
    assert_eq!(sheet.rows, [(Split::Train, "000".to_owned()), (Split::Test, "002".to_owned())]);
    assert_eq!((sheet.width, sheet.height), (304, 204));
    assert_eq!(sheet.pixels.len(), 304 * 204 * 3);
    let sheet = contact_sheet(&listing(room.path()), 4, 3, 1000);
    // Middles of the cells of the last row.
    let middle = |column: usize| &sheet.pixels[(354 * 304 + 52 + 100 * column) * 3..][..3];
    assert_eq!(middle(2), [255; 3]);
    assert!(middle(0) != [255; 3] && middle(1) != [255; 3]);
    let same = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| contact_sheet(&listing(room.path()), 4, 3, 1000))
    };
    assert!(same(1) == same(3));
}
