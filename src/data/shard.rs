//! Image sets as a folder of three files, read in place.
//!
//! | file | content |
//! | --- | --- |
//! | `images.u8` | the images one after another, the train split first, then validation and test |
//! | `items.jsonl` | one JSON object per image, in the same order: [`Item`] |
//! | `set.json` | version, [`Store`], size, and the counts and class names of the three splits; written last |
//!
//! An image is `height x width x 3` bytes, RGB, row by row; with `store: original` it is the bytes of its file.

use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use fs_err::{self as fs, File};
use memmap2::Mmap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::crop::Size;
use super::error::DataError;
use super::images::Images;
use super::pixels::Stored;
use super::split::Split;

const VERSION: u32 = 2;
pub(super) const IMAGES: &str = "images.u8";
pub(super) const ITEMS: &str = "items.jsonl";
pub(super) const SET: &str = "set.json";

/// How a set stores its images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// Pixels, resized to `size x size` whatever their shape was.
    #[default]
    Square,
    /// Pixels, resized so that the short side has `size` and the shape is kept.
    ShortSide,
    /// The files as they are, to be decoded whenever they are used.
    Original,
}

/// One image of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Below the root of the image folder, `CLASS/FILE`.
    pub path: String,
    pub split: Split,
    /// Index of its class among those of its split.
    pub label: u32,
    /// What its file name begins with, if the set was made with `group_by_prefix`, or what its layout says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Rows of the image.
    pub height: u32,
    /// Columns of the image.
    pub width: u32,
    /// Where its bytes begin in `images.u8`. They end where those of the next begin.
    pub offset: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitClasses {
    items: usize,
    /// Class names, by label.
    classes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetFile {
    version: u32,
    store: Store,
    /// Side, or short side, of the images; 0 with `store: original`.
    size: u32,
    train: SplitClasses,
    validation: SplitClasses,
    test: SplitClasses,
}

impl SetFile {
    fn parts(&self) -> [&SplitClasses; 3] {
        [&self.train, &self.validation, &self.test]
    }

    /// Images up to the end of each split.
    fn ends(&self) -> [usize; 3] {
        let mut end = 0usize;
        self.parts().map(|part| {
            end = end.saturating_add(part.items);
            end
        })
    }
}

/// An image to be written.
#[derive(Debug)]
pub(super) struct NewImage<'a> {
    pub split: Split,
    pub class: &'a str,
    pub path: &'a str,
    pub group: Option<String>,
    pub size: Size,
    pub bytes: &'a [u8],
}

/// Writes the three files, images one by one.
pub(super) struct ShardWriter {
    folder: PathBuf,
    store: Store,
    size: u32,
    images: File,
    items: BufWriter<File>,
    /// Bytes in `images.u8`.
    offset: u64,
    parts: [SplitClasses; 3],
}

impl ShardWriter {
    /// Starts a set in `folder`, which is created if absent; or continues with the first `kept` bytes of `images.u8` and of
    /// `items.jsonl`, truncating the rest.
    pub(super) fn open(folder: &Path, store: Store, size: u32, kept: [u64; 2]) -> Result<ShardWriter, DataError> {
        fs::create_dir_all(folder)?;
        let open = |name: &str, kept: u64| {
            let path = folder.join(name);
            let mut file = File::options().write(true).create(true).truncate(kept == 0).open(&path)?;
            file.set_len(kept)?;
            file.seek(SeekFrom::Start(kept))?;
            Ok::<File, DataError>(file)
        };
        let images = open(IMAGES, kept[0])?;
        let items = BufWriter::with_capacity(1 << 16, open(ITEMS, kept[1])?);
        Ok(ShardWriter {
            folder: folder.to_path_buf(),
            store,
            size,
            images,
            items,
            offset: kept[0],
            parts: Default::default(),
        })
    }

    /// The label of the next image of that split and class. The images of a split are contiguous, train first, and those
    /// of a class are contiguous within it.
    pub(super) fn count(&mut self, split: Split, class: &str) -> u32 {
        let part = &mut self.parts[split as usize];
        if part.classes.last().is_none_or(|last| last != class) {
            part.classes.push(class.to_owned());
        }
        part.items += 1;
        part.classes.len() as u32 - 1
    }

    /// Appends one image.
    pub(super) fn push(&mut self, image: NewImage<'_>) -> Result<(), DataError> {
        let label = self.count(image.split, image.class);
        let item = Item {
            path: image.path.to_owned(),
            split: image.split,
            label,
            group: image.group,
            height: image.size[0],
            width: image.size[1],
            offset: self.offset,
        };
        let line = serde_json::to_string(&item).map_err(std::io::Error::other)?;
        writeln!(self.items, "{line}")?;
        self.offset += image.bytes.len() as u64;
        Ok(self.images.write_all(image.bytes)?)
    }

