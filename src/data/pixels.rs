//! Images in memory: as a set stores them, and as they are decoded.

use super::crop::{Region, Size};

/// An image as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Rows and columns.
    pub size: Size,
    /// RGB, row by row; or the image file.
    pub bytes: &'a [u8],
    /// Whether `bytes` is an image file.
    pub encoded: bool,
}

/// Pixels row by row, of three bytes or of four, the last of which is unused.
#[derive(Debug, Clone, Copy)]
pub struct Bitmap<'a> {
    pub size: Size,
    pub bytes: &'a [u8],
}

impl Bitmap<'_> {
    /// Bytes of a pixel.
    pub fn channels(&self) -> usize {
        if self.bytes.len() == bytes(self.size) { 3 } else { 4 }
    }
}

/// Bytes of an RGB image.
pub fn bytes([rows, columns]: Size) -> usize {
    rows as usize * columns as usize * 3
}

/// Copies a part of a bitmap to RGB.
pub(super) fn copy_part(bitmap: Bitmap<'_>, part: Region, out: &mut [u8]) {
    let channels = bitmap.channels();
    let stride = bitmap.size[1] as usize * channels;
    let (rows, columns) = (part.rows as usize, part.columns as usize);
    let first = part.top as usize * stride + part.left as usize * channels;
    for (y, out) in out.chunks_exact_mut(columns * 3).take(rows).enumerate() {
        let row = &bitmap.bytes[first + y * stride..][..columns * channels];
        if channels == 3 {
            out.copy_from_slice(row);
        } else {
            out.as_chunks_mut::<3>()
                .0
                .iter_mut()
                .zip(row.as_chunks::<4>().0)
                .for_each(|(to, &[r, g, b, _])| *to = [r, g, b]);
        }
    }
}
