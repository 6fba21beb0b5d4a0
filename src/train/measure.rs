//! Measurements of a training between two epochs. They do not change what it learns.

use super::error::TrainError;
use super::forward::{EmbeddedBatch, Setup, TrainSet, embeddings};
use super::log::Measured;
use super::mode::Averages;
use crate::loss::{Batch, Gradients, Loss, LossError, has_class_vectors};
use crate::nn::{self, Backend, Grads, Kind, Model};

/// Steps from this number on belong to measurements: no training has as many.
const FIRST: u64 = 1 << 32;

/// Measures `model` and the loss's parameters `matrices` after `epoch`, counted from 0.
pub(super) fn measure<B: Backend>(
    setup: &Setup<'_, B>,
    model: &Model<B>,
    matrices: &[&[f32]],
    batches: u32,
    epoch: u32,
) -> Result<Measured, TrainError> {
    let TrainSet { images, classes, .. } = *setup.data;
    let labels = images.labels();
    let dim = setup.config.dim;
    let failed = |source| TrainError::Measure { epoch: epoch + 1, source };
    let embeddings: Vec<f32> =
        embeddings::<B, TrainError>(setup.device, model, &setup.data.for_evaluation(setup.config))?;
    let averages = Averages::new(&embeddings, labels, classes, dim);
    let fields = matrices.first().copied().filter(|_| has_class_vectors(setup.loss));
    let parent = setup.loss.parent();
    let steps = FIRST..FIRST + u64::from(batches);
    let parent_gap = match (&parent, fields) {
        (Some(parent), Some(fields)) => {
            let mut sum = 0.0;
            for step in steps.clone() {
                let subset = BatchSubset::new(&setup.batches.sampler.batch(0, step), &embeddings, labels, fields, dim);
                let pairs = subset.value(&**parent, &[]).map_err(failed)?;
                sum += pairs - subset.value(setup.loss, &[&subset.fields]).map_err(failed)?;
            }
            Some(sum / f64::from(batches))
        }
        _ => None,
    };
    let noise = |loss: &dyn Loss<f32>, matrices: &[&[f32]]| {
        // Training mode updates the running statistics: those of a copy.
        let (mut model, mut noise) = (model.clone(), Noise::default());
        for step in steps.clone() {
            let EmbeddedBatch { labels, values, embeddings } =
                setup.forward(&mut model, epoch, (0, step), setup.batches.prepare((0, step))?)?;
            let mut gradients = Gradients::default();
            let batch = Batch { embeddings: &values, labels: &labels, dim };
            loss.evaluate(batch, classes, matrices, &mut gradients).map_err(failed)?;
            let mut table = setup.device.backward(embeddings, &gradients.embeddings)?;
            noise.add(&network_gradient(setup.device, &model, &mut table)?);
        }
        Ok::<_, TrainError>(noise.relative())
    };
    // A figure that is not finite is absent: JSON, which checkpoints hold, has no NaN.
    let finite = |figure: Option<f64>| figure.filter(|figure| figure.is_finite());
    Ok(Measured {
        field_angle: finite(fields.map(|fields| mean_angle(fields, &averages))),
        spread: finite(Some(spread(&embeddings, labels, &averages))),
        parent_gap: finite(parent_gap),
        noise: finite(noise(setup.loss, matrices)?),
        parent_noise: finite(parent.map_or(Ok(None), |parent| noise(&*parent, &[]))?),
    })
}

/// Mean over the samples of the squared distance to the average of the class.
fn spread(embeddings: &[f32], labels: &[u32], averages: &Averages) -> f64 {
    let dim = embeddings.len() / labels.len();
    let squares = embeddings.chunks_exact(dim).zip(labels).map(|(row, &label)| {
        let average = &averages.rows[label as usize * dim..][..dim];
        row.iter().zip(average).map(|(&x, average)| (f64::from(x) - average).powi(2)).sum::<f64>()
    });
    squares.sum::<f64>() / labels.len() as f64
}

/// Mean angle between vector and average over the classes that have samples, in degrees; 90 for a vector of zeros.
fn mean_angle(fields: &[f32], averages: &Averages) -> f64 {
    let (mut sum, mut classes) = (0.0, 0.0);
    for (class, average) in averages.present() {
        let field: Vec<f64> = fields[class * average.len()..][..average.len()].iter().map(|&x| f64::from(x)).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let lengths = (dot(&field, &field) * dot(average, average)).sqrt();
        let cosine = if lengths > 0.0 { dot(&field, average) / lengths } else { 0.0 };
        sum += cosine.clamp(-1.0, 1.0).acos().to_degrees();
        classes += 1.0;
    }
    sum / classes
}

