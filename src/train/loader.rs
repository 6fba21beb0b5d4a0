//! Batches for the device, prepared while the trainer computes.
//!
//! Sampling, augmentation and normalisation are functions of (seed, epoch, step) alone, so a batch is the same
//! whichever thread prepares it, and whenever. One thread iterates over the steps and distributes the images of a batch
//! over its own thread pool; a channel keeps it two batches ahead of the trainer: one is ready, one is being prepared.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

use crate::data::augment::{Augment, BatchId};
use crate::data::crop::Size;
use crate::data::images::{ImageError, Images};
use crate::data::sampler::Sampler;
use crate::nn::{Normaliser, buffer};

/// Prepares the batches of a training.
#[derive(Debug)]
pub(super) struct Batches<'a> {
    pub images: &'a dyn Images,
    pub sampler: Sampler,
    pub augment: Augment,
    pub seed: u64,
    /// Rows and columns of the network's input.
    pub size: Size,
    pub normaliser: Normaliser,
}

/// A batch before its forward pass.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The positions of its images.
    pub images: Vec<usize>,
    /// `N x height x width x 3`, normalised.
    pub values: Vec<f32>,
}

impl Batches<'_> {
    /// Prepares the batch of (epoch, step), its images in parallel.
    pub fn prepare(&self, (epoch, step): (u64, u64)) -> Result<Prepared, ImageError> {
        let images = self.sampler.batch(epoch, step);
        let id = BatchId { seed: self.seed, epoch, step };
        let varied = self.augment.batch(id, self.images, self.size, &images);
        let len = varied.image_bytes();
        let mut values = buffer::take(varied.len() * len);
        let write = |bytes: &mut Vec<u8>, (position, out): (usize, &mut [f32])| {
            varied.write(position, bytes)?;
            self.normaliser.write(bytes, out);
            Ok(())
        };
        let all = values.par_chunks_exact_mut(len).enumerate().map_init(|| vec![0; len], write);
        // Returns the error of the batch's first faulty image, whichever thread finds one first.
        all.collect::<Vec<Result<(), ImageError>>>().into_iter().collect::<Result<(), ImageError>>()?;
        Ok(Prepared { images, values })
    }
}

/// The batches of the coming steps, in order, prepared by another thread.
pub(super) struct Prefetch {
    receiver: Receiver<((u64, u64), Result<Prepared, ImageError>)>,
    waited: Duration,
}

impl Prefetch {
    /// Prepares the batches of `steps` in the background while `consume` runs.
    pub fn run<R>(
        batches: &Batches<'_>,
        steps: impl Iterator<Item = (u64, u64)> + Send,
        consume: impl FnOnce(&mut Self) -> R,
    ) -> R {
        let threads = rayon::current_num_threads();
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().ok();
                for at in steps {
                    let prepared = match &pool {
                        Some(pool) => pool.install(|| batches.prepare(at)),
                        None => batches.prepare(at),
                    };
                    // The training has stopped early.
                    if sender.send((at, prepared)).is_err() {
                        break;
                    }
                }
            });
            consume(&mut Self { receiver, waited: Duration::ZERO })
        })
    }

    /// Returns the next batch, which is that of `at`.
    pub fn next(&mut self, batches: &Batches<'_>, at: (u64, u64)) -> Result<Prepared, ImageError> {
        let begin = Instant::now();
        let next = self.receiver.recv();
        self.waited += begin.elapsed();
        match next {
            Ok((found, prepared)) if found == at => prepared,
            // Unreachable in a training that takes its steps in order.
            _ => batches.prepare(at),
        }
    }

    /// The time that `next` has waited since the last call of this.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::augment::Variation;
    use crate::data::images::Plain;
    use crate::data::sampler::Draw;
    use crate::nn::Backbone;

    fn batches<'a>(images: &'a Plain<'a>, augment: Augment) -> Batches<'a> {
        let sampler = Sampler::new(images.labels, 2, Draw::Classes { classes: 2, per_class: 2 }, 3).unwrap();
        let size = augment.size(images.size);
        Batches {
            images,
            sampler,
            augment,
            seed: 3,
            size,
            normaliser: Backbone::named("bn_inception").unwrap().normalisation().pixels().normaliser(),
        }
    }

    fn pixels() -> Vec<u8> {
        (0..6 * 20 * 30 * 3u32).map(|i| (i * 7919 % 251) as u8).collect()
    }

    const LABELS: [u32; 6] = [0, 0, 0, 1, 1, 1];

    #[test]
    fn prefetched_batches_equal_those_prepared_in_place_on_any_number_of_threads() {
        let pixels = pixels();
        let images = Plain::new(&pixels, &LABELS, [20, 30]).unwrap();
        let crop = Augment { kind: Variation::Crop, size: 11, ..Augment::default() };
        for augment in [Augment::default(), crop] {
            let batches = batches(&images, augment);
            let order = || (0..2).flat_map(|epoch| (0..5).map(move |step| (epoch, step)));
            let expected: Vec<Prepared> = order().map(|at| batches.prepare(at).unwrap()).collect();
            for threads in [1, 2, 7] {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    Prefetch::run(&batches, order(), |prefetch| {
                        for (at, expected) in order().zip(&expected) {
                            let found = prefetch.next(&batches, at).unwrap();
                            assert_eq!(found.images, expected.images);
                            assert!(found.values == expected.values, "{at:?} on {threads} threads");
                        }
                    });
                });
            }
            assert_ne!(expected[0].values, expected[1].values);
        }
    }

    #[test]
    fn values_are_normalised_as_the_network_sees_them() {
        let pixels = pixels();
        let images = Plain::new(&pixels, &LABELS, [20, 30]).unwrap();
        let batches = batches(&images, Augment { flip: 0.0, shift: 0, ..Augment::default() });
        let Prepared { images, values } = batches.prepare((0, 0)).unwrap();
        let image = 20 * 30 * 3;
        let bytes: Vec<u8> = images.iter().flat_map(|&i| &pixels[i * image..][..image]).copied().collect();
        assert_eq!(values, Backbone::named("bn_inception").unwrap().normalisation().pixels().normalise(&bytes));
        // Blue first, minus 104.
        assert_eq!(values[0], f32::from(bytes[2]) / 255.0 * 255.0 - 104.0);
    }

    #[test]
    fn the_loader_stops_when_the_training_ends_early_or_fails() {
        let pixels = pixels();
        let images = Plain::new(&pixels, &LABELS, [20, 30]).unwrap();
        let mut batches = batches(&images, Augment::default());
        let order = || (0..1_000_000).map(|step| (0, step));
        Prefetch::run(&batches, order(), |prefetch| prefetch.next(&batches, (0, 0)).map(|_| ())).unwrap();
        batches.size = [30, 20];
        let error = Prefetch::run(&batches, order(), |prefetch| prefetch.next(&batches, (0, 0)).unwrap_err());
        assert!(matches!(error, ImageError::Size { found: [20, 30], .. }), "{error}");
    }
}