    /// Flushes what was pushed to the disk and returns the lengths of the two files, from which [`ShardWriter::open`] continues.
    pub(super) fn sync(&mut self) -> Result<[u64; 2], DataError> {
        self.items.flush()?;
        let mut items = self.items.get_ref();
        items.sync_data()?;
        let len = items.stream_position()?;
        self.images.sync_data()?;
        Ok([self.offset, len])
    }

    /// Images and classes of a split so far.
    pub(super) fn counts(&self, split: Split) -> (usize, usize) {
        let part = &self.parts[split as usize];
        (part.items, part.classes.len())
    }

    /// Writes `set.json`, which makes the folder an image set.
    pub(super) fn finish(mut self) -> Result<(), DataError> {
        self.items.flush()?;
        let [train, validation, test] = self.parts;
        let set = SetFile { version: VERSION, store: self.store, size: self.size, train, validation, test };
        let path = self.folder.join(SET);
        let text = serde_json::to_string_pretty(&set).map_err(std::io::Error::other)?;
        Ok(fs::write(path, text + "\n")?)
    }
}

/// An image set, its images mapped into memory.
#[derive(Debug)]
pub struct ImageSet {
    bytes: Mmap,
    set: SetFile,
    items: Vec<Item>,
    labels: Vec<u32>,
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
        let text = fs::read(folder.join(SET))?;
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version = serde_json::from_slice(&text).map_err(|e| corrupt(format!("{SET}: {e}")))?;
        if version.version != VERSION {
            return Err(corrupt(format!("{SET} has version {}, this program reads {VERSION}", version.version)));
        }
        let set: SetFile = serde_json::from_slice(&text).map_err(|e| corrupt(format!("{SET}: {e}")))?;
        let items = read_items(folder, &set)?;

        let file = File::open(folder.join(IMAGES))?;
        let found = file.metadata()?.len();
        if items.is_empty() {
            return Err(corrupt(format!("{ITEMS} names no image")));
        }
        let ends = items.iter().skip(1).map(|item| item.offset).chain([found]);
        let mut at = 0;
        for (i, (item, end)) in items.iter().zip(ends).enumerate() {
            let len = end.checked_sub(item.offset);
            let pixels = 3 * u64::from(item.height) * u64::from(item.width);
            let fits = if set.store == Store::Original { len > Some(0) } else { len == Some(pixels) };
            if item.offset != at || !fits || pixels == 0 {
                let of = if i + 1 == items.len() {
                    format!("{IMAGES} has {found} bytes")
                } else {
                    format!("the next is at {end}")
                };
                let (height, width) = (item.height, item.width);
                return Err(corrupt(format!(
                    "{ITEMS}:{}: {height} x {width} pixels at {}, but {of}",
                    i + 1,
                    item.offset
                )));
            }
            at = end;
        }
        // SAFETY: the file is the caller's to keep unaltered, as the contract above says; a set in the store is read-only.
        let bytes = unsafe { Mmap::map(&file) }?;
        let labels = items.iter().map(|item| item.label).collect();
        Ok(ImageSet { bytes, set, items, labels })
    }

    /// Number of images in all splits.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never true: an empty set does not open.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What it keeps of its images.
    pub fn store(&self) -> Store {
        self.set.store
    }

    /// Side, or short side, of an image in pixels; 0 with `store: original`.
    pub fn size(&self) -> usize {
        self.set.size as usize
    }

    /// All images, one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One split of the set; it may hold no image.
    pub fn split(&self, split: Split) -> SplitView<'_> {
        let ends = self.set.ends();
        let index = split as usize;
        let range = if index == 0 { 0..ends[0] } else { ends[index - 1]..ends[index] };
        let at = |index: usize| self.items.get(index).map_or(self.bytes.len(), |item| item.offset as usize);
        let bytes: Range<usize> = at(range.start)..at(range.end);
        SplitView {
            store: self.set.store,
            size: self.size(),
            pixels: &self.bytes[bytes],
            labels: &self.labels[range.clone()],
            items: &self.items[range],
            class_names: &self.set.parts()[index].classes,
        }
    }
}

/// The items in order, each of the split, and with a label of the classes, that `set` says.
fn read_items(folder: &Path, set: &SetFile) -> Result<Vec<Item>, DataError> {
    let corrupt = |message: String| DataError::Corrupt { folder: folder.to_path_buf(), message };
    let file = File::open(folder.join(ITEMS))?;
    let ends = set.ends();
    let mut items = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        let item: Item = serde_json::from_str(&line).map_err(|e| corrupt(format!("{ITEMS}:{}: {e}", i + 1)))?;
        let split = Split::ALL.into_iter().zip(ends).find(|(_, end)| i < *end).map_or(Split::Test, |(split, _)| split);
        if item.split != split || item.label as usize >= set.parts()[split as usize].classes.len() {
            return Err(corrupt(format!("{ITEMS}:{}: its split or label contradicts {SET}", i + 1)));
        }
        items.push(item);
    }
    if items.len() != ends[2] {
        return Err(corrupt(format!("{ITEMS} has {} lines, {SET} says {}", items.len(), ends[2])));
    }
    Ok(items)
}

