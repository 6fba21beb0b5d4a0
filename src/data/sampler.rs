//! Batches of training images, each a pure function of (seed, epoch, step).

use thiserror::Error;

use crate::math::random::{Stream, stream};

/// Why no batch can be drawn.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SamplerError {
    /// A label is not a class.
    #[error("label {label} of image {image} is not below the number of classes, {classes}")]
    Label { label: u32, image: usize, classes: usize },
    /// A batch wants more classes than have images.
    #[error("a batch takes {wanted} classes but only {found} have images; lower batch.classes or batch.size")]
    Classes { wanted: usize, found: usize },
    /// A batch wants more images than there are.
    #[error("a batch takes {wanted} images but there are only {found}; lower batch.size")]
    Images { wanted: usize, found: usize },
    /// A batch without images.
    #[error("a batch takes at least one class and one image of it, not {classes} x {per_class}")]
    Empty { classes: usize, per_class: usize },
}

/// How a batch is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// `classes` classes without replacement and `per_class` images of each, without replacement as far as a class has
    /// that many.
    Classes { classes: usize, per_class: usize },
    /// The images in random order, `size` at a time; the last ones that fill no batch are left out, and a new order
    /// begins. The order is that of the epoch. The traditional protocol draws so.
    Shuffled { size: usize },
    /// `classes` classes without replacement and `per_class` images of each with replacement: the balanced sampler
    /// that the Proxy-Anchor code and the mean-field code offer.
    Balanced { classes: usize, per_class: usize },
    /// The classes in random order, `per_class` images of each, without replacement as far as a class has that many;
    /// when all have been, a new order begins, in the middle of a batch if needed. MLRC's sampler.
    InTurn { classes: usize, per_class: usize },
}

/// Draws the batches of a training set.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// The images of each class that has any.
    members: Vec<Vec<usize>>,
    /// All images.
    images: usize,
    draw: Draw,
    seed: u64,
}

impl Sampler {
    /// For images with the given labels, each below `count` classes.
    pub fn new(labels: &[u32], count: usize, draw: Draw, seed: u64) -> Result<Self, SamplerError> {
        let mut members = vec![Vec::new(); count];
        for (image, &label) in labels.iter().enumerate() {
            match members.get_mut(label as usize) {
                Some(class) => class.push(image),
                None => return Err(SamplerError::Label { label, image, classes: count }),
            }
        }
        members.retain(|class| !class.is_empty());
        let (images, found) = (labels.len(), members.len());
        let (classes, per_class) = draw.shape();
        if classes == 0 || per_class == 0 {
            return Err(SamplerError::Empty { classes, per_class });
        }
        match draw {
            Draw::Shuffled { size } if size > images => Err(SamplerError::Images { wanted: size, found: images }),
            Draw::Classes { .. } | Draw::Balanced { .. } if classes > found => {
                Err(SamplerError::Classes { wanted: classes, found })
            }
            _ if found == 0 => Err(SamplerError::Classes { wanted: classes, found }),
            _ => Ok(Self { members, images, draw, seed }),
        }
    }

    /// Images of a batch.
    pub fn batch_len(&self) -> usize {
        let (classes, per_class) = self.draw.shape();
        classes * per_class
    }

    /// The images of a batch, those of a class adjacent unless they are shuffled.
    pub fn batch(&self, epoch: u64, step: u64) -> Vec<usize> {
        let mut random = stream(self.seed, "sampler", epoch, step);
        match self.draw {
            Draw::Classes { classes, per_class } => {
                let drawn = random.distinct(self.members.len(), classes);
                drawn.into_iter().flat_map(|class| self.of_class(class, per_class, &mut random)).collect()
            }
            Draw::Balanced { classes, per_class } => {
                let drawn = random.distinct(self.members.len(), classes);
                drawn
                    .into_iter()
                    .flat_map(|class| with_replacement(&self.members[class], per_class, &mut random))
                    .collect()
            }
            Draw::Shuffled { size } => {
                let batches = (self.images / size) as u64;
                let order = self.order("sampler images", self.images, epoch, step / batches);
                let first = (step % batches) as usize * size;
                order[first..first + size].to_vec()
            }
            Draw::InTurn { classes, per_class } => {
                let all = self.members.len();
                let (mut turn, mut order) = (u64::MAX, Vec::new());
                let mut batch = Vec::with_capacity(self.batch_len());
                for place in step as usize * classes..(step as usize + 1) * classes {
                    if turn != (place / all) as u64 {
                        turn = (place / all) as u64;
                        order = self.order("sampler classes", all, epoch, turn);
                    }
                    batch.extend(self.of_class(order[place % all], per_class, &mut random));
                }
                batch
            }
        }
    }

