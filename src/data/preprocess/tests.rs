use super::*;
use crate::data::generate::{Family, GeneratedLayout, GeneratorSpec, generate};
use crate::data::images::Images;
use crate::data::shard::ImageSet;

/// Five classes of three generated images below `set/`.
fn raw() -> tempfile::TempDir {
    let room = tempfile::tempdir().unwrap();
    let layout = GeneratedLayout::Folder;
    let spec = GeneratorSpec { family: Family::Textures, classes: 5, per_class: 3, size: 16, seed: 1, layout };
    generate(&spec, &room.path().join("set")).unwrap();
    room
}

fn config() -> PreprocessConfig {
    PreprocessConfig { root: "set".into(), size: 8, ..PreprocessConfig::default() }
}

fn run(config: &PreprocessConfig, raw: &Path) -> (tempfile::TempDir, Result<Summary, DataError>) {
    let out = tempfile::tempdir().unwrap();
    let result = preprocess(config, raw, out.path(), out.path(), &mut |_, _| {});
    (out, result)
}

fn bytes_of(out: &Path) -> Vec<Vec<u8>> {
    ["images.u8", "items.jsonl", "set.json"].map(|name| fs::read(out.join(name)).unwrap()).to_vec()
}

#[test]
fn the_first_half_trains_and_each_item_has_the_pixels_of_its_file() {
    let raw = raw();
    let mut seen = Vec::new();
    let out = tempfile::tempdir().unwrap();
    let summary =
        preprocess(&config(), raw.path(), out.path(), out.path(), &mut |done, total| seen.push((done, total))).unwrap();
    assert_eq!(summary.train, Counts { images: 6, classes: 2 });
    assert_eq!(summary.test, Counts { images: 9, classes: 3 });
    assert_eq!(seen, [(15, 15)]);
    let set = ImageSet::open(out.path()).unwrap();
    assert_eq!(set.split(Split::Test).class_names, ["002", "003", "004"]);
    assert_eq!(set.split(Split::Test).labels, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    for split in Split::ALL {
        let view = set.split(split);
        for (item, pixels) in view.items.iter().zip(view.pixels.chunks_exact(8 * 8 * 3)) {
            let file = fs::read(raw.path().join("set").join(&item.path)).unwrap();
            let expected = decoder(|decoder| {
                let whole = Region::whole(decoder.decode(&file, 1000, None).unwrap().size);
                let mut out = [0; 8 * 8 * 3];
                decoder.resize(whole, [8, 8], &mut out).unwrap();
                out
            });
            assert_eq!(pixels, expected);
        }
    }
}

/// Images of different shapes, one of them broken, as a listing of three splits.
fn shapes(folder: &Path) -> Listing {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images");
    let of = |split, class: &str, file: &str| {
        if file == "broken.jpg" {
            fs::write(folder.join(file), "nothing").unwrap();
        } else {
            fs::copy(fixtures.join(file), folder.join(file)).unwrap();
        }
        Entry {
            location: Location::File(file.to_owned()),
            class: class.to_owned(),
            split,
            group: Some(format!("of {class}")),
        }
    };
    let entries = vec![
        of(Split::Train, "a", "photo.jpg"),
        of(Split::Train, "a", "rgba.png"),
        of(Split::Train, "b", "broken.jpg"),
        of(Split::Train, "c", "large.jpg"),
        of(Split::Validation, "d", "turned.jpg"),
        of(Split::Test, "d", "cmyk.jpg"),
        of(Split::Test, "e", "palette.png"),
    ];
    Listing { root: folder.to_owned(), entries, ..Listing::default() }
}

fn of_store(store: Store) -> PreprocessConfig {
    PreprocessConfig { store, size: 12, max_broken: 1, ..PreprocessConfig::default() }
}

#[test]
fn a_set_keeps_squares_shapes_or_files() {
    let room = tempfile::tempdir().unwrap();
    let listing = shapes(room.path());
    let made = |config: &PreprocessConfig| {
        let out = tempfile::tempdir().unwrap();
        let summary = write_set(config, &listing, out.path(), out.path(), &mut |_, _| {}).unwrap();
        assert_eq!((summary.train, summary.broken.len()), (Counts { images: 3, classes: 2 }, 1));
        assert_eq!((summary.validation, summary.test.classes), (Counts { images: 1, classes: 1 }, 2));
        let set = ImageSet::open(out.path()).unwrap();
        assert_eq!(set.split(Split::Validation).items[0].group.as_deref(), Some("of d"));
        set
    };
    let sizes = |set: &ImageSet| -> Vec<Size> {
        Split::ALL
            .iter()
            .flat_map(|&s| set.split(s).items.iter().map(|i| [i.height, i.width]).collect::<Vec<_>>())
            .collect()
    };
    assert_eq!(sizes(&made(&of_store(Store::Square))), [[12, 12]; 6]);
    let short = made(&of_store(Store::ShortSide));
    assert_eq!(sizes(&short), [[12, 16], [18, 12], [12, 14], [14, 12], [13, 12], [12, 16]]);
    let scaled = made(&PreprocessConfig { scaled_decoding: true, ..of_store(Store::ShortSide) });
    assert_eq!(sizes(&scaled), sizes(&short));
    assert_eq!(scaled.split(Split::Test).pixels, short.split(Split::Test).pixels);
    assert_ne!(scaled.split(Split::Train).pixels, short.split(Split::Train).pixels);
    let original = made(&of_store(Store::Original));
    // An orientation tag is not applied.
    assert_eq!(sizes(&original), [[23, 31], [30, 19], [131, 163], [33, 27], [25, 22], [23, 31]]);
    let test = original.split(Split::Test);
    assert_eq!(test.image(1).bytes, fs::read(room.path().join("palette.png")).unwrap());
}

#[test]
fn a_stopped_set_resumes_with_the_bytes_of_one_that_was_not() {
    let room = tempfile::tempdir().unwrap();
    let listing = shapes(room.path());
    let config = of_store(Store::ShortSide);
    let whole = tempfile::tempdir().unwrap();
    write_blocks(&config, &listing, [whole.path(); 2], 2, &mut |_, _| {}).unwrap();
    assert!(!whole.path().join(PROGRESS).exists());
    for stop in [2, 4, 6, 7] {
        let (work, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let attempt = |config: &PreprocessConfig, stop: usize| {
            let (mut first, mut stopped) = (None, false);
            let place = [work.path(), out.path()];
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                write_blocks(config, &listing, place, 2, &mut |done, _| {
                    first.get_or_insert(done);
                    stopped = done == stop;
                    assert!(!stopped, "stopped, as this test wants it");
                })
            }));
            assert_eq!(ended.is_err(), stopped);
            first
        };
        attempt(&config, stop);
        assert!(work.path().join(PROGRESS).exists() && !out.path().join(SET).exists());
        // What a killed process has half written.
        for name in [IMAGES, ITEMS] {
            let path = work.path().join(name);
            let longer = [fs::read(&path).unwrap(), b"half of".to_vec()].concat();
            fs::write(path, longer).unwrap();
        }
        // The first word of it is that of the last whole block.
        assert_eq!(attempt(&config, 0), Some(stop));
        assert!(bytes_of(out.path()) == bytes_of(whole.path()), "stopped after {stop}");
        assert!(fs::read_dir(work.path()).unwrap().next().is_none());
        // The state of another set is of no use.
        attempt(&config, 4);
        assert_eq!(attempt(&PreprocessConfig { size: 9, ..config.clone() }, 0), Some(2));
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let raw = raw();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (out, result) = pool.install(|| run(&config(), raw.path()));
        result.unwrap();
        bytes_of(out.path())
    };
    let one = with(1);
    assert!(one == with(2) && one == with(4));
}

