//! Whole networks: a backbone, a pooling, a head; and embeddings of images.

use dfdx::prelude::Tape;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;
use super::backbone::{Backbone, Pooling};
use super::backend::{Backend, Map, Recording, Reduce, Shape};
use super::layers::{Builder, Layer, Pass, Statistics, UnitLayer, work};
use super::pixels::{CHANNELS, Normalisation};
use super::tensor::{Init, NamedTensor, Part, Tensors};
use crate::math::random::stream;

/// The longest embedding, and the most rows or columns of an image.
const LONGEST: usize = 1 << 16;
const LARGEST: usize = 1 << 12;

/// What makes an embedding of pooled features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// A linear layer whose weight starts from a Kaiming normal over its outputs and whose bias starts at 0: the
    /// Proxy-Anchor code.
    #[default]
    Linear,
    /// A linear layer that starts as PyTorch's: the Metric Learning Reality Check.
    LinearDefault,
    /// The features themselves.
    Identity,
}

/// The structure of a network, without its weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub backbone: &'static Backbone,
    /// None: the class token of a transformer, the average of any other backbone.
    #[serde(default)]
    pub pooling: Option<Pooling>,
    #[serde(default)]
    pub head: Head,
    /// Length of an embedding.
    pub dim: usize,
    /// Rows of an input image.
    pub height: usize,
    /// Columns of an input image.
    pub width: usize,
}

impl Architecture {
    /// How its map is pooled.
    pub fn pooling(&self) -> Pooling {
        self.pooling.unwrap_or(self.backbone.pooling)
    }

    /// Refuses what no network can be. Descriptions in weight files are not trusted before they pass this.
    pub fn check(&self) -> Result<(), Error> {
        let Self { backbone, head, dim, height, width, .. } = *self;
        let wrong = |field, message| Err(Error::Architecture { field, message });
        if dim == 0 || dim > LONGEST {
            return wrong("dim", format!("an embedding has 1 to {LONGEST} elements, not {dim}"));
        }
        if head == Head::Identity && dim != backbone.features {
            let features = backbone.features;
            return wrong("dim", format!("without a linear head it is the {features} features of the backbone"));
        }
        if self.pooling() == Pooling::Token && backbone.pooling != Pooling::Token {
            return wrong(
                "pooling",
                "this backbone has no class token; it pools by average, max or average_max".into(),
            );
        }
        let (smallest, patch) = (backbone.smallest, backbone.patch);
        for (field, size) in [("height", height), ("width", width)] {
            if size < smallest {
                return wrong(field, format!("{size} pixels are too few for this backbone; at least {smallest}"));
            }
            if size > LARGEST {
                return wrong(field, format!("{size} pixels are too many; at most {LARGEST}"));
            }
            if !size.is_multiple_of(patch) {
                return wrong(field, format!("{size} pixels are not whole patches of {patch}"));
            }
            if let Some(misfit) = (backbone.misfit)(size) {
                return wrong(field, format!("{size} pixels {misfit}"));
            }
        }
        Ok(())
    }
}

/// Which parts learn in a forward pass, and the statistics that normalise it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// Whether the backbone has gradients.
    pub backbone: bool,
    pub statistics: Statistics,
    pub dropout: Option<Dropout>,
}

/// Dropout of the pooled features of one batch (Srivastava et al. 2014): some are set to 0 at random, and the others
/// are scaled up to compensate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Dropout rate, in [0, 1).
    pub rate: f64,
    pub seed: u64,
    pub epoch: u64,
    pub step: u64,
}

impl Dropout {
    /// The factor of each of `len` elements: 0 if dropped, else the compensating scale.
    pub(super) fn factors(self, len: usize) -> Vec<f32> {
        let mut random = stream(self.seed, "dropout", self.epoch, self.step);
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        (0..len).map(|_| if random.uniform() < self.rate { 0.0 } else { kept }).collect()
    }
}

/// A network: images in, unit vectors out.
#[derive(Debug, Clone)]
pub struct Model<B: Backend> {
    /// Its structure.
    pub architecture: Architecture,
    /// Its pixel normalisation: the backbone's default unless set otherwise.
    pub normalisation: Normalisation,
    pub(super) tensors: Tensors<B>,
    backbone: Vec<Layer>,
    head: Option<UnitLayer>,
}

impl<B: Backend> Model<B> {
    /// A network initialised from `seed`.
    pub fn new(device: &B, architecture: Architecture, seed: u64) -> Result<Self, Error> {
        Self::start(device, architecture, Some(seed))
    }

    /// A network whose tensors have names and shapes but no elements: for counting its parameters and its work.
    pub fn outline(device: &B, architecture: Architecture) -> Result<Self, Error> {
        Self::start(device, architecture, None)
    }

    fn start(device: &B, architecture: Architecture, seed: Option<u64>) -> Result<Self, Error> {
        architecture.check()?;
        let mut builder = Builder::default();
        let backbone = (architecture.backbone.build)(&mut builder, [architecture.height, architecture.width]);
        builder.part = Part::Head;
        let features = architecture.backbone.features;
        let init = match architecture.head {
            Head::Linear => Some([Init::KaimingFanOut, Init::Constant(0.0)]),
            Head::LinearDefault => Some([Init::Uniform { fan_in: features }; 2]),
            Head::Identity => None,
        };
        let head = init.map(|init| builder.linear("head", [features, architecture.dim], init));
        let tensors = Tensors::new(device, builder.declared, seed)?;
        let normalisation = architecture.backbone.normalisation();
        Ok(Self { architecture, normalisation, tensors, backbone, head })
    }

