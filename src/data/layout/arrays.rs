//! Images in a NumPy array, labels in another.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::{Found, Image};
use crate::array::{ElementType, Layout, npy};
use crate::data::decode::Rgb;
use crate::data::error::DataError;
use crate::regular;

/// Reads the labels; the images are entries `FILE.npy[I]`, which [`image`] reads. Classes come in the order of their
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
    let image = |i| Image { path: format!("{images}[{i}]"), split: None, group: None };
    let classes = Found::by_label(labels.into_iter().enumerate().map(|(i, label)| (label, image(i))).collect());
    Ok(Found { root: root.to_owned(), classes, ..Found::default() })
}

/// The file and the index of a path `FILE.npy[I]`.
pub(in crate::data) fn element(path: &str) -> Option<(&str, u64)> {
    let (file, index) = path.strip_suffix(']')?.rsplit_once('[')?;
    Some((file, index.parse().ok()?)).filter(|_| file.ends_with(".npy"))
}

/// Reads image `index` of an array.
pub(in crate::data) fn image(path: &Path, index: u64) -> Result<Rgb, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let shape = header(&mut file)?;
    if index >= shape.images {
        return Err(format!("there is no image {index}; the array has {}", shape.images));
    }
    let bytes = shape.bytes();
    let mut pixels = vec![0; bytes as usize];
    file.seek(SeekFrom::Start(shape.start + index * bytes)).map_err(|e| e.to_string())?;
    file.read_exact(&mut pixels).map_err(|e| e.to_string())?;
    Ok(Rgb { width: shape.width, height: shape.height, pixels })
}

/// Where the pixels of an array are.
struct Shape {
    /// The byte at which they begin.
    start: u64,
    images: u64,
    height: u32,
    width: u32,
}

impl Shape {
    /// Bytes of one image.
    fn bytes(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width) * 3
    }
}

/// Reads the header of an array of images; the file must be as long as it says.
fn header(file: &mut File) -> Result<Shape, String> {
    let size = file.metadata().map_err(|e| e.to_string())?.len();
    let Layout { kind, fortran, shape, .. } = npy::layout(file)?;
    let start = file.stream_position().map_err(|e| e.to_string())?;
    let expected = "expected unsigned bytes of shape (N, H, W, 3) in C order";
    let &[images, height, width, 3] = &shape[..] else {
        let help = match shape[..] {
            [_, 3, _, _] => " (x.transpose(0, 2, 3, 1))",
            [_, _, _] | [_, _, _, 1] => " (of grey images, numpy.repeat(x.reshape(*x.shape[:3], 1), 3, axis=3))",
            _ => "",
        };
        return Err(format!("its shape is {shape:?}; {expected}{help}"));
    };
    if kind != ElementType::U8 {
        return Err(format!(
            "its elements are {kind:?}; {expected} (x.astype('uint8'), of values from 0 to 1 (255 * x).round() before)"
        ));
    }
    if fortran {
        return Err(format!("it is in Fortran order; {expected} (numpy.ascontiguousarray)"));
    }
    let side = |n: usize| u32::try_from(n).ok().filter(|n| (1..=1 << 16).contains(n));
    let (Some(height), Some(width)) = (side(height), side(width)) else {
        return Err(format!("its images have {height} x {width} pixels, expected 1 to 65536 a side"));
    };
    let found = Shape { start, images: images as u64, height, width };
    match found.images.checked_mul(found.bytes()) {
        Some(bytes) if bytes <= size.saturating_sub(start) => Ok(found),
        _ => Err(format!("it has {size} bytes, fewer than its shape {shape:?} needs")),
    }
}