/// A batch as a separate data set, with only the classes of the batch.
struct BatchSubset {
    embeddings: Vec<f32>,
    labels: Vec<u32>,
    classes: usize,
    fields: Vec<f32>,
    dim: usize,
}

impl BatchSubset {
    fn new(images: &[usize], embeddings: &[f32], labels: &[u32], fields: &[f32], dim: usize) -> Self {
        let mut present: Vec<u32> = images.iter().map(|&image| labels[image]).collect();
        present.sort_unstable();
        present.dedup();
        let place = |image: usize| present.partition_point(|&class| class < labels[image]) as u32;
        Self {
            embeddings: images.iter().flat_map(|&image| &embeddings[image * dim..][..dim]).copied().collect(),
            labels: images.iter().map(|&image| place(image)).collect(),
            classes: present.len(),
            fields: present.iter().flat_map(|&class| &fields[class as usize * dim..][..dim]).copied().collect(),
            dim,
        }
    }

    fn value(&self, loss: &dyn Loss<f32>, matrices: &[&[f32]]) -> Result<f64, LossError> {
        let batch = Batch { embeddings: &self.embeddings, labels: &self.labels, dim: self.dim };
        loss.evaluate(batch, self.classes, matrices, &mut Gradients::default()).map(f64::from)
    }
}

/// The gradients of all parameters of the network, concatenated; zeros for parameters that do not learn.
fn network_gradient<B: Backend>(device: &B, model: &Model<B>, gradients: &mut Grads<B>) -> Result<Vec<f32>, nn::Error> {
    let mut all = Vec::new();
    for tensor in model.tensors().filter(|tensor| tensor.kind == Kind::Parameter) {
        match device.gradient(gradients, &tensor.value)? {
            Some(gradient) => device.read(&gradient, |gradient| all.extend_from_slice(gradient)),
            None => all.resize(all.len() + tensor.len(), 0.0),
        }
    }
    Ok(all)
}

/// Running mean and summed variance of vectors (Welford's recurrence).
#[derive(Debug, Default)]
struct Noise {
    count: f64,
    mean: Vec<f64>,
    squares: f64,
}

impl Noise {
    fn add(&mut self, gradient: &[f32]) {
        self.mean.resize(gradient.len(), 0.0);
        self.count += 1.0;
        for (mean, &x) in self.mean.iter_mut().zip(gradient) {
            let before = f64::from(x) - *mean;
            *mean += before / self.count;
            self.squares += before * (f64::from(x) - *mean);
        }
    }

    /// Variance divided by the squared norm of the mean.
    fn relative(&self) -> Option<f64> {
        let length: f64 = self.mean.iter().map(|x| x * x).sum();
        (length > 0.0).then(|| self.squares / (self.count - 1.0) / length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_and_angle_match_values_computed_by_hand() {
        // Two samples of class 1 at a right angle: average (0.5, 0.5), both at a squared distance of 0.5. Class 0 has
        // one.
        let (embeddings, labels) = ([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [1, 1, 0]);
        let averages = Averages::new(&embeddings, &labels, 3, 2);
        assert!((spread(&embeddings, &labels, &averages) - 1.0 / 3.0).abs() <= 1e-15);
        // 90 degrees for class 0, 45 for class 1; class 2 has no samples.
        let angle = mean_angle(&[5.0, 0.0, 0.0, 3.0, 1.0, 1.0], &averages);
        assert!((angle - 67.5).abs() <= 1e-9, "{angle}");
    }

    #[test]
    fn a_subset_has_the_classes_of_its_batch_alone() {
        let embeddings: Vec<f32> = (0..8).map(|x| x as f32).collect();
        let subset = BatchSubset::new(
            &[3, 0, 2],
            &embeddings,
            &[5, 1, 2, 5],
            &[0., 0., 1., 1., 2., 2., 3., 3., 4., 4., 5., 5.],
            2,
        );
        assert_eq!(subset.embeddings, [6.0, 7.0, 0.0, 1.0, 4.0, 5.0]);
        assert_eq!((subset.labels, subset.classes), (vec![1, 1, 0], 2));
        assert_eq!(subset.fields, [2.0, 2.0, 5.0, 5.0]);
    }

    #[test]
    fn noise_is_the_summed_variance_over_the_squared_mean() {
        let mut noise = Noise::default();
        [[1.0, 4.0], [3.0, 4.0], [5.0, 4.0]].iter().for_each(|gradient| noise.add(gradient));
        // Variances 4 and 0, mean (3, 4).
        assert!((noise.relative().unwrap() - 4.0 / 25.0).abs() <= 1e-15, "{noise:?}");
        let mut still = Noise::default();
        [[0.0], [0.0]].iter().for_each(|gradient| still.add(gradient));
        assert_eq!(still.relative(), None);
    }
}
