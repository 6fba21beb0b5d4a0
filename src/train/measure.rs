//! What a training measures of itself between two epochs, without a trace in what it learns.

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::mode::Averages;
use super::run::{Drawn, Setup, TrainSet, embeddings};
use crate::loss::{Batch, Gradients, Loss, LossError, has_class_vectors};
use crate::nn::{self, Backend, Grads, Kind, Model};

/// What to measure and when. A measurement costs one pass of all training images through the network, and for each
/// batch one training step, two if the loss has a pair-based parent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Epochs from one measurement to the next. Default 1.
    pub every: u32,
    /// Mini-batches behind `parent_gap`, `noise` and `parent_noise`, the same each time. Default 8.
    pub batches: u32,
}

impl Default for Measure {
    fn default() -> Self {
        Self { every: 1, batches: 8 }
    }
}

/// What was measured after an epoch. A figure that the loss has no meaning for is absent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The angle between a class's vector and the average embedding of the class, in degrees, averaged over the classes.
    /// For losses with one vector for each class.
    pub field_angle: Option<f64>,
    /// The squared distance of an embedding to the average of its class, averaged over the samples: 0 if classes are
    /// points, 1 at most. Absent if an embedding is not finite.
    pub spread: Option<f64>,
    /// The pair-based parent's value minus this loss's on the same embeddings, averaged over the batches. The classes
    /// are those of the batch, for both. For losses with a parent.
    pub parent_gap: Option<f64>,
    /// Variance of the gradient of a mini-batch with respect to the network's parameters, summed over these, divided by
    /// the squared length of the mean over the batches: at most the number of batches. Absent if that mean is zero.
    pub noise: Option<f64>,
    /// The same of the pair-based parent, on the same batches.
    pub parent_noise: Option<f64>,
}

impl Measured {
    /// The names of the figures.
    pub const NAMES: [&'static str; 5] = ["field_angle", "spread", "parent_gap", "noise", "parent_noise"];

    /// The figures, in the order of [`Measured::NAMES`].
    pub fn values(&self) -> [Option<f64>; 5] {
        [self.field_angle, self.spread, self.parent_gap, self.noise, self.parent_noise]
    }
}

/// Steps from here on belong to measurements: no training has as many.
const FIRST: u64 = 1 << 32;

/// Measures `model` and the loss's `matrices` as they are after `epoch`, counted from 0.
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
                let part = Part::new(&setup.batches.sampler.batch(0, step), &embeddings, labels, fields, dim);
                let pairs = part.value(&**parent, &[]).map_err(failed)?;
                sum += pairs - part.value(setup.loss, &[&part.fields]).map_err(failed)?;
            }
            Some(sum / f64::from(batches))
        }
        _ => None,
    };
    let noise = |loss: &dyn Loss<f32>, matrices: &[&[f32]]| {
        // Training mode moves the running statistics: those of a copy.
        let (mut model, mut noise) = (model.clone(), Noise::default());
        for step in steps.clone() {
            let Drawn { labels, values, embeddings } =
                setup.forward(&mut model, epoch, (0, step), setup.batches.prepare((0, step))?)?;
            let mut gradients = Gradients::default();
            let batch = Batch { embeddings: &values, labels: &labels, dim };
            loss.evaluate(batch, classes, matrices, &mut gradients).map_err(failed)?;
            let mut table = setup.device.backward(embeddings, &gradients.embeddings)?;
            noise.add(&network_gradient(setup.device, &model, &mut table)?);
        }
        Ok::<_, TrainError>(noise.relative())
    };
    // What has no value is absent, in the log as in the state of a training that goes on.
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

/// Mean over the classes that have samples of the angle between vector and average, in degrees; a vector of zeros is at a
/// right angle to everything.
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

/// A batch as a world of its own: its classes are all that there are.
struct Part {
    embeddings: Vec<f32>,
    labels: Vec<u32>,
    classes: usize,
    fields: Vec<f32>,
    dim: usize,
}

impl Part {
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

/// The gradients of all parameters of the network, end to end; zeros for those that do not learn.
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

/// Mean and summed variance of vectors that come one after another (Welford's recurrence).
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

    /// Variance over the squared length of the mean.
    fn relative(&self) -> Option<f64> {
        let length: f64 = self.mean.iter().map(|x| x * x).sum();
        (length > 0.0).then(|| self.squares / (self.count - 1.0) / length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_and_angle_are_those_on_paper() {
        // Two samples of class 1 at a right angle: average (0.5, 0.5), each at a squared distance of 0.5. Class 0 has one.
        let (embeddings, labels) = ([1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [1, 1, 0]);
        let averages = Averages::new(&embeddings, &labels, 3, 2);
        assert!((spread(&embeddings, &labels, &averages) - 1.0 / 3.0).abs() <= 1e-15);
        // 90 degrees for class 0, 45 for class 1; class 2 has no samples.
        let angle = mean_angle(&[5.0, 0.0, 0.0, 3.0, 1.0, 1.0], &averages);
        assert!((angle - 67.5).abs() <= 1e-9, "{angle}");
    }

    #[test]
    fn a_part_holds_the_classes_of_its_batch_alone() {
        let embeddings: Vec<f32> = (0..8).map(|x| x as f32).collect();
        let part =
            Part::new(&[3, 0, 2], &embeddings, &[5, 1, 2, 5], &[0., 0., 1., 1., 2., 2., 3., 3., 4., 4., 5., 5.], 2);
        assert_eq!(part.embeddings, [6.0, 7.0, 0.0, 1.0, 4.0, 5.0]);
        assert_eq!((part.labels, part.classes), (vec![1, 1, 0], 2));
        assert_eq!(part.fields, [2.0, 2.0, 5.0, 5.0]);
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
