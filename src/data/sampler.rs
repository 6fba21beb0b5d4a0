//! Class-balanced batches, each a pure function of (seed, epoch, step).

use thiserror::Error;

use super::random::stream;

/// Why no batch can be drawn.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SamplerError {
    /// A label is not a class.
    #[error("label {label} of image {image} is not below the number of classes, {classes}")]
    Label { label: u32, image: usize, classes: usize },
    /// A batch wants more classes than have images.
    #[error("a batch takes {wanted} classes but only {found} have images; lower batch.classes")]
    Classes { wanted: usize, found: usize },
    /// A batch without images.
    #[error("a batch takes at least one class and one image of it, not {classes} x {per_class}")]
    Empty { classes: usize, per_class: usize },
}

/// Draws `classes` classes without replacement and `per_class` images of each, without replacement as far as a class
/// has that many.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// The images of each class that has any.
    members: Vec<Vec<usize>>,
    classes: usize,
    per_class: usize,
    seed: u64,
}

impl Sampler {
    /// For images with the given labels, each below `count` classes.
    pub fn new(
        labels: &[u32],
        count: usize,
        classes: usize,
        per_class: usize,
        seed: u64,
    ) -> Result<Self, SamplerError> {
        if classes == 0 || per_class == 0 {
            return Err(SamplerError::Empty { classes, per_class });
        }
        let mut members = vec![Vec::new(); count];
        for (image, &label) in labels.iter().enumerate() {
            match members.get_mut(label as usize) {
                Some(class) => class.push(image),
                None => return Err(SamplerError::Label { label, image, classes: count }),
            }
        }
        members.retain(|class| !class.is_empty());
        if classes > members.len() {
            return Err(SamplerError::Classes { wanted: classes, found: members.len() });
        }
        Ok(Self { members, classes, per_class, seed })
    }

    /// Images of a batch.
    pub fn batch_len(&self) -> usize {
        self.classes * self.per_class
    }

    /// The images of a batch, those of a class side by side.
    pub fn batch(&self, epoch: u64, step: u64) -> Vec<usize> {
        let mut random = stream(self.seed, "sampler", epoch, step);
        let mut batch = Vec::with_capacity(self.batch_len());
        for class in random.distinct(self.members.len(), self.classes) {
            let class = &self.members[class];
            if class.len() < self.per_class {
                batch.extend((0..self.per_class).map(|_| class[random.below(class.len() as u64) as usize]));
            } else {
                batch.extend(random.distinct(class.len(), self.per_class).into_iter().map(|member| class[member]));
            }
        }
        batch
    }
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

    #[test]
    fn a_batch_has_distinct_classes_and_distinct_images_where_a_class_has_enough() {
        let labels = labels();
        let sampler = Sampler::new(&labels, 12, 5, 4, 9).unwrap();
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
        let sampler = |seed| Sampler::new(&labels, 12, 5, 4, seed).unwrap();
        let reference = sampler(9).batch(1, 2);
        assert_eq!(reference, sampler(9).batch(1, 2));
        for other in [sampler(8).batch(1, 2), sampler(9).batch(2, 2), sampler(9).batch(1, 3)] {
            assert_ne!(reference, other);
        }
        let seen: BTreeSet<usize> = (0..200).flat_map(|step| sampler(9).batch(0, step)).collect();
        assert_eq!(seen.len(), labels.len());
    }

    #[test]
    fn impossible_batches_are_refused() {
        let error =
            |labels: &[u32], count, classes, per_class| Sampler::new(labels, count, classes, per_class, 0).unwrap_err();
        assert_eq!(error(&[0, 3], 3, 1, 1), SamplerError::Label { label: 3, image: 1, classes: 3 });
        assert_eq!(error(&[0, 2], 3, 3, 1), SamplerError::Classes { wanted: 3, found: 2 });
        assert_eq!(error(&[0], 1, 0, 1), SamplerError::Empty { classes: 0, per_class: 1 });
        assert_eq!(error(&[0], 1, 1, 0), SamplerError::Empty { classes: 1, per_class: 0 });
    }
}
