//! Randomly damaged files for every reader: it must return, soon, and without allocating more memory than the file accounts
//! for.
//!
//! By default a few files per reader are tried, always the same. `FUZZ_SECONDS=600 cargo test --test fuzz` tries others for
//! that long per reader; `FUZZ_READER=parquet` selects readers by name, and `FUZZ_FROM=N` starts with the Nth file. The file
//! tried last is below `target/tmp/fuzz`, next to those that made a reader panic.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::io::{Cursor, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[path = "support/random.rs"]
mod random;

use meanfield::data::archive::{UnpackLimits, unpack};
use meanfield::data::generate::{Family, GeneratedLayout, GeneratorSpec, generate};
use meanfield::data::layout::{Counts, Layout, Source};
use meanfield::data::split::SplitRule;
use meanfield::eval::vectors::{Names, read_labels, read_vectors};
use meanfield::nn::weights::WeightFile;
use meanfield::table::Table;
use meanfield::{data, pipeline, report, stage, text};
use random::Random;

/// A reader that takes longer over one of these small files hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// Limit of memory for one of them: an image decoder may need as much as `PIXELS` allow.
const MEMORY: i64 = 1 << 30;
const PIXELS: u64 = 1 << 22;
/// Files per reader, if no time is given.
const FILES: u64 = 40;

/// Counts allocated bytes.
struct Counted;

static HELD: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

fn held(bytes: i64) {
    let now = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        held(memory.size() as i64);
        unsafe { System.alloc(memory) }
    }

    unsafe fn alloc_zeroed(&self, memory: Memory) -> *mut u8 {
        held(memory.size() as i64);
        unsafe { System.alloc_zeroed(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        held(-(memory.size() as i64));
        unsafe { System.dealloc(at, memory) }
    }

    unsafe fn realloc(&self, at: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        held(size as i64 - memory.size() as i64);
        unsafe { System.realloc(at, memory, size) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

impl Random {
    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Numbers that break arithmetic.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fff0,
    0xffff_ffff_ffff_ffff,
];

/// Texts that break parsers.
const TEXTS: [&str; 24] = [
    "\n",
    "\r\n",
    "\"",
    "'",
    ",",
    ";",
    "\t",
    "\0",
    "{",
    "}",
    "[[[[[[[[",
    "&a ",
    "*a",
    "<<: ",
    "!!",
    "- ",
    ": ",
    "|\n",
    "-1",
    "1e999",
    "99999999999999999999",
    "NaN",
    "\u{feff}",
    "\u{202e}\u{fc}",
];

fn mutate(file: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    // Headers are at the ends, where the counts and offsets are.
    let place = |length: usize, random: &mut Random| match random.below(4) {
        0 => random.below(length.min(64)),
        1 => length - 1 - random.below(length.min(64)),
        _ => random.below(length),
    };
    for _ in 0..1 + random.below(6) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = place(bytes.len(), random);
        let order = random.below(10);
        let length = 1 + random.below(1 << order);
        let end = (at + length).min(bytes.len());
        match random.below(11) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = *random.pick(&NUMBERS) as u8,
            3 | 4 => {
                let number = *random.pick(&NUMBERS);
                let width = *random.pick(&[2, 4, 8]);
                let mut raw = number.to_le_bytes();
                if random.below(2) == 0 {
                    raw[..width].reverse();
                }
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&raw[..end - at]);
            }
            5 => drop(bytes.drain(at..end)),
            6 => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            7 => bytes.truncate(at),
            8 => {
                let text = random.pick(&TEXTS).as_bytes().repeat(1 + random.below(4));
                bytes.splice(at..at, text);
            }
            9 => {
                // The digits of a number become another number.
                if let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) {
                    let digits = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    bytes.splice(from..from + digits, random.pick(&NUMBERS).to_string().into_bytes());
                }
            }
            _ if !other.is_empty() => {
                let from = random.below(other.len());
                let to = (from + length).min(other.len());
                bytes.splice(at..end, other[from..to].to_vec());
            }
            _ => {}
        }
    }
    bytes
}

/// Wraps damaged content into a file with valid checksums.
type Wrap = fn(Vec<u8>) -> Vec<u8>;

/// Reads a file, and its bytes.
type ReadFile = dyn Fn(&Path, &[u8]);

struct Reader {
    name: &'static str,
    /// Extension of the file, which selects the format.
    extension: &'static str,
    seeds: Vec<Vec<u8>>,
    wrap: Wrap,
    read: Box<ReadFile>,
}

