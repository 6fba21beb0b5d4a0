//! From a data set to an image set.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::crop::{Region, Size, with_short_side};
use super::decode::{Broken, decoder};
use super::error::DataError;
use super::images::bytes;
use super::inspect::{Repeated, leaks};
use super::layout::{self, Counts as CheckedCounts, Layout, Source};
use super::listing::{Entry, Listing, pixels};
use super::shard::{IMAGES, ITEMS, NewImage, SET, ShardWriter, Store};
use super::split::{Split, SplitRule};

/// Images that are decoded at once; bounds the memory, changes no result.
const BLOCK: usize = 256;

/// File of an image set that names the images which are in two splits: a JSON list of [`Repeated`], empty if there are
/// none.
pub const LEAKS: &str = "leaks.json";

/// How a data set becomes an image set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// How the data set lies in its folder. Default `folder`.
    pub layout: Layout,
    /// The folder of the data set, below the raw folder. Default: the raw folder itself.
    pub root: String,
    /// What is kept of the images. Default `square`.
    pub store: Store,
    /// Side of the images in pixels, the short side with `store: short_side`; without meaning with `store: original`.
    /// Default 32, range `1..=4096`.
    pub size: u32,
    /// Whether a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as that is at least twice the
    /// size that it is resized to. Default no: its pixels are then those of Pillow, to within 1.
    pub scaled_decoding: bool,
    /// Default `official`.
    pub split: SplitRule,
    /// Whether a published data set must have its published size. Default `published`.
    pub counts: CheckedCounts,
    /// Whether a class may be in the test split and in another one. Default no.
    pub shared_classes: bool,
    /// Whether what an image's file name has before its first `-` is kept as its group. Default no.
    pub group_by_prefix: bool,
    /// Images that may be broken; they are left out. Default 0.
    pub max_broken: usize,
    /// Images with more pixels count as broken. Default 178956970 (that of Pillow), range `1..=2^32`.
    pub max_pixels: u64,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        PreprocessConfig {
            layout: Layout::default(),
            root: String::new(),
            store: Store::Square,
            size: 32,
            scaled_decoding: false,
            split: SplitRule::default(),
            counts: CheckedCounts::default(),
            shared_classes: false,
            group_by_prefix: false,
            max_broken: 0,
            max_pixels: 178_956_970,
        }
    }
}

impl PreprocessConfig {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.source().check();
        let mut refuse = |field: &str, message: String| problems.push((field.to_owned(), message));
        if matches!(self.layout, Layout::Arrays { .. }) && self.store == Store::Original {
            let message = "is original, expected square or short_side: the images of an array have no files to keep";
            refuse("store", message.to_owned());
        }
        if !(1..=4096).contains(&self.size) {
            refuse("size", format!("is {}, expected an integer in 1..=4096", self.size));
        }
        if !(1..=1 << 32).contains(&self.max_pixels) {
            refuse("max_pixels", format!("is {}, expected an integer in 1..=4294967296", self.max_pixels));
        }
        problems
    }

    /// The data set that is read.
    pub fn source(&self) -> Source {
        Source {
            layout: self.layout.clone(),
            root: self.root.clone(),
            split: self.split.clone(),
            counts: self.counts,
            shared_classes: self.shared_classes,
        }
    }

    /// What an image of the given size is resized to.
    fn target(&self, size: Size) -> Size {
        match self.store {
            Store::Square => [self.size; 2],
            Store::ShortSide => with_short_side(size, self.size),
            Store::Original => size,
        }
    }
}

/// What was made of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Images and classes of the train split.
    pub train: Counts,
    /// Images and classes of the validation split.
    pub validation: Counts,
    /// Images and classes of the test split.
    pub test: Counts,
    /// Files with other extensions.
    pub ignored: usize,
    /// Images that no line of the split's list names.
    pub unlisted: usize,
    /// Images left out because they cannot be read, in the order of the set.
    pub broken: Vec<Broken>,
    /// Images that are in two splits, byte for byte.
    pub leaks: Vec<Repeated>,
}

/// Size of one split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub images: usize,
    pub classes: usize,
}

/// Makes an image set ([`ImageSet`](super::shard::ImageSet)) in `out` of the images below `raw`, as [`write_set`] does:
/// train split first, then validation and test, classes and images in the layout's order.
///
/// # Errors
/// As [`write_set`], and what reading the layout comes upon.
pub fn preprocess(
    config: &PreprocessConfig,
    raw: &Path,
    work: &Path,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, DataError> {
    DataError::first_of(config.check())?;
    write_set(config, &layout::read(&config.source(), raw)?, work, out, progress)
}

/// How far a set has come, in a file beside it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Digest of settings and listing.
    plan: String,
    /// Entries of the listing that are done.
    done: usize,
    /// Bytes of `images.u8` and of `items.jsonl` that are theirs.
    kept: [u64; 2],
    /// Those of them that are broken, with their positions in the listing.
    broken: Vec<(usize, String)>,
}

