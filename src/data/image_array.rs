//! Images in a NumPy array.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::decode::Rgb;
use crate::array::{ElementType, Layout, npy};

/// Reads image `index` of an array.
pub(super) fn image(path: &Path, index: u64) -> Result<Rgb, String> {
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
pub(super) struct Shape {
    /// The byte at which they begin.
    start: u64,
    pub images: u64,
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
pub(super) fn header(file: &mut File) -> Result<Shape, String> {
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