    /// Every parameter and buffer, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &NamedTensor<B>> {
        self.tensors.iter()
    }

    /// The same, mutably.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut NamedTensor<B>> {
        self.tensors.iter_mut()
    }

    /// Whether a tensor is the scale or shift of a batch normalisation.
    pub fn normalises(&self, name: &str) -> bool {
        let Some((layer, "weight" | "bias")) = name.rsplit_once('.') else { return false };
        let mean = format!("{layer}.running_mean");
        self.tensors().any(|tensor| tensor.name == mean)
    }

    /// Multiply-accumulate operations in the convolutions and linear layers of a forward pass of `images`.
    pub fn work(&self, images: usize) -> u64 {
        let Architecture { height, width, dim, head, .. } = self.architecture;
        let (work, out) = work(&self.backbone, Shape { images, rows: height, columns: width, channels: CHANNELS });
        work + if head == Head::Identity { 0 } else { (images * out.channels * dim) as u64 }
    }

    /// The same for the first layer alone, below which no gradient propagates.
    pub fn first_work(&self, images: usize) -> u64 {
        let Architecture { height, width, .. } = self.architecture;
        let shape = Shape { images, rows: height, columns: width, channels: CHANNELS };
        work(self.backbone.get(..1).unwrap_or_default(), shape).0
    }

    /// `N x H x W x 3` to `N x dim` unit vectors, for a training step. Updates running statistics where the batch's are
    /// used.
    pub fn forward_train(&mut self, device: &B, x: Map<B>, training: Training) -> Result<Map<B, Recording<B>>, Error> {
        let Training { backbone, statistics, dropout } = training;
        let mut pass = Pass { device, tensors: &self.tensors, statistics, moved: Vec::new() };
        let features = match backbone {
            true => self.features(&mut pass, device.record(x))?,
            false => device.record(self.features(&mut pass, x)?),
        };
        let features = match dropout {
            Some(dropout) => {
                let factors = dropout.factors(B::shape(&features).len());
                device.scale(features, &factors)?
            }
            None => features,
        };
        let embeddings = self.embed(&mut pass, features)?;
        for (id, value) in pass.moved {
            self.tensors.put(id, value);
        }
        Ok(embeddings)
    }

    /// `N x H x W x 3` to `N x dim` unit vectors in evaluation mode.
    pub fn forward_eval(&self, device: &B, x: Map<B>) -> Result<Map<B>, Error> {
        let statistics = Statistics::Running { learn: false };
        let mut pass = Pass { device, tensors: &self.tensors, statistics, moved: Vec::new() };
        let features = self.features(&mut pass, x)?;
        self.embed(&mut pass, features)
    }

    /// Pooled features, `N x C`.
    pub(super) fn features<T: Tape<f32, B::Device>>(
        &self,
        pass: &mut Pass<'_, B>,
        x: Map<B, T>,
    ) -> Result<Map<B, T>, Error> {
        let mut map = pass.run(&self.backbone, x)?;
        let (device, pooling) = (pass.device, self.architecture.pooling());
        let Shape { rows, columns, .. } = B::shape(&map);
        if self.architecture.backbone.pooling == Pooling::Token && pooling != Pooling::Token {
            map = device.pixels(map, 1..rows * columns)?;
        }
        match pooling {
            Pooling::Token => device.pixels(map, 0..1),
            Pooling::Average => device.global_pool(map, Reduce::Average),
            Pooling::Max => device.global_pool(map, Reduce::Max),
            Pooling::AverageMax => {
                let largest = device.global_pool(B::again(&map), Reduce::Max)?;
                device.add(device.global_pool(map, Reduce::Average)?, largest)
            }
        }
    }

    fn embed<T: Tape<f32, B::Device>>(&self, pass: &mut Pass<'_, B>, features: Map<B, T>) -> Result<Map<B, T>, Error> {
        let vectors = match &self.head {
            Some(head) => pass.unit(head, features, None)?,
            None => features,
        };
        pass.device.l2_normalise(vectors)
    }
}

/// Batch size with which [`embed`] processes images of `image` bytes: some 5 million bytes of pixels, and at most 128
/// images.
pub fn embed_batch(image: usize) -> usize {
    (5_000_000 / image.max(1)).clamp(1, 128)
}

/// The embeddings (`N x dim`, row-major, unit vectors) of `pixels` (`N x H x W x 3`), in evaluation mode.
pub fn embed<B: Backend>(device: &B, model: &Model<B>, pixels: &[u8]) -> Result<Vec<f32>, Error> {
    let Architecture { dim, height, width, .. } = model.architecture;
    let image = height * width * CHANNELS;
    if !pixels.len().is_multiple_of(image) {
        return Err(Error::Pixels { pixels: pixels.len(), height, width });
    }
    let mut embeddings = Vec::with_capacity(pixels.len() / image * dim);
    for batch in pixels.chunks(embed_batch(image) * image) {
        let shape = Shape { images: batch.len() / image, rows: height, columns: width, channels: CHANNELS };
        let x = device.map(model.normalisation.pixels().normalise(batch), shape)?;
        embeddings.extend(B::download(&model.forward_eval(device, x)?));
    }
    Ok(embeddings)
}
