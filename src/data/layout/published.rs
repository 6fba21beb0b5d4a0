//! The sizes of the published data sets, as the literature that splits them by classes states them.

use std::collections::BTreeSet;
use std::path::Path;

use super::Layout;
use super::assign::assign;
use super::found::Found;
use crate::data::error::DataError;
use crate::data::split::{Split, SplitRule};

/// Images and classes of a split, or of one group of it.
struct PublishedCounts {
    split: Split,
    group: Option<&'static str>,
    images: usize,
    classes: usize,
}

const fn part(split: Split, images: usize, classes: usize) -> PublishedCounts {
    PublishedCounts { split, group: None, images, classes }
}

/// Proxy-Anchor (Kim et al. 2020), section 4.1, states all of them.
const CUB: &[PublishedCounts] = &[part(Split::Train, 5_864, 100), part(Split::Test, 5_924, 100)];
const CARS196: &[PublishedCounts] = &[part(Split::Train, 8_054, 98), part(Split::Test, 8_131, 98)];
const SOP: &[PublishedCounts] = &[part(Split::Train, 59_551, 11_318), part(Split::Test, 60_502, 11_316)];
const INSHOP: &[PublishedCounts] = &[
    part(Split::Train, 25_882, 3_997),
    PublishedCounts { split: Split::Test, group: Some("query"), images: 14_218, classes: 3_985 },
    PublishedCounts { split: Split::Test, group: Some("gallery"), images: 12_612, classes: 3_985 },
];

/// What is published of a layout.
fn parts(layout: &Layout) -> Option<(&'static str, &'static [PublishedCounts])> {
    match layout {
        Layout::Cub => Some(("CUB-200-2011", CUB)),
        Layout::Cars196 => Some(("Cars-196", CARS196)),
        Layout::Sop => Some(("Stanford Online Products", SOP)),
        Layout::Inshop => Some(("In-Shop", INSHOP)),
        Layout::Folder | Layout::List { .. } | Layout::Arrays { .. } => None,
    }
}

impl Layout {
    /// Images that the train and the test split of a published data set have.
    pub fn published_images(&self) -> Option<[usize; 2]> {
        let (_, parts) = parts(self)?;
        let of = |split| parts.iter().filter(|part| part.split == split).map(|part| part.images).sum();
        Some([Split::Train, Split::Test].map(of))
    }
}

/// Compares the official split with the published one; layouts that are not of one data set have nothing published.
pub(super) fn check(layout: &Layout, found: &Found) -> Result<(), DataError> {
    let Some((set, parts)) = parts(layout) else { return Ok(()) };
    let splits = assign(&SplitRule::Official, Path::new(""), found)?;
    let mut differences = Vec::new();
    for part in parts {
        let (mut images, mut classes) = (0, BTreeSet::new());
        for (i, (class, splits)) in found.classes.iter().zip(&splits).enumerate() {
            let of_part = class.images.iter().zip(splits).filter(|(image, split)| {
                **split == Some(part.split) && part.group.is_none_or(|group| image.group.as_deref() == Some(group))
            });
            let count = of_part.count();
            images += count;
            if count > 0 {
                classes.insert(i);
            }
        }
        if (images, classes.len()) != (part.images, part.classes) {
            differences.push(format!(
                "{} has {images} images of {} classes, expected {} of {}",
                part.group.unwrap_or(part.split.name()),
                classes.len(),
                part.images,
                part.classes
            ));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let first = found.unlisted.iter().take(10).cloned().collect();
    Err(DataError::Counts { set, differences, unlisted: found.unlisted.len(), first })
}
