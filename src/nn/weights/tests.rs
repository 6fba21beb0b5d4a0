//! Files that PyTorch wrote, invalid files, and altered ones, made by `tests/data/weights/make.py`.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::nn::backbone::no_alias;

const GOOD: [&str; 9] = [
    "plain.pth",
    "plain_protocol_5.pth",
    "plain_no_checksums.pth",
    "plain_legacy.pth",
    "plain.safetensors",
    "nested.pth",
    "nested_legacy.pth",
    "batch_norm_legacy.pth",
    "python2_legacy.pth",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/weights").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap()
}

/// A tensor according to PyTorch, its elements as the bits of `f32`.
#[derive(Debug, PartialEq, Deserialize)]
struct Expected {
    name: String,
    shape: Vec<usize>,
    bits: Vec<i32>,
}

fn expected(set: &str) -> Vec<Expected> {
    let sets: std::collections::HashMap<String, Vec<Expected>> =
        serde_json::from_slice(&bytes("expected.json")).unwrap();
    sets.into_iter().find(|(name, _)| name == set).unwrap().1
}

fn found(file: &WeightFile) -> Vec<Expected> {
    file.tensors()
        .iter()
        .map(|tensor| Expected {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            bits: file.values(tensor).unwrap().iter().map(|value| value.to_bits().cast_signed()).collect(),
        })
        .collect()
}

#[test]
fn all_formats_of_pytorch_have_its_values() {
    for (name, format, set) in [
        ("plain.pth", Format::Zip, "plain"),
        ("plain_protocol_5.pth", Format::Zip, "plain"),
        ("plain_no_checksums.pth", Format::Zip, "plain"),
        ("plain_legacy.pth", Format::Legacy, "plain"),
        ("nested.pth", Format::Zip, "nested"),
        ("nested_legacy.pth", Format::Legacy, "nested"),
        ("batch_norm_legacy.pth", Format::Legacy, "batch_norm"),
        ("python2_legacy.pth", Format::Legacy, "python2"),
    ] {
        let file = WeightFile::open(path(name)).unwrap();
        assert_eq!(file.format(), format, "{name}");
        assert_eq!(found(&file), expected(set), "{name}");
    }
    let file = WeightFile::open(path("plain.safetensors")).unwrap();
    assert_eq!(file.format(), Format::Safetensors);
    assert_eq!(file.metadata()["made by"], "make.py");
    let (mut found, mut expected) = (found(&file), expected("plain"));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found, expected);
}

#[test]
fn the_types_are_those_of_the_file() {
    for name in ["plain.pth", "plain_legacy.pth", "plain.safetensors"] {
        let file = WeightFile::open(path(name)).unwrap();
        let dtype = |name: &str| file.tensors().iter().find(|tensor| tensor.name == name).unwrap().dtype;
        let types = ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"].map(dtype);
        assert_eq!(
            types.map(|dtype| dtype.to_string().to_lowercase()).join(" "),
            "f64 f32 f16 bf16 i64 i32 i16 i8 u8 bool"
        );
    }
}

#[test]
fn a_checkpoint_tells_what_was_stripped_and_skipped() {
    for name in ["nested.pth", "nested_legacy.pth"] {
        let file = WeightFile::open(path(name)).unwrap();
        let set = file.main().unwrap();
        assert_eq!((set.key.as_deref(), &*set.stripped), (Some("state_dict"), "module."));
        let skipped: Vec<String> = file.skipped().iter().map(|s| format!("{}:{}", s.name, s.kind)).collect();
        assert_eq!(
            skipped.join(" "),
            "epoch:int arch:string best:tensor optimizer:dict rate:float shape:tuple dtype:dtype done:bool \
             nothing:None 7:list"
        );
    }
    let file = WeightFile::open(path("plain.pth")).unwrap();
    let set = file.main().unwrap();
    assert_eq!((set.key.as_deref(), &*set.stripped, file.skipped().len()), (None, "", 0));
}

#[test]
fn batch_norms_of_one_row_are_loaded_as_vectors() {
    let file = WeightFile::open(path("batch_norm_legacy.pth")).unwrap();
    let wanted = [("bn.bias", [5]), ("bn.weight", [5]), ("bn.running_var", [5]), ("bn.running_mean", [5])];
    let fit = fit(&file, &wanted, &[], no_alias, &Choice::default()).unwrap();
    let values: Vec<Vec<f32>> = fit.tensors.iter().map(|tensor| file.values(tensor).unwrap()).collect();
    let of = |name: &str| -> Vec<f32> {
        let bits = expected("batch_norm").into_iter().find(|tensor| tensor.name == name).unwrap().bits;
        bits.into_iter().map(|bits| f32::from_bits(bits.cast_unsigned())).collect()
    };
    assert_eq!(values, wanted.map(|(name, _)| of(name)));
}

