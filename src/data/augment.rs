//! Random flips and shifts of training images, each a pure function of (seed, epoch, step, item).

use serde::{Deserialize, Serialize};

use super::random::stream;

/// How training images vary.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Probability that an image is mirrored left to right, for each image by itself. Default 0.5.
    pub flip: f64,
    /// All images of a batch are rolled by the same whole number of pixels of `-shift..=shift` in each direction, what
    /// leaves on one side entering on the other. Default 3.
    pub shift: u32,
}

impl Default for Augment {
    fn default() -> Self {
        Self { flip: 0.5, shift: 3 }
    }
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

impl Augment {
    /// Copies the images `batch` of `pixels` (`N x height x width x 3`) to `out`, varied as `id` determines.
    ///
    /// # Panics
    /// If an index is not an image, or `out` is not of `batch.len()` images.
    pub fn batch(&self, id: BatchId, pixels: &[u8], (height, width): (usize, usize), batch: &[usize], out: &mut [u8]) {
        let image = height * width * 3;
        assert_eq!(out.len(), batch.len() * image, "the output holds the batch");
        let mut shift = stream(id.seed, "shift", id.epoch, id.step);
        let mut roll = |size: usize| {
            let pixels = shift.below(2 * u64::from(self.shift) + 1) as i64 - i64::from(self.shift);
            pixels.rem_euclid(size as i64) as usize
        };
        let (down, right) = (roll(height), roll(width));
        let first = id.step * batch.len() as u64;
        for ((item, &index), out) in (first..).zip(batch).zip(out.chunks_exact_mut(image)) {
            let source = &pixels[index * image..][..image];
            let mirrored = stream(id.seed, "flip", id.epoch, item).uniform() < self.flip;
            for (y, row) in source.chunks_exact(width * 3).enumerate() {
                let out = &mut out[(y + down) % height * width * 3..][..width * 3];
                for (x, colour) in row.chunks_exact(3).enumerate() {
                    let x = if mirrored { width - 1 - x } else { x };
                    out[(x + right) % width * 3..][..3].copy_from_slice(colour);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (4, 5);
    const IMAGE: usize = 4 * 5 * 3;

    /// Two images without two equal pixels.
    fn pixels() -> Vec<u8> {
        (0..2 * IMAGE as u8).collect()
    }

    fn run(augment: Augment, id: BatchId, batch: &[usize]) -> Vec<u8> {
        let mut out = vec![0; batch.len() * IMAGE];
        augment.batch(id, &pixels(), SIZE, batch, &mut out);
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
        assert_eq!(
            run(Augment { flip: 0.0, shift: 0 }, id, &[1, 0]),
            [&pixels()[IMAGE..], &pixels()[..IMAGE]].concat()
        );
        assert_eq!(variation(1, &run(Augment { flip: 1.0, shift: 0 }, id, &[1])), (true, 0, 0));
    }

    #[test]
    fn a_batch_shares_its_shift_and_each_image_has_its_own_flip() {
        let (mut flips, mut shifts) = (0, std::collections::BTreeSet::new());
        for step in 0..300 {
            let out = run(Augment { flip: 0.25, shift: 1 }, BatchId { seed: 4, epoch: 0, step }, &[0, 1]);
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
}
