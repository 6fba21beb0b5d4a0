//! The images of a data set by its layout, before any of them is read.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::decode::{self, Rgb};
use super::image_array;
use super::split::Split;

/// The images of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The folder that paths start from.
    pub root: PathBuf,
    /// By split, then in the layout's order of classes, then of images within a class; the images of a class are
    /// contiguous within a split.
    pub entries: Vec<Entry>,
    /// Files that are not images.
    pub ignored: usize,
    /// Those of them that are known by their content.
    pub unread: Vec<Unread>,
    /// Images that the layout's lists leave out.
    pub unlisted: usize,
}

/// Files of one extension that are images but not part of the data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    pub files: usize,
    /// With its dot; empty if there is none.
    pub extension: String,
    /// What they are and what to do: `a TIFF image, which is not read; convert it`.
    pub what: String,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unread { files, extension, what } = self;
        let (noun, extension) = (if *files == 1 { "file" } else { "files" }, extension.trim_end());
        match extension {
            "" => write!(f, "{files} {noun} without an extension: {what}"),
            _ => write!(f, "{files} {noun} {extension}: {what}"),
        }
    }
}

/// Where an image is, below the root of its listing. [`bytes`] and [`pixels`] read both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of its own.
    File(String),
    /// An image of an array, counted from 0.
    Element { file: String, index: u64 },
}

impl Location {
    /// The file that holds it.
    pub fn file(&self) -> &str {
        match self {
            Location::File(file) | Location::Element { file, .. } => file,
        }
    }
}

impl fmt::Display for Location {
    /// `FILE`, or `FILE[INDEX]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(file) => f.write_str(file),
            Location::Element { file, index } => write!(f, "{file}[{index}]"),
        }
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub location: Location,
    /// Name of its class.
    pub class: String,
    pub split: Split,
    /// A part of its split that evaluation can name, such as `query` or `gallery`.
    pub group: Option<String>,
}

/// The bytes that hold an image: those of its file, or its pixels in an array.
///
/// # Errors
/// Why they cannot be read.
pub fn bytes(listing: &Listing, entry: &Entry) -> Result<Vec<u8>, String> {
    match &entry.location {
        Location::Element { file, index } => Ok(image_array::image(&listing.root.join(file), *index)?.pixels),
        Location::File(file) => std::fs::read(listing.root.join(file)).map_err(|e| e.to_string()),
    }
}

/// An image in its own size, decoded as [`decode::rgb`] does, or read from an array.
///
/// # Errors
/// Why the image is broken, or that it has more than `max_pixels`.
pub fn pixels(listing: &Listing, entry: &Entry, max_pixels: u64) -> Result<Rgb, String> {
    match &entry.location {
        Location::Element { file, index } => {
            let image = image_array::image(&listing.root.join(file), *index)?;
            decode::check_pixels(image.width, image.height, max_pixels)?;
            Ok(image)
        }
        Location::File(_) => decode::rgb(&bytes(listing, entry)?, max_pixels),
    }
}
