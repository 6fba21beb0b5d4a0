use ::tar::{EntryType, Header};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use super::*;

/// A tar of (name, type, content), without the end mark.
fn tar_blocks(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, content) in entries {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_mode(0o6777);
        let size = if matches!(kind, EntryType::Regular) { content.len() } else { 0 };
        header.set_size(size as u64);
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.set_link_name_literal(content).unwrap();
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&content[..size]);
        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
    }
    out
}

fn tar(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
    let mut out = tar_blocks(entries);
    out.resize(out.len() + 1024, 0);
    out
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip_of(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn unpack_bytes(bytes: &[u8], limits: &UnpackLimits) -> (tempfile::TempDir, Result<Unpacked, ArchiveError>) {
    let room = tempfile::tempdir().unwrap();
    let archive = room.path().join("archive");
    fs::write(&archive, bytes).unwrap();
    let result = unpack(&archive, "https://example.org/a.zip", &room.path().join("outer/out"), limits);
    (room, result)
}

fn message(bytes: &[u8]) -> String {
    unpack_bytes(bytes, &UnpackLimits::default()).1.unwrap_err().to_string()
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn the_three_formats_give_the_same_files_with_plain_modes() {
    use std::os::unix::fs::PermissionsExt;
    let entries: [(&[u8], EntryType, &[u8]); 3] = [
        (b"./set/", EntryType::Directory, b""),
        (b"./set/a.txt", FILE, b"alpha"),
        (b"set/deep/er/b.bin", FILE, &[7; 700]),
    ];
    let zipped = zip_of(&[("set/a.txt", 0o777, b"alpha"), ("set/deep/er/b.bin", 0o600, &[7; 700])]);
    for bytes in [tar(&entries), gz(&tar(&entries)), zipped] {
        let (room, result) = unpack_bytes(&bytes, &UnpackLimits::default());
        assert_eq!(result.unwrap(), Unpacked { files: 2, bytes: 705 });
        let out = room.path().join("outer/out/set");
        assert_eq!(fs::read(out.join("a.txt")).unwrap(), b"alpha");
        assert_eq!(fs::read(out.join("deep/er/b.bin")).unwrap(), [7; 700]);
        assert_eq!(fs::metadata(out.join("a.txt")).unwrap().permissions().mode() & 0o7111, 0);
    }
}

#[test]
fn long_names_and_global_headers_of_real_tars_are_understood() {
    let long = format!("{}/file.png", "folder".repeat(30));
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut global = Header::new_ustar();
    global.set_entry_type(EntryType::XGlobalHeader);
    global.set_size(0);
    global.set_cksum();
    builder.append(&global, io::empty()).unwrap();
    let mut header = Header::new_gnu();
    header.set_size(3);
    builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
    let (room, result) = unpack_bytes(&builder.into_inner().unwrap(), &UnpackLimits::default());
    assert_eq!(result.unwrap().files, 1);
    assert_eq!(fs::read(room.path().join("outer/out").join(long)).unwrap(), b"abc");
}

#[test]
fn entries_that_lead_out_or_are_no_files_are_refused_by_name() {
    let hostile: [(&[u8], EntryType, &[u8], &str); 11] = [
        (b"../evil", FILE, b"x", "leads out"),
        (b"a/../../evil", FILE, b"x", "leads out"),
        (b"/evil", FILE, b"x", "absolute"),
        (b"C:/evil", FILE, b"x", "drive"),
        (b"a\\..\\evil", FILE, b"x", "backslash"),
        (b"evil", EntryType::Symlink, b"/etc", "link"),
        (b"evil", EntryType::Symlink, b"inside", "link"),
        (b"evil", EntryType::Link, b"../evil", "link"),
        (b"evil", EntryType::Char, b"", "neither"),
        (b"evil", EntryType::Fifo, b"", "neither"),
        (b"./", FILE, b"", ""),
    ];
    for (name, kind, content, why) in hostile {
        let (room, result) =
            unpack_bytes(&tar(&[(b"ok", FILE, b"1"), (name, kind, content)]), &UnpackLimits::default());
        if why.is_empty() {
            assert!(result.is_ok(), "an old tar marks a folder only by its slash");
            continue;
        }
        let message = result.unwrap_err().to_string();
        assert!(message.contains(why) && message.contains("evil"), "{message}");
        assert!(!room.path().join("evil").exists() && !room.path().join("outer/evil").exists());
    }
    for (name, mode) in [("../evil", 0o644), ("/evil", 0o644), ("x\\..\\..\\evil", 0o644), ("C:\\evil", 0o644)] {
        let message = message(&zip_of(&[(name, mode, b"x")]));
        assert!(message.contains("entry") && message.contains("evil"), "{message}");
    }
}

/// Backslashes separate folders in archives of Windows tools; a name that is not UTF-8 is in code page 437.
#[test]
fn names_of_other_systems_become_names_of_this_one() {
    let mut zip = zip_of(&[("a\\b\\1.png", 0o644, b"1"), ("X/2.png", 0o644, b"22")]);
    let x = |zip: &[u8]| zip.windows(7).position(|name| name == b"X/2.png");
    while let Some(at) = x(&zip) {
        zip[at] = 0x81;
    }
    let (room, result) = unpack_bytes(&zip, &UnpackLimits::default());
    assert_eq!(result.unwrap(), Unpacked { files: 2, bytes: 3 });
    assert!(room.path().join("outer/out/a/b/1.png").exists() && room.path().join("outer/out/\u{fc}/2.png").exists());
    let twice = message(&zip_of(&[("a\\1.png", 0o644, b"1"), ("a/1.png", 0o644, b"2")]));
    assert!(twice.contains("twice"), "{twice}");
    let named = message(&tar(&[(b"\x81/evil", FILE, b"1")]));
    assert!(named.contains("not UTF-8"), "{named}");
}

/// A pax record: `LENGTH KEY=VALUE`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
    [length.to_string().as_bytes(), &rest].concat()
}

/// A tar of one file `s`, which these records describe, in a header of that type.
fn described(kind: EntryType, records: &[Vec<u8>], content: &[u8]) -> Vec<u8> {
    let records = records.concat();
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(records.len() as u64);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(&records);
    out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
    [out, tar(&[(b"s", FILE, content)])].concat()
}

#[test]
fn sparse_files_are_refused_by_their_name_in_every_dialect() {
    let pax = EntryType::XHeader;
    let number = |key: &str, value: &str| record(key, value.as_bytes());
    for records in [
        // 0.0, 0.1 and 1.0 of GNU tar, and star's.
        vec![number("GNU.sparse.size", "9"), number("GNU.sparse.offset", "0"), number("GNU.sparse.numbytes", "1")],
        vec![number("GNU.sparse.size", "9"), number("GNU.sparse.map", "0,1"), number("GNU.sparse.name", "holes")],
        vec![number("GNU.sparse.major", "1"), number("GNU.sparse.name", "holes"), number("path", "GNUSparseFile.1/s")],
        vec![number("SCHILY.realsize", "9")],
    ] {
        let name = if records.iter().any(|r| r.ends_with(b"holes\n")) { "holes" } else { "s" };
        let message = message(&described(pax, &records, b"x"));
        assert!(message.contains(&format!("{name:?} is a sparse file")), "{message}");
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(0);
    header.as_gnu_mut().unwrap().set_real_size(9);
    header.as_old_mut().name[..5].copy_from_slice(b"holes");
    header.set_cksum();
    let message = message(&[header.as_bytes().to_vec(), vec![0; 1024]].concat());
    assert!(message.contains("\"holes\" is a sparse file"), "{message}");
}

#[test]
fn records_of_a_member_are_read_by_their_lengths() {
    // As bsdtar writes them on macOS: binary values, in which a line looks like a record.
    let values = record("SCHILY.xattr.com.apple.quarantine", b"0081;\n13 path=evil\n\0\xff");
    let records = [values, record("path", b"old"), record("path", "gr\u{fc}n.png".as_bytes()), record("mtime", b"1.5")];
    let (room, result) = unpack_bytes(&described(EntryType::XHeader, &records, b"abc"), &UnpackLimits::default());
    assert_eq!(result.unwrap(), Unpacked { files: 1, bytes: 3 });
    assert_eq!(fs::read(room.path().join("outer/out/gr\u{fc}n.png")).unwrap(), b"abc");

    let comment = [record("comment", b"0123abcd")];
    assert!(unpack_bytes(&described(EntryType::XGlobalHeader, &comment, b"abc"), &UnpackLimits::default()).1.is_ok());
    for (kind, records, part) in [
        (EntryType::XGlobalHeader, vec![record("path", b"a")], "one name"),
        (EntryType::XGlobalHeader, vec![record("size", b"1")], "one name or size"),
        (EntryType::XHeader, vec![b"99 path=a\n".to_vec()], "malformed"),
        (EntryType::XHeader, vec![b"0 path=a\n".to_vec()], "malformed"),
        (EntryType::XHeader, vec![record("size", b"-1")], "malformed"),
        (EntryType::XHeader, vec![record("size", b"18446744073709551615")], "sensible size"),
        (EntryType::XHeader, vec![record("size", b"9999")], "of 9999 bytes"),
        (EntryType::XHeader, vec![record("path", b"../evil")], "leads out"),
        (EntryType::XHeader, vec![record("path", b"/evil")], "absolute"),
        (EntryType::XHeader, vec![record("comment", &[b'x'; 2 << 20])], "too long"),
    ] {
        let message = message(&described(kind, &records, b"abc"));
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_encrypted_entry_says_who_has_the_password_and_how_to_unpack() {
    let mut zip = zip_of(&[("img/1.png", 0o644, b"1")]);
    for (signature, at) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
        let start = zip.windows(4).position(|bytes| bytes == signature).unwrap();
        zip[start + at] |= 1;
    }
    let message = message(&zip);
    for part in ["https://example.org/a.zip", "\"img/1.png\" is encrypted", "password", "unzip -P"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_link_in_a_zip_is_refused() {
    let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    writer.add_symlink("evil", "/etc", SimpleFileOptions::default()).unwrap();
    let message = message(&writer.finish().unwrap().into_inner());
    assert!(message.contains("\"evil\" is a link"), "{message}");
}

#[test]
fn a_path_twice_is_refused() {
    let twice = tar(&[(b"a", FILE, b"1"), (b"./a", FILE, b"2")]);
    let file_as_folder = tar(&[(b"a", FILE, b"1"), (b"a/b", FILE, b"2")]);
    let folder_as_file = tar(&[(b"a/b", FILE, b"1"), (b"a", FILE, b"2")]);
    // Two names of one length, made equal in both the local header and the directory.
    let mut zip = zip_of(&[("aaaa", 0o644, b"1"), ("bbbb", 0o644, b"2")]);
    for i in 0..zip.len() - 4 {
        if zip[i..i + 4] == *b"bbbb" {
            zip[i..i + 4].copy_from_slice(b"aaaa");
        }
    }
    for bytes in [twice, file_as_folder, folder_as_file, zip] {
        let message = message(&bytes);
        assert!(message.contains("twice"), "{message}");
    }
}

#[test]
fn limits_on_entries_bytes_and_ratio_hold() {
    let limits = UnpackLimits { entries: 2, bytes: 1 << 20, ratio: 200 };
    let three: [(&[u8], EntryType, &[u8]); 3] = [(b"a", FILE, b""), (b"b", FILE, b""), (b"c", FILE, b"")];
    let large = vec![0; (1 << 20) + 1];
    let bomb = vec![0; 70 << 20];
    for (bytes, limits, word) in [
        (tar(&three), &limits, "2 entries"),
        (tar(&[(b"c", FILE, &large)]), &limits, "1048576 bytes"),
        (gz(&tar(&[(b"c", FILE, &large)])), &limits, "1048576 bytes"),
        (zip_of(&[("c", 0o644, &large)]), &limits, "1048576 bytes"),
        (gz(&tar(&[(b"c", FILE, &bomb)])), &UnpackLimits::default(), "ratio"),
        (zip_of(&[("c", 0o644, &bomb)]), &UnpackLimits::default(), "ratio"),
    ] {
        let message = unpack_bytes(&bytes, limits).1.unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("\"c\""), "{message}");
    }
    // A gzip tail of zeros after the end mark is a bomb as well.
    let message = message(&gz(&[tar(&three), bomb].concat()));
    assert!(message.contains("ratio"), "{message}");
}

#[test]
fn zips_as_streams_write_them_and_large_ones_are_read() {
    // Sizes in a descriptor behind the content, and 64-bit fields.
    let mut writer = zip::ZipWriter::new_stream(Vec::new());
    writer.start_file("a.txt", SimpleFileOptions::default()).unwrap();
    writer.write_all(b"alpha").unwrap();
    writer.start_file("b.txt", SimpleFileOptions::default().large_file(true)).unwrap();
    writer.write_all(&[7; 700]).unwrap();
    let (room, result) = unpack_bytes(&writer.finish().unwrap().into_inner(), &UnpackLimits::default());
    assert_eq!(result.unwrap(), Unpacked { files: 2, bytes: 705 });
    assert_eq!(fs::read(room.path().join("outer/out/b.txt")).unwrap(), [7; 700]);
}

#[test]
fn a_zip_that_lies_about_a_size_is_damaged() {
    let mut zip = zip_of(&[("a", 0o644, &[9; 100])]);
    // The uncompressed size of the directory entry: byte 24 after its signature.
    let at = zip.windows(4).position(|w| w == b"PK\x01\x02").unwrap() + 24;
    for size in [50, 150, 255] {
        zip[at] = size;
        let (_, result) = unpack_bytes(&zip, &UnpackLimits::default());
        assert!(matches!(result, Err(ArchiveError::Damaged { .. })), "{result:?}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let entries: [(&[u8], EntryType, &[u8]); 2] = [(b"a", FILE, &[1; 600]), (b"b", FILE, &[2; 512])];
    let (blocks, whole) = (tar_blocks(&entries), tar(&entries));
    for cut in [1, 512, 700, 1536, 1537, 2048, blocks.len() - 1, blocks.len()] {
        let (_, result) = unpack_bytes(&whole[..cut], &UnpackLimits::default());
        assert!(result.is_err(), "tar cut at {cut}");
    }
    let zipped = gz(&whole);
    for cut in 1..zipped.len() {
        let (_, result) = unpack_bytes(&zipped[..cut], &UnpackLimits::default());
        assert!(result.is_err(), "tar.gz cut at {cut}");
    }
    let zip = zip_of(&[("a", 0o644, &[1; 600])]);
    for cut in 1..zip.len() {
        assert!(unpack_bytes(&zip[..cut], &UnpackLimits::default()).1.is_err(), "zip cut at {cut}");
    }
}

#[test]
fn damage_names_the_entry_or_the_place() {
    let mut zip = zip_of(&[("kept", 0o644, b"12345")]);
    let content = zip.windows(4).position(|w| w == b"kept").unwrap() + 4;
    zip[content + 1] ^= 0x55;
    let message_of_zip = message(&zip);
    assert!(message_of_zip.contains("\"kept\""), "{message_of_zip}");

    let mut tar = tar(&[(b"a", FILE, b"1"), (b"b", FILE, b"2")]);
    tar[1024 + 5] ^= 1;
    let message_of_tar = message(&tar);
    assert!(message_of_tar.contains("at byte 1536"), "{message_of_tar}");
}

#[test]
fn other_formats_and_filled_folders_are_refused() {
    for (bytes, part) in [
        (&b"\xfd7zXZ\0 and so on"[..], "compressed with xz"),
        (b"BZh91AY&SY", "compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd and so on", "compressed with zstd"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07\x01\0", "a rar archive"),
        (b"<!DOCTYPE html><html>Virus scan warning", "a web page"),
        (b"", "it is empty"),
        (b"#!/bin/sh\nPK\x03\x04", "23 21 2f 62 69 6e 2f 73, as a script does"),
    ] {
        let message = message(bytes);
        assert!(message.starts_with("https://example.org/a.zip is no") && message.contains(part), "{message}");
    }
    let room = tempfile::tempdir().unwrap();
    let archive = room.path().join("a");
    fs::write(&archive, tar(&[])).unwrap();
    let result = unpack(&archive, "https://example.org/a.zip", room.path(), &UnpackLimits::default());
    assert!(matches!(result, Err(ArchiveError::NotEmpty { .. })));
}

proptest! {
    /// Whatever the name, the path stays below the folder.
    #[test]
    fn no_name_leads_out(name in prop::collection::vec(prop::sample::select(b"/\\.:aC\0".to_vec()), 0..12)) {
        if let Ok(path) = safe_path(&name) {
            let all_normal = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            prop_assert!(all_normal, "{path:?}");
            prop_assert!(path.is_relative());
        }
    }

    /// No byte sequence makes the unpacker panic or write outside.
    #[test]
    fn altered_archives_never_panic(at in 0usize..4096, bit in 0u8..8, which in 0usize..3) {
        let tar = tar(&[(b"a", FILE, &[3; 300]), (b"b/c", FILE, b"22")]);
        let mut bytes = [tar.clone(), gz(&tar), zip_of(&[("a", 0o644, &[3; 300]), ("b/c", 0o644, b"22")])][which].clone();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let (room, _) = unpack_bytes(&bytes, &UnpackLimits::default());
        prop_assert_eq!(fs::read_dir(room.path()).unwrap().count(), 2);
        prop_assert_eq!(fs::read_dir(room.path().join("outer")).unwrap().count(), 1);
    }
}
