//! Random variation of training images, each a pure function of (seed, epoch, step, item).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::crop::{RandomCrop, Size, with_short_side};
use super::decode::{Decoder, decoder};
use super::images::{ImageError, Images};
use super::pixels::{Stored, bytes};
use crate::math::random::stream;

/// What is done to training images before they are mirrored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variation {
    /// All images of a batch are rolled by the same whole number of pixels.
    #[default]
    Roll,
    /// A random part of each image is resized to `size x size` (Szegedy et al. 2015; `RandomResizedCrop` of torchvision).
    Crop,
}

/// How training images vary.
#[derive(Debug, Clone, Copy, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Shift all images of a batch, or resize a random crop of each (papers: crop; docs/preprocess.md).
    pub kind: Variation,
    /// Probability of a horizontal flip, for each image.
    #[default = 0.5]
    #[schemars(range(min = 0, max = 1))]
    pub flip: f64,
    /// roll: largest circular shift of a batch, drawn from -shift..shift in x and y.
    #[default = 3]
    #[schemars(range(min = 0, max = 4096), extend("x-unit" = "pixels"))]
    pub shift: u32,
    /// crop: side of the network's input (MLRC: 227).
    #[default = 224]
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "pixels"))]
    pub size: u32,
    /// crop: fraction of the image's area, from and to (MLRC: from 0.16).
    #[default([0.08, 1.0])]
    #[schemars(inner(range(min = 0, max = 1)))]
    pub scale: [f64; 2],
    /// crop: aspect ratio, width over height, from and to (MLRC: [0.75, 1.33]).
    #[default([0.75, 4.0 / 3.0])]
    #[schemars(inner(range(min = 0)))]
    pub ratio: [f64; 2],
    /// crop: short side that an image is resized to before; none if not given (MLRC: 256).
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "pixels"))]
    pub short_side: Option<u32>,
}

/// Which batch of which run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchId {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in it, from 0.
    pub step: u64,
}

/// The images of a batch, about to be varied.
pub struct Varied<'a> {
    augment: Augment,
    id: BatchId,
    images: &'a dyn Images,
    size: Size,
    batch: &'a [usize],
    /// Pixels of a roll, down and to the right.
    roll: [usize; 2],
}

impl Augment {
    /// What does not fit together: (path of the field, message) pairs, none if it can run.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        // Written as "not in the valid range", so that NaN is refused.
        let mut require = |valid: bool, path: &str, range: &str, found: &dyn std::fmt::Debug| {
            if !valid {
                mistakes.push((path.to_owned(), format!("must be {range}, but is {found:?}")));
            }
        };
        if self.kind == Variation::Crop {
            let [low, high] = self.scale;
            let valid = 0.0 < low && low <= high && high <= 1.0;
            require(valid, "scale", "two numbers above 0 and up to 1, the smaller first", &self.scale);
            let [low, high] = self.ratio;
            let valid = 0.0 < low && low <= high && high.is_finite();
            require(valid, "ratio", "two numbers above 0, the smaller first", &self.ratio);
        }
        mistakes
    }

    /// Rows and columns of the results for images of the given size.
    pub fn size(&self, images: Size) -> Size {
        if self.kind == Variation::Crop { [self.size; 2] } else { images }
    }

    /// The images `batch` of `images`, as `id` determines their variation; each result has the rows and columns of `size`.
    pub fn batch<'a>(&self, id: BatchId, images: &'a dyn Images, size: Size, batch: &'a [usize]) -> Varied<'a> {
        let mut shift = stream(id.seed, "shift", id.epoch, id.step);
        let mut roll = |size: u32| {
            let pixels = shift.below(2 * u64::from(self.shift) + 1) as i64 - i64::from(self.shift);
            pixels.rem_euclid(i64::from(size.max(1))) as usize
        };
        let roll = [roll(size[0]), roll(size[1])];
        Varied { augment: *self, id, images, size, batch, roll }
    }
}

