//! What a data set's layout says of its images, before any of them is read.

use std::path::PathBuf;

use super::split::Split;

/// The images of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The folder that paths start from.
    pub root: PathBuf,
    /// By split, then as the layout orders classes, then images within a class; the images of a class of a split come together.
    pub entries: Vec<Entry>,
    /// Files that are no images.
    pub ignored: usize,
    /// Images that the layout's lists leave out.
    pub unlisted: usize,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the listing's root.
    pub path: String,
    /// Name of its class.
    pub class: String,
    pub split: Split,
    /// A part of its split that evaluation can name, such as `query` or `gallery`.
    pub group: Option<String>,
}