fn reader(
    name: &'static str,
    extension: &'static str,
    seeds: Vec<Vec<u8>>,
    read: impl Fn(&Path, &[u8]) + 'static,
) -> Reader {
    Reader { name, extension, seeds, wrap: |bytes| bytes, read: Box::new(read) }
}

/// The files of a folder below `tests/data` whose names end so, the small ones.
fn data_files(folder: &str, ends: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().path()).collect();
    paths.sort();
    let wanted = |path: &PathBuf| ends.iter().any(|end| path.to_string_lossy().ends_with(end));
    let files: Vec<Vec<u8>> = paths.into_iter().filter(wanted).map(|path| std::fs::read(path).unwrap()).collect();
    let small: Vec<Vec<u8>> = files.into_iter().filter(|bytes| bytes.len() < 200_000).collect();
    assert!(!small.is_empty());
    small
}

fn npy(descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), elements].concat()
}

fn npys() -> Vec<Vec<u8>> {
    vec![
        npy("<f4", "(4, 3)", &[0; 48]),
        npy(">f8", "(2, 2)", &[1; 32]),
        npy("<i8", "(5,)", &[1; 40]),
        npy("<U4", "(2,)", &[b'a', 0, 0, 0].repeat(8)),
        npy("|b1", "(2, 2)", &[1, 0, 1, 0]),
        npy("<f2", "(3, 1)", &[0; 6]),
    ]
}

fn zip_of(entries: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn tar_of() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in
        [("a.txt", &b"alpha"[..]), (&format!("{}/b.bin", "folder".repeat(30)), &[7; 700]), ("c", b"")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name.trim_end_matches('/'), content).unwrap();
    }
    let records = b"18 path=other.txt\n23 mtime=1700000000.25\n";
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    builder.append(&header, &records[..]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_path("d").unwrap();
    header.set_cksum();
    builder.append(&header, &b"abc"[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Every block that looks like a header gets its checksum.
fn checksummed(mut bytes: Vec<u8>) -> Vec<u8> {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(block[i]) }).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// Every chunk of a PNG gets its checksum.
fn png_checksummed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let Some(covered) = bytes.get(at + 4..at + 8 + length) else { break };
        let mut sum = flate2::Crc::new();
        sum.update(covered);
        let end = at + 8 + length;
        if let Some(stored) = bytes.get_mut(end..end + 4) {
            stored.copy_from_slice(&sum.sum().to_be_bytes());
        }
        at = end + 4;
    }
    bytes
}

/// A pickle in the archive that `torch.save` puts it into.
fn torch_archive(pickle: Vec<u8>) -> Vec<u8> {
    let storage = [0x3f; 1 << 12];
    let entries: [(&str, &[u8]); 5] = [
        ("archive/data.pkl", &pickle),
        ("archive/byteorder", b"little"),
        ("archive/data/0", &storage),
        ("archive/data/1", &storage),
        ("archive/version", b"3\n"),
    ];
    zip_of(&entries, zip::CompressionMethod::Stored)
}

/// The pickles in archives of `torch.save`.
fn pickles(archives: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for bytes in archives {
        let Ok(mut archive) = zip::ZipArchive::new(Cursor::new(bytes)) else { continue };
        for at in 0..archive.len() {
            let Ok(mut entry) = archive.by_index(at) else { continue };
            let mut pickle = Vec::new();
            if entry.name().is_ok_and(|name| name.ends_with("data.pkl")) && entry.read_to_end(&mut pickle).is_ok() {
                found.push(pickle);
            }
        }
    }
    found
}

fn gzipped(bytes: Vec<u8>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap()
}

/// Reads everything in a table.
fn table(path: &Path) {
    let Ok(table) = Table::open(path) else { return };
    let _ = (table.names(), table.find("label"));
    let columns: Vec<usize> = (0..table.columns().len().min(50)).collect();
    for &column in &columns {
        let _ = table.texts(column);
        let _ = table.matrix(&[column]);
    }
    let _ = table.matrix(&columns);
}

/// Reads everything that `meanfield eval` reads of a file.
fn vectors(path: &Path) {
    let _ = read_vectors(path, Names::default());
    let _ = read_vectors(path, Names { vectors: Some("x*"), labels: Some("label") });
    let _ = read_labels(path, None);
    let _ = read_labels(path, Some("label"));
}

fn weights(path: &Path) {
    let Ok(file) = WeightFile::open(path) else { return };
    for set in file.sets() {
        let _ = set;
    }
    for tensor in file.tensors().iter().take(100) {
        let _ = file.values(tensor);
    }
    let _ = (file.main().is_some(), file.skipped(), file.metadata());
}