const PROGRESS: &str = "progress.json";

/// An image ready to be written.
struct Ready {
    size: Size,
    bytes: Vec<u8>,
}

/// Decodes and resizes the images of a listing and writes an image set into `out`, in the order of the listing. The bytes do
/// not depend on the number of threads. Memory holds three blocks of images at most.
///
/// The set grows in the folder `work`, which may be `out` itself. If an earlier attempt at the same set ended there before its
/// time, this one goes on at its last whole block, and the bytes are those of an attempt that was never stopped.
///
/// `progress` is told (images done, images in all).
///
/// # Errors
/// [`DataError::TooManyBroken`] after all images were tried, with the first ten.
pub fn write_set(
    config: &PreprocessConfig,
    listing: &Listing,
    work: &Path,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, DataError> {
    write_blocks(config, listing, [work, out], BLOCK, progress)
}

fn write_blocks(
    config: &PreprocessConfig,
    listing: &Listing,
    [work, out]: [&Path; 2],
    block: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, DataError> {
    let entries = &listing.entries;
    let total = entries.len();
    let note = work.join(PROGRESS);
    let mut state = begun(config, listing, work);
    let mut writer = ShardWriter::open(work, config.store, config.size, state.kept)?;
    let mut broken = state.broken.iter().map(|(at, _)| *at).peekable();
    for (i, entry) in entries[..state.done].iter().enumerate() {
        if broken.next_if_eq(&i).is_none() {
            writer.count(entry.split, &entry.class);
        }
    }
    drop(broken);
    let start = state.done;
    if start > 0 {
        progress(start, total);
    }
    // One block is decoded while another is written and a third waits.
    let (sender, receiver) = sync_channel::<Vec<Result<Ready, String>>>(1);
    let (writer, state) = std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            for ready in receiver {
                for ready in ready {
                    let entry = &entries[state.done];
                    match ready {
                        Ok(Ready { size, bytes }) => writer.push(NewImage {
                            split: entry.split,
                            class: &entry.class,
                            path: &entry.path,
                            group: group(config, entry),
                            size,
                            bytes: &bytes,
                        })?,
                        Err(reason) => state.broken.push((state.done, reason)),
                    }
                    state.done += 1;
                }
                state.kept = writer.sync()?;
                save(&state, &note)?;
            }
            Ok::<_, DataError>((writer, state))
        });
        let mut done = start;
        for block in entries[start..].chunks(block) {
            let ready = block.par_iter().map(|entry| read(config, listing, entry)).collect();
            // Nobody receives after a failure, which joining tells.
            if sender.send(ready).is_err() {
                break;
            }
            done += block.len();
            progress(done, total);
        }
        drop(sender);
        writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let counts = |split| {
        let (images, classes) = writer.counts(split);
        Counts { images, classes }
    };
    let name = |(at, reason): (usize, String)| Broken { path: entries[at].path.clone(), reason };
    let summary = Summary {
        train: counts(Split::Train),
        validation: counts(Split::Validation),
        test: counts(Split::Test),
        ignored: listing.ignored,
        unlisted: listing.unlisted,
        broken: state.broken.into_iter().map(name).collect(),
        leaks: leaks(listing),
    };
    let (count, allowed) = (summary.broken.len(), config.max_broken);
    // What was tried in vain is tried again the next time: the files may have been mended.
    let failed = if count > allowed {
        let first = summary.broken.iter().take(10).cloned().collect();
        Some(DataError::TooManyBroken { count, total, allowed, first })
    } else if count == total {
        Some(DataError::NoImage { folder: listing.root.clone(), total: total + summary.unlisted })
    } else {
        None
    };
    let removed = fs::remove_file(work.join(PROGRESS));
    if let Some(failed) = failed {
        drop(writer);
        [IMAGES, ITEMS].iter().for_each(|name| _ = fs::remove_file(work.join(name)));
        return Err(failed);
    }
    if total > 0 {
        removed.map_err(DataError::io("remove", &work.join(PROGRESS)))?;
    }
    writer.finish()?;
    if work != out {
        fs::create_dir_all(out).map_err(DataError::io("create", out))?;
        for name in [IMAGES, ITEMS, SET] {
            let (from, to) = (work.join(name), out.join(name));
            // They may lie on two disks.
            let moved = fs::rename(&from, &to).or_else(|_| fs::copy(&from, &to).and_then(|_| fs::remove_file(&from)));
            moved.map_err(DataError::io("move", &from))?;
        }
    }
    let path = out.join(LEAKS);
    let text = serde_json::to_string_pretty(&summary.leaks).map_err(std::io::Error::other);
    text.and_then(|text| fs::write(&path, text + "\n")).map_err(DataError::io("write", &path))?;
    Ok(summary)
}