impl Varied<'_> {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Bytes of one.
    pub fn image_bytes(&self) -> usize {
        bytes(self.size)
    }

    /// Writes the image at `position` of the batch to `out`.
    ///
    /// # Errors
    /// If it is broken; with a roll, if it is of another size.
    ///
    /// # Panics
    /// If there is no such image, or `out` is not of [`Varied::image_bytes`].
    pub fn write(&self, position: usize, out: &mut [u8]) -> Result<(), ImageError> {
        assert_eq!(out.len(), self.image_bytes(), "the output holds the image");
        let Varied { augment, id, .. } = *self;
        let index = self.batch[position];
        let item = id.step * self.batch.len() as u64 + position as u64;
        let mirrored = stream(id.seed, "flip", id.epoch, item).uniform() < augment.flip;
        let stored = self.images.image(index);
        let broken = |reason| ImageError::Broken { index, reason };
        match augment.kind {
            Variation::Roll if !stored.encoded && stored.size == self.size => {
                rolled(stored.bytes, self.size, self.roll, mirrored, out);
            }
            Variation::Roll => {
                return Err(ImageError::Size { index, found: stored.size, wanted: self.size });
            }
            Variation::Crop => {
                decoder(|decoder| self.crop(stored, item, decoder, out)).map_err(broken)?;
                if mirrored {
                    mirror(out, self.size[1] as usize);
                }
            }
        }
        Ok(())
    }

    fn crop(&self, stored: Stored<'_>, item: u64, decoder: &mut Decoder, out: &mut [u8]) -> Result<(), String> {
        let Augment { scale, ratio, short_side, .. } = self.augment;
        let mut random = stream(self.id.seed, "crop", self.id.epoch, item);
        let mut draw = |size: Size| RandomCrop { scale, ratio }.draw(size, &mut random);
        let resized = |size: Size| short_side.map_or(size, |side| with_short_side(size, side));
        if !stored.encoded && resized(stored.size) == stored.size {
            return decoder.resize_pixels(stored.size, stored.bytes, draw(stored.size), self.size, out);
        }
        let size = resized(decoder.stored(stored)?.size);
        decoder.rescale(size)?;
        decoder.resize(draw(size), self.size, out)
    }
}

/// Copies an image, mirrored or not, then rolled.
fn rolled(source: &[u8], [rows, columns]: Size, [down, right]: [usize; 2], mirrored: bool, out: &mut [u8]) {
    let (rows, width) = (rows as usize, columns as usize);
    for (y, row) in source.chunks_exact(width * 3).enumerate() {
        let out = &mut out[(y + down) % rows * width * 3..][..width * 3];
        let (begin, end) = out.split_at_mut(right * 3);
        if mirrored {
            let backwards = row.as_chunks::<3>().0.iter().rev();
            let to = end.as_chunks_mut::<3>().0.iter_mut().chain(begin.as_chunks_mut::<3>().0);
            to.zip(backwards).for_each(|(to, colour)| *to = *colour);
        } else {
            end.copy_from_slice(&row[..(width - right) * 3]);
            begin.copy_from_slice(&row[(width - right) * 3..]);
        }
    }
}