#[test]
fn broken_images_are_told_with_reason_and_left_out_up_to_the_limit() {
    let raw = raw();
    for path in ["set/000/01.png", "set/003/00.png", "set/003/01.png", "set/003/02.png"] {
        fs::write(raw.path().join(path), b"not an image").unwrap();
    }
    let (out, result) = run(&PreprocessConfig { max_broken: 3, ..config() }, raw.path());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("4 of 15") && message.contains("000/01.png: its content"), "{message}");
    let message = ImageSet::open(out.path()).unwrap_err().to_string();
    assert!(message.starts_with(&format!("failed to open file `{}`", out.path().join(SET).display())), "{message}");

    let (out, result) = run(&PreprocessConfig { max_broken: 4, ..config() }, raw.path());
    let summary = result.unwrap();
    assert_eq!(summary.train, Counts { images: 5, classes: 2 });
    // A class whose images are all broken has no label.
    assert_eq!(summary.test, Counts { images: 6, classes: 2 });
    assert_eq!(summary.broken.len(), 4);
    let set = ImageSet::open(out.path()).unwrap();
    assert_eq!(set.split(Split::Test).class_names, ["002", "004"]);
    assert_eq!(set.split(Split::Test).labels, [0, 0, 0, 1, 1, 1]);
}

#[test]
fn only_ten_broken_images_are_listed() {
    let raw = raw();
    for (class, image) in (0..5).flat_map(|class| (0..3).map(move |image| (class, image))) {
        fs::write(raw.path().join(format!("set/{class:03}/{image:02}.png")), b"").unwrap();
    }
    let message = run(&config(), raw.path()).1.unwrap_err().to_string();
    assert!(message.contains("15 of 15") && message.contains("first 10"), "{message}");
    assert_eq!(message.matches(".png").count(), 10);
    let config = PreprocessConfig { max_broken: 15, ..config() };
    assert!(matches!(run(&config, raw.path()).1, Err(DataError::NoImage { total: 15, .. })));
}