#[test]
fn pickles_that_run_something_are_refused_by_name() {
    for (name, place, what) in [
        ("hostile.pth", "hostile/data.pkl", "posix.system at byte 9"),
        ("hostile_legacy.pth", "object pickle", "posix.system at byte 78"),
        ("hostile_stack_global.pth", "hostile/data.pkl", "builtins.eval at byte 20"),
    ] {
        let error = WeightFile::open(path(name)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: {place}: {what}", path(name).display())), "{error}");
        assert!(error.contains(" runs code in whoever loads this file"), "{error}");
    }
    let error = WeightFile::open(path("hostile_inst.pth")).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}: hostile/data.pkl: opcode INST at byte 9 is not a tensor; this file is not loaded. If you trust it, save \
             model.state_dict() from Python and load that",
            path("hostile_inst.pth").display()
        )
    );
}

#[test]
fn files_that_hold_no_readable_tensors_say_what_to_do() {
    for (name, message) in [
        (
            "big_endian.pth",
            "plain/byteorder: the byte order is big-endian; load it in PyTorch and save it again on a little-endian \
             machine",
        ),
        (
            "deflated.pth",
            "plain/data.pkl: the entry is compressed or encrypted, expected a stored one; pack it again without \
             compression (zip -0), or save it again from PyTorch",
        ),
        (
            "script.pt",
            "script/constants.pkl: a TorchScript module, with code beside its tensors; save \
             torch.jit.load(FILE).state_dict() with torch.save instead",
        ),
        (
            "no_tensors.pth",
            "checkpoint: no tensors under names; it holds \"epoch\" (int), \"nets\" (list); save model.state_dict() with \
             torch.save",
        ),
        (
            "module.pth",
            "checkpoint: a whole module was saved (a torch.nn.modules.linear.Linear); save model.state_dict() with \
             torch.save in the place where its code is",
        ),
    ] {
        let error = WeightFile::open(path(name)).unwrap_err().to_string();
        assert_eq!(error, format!("{}: {message}", path(name).display()));
    }
}

