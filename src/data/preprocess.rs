//! From a data set to an image set.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use fs_err as fs;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Problem;
use super::crop::{Region, Size, with_short_side};
use super::decode::{Broken, decoder};
use super::error::DataError;
use super::inspect::{Repeated, leaks};
use super::layout::{self, Counts as CheckedCounts, Layout, Source};
use super::listing::{Entry, Listing, Location, Unread, pixels};
use super::pixels::bytes;
use super::shard::{IMAGES, ITEMS, NewImage, SET, ShardWriter, Store};
use super::split::{Split, SplitRule};
use crate::settings::Settings;

/// Images that are decoded at once; bounds the memory, changes no result.
const BLOCK: usize = 256;

/// File of an image set that names the images which are in two splits: a JSON list of [`Repeated`], empty if there are
/// none.
pub const LEAKS: &str = "leaks.json";

/// How a data set becomes an image set.
#[derive(Debug, Clone, PartialEq, Eq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// How the data set is laid out in its folder.
    pub layout: Layout,
    /// Folder of the data set below the input; the input itself if empty.
    pub root: String,
    /// What is stored: pixels of size x size, pixels of a short side of size in the image's shape, or the file itself.
    pub store: Store,
    /// Side of the images; their short side with store: short_side (papers: 256); unused with store: original.
    #[default = 32]
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "pixels"))]
    pub size: u32,
    /// Decode a large JPEG at 1/2, 1/4 or 1/8 where that is at least twice the target size: faster, with other pixels
    /// (docs/preprocess.md).
    ///
    /// Without it pixels are those of Pillow, to within 1.
    pub scaled_decoding: bool,
    /// Split rule: official (that of the layout, else first_half_of_classes), first_half_of_classes, none (everything is
    /// tested on), { mlrc: { fold: 0 } } (folds 0 to 3 of the Reality Check), or { list: FILE } of lines `NAME
    /// train|validation|test` below the input.
    #[schemars(with = "serde_json::Value", extend("x-type" = "any"))]
    pub split: SplitRule,
    /// Whether cub, cars196, sop and inshop must have their published size.
    pub counts: CheckedCounts,
    /// Allow classes shared between the test split and another one.
    pub shared_classes: bool,
    /// Take what a file name has before its first `-` as the image's group.
    pub group_by_prefix: bool,
    /// Broken images to allow; they are named and left out.
    #[schemars(range(min = 0), extend("x-unit" = "images"))]
    pub max_broken: usize,
    /// An image with more pixels counts as broken; the default is Pillow's.
    #[default = 178_956_970]
    #[schemars(range(min = 1, max = 4_294_967_296u64), extend("x-unit" = "pixels"))]
    pub max_pixels: u64,
}

impl PreprocessConfig {
    /// Fields outside their ranges.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Settings::faults_of(self);
        problems.extend(self.source().check());
        let mut refuse = |field: &str, message: String| problems.push((field.to_owned(), message));
        if matches!(self.layout, Layout::Arrays { .. }) && self.store == Store::Original {
            let message = "is original, expected square or short_side: the images of an array have no files to keep";
            refuse("store", message.to_owned());
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

/// The result of preprocessing a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Images and classes of the train split.
    pub train: Counts,
    /// Images and classes of the validation split.
    pub validation: Counts,
    /// Images and classes of the test split.
    pub test: Counts,
    /// Files that are not images.
    pub ignored: usize,
    /// Those of them that are images and not read.
    pub unread: Vec<Unread>,
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
/// As [`write_set`], and the errors of reading the layout.
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

/// The progress of a set, in a file next to it.
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
/// The set grows in the folder `work`, which may be `out` itself. If an earlier attempt at the same set was interrupted
/// there, this one resumes after its last whole block, and the bytes are those of an attempt that was never stopped.
///
/// `progress` receives (images done, images in all).
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
    let mut state = resumed(config, listing, work);
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
                            path: &entry.location.to_string(),
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
        let (mut done, mut unread) = (start, None);
        for block in entries[start..].chunks(block) {
            let ready = block.par_iter().map(|entry| read(config, listing, entry)).collect::<Result<_, _>>();
            let sent = ready.map(|ready| sender.send(ready));
            // The receiver is gone after a failure, which joining the thread returns.
            if !matches!(sent, Ok(Ok(()))) {
                unread = sent.err();
                break;
            }
            done += block.len();
            progress(done, total);
        }
        drop(sender);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        unread.map_or(Ok(written), Err)
    })?;
    let counts = |split| {
        let (images, classes) = writer.counts(split);
        Counts { images, classes }
    };
    let name = |(at, reason): (usize, String)| Broken { path: entries[at].location.to_string(), reason };
    let summary = Summary {
        train: counts(Split::Train),
        validation: counts(Split::Validation),
        test: counts(Split::Test),
        ignored: listing.ignored,
        unread: listing.unread.clone(),
        unlisted: listing.unlisted,
        broken: state.broken.into_iter().map(name).collect(),
        leaks: leaks(listing),
    };
    let (count, allowed) = (summary.broken.len(), config.max_broken);
    // Failed images are tried again the next time: the files may have been repaired.
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
        removed?;
    }
    writer.finish()?;
    if work != out {
        fs::create_dir_all(out)?;
        for name in [IMAGES, ITEMS, SET] {
            let (from, to) = (work.join(name), out.join(name));
            // They may be on two disks.
            fs::rename(&from, &to).or_else(|_| fs::copy(&from, &to).and_then(|_| fs::remove_file(&from)))?;
        }
    }
    let path = out.join(LEAKS);
    let text = serde_json::to_string_pretty(&summary.leaks).map_err(std::io::Error::other)?;
    fs::write(path, text + "\n")?;
    Ok(summary)
}

/// The name that an image's group has.
fn group(config: &PreprocessConfig, entry: &Entry) -> Option<String> {
    if !config.group_by_prefix {
        return entry.group.clone();
    }
    let path = entry.location.to_string();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split_once('-').map(|(prefix, _)| prefix.to_owned())
}

/// One image, decoded and resized as the settings say, or why it is broken.
///
/// A file that cannot be read is not a broken image: it may have been removed in the meantime.
fn read(config: &PreprocessConfig, listing: &Listing, entry: &Entry) -> Result<Result<Ready, String>, DataError> {
    let array = matches!(entry.location, Location::Element { .. });
    let path = listing.root.join(entry.location.file());
    let file = if array { Vec::new() } else { fs::read(&path)? };
    Ok(decoder(|decoder| {
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
    }))
}

/// The progress of an earlier attempt at the same set in `work`; nothing done if there is none.
fn resumed(config: &PreprocessConfig, listing: &Listing, work: &Path) -> Progress {
    let mut plan = blake3::Hasher::new();
    plan.update(format!("{config:?}").as_bytes());
    for Entry { location, class, split, group } in &listing.entries {
        let path = location.to_string();
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

/// Writes the progress of a set, whole or not at all.
fn save(state: &Progress, note: &Path) -> Result<(), DataError> {
    let text = serde_json::to_vec(state).map_err(std::io::Error::other)?;
    let fresh = note.with_extension("fresh");
    fs::write(&fresh, text)?;
    Ok(fs::rename(&fresh, note)?)
}

#[cfg(test)]
mod tests;