fn archive(path: &Path, _: &[u8]) {
    let into = tempfile::tempdir().unwrap();
    let limits = UnpackLimits { entries: 200, bytes: 1 << 22, ratio: 200 };
    let _ = unpack(path, "file", into.path(), &limits);
    for entry in walkdir::WalkDir::new(into.path()) {
        assert!(!entry.unwrap().file_type().is_symlink(), "an archive made a link");
    }
}

/// The lists of a published set: the damaged one replaces the original while it is read.
fn listed(
    layout: Layout,
    generated: GeneratedLayout,
    list: &'static str,
) -> (Vec<u8>, impl Fn(&Path, &[u8]) + 'static) {
    let room = tempfile::tempdir().unwrap();
    let spec =
        GeneratorSpec { family: Family::Textures, classes: 4, per_class: 2, size: 8, seed: 1, layout: generated };
    generate(&spec, room.path()).unwrap();
    let path = room.path().join(list);
    let seed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let source = Source { layout, counts: Counts::Any, ..Source::default() };
    (seed, move |_: &Path, bytes: &[u8]| {
        std::fs::write(room.path().join(list), bytes).unwrap();
        let _ = data::layout::read(&source, room.path());
    })
}

fn readers() -> Vec<Reader> {
    let csv: Vec<Vec<u8>> = [
        "path,label,split,group\na.png,1,train,x\n\"b, \"\"c\"\".png\",2,test,\n",
        "sep=;\nlabel;x0;x1\n1;0.5;-2e3\n\n2;;1\n",
        "\u{feff}label\tname\r\nfoo\t\"line\nbreak\"\r\n",
        "cat\ndog\n7\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let yaml: Vec<Vec<u8>> = [
        "name: p\nparams: { lr: 0.1, deep: [1, { a: b }] }\naxes: { seed: [0, 1], loss: [a, b] }\nexclude: [{ seed: 0, loss: a }]\nstages:\n  a: { run: 'echo ${seed} ${params.lr} > ${out.x}', out: { x: x.txt } }\n  b: { run: [cp, '${in.x}', '${out.y}'], in: { x: a }, out: [y], resources: { memory: 1GiB } }\n",
        "stages:\n  raw: { uses: download/glyphs, with: { classes: 4, per_class: 2 } }\n  images: { uses: preprocess, in: { raw: raw }, with: &w { split: none } }\n  train: &t\n    uses: train\n    in: { images: images }\n    with: { loss: { kind: contrastive }, epochs: 2 }\n  report: { uses: report, in: { scores: { from: train } } }\n",
        "{\"stages\": {\"a\": {\"run\": \"echo '$x' \\\"${params.y}\\\" | tr a b\", \"out\": [\"o\"]}}, \"params\": {\"y\": [1, 2.5, null, true]}}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let scores = vec![
        br#"{"metrics": {"map_at_r": 0.5, "recall": 1e-3, "n": 3}, "remarks": ["a"]}"#.to_vec(),
        b"epoch,loss,\"noise, x\"\n1,0.5,2\n2,,NaN\n".to_vec(),
    ];
    let safetensors = data_files("weights", &[".safetensors"]);
    let torch = [data_files("weights", &[".pth", ".pt"]), data_files("vectors", &[".pt"])].concat();
    let pickles = pickles(&torch);
    let image_files = |ends: &[&str]| data_files("images", ends);
    let image = |_: &Path, bytes: &[u8]| drop(data::decode::rgb(bytes, PIXELS));
    let (cub, read_cub) = listed(Layout::Cub, GeneratedLayout::Cub, "CUB_200_2011/images.txt");
    let (sop, read_sop) = listed(Layout::Sop, GeneratedLayout::Sop, "Stanford_Online_Products/Ebay_train.txt");
    let (inshop, read_inshop) =
        listed(Layout::Inshop, GeneratedLayout::Inshop, "Inshop_Clothes/Eval/list_eval_partition.txt");
    let (cars, read_cars) = listed(Layout::Cars196, GeneratedLayout::Cars196, "cars_annos.mat");
    let kinds = stage::kinds();
    let npz = |bytes: Vec<u8>| {
        zip_of(&[("embeddings.npy", &bytes), ("labels.npy", &bytes)], zip::CompressionMethod::Deflated)
    };
    let stored = zip::CompressionMethod::Stored;
    let zips = vec![
        zip_of(&[("a.txt", b"alpha"), ("b/c.bin", &[7; 900])], zip::CompressionMethod::Deflated),
        zip_of(&[("a.txt", b"alpha"), ("b/c.bin", &[7; 900])], stored),
    ];
    let small = npys();
    let npzs = vec![zip_of(&[("embeddings.npy", &small[0]), ("labels.npy", &small[2])], stored), npz(small[1].clone())];
    let mats = data_files("mat", &[".mat"]);
    vec![
        reader("text", "txt", csv.clone(), |_, bytes| drop(text::decode(bytes).map(|t| text::settled(&t)))),
        reader("table_csv", "csv", csv.clone(), |path, _| table(path)),
        reader("labels_csv", "csv", csv.clone(), |path, _| vectors(path)),
        reader("labels_txt", "txt", csv, |path, _| vectors(path)),
        reader("parquet", "parquet", data_files("vectors", &[".parquet"]), |path, _| {
            table(path);
            vectors(path);
        }),
        reader("npy", "npy", npys(), |path, _| vectors(path)),
        reader("npz", "npz", npzs, |path, _| vectors(path)),
        Reader { wrap: npz, ..reader("npy_in_npz", "npz", npys(), |path, _| vectors(path)) },
        reader("safetensors", "safetensors", safetensors, |path, _| {
            weights(path);
            vectors(path);
        }),
        reader("torch", "pt", torch, |path, _| {
            weights(path);
            vectors(path);
        }),
        Reader {
            wrap: torch_archive,
            ..reader("pickle", "pt", pickles, |path, _| {
                weights(path);
                vectors(path);
            })
        },
        reader("jpeg", "jpg", image_files(&[".jpg"]), image),
        reader("png", "png", image_files(&[".png"]), image),
        Reader { wrap: png_checksummed, ..reader("png_checksummed", "png", image_files(&[".png"]), image) },
        reader("other_images", "img", image_files(&[".bmp", ".gif", ".webp"]), image),
        reader(
            "pnm",
            "ppm",
            vec![b"P6\n2 2\n255\n123456789012".to_vec(), b"P2 2 1 9 1 2".to_vec(), b"P4 9 1\nab".to_vec()],
            image,
        ),
        reader("matlab", "mat", mats, |_, bytes| drop(data::mat::read(bytes))),
        reader("annotations", "mat", vec![cars], read_cars),
        reader("tar", "tar", vec![tar_of()], archive),
        Reader { wrap: checksummed, ..reader("tar_checksummed", "tar", vec![tar_of()], archive) },
        Reader { wrap: |bytes| gzipped(checksummed(bytes)), ..reader("tar_gz", "tgz", vec![tar_of()], archive) },
        reader("zip", "zip", zips, archive),
        reader("pipeline", "yaml", yaml, move |path, _| {
            drop(pipeline::load(path, &[], &kinds, &stage::definitions()));
        }),
        reader("scores", "json", scores, |path, _| {
            let out = tempfile::tempdir().unwrap();
            let job = serde_json::json!({
                "kind": "report", "parameters": { "rows": "loss" }, "resume": out.path().join("r"), "threads": 1,
                "inputs": [{ "name": "scores", "items": [[[["loss", "a"]], path]] }],
                "outputs": { "report": out.path().join("report") },
            });
            let file = out.path().join("job.json");
            std::fs::write(&file, job.to_string()).unwrap();
            let _ = stage::run_job(&file, &mut |_| {});
        }),
        reader("cub", "txt", vec![cub], read_cub),
        reader("sop", "txt", vec![sop], read_sop),
        reader("inshop", "txt", vec![inshop], read_inshop),
        {
            let room = tempfile::tempdir().unwrap();
            let spec = GeneratorSpec {
                family: Family::Textures,
                classes: 4,
                per_class: 2,
                size: 8,
                seed: 1,
                layout: GeneratedLayout::Folder,
            };
            generate(&spec, room.path()).unwrap();
            let mut names: Vec<String> = std::fs::read_dir(room.path())
                .unwrap()
                .map(|item| item.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            let list: String = names.iter().map(|name| format!("{name} train\n")).collect();
            let source =
                Source { split: SplitRule::List("list.txt".to_owned()), counts: Counts::Any, ..Source::default() };
            reader("split_list", "txt", vec![list.into_bytes()], move |_, bytes| {
                std::fs::write(room.path().join("list.txt"), bytes).unwrap();
                let _ = data::layout::read(&source, room.path());
            })
        },
        reader("stored_table", "json", vec![data_table()], |_, bytes| {
            if let Ok(Ok(table)) = std::str::from_utf8(bytes).map(report::Table::from_json) {
                let _ = report::text::render(&table, report::text::Style { ansi: false, width: Some(80) });
                let _ = (
                    report::markdown::render(&table),
                    report::frame::cells(&table).map(|frame| report::csv::render(&frame)),
                );
            }
        }),
    ]
}

/// A table as a report stores it.
fn data_table() -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let scores = out.path().join("s.json");
    std::fs::write(&scores, r#"{"metrics": {"map_at_r": 0.5, "recall": 0.25}}"#).unwrap();
    let job = serde_json::json!({
        "kind": "report", "parameters": { "rows": "loss" }, "resume": out.path().join("r"), "threads": 1,
        "inputs": [{ "name": "scores", "items": [[[["loss", "a"]], scores], [[["loss", "b"]], scores]] }],
        "outputs": { "report": out.path().join("report") },
    });
    let file = out.path().join("job.json");
    std::fs::write(&file, job.to_string()).unwrap();
    stage::run_job(&file, &mut |_| {}).unwrap();
    let mut bytes = Vec::new();
    std::fs::File::open(out.path().join("report/table.json")).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Seconds since the program began at which the current file was given to its reader; 0 between files.
static SINCE: AtomicU64 = AtomicU64::new(0);
static TRIED: AtomicUsize = AtomicUsize::new(0);
static PANICKED_AT: Mutex<String> = Mutex::new(String::new());

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn damaged_files_make_no_reader_panic_hang_or_want_much_memory() {
    let (seconds, from) = (number("FUZZ_SECONDS"), number("FUZZ_FROM").unwrap_or(0));
    let only = std::env::var("FUZZ_READER").unwrap_or_default();
    let began = Instant::now();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let since = SINCE.load(Ordering::SeqCst);
            if since > 0 && began.elapsed().as_secs().saturating_sub(since) > LIMIT.as_secs() {
                eprintln!("file {} makes its reader hang", TRIED.load(Ordering::SeqCst));
                std::process::abort();
            }
        }
    });
    set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        *PANICKED_AT.lock().unwrap() = format!("{place}: {panic}");
    }));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let mut faults: Vec<String> = Vec::new();
    for reader in readers().into_iter().filter(|reader| reader.name.contains(&only)) {
        let folder = folder.join(reader.name);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("input.{}", reader.extension));
        let (begun, mut most, mut slowest) = (Instant::now(), 0, Duration::ZERO);
        let mut at = from;
        loop {
            let ended = match seconds {
                Some(seconds) => begun.elapsed().as_secs() >= seconds,
                None => at - from >= FILES,
            };
            if ended {
                break;
            }
            let mut random = Random(at.wrapping_mul(0x2545_f491_4f6c_dd1d));
            let (seed, other) = (random.pick(&reader.seeds).clone(), random.pick(&reader.seeds).clone());
            // The first files are undamaged.
            let content = reader.seeds.get(at as usize).cloned().unwrap_or_else(|| mutate(&seed, &other, &mut random));
            let bytes = (reader.wrap)(content);
            std::fs::write(&path, &bytes).unwrap();
            TRIED.store(at as usize, Ordering::SeqCst);
            let (before, start) = (HELD.load(Ordering::SeqCst), Instant::now());
            MOST.store(before, Ordering::SeqCst);
            SINCE.store(began.elapsed().as_secs().max(1), Ordering::SeqCst);
            let read = catch_unwind(AssertUnwindSafe(|| (reader.read)(&path, &bytes)));
            SINCE.store(0, Ordering::SeqCst);
            slowest = slowest.max(start.elapsed());
            let wanted = MOST.load(Ordering::SeqCst) - before;
            most = most.max(wanted);
            let place = PANICKED_AT.lock().unwrap().clone();
            let fault = match read {
                Err(_) => Some(format!("panics at {place}")),
                Ok(()) if wanted > MEMORY => Some(format!("wants {} MiB", wanted >> 20)),
                Ok(()) => None,
            };
            if let Some(fault) = fault.filter(|fault| !faults.iter().any(|known| known.contains(fault))) {
                std::fs::copy(&path, folder.join(format!("fault-{at}.{}", reader.extension))).unwrap();
                faults.push(format!("{} FUZZ_FROM={at}: {fault}", reader.name));
            }
            at += 1;
        }
        println!("{}: {} files, at most {} MiB and {} ms", reader.name, at - from, most >> 20, slowest.as_millis());
    }
    // The default hook, which shows the message.
    drop(std::panic::take_hook());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