#[test]
fn a_list_splits_within_a_class_and_counts_what_it_leaves_out() {
    let raw = raw();
    fs::write(raw.path().join("list.txt"), "000/02.png train\n000/00.png test\n003 test\n").unwrap();
    let (out, result) = run(
        &PreprocessConfig { split: SplitRule::List("list.txt".into()), shared_classes: true, ..config() },
        raw.path(),
    );
    let summary = result.unwrap();
    assert_eq!((summary.train.images, summary.test.images, summary.unlisted), (1, 4, 10));
    let set = ImageSet::open(out.path()).unwrap();
    assert_eq!(set.split(Split::Train).class_names, ["000"]);
    assert_eq!(set.split(Split::Test).class_names, ["000", "003"]);
}

#[test]
fn a_group_is_what_stands_before_the_first_hyphen() {
    let raw = raw();
    let folder = raw.path().join("set/000");
    fs::rename(folder.join("00.png"), folder.join("noto-1f44b-light.png")).unwrap();
    let groups = |group_by_prefix| {
        let (out, result) = run(&PreprocessConfig { group_by_prefix, ..config() }, raw.path());
        result.unwrap();
        let set = ImageSet::open(out.path()).unwrap();
        set.split(Split::Train).items[..3].iter().map(|item| item.group.clone()).collect::<Vec<_>>()
    };
    assert_eq!(groups(true), [None, None, Some("noto".to_owned())]);
    assert_eq!(groups(false), [None, None, None]);
}

#[test]
fn parameters_are_read_strictly_and_their_ranges_checked() {
    assert_eq!(serde_json::from_str::<PreprocessConfig>("{}").unwrap(), PreprocessConfig::default());
    let error = serde_json::from_str::<PreprocessConfig>(r#"{"sizes": 3}"#).unwrap_err().to_string();
    assert!(error.starts_with("unknown field `sizes`, expected one of"), "{error}");
    assert!(PreprocessConfig::default().check().is_empty());
    let wrong = PreprocessConfig {
        root: "../other".into(),
        size: 0,
        split: SplitRule::List("/etc/list".into()),
        max_pixels: 0,
        ..PreprocessConfig::default()
    };
    let fields: Vec<_> = wrong.check().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["size", "max_pixels", "root", "split.list"]);
    assert!(matches!(run(&wrong, Path::new("")).1, Err(DataError::Parameter { .. })));
}

#[test]
fn a_file_that_is_taken_away_is_an_error_and_not_a_broken_image() {
    let room = tempfile::tempdir().unwrap();
    let listing = shapes(room.path());
    let path = room.path().join("palette.png");
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let work = tempfile::tempdir().unwrap();
    let attempt = || write_blocks(&of_store(Store::Square), &listing, [work.path(); 2], 2, &mut |_, _| {});
    let message = format!("failed to open file `{}`: No such file or directory (os error 2)", path.display());
    assert_eq!(attempt().unwrap_err().to_string(), message);
    fs::write(&path, bytes).unwrap();
    assert_eq!(attempt().unwrap().broken.len(), 1, "broken.jpg alone");
}
