//! Image sets as a folder of three files, read in place.
//!
//! | file | content |
//! | --- | --- |
//! | `images.u8` | `items x size x size x 3` bytes: RGB, row by row, images of the train split first |
//! | `items.jsonl` | one JSON object an image, in the same order: [`Item`] |
//! | `set.json` | version, size, and the counts and class names of the two splits; written last |

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::error::DataError;
use super::split::Split;

const VERSION: u32 = 1;
const IMAGES: &str = "images.u8";
const ITEMS: &str = "items.jsonl";
const SET: &str = "set.json";

/// One image of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Below the root of the image folder, `CLASS/FILE`.
    pub path: String,
    pub split: Split,
    /// Index of its class among those of its split.
    pub label: u32,
    /// What its file name begins with, if the set was made with `group_by_prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Half {
    items: usize,
    /// Class names, by label.
    classes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFile {
    version: u32,
    size: u32,
    train: Half,
    #[serde(default)]
    validation: Half,
    test: Half,
}

/// Writes the three files, images one by one.
pub(super) struct ShardWriter {
    folder: PathBuf,
    size: u32,
    images: BufWriter<File>,
    items: BufWriter<File>,
    halves: [Half; 3],
}

impl ShardWriter {
    /// Starts a set in `folder`, which is made if absent.
    pub(super) fn create(folder: &Path, size: u32) -> Result<ShardWriter, DataError> {
        fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
        let create = |name: &str| {
            let path = folder.join(name);
            Ok(BufWriter::with_capacity(1 << 20, File::create(&path).map_err(DataError::io("create", &path))?))
        };
        Ok(ShardWriter {
            folder: folder.to_path_buf(),
            size,
            images: create(IMAGES)?,
            items: create(ITEMS)?,
            halves: Default::default(),
        })
    }

    /// Appends one image of `size * size * 3` bytes. The images of a split come together, train first, and those of a
    /// class come together within it.
    pub(super) fn push(
        &mut self,
        split: Split,
        class: &str,
        path: String,
        group: Option<String>,
        pixels: &[u8],
    ) -> Result<(), DataError> {
        let half = &mut self.halves[split as usize];
        if half.classes.last().is_none_or(|last| last != class) {
            half.classes.push(class.to_owned());
        }
        half.items += 1;
        let item = Item { path, split, label: half.classes.len() as u32 - 1, group };
        let line = serde_json::to_string(&item).map_err(std::io::Error::other);
        line.and_then(|line| writeln!(self.items, "{line}"))
            .map_err(DataError::io("write", &self.folder.join(ITEMS)))?;
        self.images.write_all(pixels).map_err(DataError::io("write", &self.folder.join(IMAGES)))
    }

    /// Writes `set.json`, which makes the folder an image set.
    pub(super) fn finish(mut self) -> Result<(), DataError> {
        self.images.flush().map_err(DataError::io("write", &self.folder.join(IMAGES)))?;
        self.items.flush().map_err(DataError::io("write", &self.folder.join(ITEMS)))?;
        let [train, validation, test] = self.halves;
        let set = SetFile { version: VERSION, size: self.size, train, validation, test };
        let path = self.folder.join(SET);
        let text = serde_json::to_string_pretty(&set).map_err(std::io::Error::other);
        text.and_then(|text| fs::write(&path, text + "\n")).map_err(DataError::io("write", &path))
    }
}

/// An image set, its pixels mapped into memory.
#[derive(Debug)]
pub struct ImageSet {
    pixels: Mmap,
    size: u32,
    items: Vec<Item>,
    labels: Vec<u32>,
    train: Half,
    validation: Half,
    test: Half,
}