#[test]
fn what_is_no_weight_file_is_told() {
    let error = |bytes: &[u8]| WeightFile::from_bytes("f", bytes.to_vec()).unwrap_err().to_string();
    assert_eq!(
        error(b"{ \"a\": 1 }"),
        "f: not a weight file: it starts with the bytes 7b 20 22 61 22 3a 20 31, expected safetensors or what \
         torch.save writes"
    );
    assert_eq!(error(b""), "f: not a weight file: it is empty; fetch or write it again");
    assert!(error(b"<html>\n<body>").contains("it is a web page; the download was answered with a page"));
    assert!(error(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n").contains("`git lfs pull`"));
    assert!(error(b"\x1f\x8b\x08").contains("it is compressed with gzip; unpack it"));
    assert!(
        error(b"{\"metadata\":{},\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}}")
            .contains("the index of weights in several files (m-1.safetensors, m-2.safetensors); join them in Python")
    );
    assert!(error(b"\x80\x02cposix\nsystem\n)R.").contains("first pickle: posix.system at byte 2 runs code"));
    assert!(error(b"\x80\x02}.").contains("it holds a dict, expected the magic number of torch.save"));
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(error(&tar).contains("a tar archive, as PyTorch wrote before 0.1.10"));

    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| WeightFile::open(path).unwrap_err().to_string();
    let none = folder.path().join("none");
    let missing = format!("failed to open file `{}`: No such file or directory (os error 2)", none.display());
    assert_eq!(error(&none), missing);
    assert_eq!(error(folder.path()), format!("{}: it is a folder, expected a file", folder.path().display()));
    fs::write(folder.path().join("empty"), "").unwrap();
    assert!(error(&folder.path().join("empty")).contains("it is empty; fetch"));
}

/// The file of `tests/data` with the first `from` replaced by `to`, which has the same length.
fn altered(name: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes(name);
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn the_sizes_of_storages_are_believed_by_nobody() {
    let error = |bytes: Vec<u8>| match WeightFile::from_bytes("f", bytes) {
        Err(error) => error.to_string(),
        Ok(file) => file.tensors().iter().find_map(|tensor| file.values(tensor).err()).unwrap().to_string(),
    };
    // The count of elements before the data: 6 floats.
    let found = error(altered("python2_legacy.pth", b"\x06\0\0\0\0\0\0\0", b"\x07\0\0\0\0\0\0\0"));
    assert!(
        found.contains("storages: byte 319: storage \"77\": 7 elements, expected the 6 of the object pickle"),
        "{found}"
    );
    let mut both = altered("python2_legacy.pth", b"\x06\0\0\0\0\0\0\0", b"\x07\0\0\0\0\0\0\0");
    while let Some(at) = both.windows(5).position(|window| window == b"cpuK\x06") {
        both[at + 4] = 7;
    }
    assert!(error(both).contains("storage \"77\": 7 elements of F32 expected, the file ends after 24 bytes"));
    let found = error(altered("python2_legacy.pth", b"\x80\x02](U\x0277e", b"\x80\x02](U\x0278e"));
    assert!(found.contains("storage \"78\" is listed and no tensor mentions it"), "{found}");
    // One element less than the archive's entry has, and still enough for the tensor.
    let mut less = bytes("plain_no_checksums.pth");
    let tensor = less.windows(6).position(|window| window == b"sliced").unwrap();
    let count = tensor + less[tensor..].windows(3).position(|window| window == b"K\x18t").unwrap();
    less[count + 1] -= 1;
    let found = error(less);
    assert!(found.contains("has 96 bytes, expected 23 elements of F32"), "{found}");
    // An element of a tensor in a zip archive, where the checksum detects the change.
    let one = 0.1_f32.to_le_bytes();
    let found = error(altered("plain.pth", &one, &[one[0] ^ 1, one[1], one[2], one[3]]));
    assert!(
        found.contains("plain/data/1 of tensor \"f32\"") && found.contains("the checksum of its 20 bytes is wrong"),
        "{found}"
    );
}

#[test]
fn a_file_is_read_by_several_threads() {
    let file = WeightFile::open(path("plain.pth")).unwrap();
    let read = || found(&file);
    let all = std::thread::scope(|scope| [scope.spawn(read), scope.spawn(read)].map(|thread| thread.join().unwrap()));
    assert_eq!(all, [expected("plain"), expected("plain")]);
}

#[test]
fn tensors_of_another_file_are_refused() {
    let (plain, small) =
        (WeightFile::open(path("plain.pth")).unwrap(), WeightFile::open(path("python2_legacy.pth")).unwrap());
    let refused = plain.tensors().iter().filter(|tensor| small.values(tensor).is_err()).count();
    assert!(refused > 15, "{refused}");
}

#[test]
fn a_tensor_that_repeats_itself_beyond_the_file_is_refused() {
    // (1, 2) with strides (2, 1) becomes (255, 2) with strides (0, 1), in a file of 351 bytes.
    let repeated = altered("python2_legacy.pth", b"K\x01K\x02\x86K\x02K\x01\x86", b"K\xffK\x02\x86K\x00K\x01\x86");
    let file = WeightFile::from_bytes("f", repeated).unwrap();
    let error = file.values(&file.tensors()[0]).unwrap_err().to_string();
    assert!(error.contains("tensor \"a\": it repeats its elements 510 times over"), "{error}");
}

/// Opens the bytes and reads every tensor; no tensor has more elements than the file has bytes.
fn read_all(bytes: Vec<u8>) -> Result<(), WeightError> {
    let len = bytes.len();
    let file = WeightFile::from_bytes("f", bytes)?;
    file.tensors().iter().try_for_each(|tensor| {
        let values = file.values(tensor)?;
        assert_eq!(values.len(), tensor.elements());
        assert!(values.len() <= len, "{} values of {len} bytes", values.len());
        Ok(())
    })
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for name in GOOD {
        let bytes = bytes(name);
        read_all(bytes.clone()).unwrap();
        for end in 0..bytes.len() {
            assert!(read_all(bytes[..end].to_vec()).is_err(), "{name} cut at byte {end}");
        }
    }
}

#[test]
fn every_byte_may_be_altered() {
    for name in GOOD {
        let good = bytes(name);
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let _ = read_all(bytes);
            }
        }
    }
}

proptest! {
    #[test]
    fn several_bytes_may_be_altered(
        name in prop::sample::select(GOOD.to_vec()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = bytes(name);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = read_all(bytes);
    }
}
