//! What a layout finds in the folder of a data set.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::data::listing::{Location, Unread};
use crate::data::split::Split;

/// What a layout found, before a split rule is applied.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The folder that paths start from.
    pub root: PathBuf,
    /// In the layout's order, their names distinct.
    pub classes: Vec<Class>,
    /// Whether the images say their splits.
    pub lists_splits: bool,
    /// Files that are not images.
    pub ignored: usize,
    /// Those of them that are known by their content.
    pub unread: Vec<Unread>,
    /// Images that are there and in no list, sorted.
    pub unlisted: Vec<String>,
}

/// One class and its images in the layout's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    pub name: String,
    pub images: Vec<Image>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub location: Location,
    /// That of the layout's own lists.
    pub split: Option<Split>,
    pub group: Option<String>,
}

impl Found {
    /// Classes from (class, image) pairs: each key a class, in the order of the keys, images in the order given.
    pub fn by_class<K: Ord>(pairs: impl IntoIterator<Item = (K, Image)>, name: impl Fn(&K) -> String) -> Vec<Class> {
        let mut classes: BTreeMap<K, Vec<Image>> = BTreeMap::new();
        for (key, image) in pairs {
            classes.entry(key).or_default().push(image);
        }
        classes.into_iter().map(|(key, images)| Class { name: name(&key), images }).collect()
    }

    /// Classes from (label, image) pairs, in the order of the labels: by number where all of them are integers, else by their
    /// raw bytes.
    pub fn by_label(pairs: Vec<(String, Image)>) -> Vec<Class> {
        let number = |label: &str| label.parse::<i128>().ok();
        let by_number = pairs.iter().all(|(label, _)| number(label).is_some());
        let key = |(label, image): (String, Image)| ((number(&label).filter(|_| by_number), label), image);
        Self::by_class(pairs.into_iter().map(key), |(_, label)| label.clone())
    }
}
