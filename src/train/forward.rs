//! The forward pass of a training: its images, its batches through the network, and embeddings without gradients.

use super::config::{BatchNorm, Config, Group};
use super::loader::{Batches, Prepared};
use crate::data::crop::Size;
use crate::data::images::{EvalImages, ImageError, Images};
use crate::loss::Loss;
use crate::nn::{
    self, Backend, CHANNELS, Dropout, Map as NetworkMap, Model, Recording, Shape, Statistics, Training, embed,
    embed_batch,
};

/// The images a network is trained on.
#[derive(Debug, Clone, Copy)]
pub struct TrainSet<'a> {
    /// With `augment: { kind: roll }` all of one size, `height x width`. Their labels are below `classes`.
    pub images: &'a dyn Images,
    /// Rows of the network's input.
    pub height: usize,
    /// Columns of the network's input.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
}

impl<'a> TrainSet<'a> {
    /// Rows and columns of the network's input.
    pub(super) fn size(&self) -> Size {
        // Larger sides are refused earlier.
        [self.height, self.width].map(|side| side.try_into().unwrap_or(u32::MAX))
    }

    /// The images without augmentation.
    pub(super) fn for_evaluation(&self, config: &Config) -> EvalImages<'a> {
        EvalImages::new(self.images, self.size(), config.evaluation_short_side)
    }
}

/// Held-out images that a training is scored on.
#[derive(Debug, Clone, Copy)]
pub struct HeldOut<'a> {
    /// Resized and cropped for the network.
    pub images: EvalImages<'a>,
    /// The positions of queries and gallery; without them every image is a query, and all others are its gallery.
    pub query_gallery: Option<(&'a [usize], &'a [usize])>,
}

/// The context that all steps of a training share.
pub(super) struct Setup<'a, B: Backend> {
    pub device: &'a B,
    pub config: &'a Config,
    pub data: &'a TrainSet<'a>,
    pub loss: &'a dyn Loss<f32>,
    pub batches: &'a Batches<'a>,
    /// Steps per epoch.
    pub steps: u32,
    pub held_out: Option<HeldOut<'a>>,
}

/// A batch after its forward pass.
pub(super) struct EmbeddedBatch<B: Backend> {
    pub labels: Vec<u32>,
    /// The embeddings on the host.
    pub values: Vec<f32>,
    pub embeddings: NetworkMap<B, Recording<B>>,
}

impl<B: Backend> Setup<'_, B> {
    /// Embeds the batch of (epoch, step) in training mode, with the groups that learn in `at_epoch`.
    pub fn forward(
        &self,
        model: &mut Model<B>,
        at_epoch: u32,
        (epoch, step): (u64, u64),
        prepared: Prepared,
    ) -> Result<EmbeddedBatch<B>, nn::Error> {
        let TrainSet { height, width, .. } = *self.data;
        let Config { seed, dropout, .. } = *self.config;
        let Prepared { images, values } = prepared;
        let shape = Shape { images: images.len(), rows: height, columns: width, channels: CHANNELS };
        let x = self.device.map(values, shape)?;
        let training = Training {
            backbone: self.config.learns(Group::Backbone, at_epoch),
            statistics: match self.config.batch_norm {
                BatchNorm::Batch => Statistics::Batch,
                BatchNorm::Frozen => Statistics::Running { learn: false },
                BatchNorm::FrozenStatistics => Statistics::Running { learn: true },
            },
            dropout: (dropout > 0.0).then_some(Dropout { rate: dropout, seed, epoch, step }),
        };
        let embeddings = model.forward_train(self.device, x, training)?;
        let labels = self.data.images.labels();
        let labels = images.iter().map(|&image| labels[image]).collect();
        Ok(EmbeddedBatch { labels, values: B::download(&embeddings), embeddings })
    }
}

/// The embeddings (`N x dim`, row-major, unit vectors) of `images`, in evaluation mode.
pub(super) fn embeddings<B: Backend, E: From<nn::Error> + From<ImageError>>(
    device: &B,
    model: &Model<B>,
    images: &EvalImages<'_>,
) -> Result<Vec<f32>, E> {
    let (image, mut bytes, mut vectors) = (images.image_bytes(), Vec::new(), Vec::new());
    let batch = embed_batch(image);
    for begin in (0..images.len()).step_by(batch) {
        let range = begin..images.len().min(begin + batch);
        bytes.resize(range.len() * image, 0);
        images.write(range, &mut bytes)?;
        vectors.extend(embed(device, model, &bytes)?);
    }
    Ok(vectors)
}
