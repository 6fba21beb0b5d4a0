//! From a data set to an image set.

use std::fs;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::decode::{Broken, resized};
use super::error::DataError;
use super::inspect::{Repeated, leaks};
use super::layout::{self, Counts as CheckedCounts, Layout, Source};
use super::listing::pixels;
use super::shard::ShardWriter;
use super::split::{Split, SplitRule};

/// Images that are decoded at once; bounds the memory, changes no result.
const BLOCK: usize = 512;

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
    /// Side of the images in pixels. Default 32, range `1..=4096`.
    pub size: u32,
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
            size: 32,
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

/// Decodes and resizes the images below `raw` and writes an image set ([`ImageSet`](super::shard::ImageSet)) into `out`,
/// train split first, then validation and test, classes and images in the layout's order. The bytes do not depend on the
/// number of threads.
///
/// `progress` is told (images done, images in all).
///
/// # Errors
/// [`DataError::TooManyBroken`] after all images were tried, with the first ten.
pub fn preprocess(
    config: &PreprocessConfig,
    raw: &Path,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, DataError> {
    DataError::first_of(config.check())?;
    let listing = layout::read(&config.source(), raw)?;
    let mut summary =
        Summary { ignored: listing.ignored, unlisted: listing.unlisted, leaks: leaks(&listing), ..Summary::default() };
    let planned = &listing.entries;

    let mut writer = ShardWriter::create(out, config.size)?;
    let mut last: Option<(Split, &str)> = None;
    let mut done = 0;
    for block in planned.chunks(BLOCK) {
        let decoded: Vec<Result<Vec<u8>, String>> = block
            .par_iter()
            .map(|entry| {
                let image = pixels(&listing, entry, config.max_pixels)?;
                resized(&image.pixels, image.width, image.height, config.size)
            })
            .collect();
        for (entry, pixels) in block.iter().zip(decoded) {
            let path = entry.path.clone();
            let pixels = match pixels {
                Ok(pixels) => pixels,
                Err(reason) => {
                    summary.broken.push(Broken { path, reason });
                    continue;
                }
            };
            let file = path.rsplit('/').next().unwrap_or_default();
            let prefix = config.group_by_prefix.then(|| file.split_once('-').map(|(prefix, _)| prefix.to_owned()));
            let group = prefix.unwrap_or_else(|| entry.group.clone());
            writer.push(entry.split, &entry.class, path, group, &pixels)?;
            let counts = match entry.split {
                Split::Train => &mut summary.train,
                Split::Validation => &mut summary.validation,
                Split::Test => &mut summary.test,
            };
            counts.images += 1;
            counts.classes += usize::from(last != Some((entry.split, entry.class.as_str())));
            last = Some((entry.split, entry.class.as_str()));
        }
        done += block.len();
        progress(done, planned.len());
    }
    let (count, allowed) = (summary.broken.len(), config.max_broken);
    if count > allowed {
        let first = summary.broken.into_iter().take(10).collect();
        return Err(DataError::TooManyBroken { count, total: planned.len(), allowed, first });
    }
    if summary.train.images + summary.validation.images + summary.test.images == 0 {
        return Err(DataError::NoImage { folder: listing.root, total: planned.len() + summary.unlisted });
    }
    let path = out.join(LEAKS);
    let text = serde_json::to_string_pretty(&summary.leaks).map_err(std::io::Error::other);
    text.and_then(|text| fs::write(&path, text + "\n")).map_err(DataError::io("write", &path))?;
    writer.finish()?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::decode::decode;
    use crate::data::generate::{Family, GeneratedLayout, GeneratorSpec, generate};
    use crate::data::shard::ImageSet;

    /// Five classes of three generated images below `set/`.
    fn raw() -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        let spec = GeneratorSpec {
            family: Family::Textures,
            classes: 5,
            per_class: 3,
            size: 16,
            seed: 1,
            layout: GeneratedLayout::Folder,
        };
        generate(&spec, &room.path().join("set")).unwrap();
        room
    }

    fn config() -> PreprocessConfig {
        PreprocessConfig { root: "set".into(), size: 8, ..PreprocessConfig::default() }
    }

    fn run(config: &PreprocessConfig, raw: &Path) -> (tempfile::TempDir, Result<Summary, DataError>) {
        let out = tempfile::tempdir().unwrap();
        let result = preprocess(config, raw, out.path(), &mut |_, _| {});
        (out, result)
    }

    fn bytes(out: &Path) -> Vec<Vec<u8>> {
        ["images.u8", "items.jsonl", "set.json"].map(|name| fs::read(out.join(name)).unwrap()).to_vec()
    }

    #[test]
    fn the_first_half_trains_and_each_item_has_the_pixels_of_its_file() {
        let raw = raw();
        let mut seen = Vec::new();
        let out = tempfile::tempdir().unwrap();
        let summary =
            preprocess(&config(), raw.path(), out.path(), &mut |done, total| seen.push((done, total))).unwrap();
        assert_eq!(summary.train, Counts { images: 6, classes: 2 });
        assert_eq!(summary.test, Counts { images: 9, classes: 3 });
        assert_eq!(seen, [(15, 15)]);
        let set = ImageSet::open(out.path()).unwrap();
        assert_eq!(set.split(Split::Test).class_names, ["002", "003", "004"]);
        assert_eq!(set.split(Split::Test).labels, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        for split in Split::ALL {
            let view = set.split(split);
            for (item, pixels) in view.items.iter().zip(view.pixels.chunks_exact(8 * 8 * 3)) {
                assert_eq!(decode(&raw.path().join("set").join(&item.path), 8, 1000).unwrap(), pixels);
            }
        }
    }

    #[test]
    fn the_same_bytes_for_any_number_of_threads() {
        let raw = raw();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (out, result) = pool.install(|| run(&config(), raw.path()));
            result.unwrap();
            bytes(out.path())
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