/// The images of one split.
#[derive(Debug, Clone, Copy)]
pub struct SplitView<'a> {
    /// What the set keeps of its images.
    pub store: Store,
    /// Side, or short side, of an image in pixels; 0 with `store: original`.
    pub size: usize,
    /// The images one after another; with `store: square`, `n x size x size x 3`, RGB in `0..=255`.
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

impl Images for SplitView<'_> {
    fn labels(&self) -> &[u32] {
        self.labels
    }

    fn image(&self, index: usize) -> Stored<'_> {
        let item = &self.items[index];
        let begin = (item.offset - self.items[0].offset) as usize;
        let end =
            self.items.get(index + 1).map_or(self.pixels.len(), |next| (next.offset - self.items[0].offset) as usize);
        Stored {
            size: [item.height, item.width],
            bytes: &self.pixels[begin..end],
            encoded: self.store == Store::Original,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two training images of one class, three test images of two; image `i` is filled with `10 * i`.
    fn write(folder: &Path) {
        write_sizes(folder, Store::Square, &[[2, 2]; 5]);
    }

    fn write_sizes(folder: &Path, store: Store, sizes: &[Size; 5]) {
        let mut writer = ShardWriter::open(folder, store, 2, [0, 0]).unwrap();
        let images =
            [(Split::Train, "a"), (Split::Train, "a"), (Split::Test, "a"), (Split::Test, "b"), (Split::Test, "b")];
        for (i, (split, class)) in images.into_iter().enumerate() {
            let group = (i == 4).then(|| "noto".to_owned());
            let bytes = vec![10 * i as u8; crate::data::pixels::bytes(sizes[i])];
            let path = &format!("{class}/{i}.png");
            writer.push(NewImage { split, class, path, group, size: sizes[i], bytes: &bytes }).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn what_was_written_is_read_and_a_split_is_one_slice() {
        let room = tempfile::tempdir().unwrap();
        write(room.path());
        let set = ImageSet::open(room.path()).unwrap();
        assert_eq!((set.len(), set.size(), set.bytes().len()), (5, 2, 60));
        let (train, test) = (set.split(Split::Train), set.split(Split::Test));
        assert_eq!((train.labels, train.class_names), (&[0, 0][..], &["a".to_owned()][..]));
        assert_eq!((test.labels, test.class_names), (&[0, 1, 1][..], &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!([train.pixels, test.pixels].concat(), set.bytes());
        assert_eq!((test.pixels[0], test.items[2].path.as_str()), (20, "b/4.png"));
        assert_eq!((test.items[1].group.as_deref(), test.items[2].group.as_deref()), (None, Some("noto")));
    }

    #[test]
    fn images_of_any_shape_are_found_by_their_offsets() {
        let room = tempfile::tempdir().unwrap();
        write_sizes(room.path(), Store::ShortSide, &[[2, 3], [5, 2], [2, 2], [2, 9], [4, 2]]);
        let set = ImageSet::open(room.path()).unwrap();
        let test = set.split(Split::Test);
        assert_eq!((set.store(), test.len(), test.pixels.len()), (Store::ShortSide, 3, 12 + 54 + 24));
        let second = test.image(1);
        assert_eq!((second.size, second.bytes, second.encoded), ([2, 9], &[30; 54][..], false));
        assert_eq!((test.image(2).bytes, set.split(Split::Train).image(1).bytes), (&[40; 24][..], &[10; 30][..]));
        assert!(set.split(Split::Validation).is_empty());
        // The length of an encoded file is not known.
        write_sizes(room.path(), Store::Original, &[[2, 3], [5, 2], [2, 2], [2, 9], [4, 2]]);
        assert!(ImageSet::open(room.path()).unwrap().split(Split::Test).image(0).encoded);
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
        assert!(short.contains("has 59 bytes") && short.contains("items.jsonl:5: 2 x 2 pixels at 48"), "{short}");
        assert!(alter(ITEMS, &replace("\"offset\":24", "\"offset\":25")).contains("the next is at 25"));
        assert!(alter(ITEMS, &replace("\"height\":2", "\"height\":3")).contains("items.jsonl:1"));
        assert!(alter(ITEMS, &|bytes| [&bytes[..], &bytes[bytes.len() / 2..]].concat()).contains(ITEMS));
        assert!(alter(ITEMS, &|_| Vec::new()).contains("has 0 lines"));
        assert!(alter(ITEMS, &replace("\"train\"", "\"test\"")).contains("items.jsonl:1"));
        assert!(alter(ITEMS, &replace("\"label\":1", "\"label\":2")).contains("items.jsonl:4"));
        assert!(alter(SET, &replace("\"version\": 2", "\"version\": 1")).contains("version 1"));
        assert!(alter(SET, &replace("\"items\": 2", "\"items\": 18446744073709551615")).contains("items.jsonl"));
        assert!(alter(SET, &|_| b"{".to_vec()).contains(SET));
    }
}
