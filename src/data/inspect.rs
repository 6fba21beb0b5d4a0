//! What a data set holds, and what is wrong with it: images that do not decode, and the same image twice, above all in
//! two splits.

mod sheet;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;

use super::listing::{self, Entry, Listing, Unread};
use super::split::Split;

pub use self::sheet::{Sheet, contact_sheet};

/// Images that are read between two calls of the progress.
const BLOCK: usize = 512;

/// What [`inspect`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// By split, then by group.
    pub parts: Vec<SplitCounts>,
    /// For each split with images: the number of classes by their number of images.
    pub class_sizes: BTreeMap<Split, BTreeMap<usize, usize>>,
    /// Of the images that decode; none if none does.
    pub dimensions: Option<Dimensions>,
    /// In the order of the listing.
    pub broken: Vec<BrokenImage>,
    /// Those across splits first, then in the order of the listing.
    pub repeated: Vec<Repeated>,
    /// Files that are not images.
    pub ignored: usize,
    /// Those of them that are images and not read.
    pub unread: Vec<Unread>,
    /// Images that are there and in no list.
    pub unlisted: usize,
}

impl Inspection {
    /// Whether no image is broken and none is in two splits.
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty() && self.leaks().next().is_none()
    }

    /// The same images in two splits.
    pub fn leaks(&self) -> impl Iterator<Item = &Repeated> {
        self.repeated.iter().filter(|repeated| repeated.leak)
    }
}

/// Size of one split, or of one group of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    pub split: Split,
    pub group: Option<String>,
    pub images: usize,
    pub classes: usize,
}

/// Smallest, median and largest, of each dimension separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Dimensions {
    pub width: [u32; 3],
    pub height: [u32; 3],
}

/// An image that does not decode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenImage {
    pub path: String,
    pub reason: String,
}

/// One image that a listing has several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repeated {
    pub same: Same,
    /// Whether it is in several splits.
    pub leak: bool,
    /// Whether it is in several classes.
    pub contradiction: bool,
    pub images: Vec<Place>,
}

/// In what the images of a [`Repeated`] are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Same {
    /// One file, listed several times.
    Path,
    /// The bytes of the files.
    Bytes,
    /// What the files decode to; their bytes differ.
    Pixels,
}

/// Where an image of a listing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub path: String,
    pub split: Split,
    pub class: String,
}

/// What one image is.
struct Seen {
    bytes: blake3::Hash,
    /// Digest of size and pixels, width and height.
    pixels: Result<(blake3::Hash, u32, u32), String>,
}

/// Reads and decodes every image of `listing`, several at once. An image with more than `max_pixels` counts as broken.
///
/// `progress` receives (images done, images in all).
pub fn inspect(listing: &Listing, max_pixels: u64, progress: &mut dyn FnMut(usize, usize)) -> Inspection {
    let entries = &listing.entries;
    let mut seen: Vec<Result<Seen, String>> = Vec::with_capacity(entries.len());
    for block in entries.chunks(BLOCK) {
        seen.par_extend(block.par_iter().map(|entry| look(listing, entry, max_pixels)));
        progress(seen.len(), entries.len());
    }
    let mut broken = Vec::new();
    let (mut widths, mut heights) = (Vec::new(), Vec::new());
    let mut same: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    for (i, (entry, seen)) in entries.iter().zip(&seen).enumerate() {
        let refused = |reason: &str| BrokenImage { path: entry.location.to_string(), reason: reason.to_owned() };
        match seen {
            Err(reason) => broken.push(refused(reason)),
            Ok(Seen { bytes, pixels: Err(reason) }) => {
                broken.push(refused(reason));
                same.entry(*bytes.as_bytes()).or_default().push(i);
            }
            Ok(Seen { pixels: Ok((pixels, width, height)), .. }) => {
                widths.push(*width);
                heights.push(*height);
                same.entry(*pixels.as_bytes()).or_default().push(i);
            }
        }
    }
    let bytes = |i: usize| seen[i].as_ref().ok().map(|seen| *seen.bytes.as_bytes());
    Inspection {
        parts: parts(entries),
        class_sizes: class_sizes(entries),
        dimensions: spread(&mut widths).zip(spread(&mut heights)).map(|(width, height)| Dimensions { width, height }),
        broken,
        repeated: repeated(entries, same.into_values().collect(), &bytes),
        ignored: listing.ignored,
        unread: listing.unread.clone(),
        unlisted: listing.unlisted,
    }
}