impl ImageSet {
    /// Opens the folder that [`preprocess`](super::preprocess::preprocess) wrote.
    ///
    /// The files must not be altered while the set is open.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] if the three files contradict one another.
    pub fn open(folder: &Path) -> Result<ImageSet, DataError> {
        let corrupt = |message: String| DataError::Corrupt { folder: folder.to_path_buf(), message };
        let path = folder.join(SET);
        let text = fs::read(&path).map_err(DataError::io("read", &path))?;
        let set: SetFile = serde_json::from_slice(&text).map_err(|e| corrupt(format!("{SET}: {e}")))?;
        if set.version != VERSION {
            return Err(corrupt(format!("{SET} has version {}, this program reads {VERSION}", set.version)));
        }
        let count = set.train.items.saturating_add(set.validation.items).saturating_add(set.test.items);

        let path = folder.join(IMAGES);
        let file = File::open(&path).map_err(DataError::io("open", &path))?;
        let found = file.metadata().map_err(DataError::io("read", &path))?.len();
        let expected = (count as u64).saturating_mul(u64::from(set.size).pow(2)).saturating_mul(3);
        if found != expected || count == 0 {
            let size = set.size;
            return Err(corrupt(format!(
                "{IMAGES} has {found} bytes, {count} images of {size} x {size} x 3 have {expected}"
            )));
        }
        // SAFETY: the file is the caller's to keep unaltered, as the contract above says; a set in the store is read-only.
        let pixels = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", &path))?;

        let items = read_items(folder, &set)?;
        let labels = items.iter().map(|item| item.label).collect();
        Ok(ImageSet {
            pixels,
            size: set.size,
            items,
            labels,
            train: set.train,
            validation: set.validation,
            test: set.test,
        })
    }

    /// Number of images in both splits.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never true: an empty set does not open.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Side of an image in pixels.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// All pixels, `len x size x size x 3`, train first.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// One half of the set; it may hold no image.
    pub fn split(&self, split: Split) -> SplitView<'_> {
        let tested_from = self.train.items + self.validation.items;
        let (range, half) = match split {
            Split::Train => (0..self.train.items, &self.train),
            Split::Validation => (self.train.items..tested_from, &self.validation),
            Split::Test => (tested_from..self.len(), &self.test),
        };
        let bytes = self.size() * self.size() * 3;
        SplitView {
            size: self.size(),
            pixels: &self.pixels[range.start * bytes..range.end * bytes],
            labels: &self.labels[range.clone()],
            items: &self.items[range],
            class_names: &half.classes,
        }
    }
}

/// The items in order, each of the split, and with a label of the classes, that `set` says.
fn read_items(folder: &Path, set: &SetFile) -> Result<Vec<Item>, DataError> {
    let corrupt = |message: String| DataError::Corrupt { folder: folder.to_path_buf(), message };
    let path = folder.join(ITEMS);
    let file = File::open(&path).map_err(DataError::io("open", &path))?;
    let mut items = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(DataError::io("read", &path))?;
        let item: Item = serde_json::from_str(&line).map_err(|e| corrupt(format!("{ITEMS}:{}: {e}", i + 1)))?;
        let (split, half) = match i {
            _ if i < set.train.items => (Split::Train, &set.train),
            _ if i < set.train.items.saturating_add(set.validation.items) => (Split::Validation, &set.validation),
            _ => (Split::Test, &set.test),
        };
        if item.split != split || item.label as usize >= half.classes.len() {
            return Err(corrupt(format!("{ITEMS}:{}: its split or label contradicts {SET}", i + 1)));
        }
        items.push(item);
    }
    let expected = set.train.items.saturating_add(set.validation.items).saturating_add(set.test.items);
    if items.len() != expected {
        return Err(corrupt(format!("{ITEMS} has {} lines, {SET} says {expected}", items.len())));
    }
    Ok(items)
}

/// The images of one split.
#[derive(Debug, Clone, Copy)]
pub struct SplitView<'a> {
    /// Side of an image in pixels.
    pub size: usize,
    /// `n x size x size x 3`, RGB in `0..=255`.
    pub pixels: &'a [u8],
    /// `n` labels in `0..class_names.len()`, not decreasing.
    pub labels: &'a [u32],
    /// Class names by label.
    pub class_names: &'a [String],
    /// `n` items.
    pub items: &'a [Item],
}