    /// The numbers below `count` in the order of turn number `turn` of an epoch.
    fn order(&self, purpose: &str, count: usize, epoch: u64, turn: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        stream(self.seed, purpose, epoch, turn).shuffle(&mut order);
        order
    }

    /// `count` images of a class, distinct if it has that many.
    fn of_class(&self, class: usize, count: usize, random: &mut Stream) -> Vec<usize> {
        let class = &self.members[class];
        if class.len() < count {
            return with_replacement(class, count, random);
        }
        random.distinct(class.len(), count).into_iter().map(|member| class[member]).collect()
    }
}

impl Draw {
    /// Classes of a batch and images of each; shuffled images are classes of their own here.
    fn shape(self) -> (usize, usize) {
        match self {
            Draw::Shuffled { size } => (size, 1),
            Draw::Classes { classes, per_class }
            | Draw::Balanced { classes, per_class }
            | Draw::InTurn { classes, per_class } => (classes, per_class),
        }
    }
}

fn with_replacement(class: &[usize], count: usize, random: &mut Stream) -> Vec<usize> {
    (0..count).map(|_| class[random.below(class.len() as u64) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Twelve classes: class c has c images (class 0 none), in an order that mixes them.
    fn labels() -> Vec<u32> {
        let mut labels: Vec<u32> = (0..12).flat_map(|class| (0..class).map(move |_| class)).collect();
        stream(5, "test", 0, 0).shuffle(&mut labels);
        labels
    }

    const FIVE_OF_FOUR: Draw = Draw::Classes { classes: 5, per_class: 4 };

    #[test]
    fn a_batch_has_distinct_classes_and_images_where_there_are_enough() {
        let labels = labels();
        let sampler = Sampler::new(&labels, 12, FIVE_OF_FOUR, 9).unwrap();
        for step in 0..200 {
            let batch = sampler.batch(1, step);
            assert_eq!(batch.len(), sampler.batch_len());
            let mut classes = BTreeSet::new();
            for images in batch.chunks(4) {
                let class = labels[images[0]];
                assert!(images.iter().all(|&image| labels[image] == class), "a chunk is of one class");
                assert!(classes.insert(class), "a class comes once");
                let distinct: BTreeSet<_> = images.iter().collect();
                if class >= 4 {
                    assert_eq!(distinct.len(), 4, "class {class} has enough images");
                } else {
                    assert!(distinct.len() <= class as usize);
                }
            }
        }
    }

    #[test]
    fn batches_depend_on_seed_epoch_and_step_alone_and_reach_every_image() {
        let labels = labels();
        let draws = [
            FIVE_OF_FOUR,
            Draw::Shuffled { size: 7 },
            Draw::Balanced { classes: 5, per_class: 4 },
            Draw::InTurn { classes: 5, per_class: 4 },
        ];
        for draw in draws {
            let sampler = |seed| Sampler::new(&labels, 12, draw, seed).unwrap();
            let reference = sampler(9).batch(1, 2);
            assert_eq!(reference, sampler(9).batch(1, 2), "{draw:?}");
            for other in [sampler(8).batch(1, 2), sampler(9).batch(2, 2), sampler(9).batch(1, 3)] {
                assert_ne!(reference, other, "{draw:?}");
            }
            let seen: BTreeSet<usize> = (0..200).flat_map(|step| sampler(9).batch(0, step)).collect();
            assert_eq!(seen.len(), labels.len(), "{draw:?}");
        }
    }

    /// The batches that trainings had before there was a choice.
    #[test]
    fn batches_of_classes_are_those_that_they_always_were() {
        let labels: Vec<u32> = (0..40).map(|image| image % 8).collect();
        let sampler = Sampler::new(&labels, 8, Draw::Classes { classes: 3, per_class: 2 }, 7).unwrap();
        assert_eq!(sampler.batch(2, 5), [13, 5, 26, 10, 27, 11]);
    }

    #[test]
    fn shuffled_batches_take_every_image_once_and_leave_out_the_last_few() {
        let labels = labels();
        let sampler = Sampler::new(&labels, 12, Draw::Shuffled { size: 10 }, 9).unwrap();
        // 66 images: six batches an epoch, then a new order.
        let batches = |steps: std::ops::Range<u64>| steps.flat_map(|step| sampler.batch(3, step)).collect::<Vec<_>>();
        let first = batches(0..6);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 60);
        assert_eq!(batches(6..12).iter().collect::<BTreeSet<_>>().len(), 60);
        assert_ne!(first, batches(6..12));
    }

    #[test]
    fn balanced_batches_draw_images_with_replacement() {
        let labels = [vec![0; 50], vec![1; 50]].concat();
        let sampler = Sampler::new(&labels, 2, Draw::Balanced { classes: 2, per_class: 20 }, 9).unwrap();
        let repeats = (0..20).filter(|&step| {
            let batch = sampler.batch(0, step);
            assert_eq!(batch.iter().filter(|&&image| labels[image] == 0).count(), 20);
            batch.iter().collect::<BTreeSet<_>>().len() < 40
        });
        // 20 distinct ones of 50, twice, have a chance below one in ten thousand.
        assert_eq!(repeats.count(), 20);
    }

    #[test]
    fn classes_in_turn_come_once_before_any_comes_again() {
        let labels = labels();
        let sampler = Sampler::new(&labels, 12, Draw::InTurn { classes: 4, per_class: 3 }, 9).unwrap();
        // Eleven classes have images: the third batch ends a turn and begins the next.
        let classes: Vec<u32> =
            (0..11).flat_map(|step| sampler.batch(1, step)).step_by(3).map(|image| labels[image]).collect();
        assert_eq!(classes.len(), 44);
        for turn in classes.chunks(11) {
            assert_eq!(turn.iter().collect::<BTreeSet<_>>().len(), 11, "{turn:?}");
        }
        assert_ne!(classes[..11], classes[11..22]);
        let few = Sampler::new(&[0, 0, 1], 2, Draw::InTurn { classes: 3, per_class: 1 }, 0).unwrap();
        assert_eq!(few.batch(0, 0).len(), 3, "more classes in a batch than there are");
    }

    #[test]
    fn impossible_batches_are_refused() {
        let error = |labels: &[u32], count, draw| Sampler::new(labels, count, draw, 0).unwrap_err();
        let classes = |classes, per_class| Draw::Classes { classes, per_class };
        assert_eq!(error(&[0, 3], 3, classes(1, 1)), SamplerError::Label { label: 3, image: 1, classes: 3 });
        assert_eq!(error(&[0, 2], 3, classes(3, 1)), SamplerError::Classes { wanted: 3, found: 2 });
        assert_eq!(error(&[0], 1, classes(0, 1)), SamplerError::Empty { classes: 0, per_class: 1 });
        assert_eq!(error(&[0], 1, classes(1, 0)), SamplerError::Empty { classes: 1, per_class: 0 });
        assert_eq!(error(&[0, 0], 1, Draw::Shuffled { size: 3 }), SamplerError::Images { wanted: 3, found: 2 });
        let balanced = Draw::Balanced { classes: 2, per_class: 1 };
        assert_eq!(error(&[0, 0], 1, balanced), SamplerError::Classes { wanted: 2, found: 1 });
        let in_turn = Draw::InTurn { classes: 2, per_class: 1 };
        assert_eq!(error(&[], 1, in_turn), SamplerError::Classes { wanted: 2, found: 0 });
    }
}