/// Mirrors an image in place.
fn mirror(image: &mut [u8], width: usize) {
    image.chunks_exact_mut(width * 3).for_each(|row| row.as_chunks_mut::<3>().0.reverse());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::data::crop::Region;
    use crate::data::images::Plain;
    use crate::settings::Settings;

    const SIZE: Size = [4, 5];
    const IMAGE: usize = 4 * 5 * 3;

    /// Two images without two equal pixels.
    fn pixels() -> Vec<u8> {
        (0..2 * IMAGE as u8).collect()
    }

    fn roll(flip: f64, shift: u32) -> Augment {
        Augment { flip, shift, ..Augment::default() }
    }

    fn run(augment: Augment, id: BatchId, batch: &[usize]) -> Vec<u8> {
        let mut out = vec![0; batch.len() * IMAGE];
        let images = Plain { pixels: &pixels(), labels: &[0, 1], size: SIZE };
        let varied = augment.batch(id, &images, SIZE, batch);
        out.chunks_exact_mut(IMAGE).enumerate().for_each(|(position, out)| varied.write(position, out).unwrap());
        out
    }

    /// (mirrored, down, right) of the one variation of image `index` that `out` is.
    fn variation(index: usize, out: &[u8]) -> (bool, usize, usize) {
        let pixels = pixels();
        let source = &pixels[index * IMAGE..][..IMAGE];
        let matches = |&(mirrored, down, right): &(bool, usize, usize)| {
            (0..IMAGE).all(|i| {
                let (y, x, colour) = (i / 15, i / 3 % 5, i % 3);
                let x_from = (x + 5 - right) % 5;
                let x_from = if mirrored { 4 - x_from } else { x_from };
                out[i] == source[((y + 4 - down) % 4 * 5 + x_from) * 3 + colour]
            })
        };
        let all = (0..40).map(|i| (i % 2 == 1, i / 2 % 4, i / 8));
        let found: Vec<_> = all.filter(matches).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]
    }

    #[test]
    fn without_chance_images_are_copied() {
        let id = BatchId { seed: 1, epoch: 2, step: 3 };
        assert_eq!(run(roll(0.0, 0), id, &[1, 0]), [&pixels()[IMAGE..], &pixels()[..IMAGE]].concat());
        assert_eq!(variation(1, &run(roll(1.0, 0), id, &[1])), (true, 0, 0));
    }

    #[test]
    fn a_batch_shares_its_shift_and_each_image_has_its_own_flip() {
        let (mut flips, mut shifts) = (0, std::collections::BTreeSet::new());
        for step in 0..300 {
            let out = run(roll(0.25, 1), BatchId { seed: 4, epoch: 0, step }, &[0, 1]);
            let [a, b] = [variation(0, &out[..IMAGE]), variation(1, &out[IMAGE..])];
            assert_eq!((a.1, a.2), (b.1, b.2));
            flips += usize::from(a.0) + usize::from(b.0);
            shifts.insert((a.1, a.2));
        }
        // 150 expected, standard deviation 11.
        assert!((105..195).contains(&flips), "{flips}");
        // -1, 0 and 1 pixel of 4 and of 5.
        let all = [0, 1, 3].into_iter().flat_map(|down| [0, 1, 4].map(|right| (down, right)));
        assert_eq!(shifts, all.collect());
    }

    #[test]
    fn the_same_batch_varies_in_the_same_way() {
        let id = BatchId { seed: 4, epoch: 1, step: 7 };
        let reference = run(Augment::default(), id, &[0, 1, 0, 1, 0, 1]);
        assert_eq!(reference, run(Augment::default(), id, &[0, 1, 0, 1, 0, 1]));
        for other in [BatchId { seed: 5, ..id }, BatchId { epoch: 2, ..id }, BatchId { step: 8, ..id }] {
            assert_ne!(reference, run(Augment::default(), other, &[0, 1, 0, 1, 0, 1]));
        }
    }

    /// An image whose red is its column and whose green is its row, times four.
    fn ramp(size: Size) -> Vec<u8> {
        let pixel = |i: u32| [4 * (i % size[1]) as u8, 4 * (i / size[1]) as u8, 7];
        (0..size[0] * size[1]).flat_map(pixel).collect()
    }

    fn cropped(augment: Augment, images: &dyn Images, id: BatchId, batch: &[usize]) -> Vec<Vec<u8>> {
        let varied = augment.batch(id, images, [augment.size; 2], batch);
        let image = |position| {
            let mut out = vec![0; varied.image_bytes()];
            varied.write(position, &mut out).unwrap();
            out
        };
        (0..batch.len()).map(image).collect()
    }

    #[test]
    fn a_crop_is_the_drawn_part_resized_and_mirrored() {
        let size = [48, 60];
        let pixels = ramp(size);
        let images = Plain { pixels: &pixels, labels: &[0], size };
        let id = BatchId { seed: 8, epoch: 3, step: 5 };
        let crop = |flip| Augment { kind: Variation::Crop, flip, size: 16, ..Augment::default() };
        let [plain, mirrored] = [0.0, 1.0].map(|flip| cropped(crop(flip), &images, id, &[0, 0, 0, 0]));
        for (position, (plain, mirrored)) in plain.iter().zip(&mirrored).enumerate() {
            let at = |image: &[u8], y: usize, x: usize| [image[(y * 16 + x) * 3], image[(y * 16 + x) * 3 + 1]];
            let mut random = stream(8, "crop", 3, 20 + position as u64);
            let part = RandomCrop { scale: [0.08, 1.0], ratio: [0.75, 4.0 / 3.0] }.draw(size, &mut random);
            for (y, x) in (1..15).flat_map(|y| (1..15).map(move |x| (y, x))) {
                // A filter that is symmetric about the centre of a pixel keeps a ramp, away from the edges.
                let centre = |begin: u32, len: u32, i: usize| {
                    4.0 * (f64::from(begin) + (i as f64 + 0.5) * f64::from(len) / 16.0 - 0.5)
                };
                let expected = [centre(part.left, part.columns, x), centre(part.top, part.rows, y)];
                let found = at(plain, y, x).map(f64::from);
                assert!(
                    (found[0] - expected[0]).abs() <= 1.0 && (found[1] - expected[1]).abs() <= 1.0,
                    "{found:?} {expected:?} {part:?}"
                );
                assert_eq!(at(mirrored, y, 15 - x), at(plain, y, x));
            }
        }
        assert!(plain[0] != plain[1] && plain[1] != plain[2]);
        assert_eq!(plain, cropped(crop(0.0), &images, id, &[0, 0, 0, 0]));
        assert_ne!(plain, cropped(crop(0.0), &images, BatchId { epoch: 4, ..id }, &[0, 0, 0, 0]));
    }

    #[test]
    fn a_short_side_is_resized_before_the_crop_is_drawn() {
        let size = [40, 60];
        let pixels = ramp(size);
        let images = Plain { pixels: &pixels, labels: &[0], size };
        let whole = Augment {
            kind: Variation::Crop,
            flip: 0.0,
            size: 20,
            scale: [1.0, 1.0],
            ratio: [1.5, 1.5],
            ..Augment::default()
        };
        let id = BatchId { seed: 1, epoch: 0, step: 0 };
        let half = cropped(Augment { short_side: Some(20), ..whole }, &images, id, &[0]);
        decoder(|decoder| {
            decoder.load(size, &pixels);
            decoder.rescale([20, 30]).unwrap();
            let mut expected = vec![0; 1200];
            decoder.resize(Region::whole([20, 30]), [20, 20], &mut expected).unwrap();
            assert_eq!(half[0], expected);
        });
        assert_ne!(half, cropped(whole, &images, id, &[0]));
    }

    #[test]
    fn a_roll_refuses_other_sizes_and_a_crop_invalid_ranges() {
        let pixels = pixels();
        let images = Plain { pixels: &pixels, labels: &[0, 1], size: SIZE };
        let varied = Augment::default().batch(BatchId { seed: 1, epoch: 0, step: 0 }, &images, [5, 4], &[1]);
        let error = varied.write(0, &mut [0; IMAGE]).unwrap_err();
        assert_eq!(error, ImageError::Size { index: 1, found: SIZE, wanted: [5, 4] });
        let crop = Augment { kind: Variation::Crop, ..Augment::default() };
        assert_eq!((crop.check(), Augment::default().check()), (vec![], vec![]));
        for (wrong, field) in [
            (Augment { flip: f64::NAN, ..crop }, "flip"),
            (Augment { scale: [0.0, 1.0], ..crop }, "scale"),
            (Augment { scale: [0.5, f64::NAN], ..crop }, "scale"),
            (Augment { scale: [0.5, 0.2], ..crop }, "scale"),
            (Augment { ratio: [2.0, 1.0], ..crop }, "ratio"),
            (Augment { size: 0, ..crop }, "size"),
            (Augment { short_side: Some(0), ..crop }, "short_side"),
        ] {
            let found = Settings::faults_of(&wrong).into_iter().chain(wrong.check());
            let fields: BTreeSet<String> = found.map(|(path, _)| path.split('.').take(1).collect()).collect();
            assert!(fields.iter().eq([field]), "{wrong:?}: {fields:?}");
        }
    }
}