impl SplitView<'_> {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the split holds no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Every image of a split as a vector `n x (size * size * 3)`, less the mean image: what retrieval by raw pixels
/// compares (by cosine, so the scale does not matter; it is that of the bytes).
pub fn raw_pixel_vectors(view: &SplitView<'_>) -> Vec<f32> {
    let dim = view.size * view.size * 3;
    let mut sums = vec![0u64; dim];
    for image in view.pixels.chunks_exact(dim) {
        sums.iter_mut().zip(image).for_each(|(sum, &value)| *sum += u64::from(value));
    }
    let means: Vec<f32> = sums.iter().map(|&sum| (sum as f64 / view.len().max(1) as f64) as f32).collect();
    view.pixels
        .chunks_exact(dim)
        .flat_map(|image| image.iter().zip(&means).map(|(&value, mean)| f32::from(value) - mean))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two training images of one class, three test images of two; image `i` is filled with `10 * i`.
    fn write(folder: &Path) {
        let mut writer = ShardWriter::create(folder, 2).unwrap();
        let images =
            [(Split::Train, "a"), (Split::Train, "a"), (Split::Test, "a"), (Split::Test, "b"), (Split::Test, "b")];
        for (i, (split, class)) in images.into_iter().enumerate() {
            let group = (i == 4).then(|| "noto".to_owned());
            writer.push(split, class, format!("{class}/{i}.png"), group, &[10 * i as u8; 12]).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn what_was_written_is_read_and_a_split_is_one_slice() {
        let room = tempfile::tempdir().unwrap();
        write(room.path());
        let set = ImageSet::open(room.path()).unwrap();
        assert_eq!((set.len(), set.size(), set.pixels().len()), (5, 2, 60));
        let (train, test) = (set.split(Split::Train), set.split(Split::Test));
        assert_eq!((train.labels, train.class_names), (&[0, 0][..], &["a".to_owned()][..]));
        assert_eq!((test.labels, test.class_names), (&[0, 1, 1][..], &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!([train.pixels, test.pixels].concat(), set.pixels());
        assert_eq!((test.pixels[0], test.items[2].path.as_str()), (20, "b/4.png"));
        assert_eq!((test.items[1].group.as_deref(), test.items[2].group.as_deref()), (None, Some("noto")));
    }

    #[test]
    fn pixel_vectors_are_centred_by_the_mean_image_of_their_split() {
        let room = tempfile::tempdir().unwrap();
        write(room.path());
        let set = ImageSet::open(room.path()).unwrap();
        let vectors = raw_pixel_vectors(&set.split(Split::Test));
        let expected: Vec<f32> = [-10.0, 0.0, 10.0].iter().flat_map(|&v| [v; 12]).collect();
        assert_eq!(vectors, expected);
    }

    #[test]
    fn files_that_contradict_one_another_do_not_open() {
        let alter = |name: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            let room = tempfile::tempdir().unwrap();
            write(room.path());
            let path = room.path().join(name);
            fs::write(&path, change(fs::read(&path).unwrap())).unwrap();
            ImageSet::open(room.path()).unwrap_err().to_string()
        };
        let replace = |from: &'static str, to: &'static str| {
            move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replacen(from, to, 1).into_bytes()
        };
        let short = alter(IMAGES, &|bytes| bytes[..59].to_vec());
        assert!(short.contains("has 59 bytes") && short.contains("have 60"), "{short}");
        assert!(alter(ITEMS, &|bytes| [&bytes[..], &bytes[bytes.len() / 2..]].concat()).contains(ITEMS));
        assert!(alter(ITEMS, &|_| Vec::new()).contains("has 0 lines"));
        assert!(alter(ITEMS, &replace("\"train\"", "\"test\"")).contains("items.jsonl:1"));
        assert!(alter(ITEMS, &replace("\"label\":1", "\"label\":2")).contains("items.jsonl:4"));
        assert!(alter(SET, &replace("\"version\": 1", "\"version\": 2")).contains("version 2"));
        assert!(alter(SET, &replace("\"items\": 2", "\"items\": 18446744073709551615")).contains("images.u8"));
        assert!(alter(SET, &|_| b"{".to_vec()).contains(SET));
    }
}