/// Images with equal bytes in two splits, without decoding any. Images that cannot be read are left out.
pub fn leaks(listing: &Listing) -> Vec<Repeated> {
    let digest = |entry: &Entry| listing::bytes(listing, entry).ok().map(|bytes| *blake3::hash(&bytes).as_bytes());
    let digests: Vec<Option<[u8; 32]>> = listing.entries.par_iter().map(digest).collect();
    let mut same: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    for (i, digest) in digests.iter().enumerate() {
        if let Some(digest) = digest {
            same.entry(*digest).or_default().push(i);
        }
    }
    let mut found = repeated(&listing.entries, same.into_values().collect(), &|i| digests[i]);
    found.retain(|repeated| repeated.leak);
    found
}

fn look(listing: &Listing, entry: &Entry, max_pixels: u64) -> Result<Seen, String> {
    let bytes = blake3::hash(&listing::bytes(listing, entry)?);
    let pixels = listing::pixels(listing, entry, max_pixels).map(|image| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&image.width.to_le_bytes()).update(&image.height.to_le_bytes()).update(&image.pixels);
        (hasher.finalize(), image.width, image.height)
    });
    Ok(Seen { bytes, pixels })
}

/// A group of a split; without a name, all that have none.
type Group<'a> = (Split, Option<&'a str>);
/// Its images and classes.
type Members<'a> = (usize, BTreeSet<&'a str>);

fn parts(entries: &[Entry]) -> Vec<SplitCounts> {
    let mut counts: BTreeMap<Group<'_>, Members<'_>> = BTreeMap::new();
    for entry in entries {
        let (images, classes) = counts.entry((entry.split, entry.group.as_deref())).or_default();
        *images += 1;
        classes.insert(&entry.class);
    }
    let part = |((split, group), (images, classes)): (Group<'_>, Members<'_>)| SplitCounts {
        split,
        group: group.map(str::to_owned),
        images,
        classes: classes.len(),
    };
    counts.into_iter().map(part).collect()
}

fn class_sizes(entries: &[Entry]) -> BTreeMap<Split, BTreeMap<usize, usize>> {
    let mut images: BTreeMap<(Split, &str), usize> = BTreeMap::new();
    for entry in entries {
        *images.entry((entry.split, &entry.class)).or_default() += 1;
    }
    let mut sizes: BTreeMap<Split, BTreeMap<usize, usize>> = BTreeMap::new();
    for ((split, _), images) in images {
        *sizes.entry(split).or_default().entry(images).or_default() += 1;
    }
    sizes
}

fn spread(values: &mut [u32]) -> Option<[u32; 3]> {
    values.sort_unstable();
    Some([*values.first()?, values[values.len() / 2], *values.last()?])
}

/// What the groups of equal images mean; `bytes` is the digest of a file.
fn repeated(entries: &[Entry], groups: Vec<Vec<usize>>, bytes: &dyn Fn(usize) -> Option<[u8; 32]>) -> Vec<Repeated> {
    let mut found: Vec<(usize, Repeated)> = Vec::new();
    for group in groups.into_iter().filter(|group| group.len() > 1) {
        let one = |of: &dyn Fn(usize) -> bool| group.iter().all(|&i| of(i));
        let first = &entries[group[0]];
        let same = if one(&|i| entries[i].location == first.location) {
            Same::Path
        } else if one(&|i| bytes(i) == bytes(group[0])) {
            Same::Bytes
        } else {
            Same::Pixels
        };
        let place = |&i: &usize| {
            let Entry { location, class, split, .. } = &entries[i];
            Place { path: location.to_string(), split: *split, class: class.clone() }
        };
        let leak = !one(&|i| entries[i].split == first.split);
        let contradiction = !one(&|i| entries[i].class == first.class);
        found.push((group[0], Repeated { same, leak, contradiction, images: group.iter().map(place).collect() }));
    }
    found.sort_by_key(|(first, repeated)| (!repeated.leak, *first));
    found.into_iter().map(|(_, repeated)| repeated).collect()
}

#[cfg(test)]
mod tests;