/// The name that an image's group has.
fn group(config: &PreprocessConfig, entry: &Entry) -> Option<String> {
    if !config.group_by_prefix {
        return entry.group.clone();
    }
    let file = entry.path.rsplit('/').next().unwrap_or_default();
    file.split_once('-').map(|(prefix, _)| prefix.to_owned())
}

/// One image, decoded and resized as the settings say.
fn read(config: &PreprocessConfig, listing: &Listing, entry: &Entry) -> Result<Ready, String> {
    let array = matches!(config.layout, Layout::Arrays { .. });
    let file = if array { Vec::new() } else { fs::read(listing.root.join(&entry.path)).map_err(|e| e.to_string())? };
    decoder(|decoder| {
        // The shape is that of the whole image, before the decoder may have made it smaller.
        let whole = Cell::new(None);
        let target = |size: Size| {
            whole.set(Some(size));
            config.target(size)
        };
        let target: Option<&dyn Fn(Size) -> Size> = if config.scaled_decoding { Some(&target) } else { None };
        let decoded = if array {
            let image = pixels(listing, entry, config.max_pixels)?;
            decoder.load([image.height, image.width], &image.pixels);
            decoder.bitmap().size
        } else {
            decoder.decode(&file, config.max_pixels, target)?.size
        };
        let whole = whole.get().unwrap_or(decoded);
        if config.store == Store::Original {
            return Ok(Ready { size: whole, bytes: file });
        }
        let size = config.target(whole);
        if size.iter().any(|&side| side > 1 << 16) {
            return Err(format!(
                "it is {} x {} pixels: at that shape the long side is above 65536",
                whole[1], whole[0]
            ));
        }
        let mut pixels = vec![0; bytes(size)];
        decoder.resize(Region::whole(decoded), size, &mut pixels)?;
        Ok(Ready { size, bytes: pixels })
    })
}

/// What an earlier attempt at the same set has left in `work`; nothing done if there is none.
fn begun(config: &PreprocessConfig, listing: &Listing, work: &Path) -> Progress {
    let mut plan = blake3::Hasher::new();
    plan.update(format!("{config:?}").as_bytes());
    for Entry { path, class, split, group } in &listing.entries {
        plan.update(format!("{path:?} {class:?} {split:?} {group:?}\n").as_bytes());
    }
    let plan = plan.finalize().to_hex().to_string();
    let left = fs::read(work.join(PROGRESS)).ok().and_then(|text| serde_json::from_slice::<Progress>(&text).ok());
    let whole = |left: &Progress| {
        let long = |name: &str, len: u64| fs::metadata(work.join(name)).is_ok_and(|found| found.len() >= len);
        left.plan == plan
            && left.done <= listing.entries.len()
            && long(IMAGES, left.kept[0])
            && long(ITEMS, left.kept[1])
    };
    left.filter(whole).unwrap_or(Progress { plan, ..Progress::default() })
}

/// Writes the note of how far a set has come, whole or not at all.
fn save(state: &Progress, note: &Path) -> Result<(), DataError> {
    let text = serde_json::to_vec(state).map_err(std::io::Error::other);
    let fresh = note.with_extension("fresh");
    text.and_then(|text| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, note))
        .map_err(DataError::io("write", note))
}

#[cfg(test)]
mod tests {
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
            preprocess(&config(), raw.path(), out.path(), out.path(), &mut |done, total| seen.push((done, total)))
                .unwrap();
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
            Entry { path: file.to_owned(), class: class.to_owned(), split, group: Some(format!("of {class}")) }
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
    fn a_set_that_was_stopped_goes_on_with_the_bytes_of_one_that_was_not() {
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
            assert!(work.path().join(PROGRESS).exists() && ImageSet::open(out.path()).is_err());
            // What a killed process had begun to write.
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
        assert!(ImageSet::open(out.path()).is_err());

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
        assert!(serde_json::from_str::<PreprocessConfig>(r#"{"sizes": 3}"#).is_err());
        assert!(PreprocessConfig::default().check().is_empty());
        let wrong = PreprocessConfig {
            root: "../other".into(),
            size: 0,
            split: SplitRule::List("/etc/list".into()),
            max_pixels: 0,
            ..PreprocessConfig::default()
        };
        let fields: Vec<_> = wrong.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["root", "split.list", "size", "max_pixels"]);
        assert!(matches!(run(&wrong, Path::new("")).1, Err(DataError::Parameter { .. })));
    }
}
