//! Images in a NumPy array, labels in another.

use std::path::Path;

use super::found::{Found, Image};
use crate::array::npy;
use crate::data::error::DataError;
use crate::data::image_array::header;
use crate::data::listing::Location;
use crate::regular;

/// Reads the labels; each image is an element of the array. Classes come in the order of their
/// numbers, or of their texts.
pub(super) fn read(root: &Path, images: &str, labels: &str) -> Result<Found, DataError> {
    let path = root.join(images);
    let mut file = regular::open(&path)?;
    let shape = header(&mut file).map_err(|message| DataError::Content { path, message })?;
    let path = root.join(labels);
    let wrong = |message: String| DataError::Content { path: path.clone(), message };
    regular::open(&path)?;
    let labels = npy::open(&path).and_then(|array| array.labels()).map_err(wrong)?;
    if labels.len() as u64 != shape.images {
        return Err(wrong(format!(
            "it holds {} labels, expected {}, one for each image of {images}",
            labels.len(),
            shape.images
        )));
    }
    if !images.ends_with(".npy") {
        return Err(wrong(format!("expected images in a file whose name ends in .npy, found {images:?}")));
    }
    let image =
        |i| Image { location: Location::Element { file: images.to_owned(), index: i }, split: None, group: None };
    let classes = Found::by_label((0..).zip(labels).map(|(i, label)| (label, image(i))).collect());
    Ok(Found { root: root.to_owned(), classes, ..Found::default() })
}
