//! Labelled images as a training or an evaluation reads them, whatever they are stored as.

use std::fmt::Debug;
use std::ops::Range;

use rayon::prelude::*;
use thiserror::Error;

use super::crop::{Size, centre, with_short_side};
use super::decode::decoder;
use super::pixels::{Stored, bytes};

/// Labelled images of any sizes.
pub trait Images: Debug + Sync {
    /// A class for each image.
    fn labels(&self) -> &[u32];

    /// An image.
    ///
    /// # Panics
    /// If there is none of that index.
    fn image(&self, index: usize) -> Stored<'_>;
}

/// RGB images of one size in memory.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    /// `N x rows x columns x 3`.
    pub(crate) pixels: &'a [u8],
    /// `N` classes.
    pub(crate) labels: &'a [u32],
    /// Of each image.
    pub(crate) size: Size,
}

impl<'a> Plain<'a> {
    /// # Errors
    /// [`ImageError::Length`].
    pub fn new(pixels: &'a [u8], labels: &'a [u32], size: Size) -> Result<Plain<'a>, ImageError> {
        if bytes(size) == 0 || pixels.len() != labels.len() * bytes(size) {
            return Err(ImageError::Length { pixels: pixels.len(), labels: labels.len(), size });
        }
        Ok(Plain { pixels, labels, size })
    }
}

impl Images for Plain<'_> {
    fn labels(&self) -> &[u32] {
        self.labels
    }

    fn image(&self, index: usize) -> Stored<'_> {
        let len = bytes(self.size);
        Stored { size: self.size, bytes: &self.pixels[index * len..][..len], encoded: false }
    }
}

/// A digest of all labels, sizes and bytes.
pub fn digest(images: &dyn Images) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (index, label) in images.labels().iter().enumerate() {
        let Stored { size, bytes, .. } = images.image(index);
        [*label, size[0], size[1]].iter().for_each(|number| _ = hasher.update(&number.to_le_bytes()));
        hasher.update(bytes);
    }
    hasher.finalize()
}

/// An image that cannot become a network input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    /// Pixels and labels that do not belong together.
    #[error("{pixels} bytes of pixels are not {labels} RGB images of {}x{}", size[0], size[1])]
    Length { pixels: usize, labels: usize, size: Size },
    /// A stored file that does not decode.
    #[error("image {index} of the set cannot be decoded: {reason}")]
    Broken { index: usize, reason: String },
    /// Too small for the input.
    #[error("image {index} of the set is {}x{} pixels where {}x{} are needed; {hint}", found[0], found[1], wanted[0], wanted[1])]
    Small { index: usize, found: Size, wanted: Size, hint: &'static str },
    /// Images of another size where all must be of one.
    #[error("image {index} of the set is {}x{} pixels, not {}x{}; images of different sizes need augment: {{ kind: crop }}", found[0], found[1], wanted[0], wanted[1])]
    Size { index: usize, found: Size, wanted: Size },
}

/// The images of a set as an evaluation sees them, in batches.
///
/// An image of the input's size is used as it is. Any other is resized so that its short side has `short_side` pixels, unless
/// it has them already, and its centre is cropped (`Resize(256)`, `CenterCrop(224)` in the papers).
#[derive(Debug, Clone, Copy)]
pub struct EvalImages<'a> {
    images: &'a dyn Images,
    size: Size,
    short_side: u32,
}

/// The short side that the papers evaluate with.
pub const SHORT_SIDE: u32 = 256;

impl<'a> EvalImages<'a> {
    /// `images` for a network whose input has the given rows and columns.
    pub fn new(images: &'a dyn Images, size: Size, short_side: u32) -> EvalImages<'a> {
        EvalImages { images, size, short_side }
    }

    /// What they are made of.
    pub fn images(&self) -> &'a dyn Images {
        self.images
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels().is_empty()
    }

    /// A class for each image.
    pub fn labels(&self) -> &'a [u32] {
        self.images.labels()
    }

    /// Rows and columns of what is written.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Bytes of one image: rows x columns x 3.
    pub fn image_bytes(&self) -> usize {
        bytes(self.size)
    }

    /// Writes the images `range` to `out`, RGB, one after another, in parallel.
    ///
    /// # Errors
    /// The first image of them, by its index, that is broken or too small.
    ///
    /// # Panics
    /// If `out` does not have the length of `range.len()` images, or the range goes beyond the set.
    pub fn write(&self, range: Range<usize>, out: &mut [u8]) -> Result<(), ImageError> {
        assert_eq!(out.len(), range.len() * self.image_bytes(), "the output holds the images");
        let all: Vec<Result<(), ImageError>> = out
            .par_chunks_exact_mut(self.image_bytes().max(1))
            .zip(range.into_par_iter())
            .map(|(out, index)| self.write_one(index, out))
            .collect();
        all.into_iter().collect()
    }

    fn write_one(&self, index: usize, out: &mut [u8]) -> Result<(), ImageError> {
        let stored = self.images.image(index);
        if !stored.encoded && stored.size == self.size {
            out.copy_from_slice(stored.bytes);
            return Ok(());
        }
        decoder(|decoder| {
            let bitmap = decoder.stored(stored).map_err(|reason| ImageError::Broken { index, reason })?;
            let found = bitmap.size;
            let resized = if found == self.size { found } else { with_short_side(found, self.short_side) };
            let hint = "raise short_side, or preprocess to a larger size";
            let part = centre(resized, self.size);
            let part = part.ok_or(ImageError::Small { index, found: resized, wanted: self.size, hint })?;
            decoder.resize_part(resized, part, out).map_err(|reason| ImageError::Broken { index, reason })
        })
    }
}
