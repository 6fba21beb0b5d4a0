//! Networks as a whole: a backbone, a pooling, a head; and embeddings of images.

use dfdx::prelude::Tape;
use serde::{Deserialize, Serialize};

use super::Error;
use super::backend::{After, Backend, Convolution, Map, Recording, Reduce, Shape};
use super::layers::{Builder, Layer, Names, Pass, Statistics, UnitLayer, work};
use super::tensor::{Init, NamedTensor, Part, Tensors};
use super::{inception, resnet, vit};
use crate::math::random::stream;

/// A network's trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// Four blocks of 3x3 convolution (32, 64, 128, 128 channels), batch normalisation, ReLU and 2x2 max pooling.
    /// 0.24 million parameters.
    Convnet4,
    /// ResNet-18, 11.2 million parameters.
    Resnet18,
    /// ResNet-34, 21.3 million parameters.
    Resnet34,
    /// ResNet-50, 23.5 million parameters.
    Resnet50,
    /// ResNet-101, 42.5 million parameters.
    Resnet101,
    /// BN-Inception, 10.3 million parameters.
    BnInception,
    /// ViT-S/16, 21.7 million parameters at 224x224. Images of any multiple of 16 pixels; positions are learned for one size.
    #[serde(rename = "vit_small_16")]
    VitSmall16,
}

impl Backbone {
    /// All of them, with the names that pipelines have for them.
    pub const ALL: [(&'static str, Self); 7] = [
        ("convnet4", Self::Convnet4),
        ("resnet18", Self::Resnet18),
        ("resnet34", Self::Resnet34),
        ("resnet50", Self::Resnet50),
        ("resnet101", Self::Resnet101),
        ("bn_inception", Self::BnInception),
        ("vit_small_16", Self::VitSmall16),
    ];

    /// The name that pipelines have for it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }

    /// Channels that its pooled features have.
    pub fn features(self) -> usize {
        match self {
            Self::Convnet4 => 128,
            Self::BnInception => inception::FEATURES,
            Self::VitSmall16 => vit::FEATURES,
            _ => self.residual().features(),
        }
    }

    /// The plan of a ResNet.
    fn residual(self) -> resnet::Plan {
        let (blocks, bottleneck) = match self {
            Self::Resnet34 => ([3, 4, 6, 3], false),
            Self::Resnet50 => ([3, 4, 6, 3], true),
            Self::Resnet101 => ([3, 4, 23, 3], true),
            _ => ([2, 2, 2, 2], false),
        };
        resnet::Plan { blocks, bottleneck }
    }

    /// Rows and columns that an image must have at least.
    fn smallest(self) -> usize {
        match self {
            Self::Convnet4 | Self::VitSmall16 => 16,
            _ => 32,
        }
    }

    /// Rows and columns of an image must be multiples of it.
    fn patch(self) -> usize {
        if self == Self::VitSmall16 { vit::PATCH } else { 1 }
    }

    /// The pooling that its makers use.
    fn pooling(self) -> Pooling {
        if self == Self::VitSmall16 { Pooling::Token } else { Pooling::Average }
    }

    /// How pixels are normalised for its published weights. Where they differ, tensors do not tell which a file is of, and the
    /// first is that of a network that starts from no file.
    pub fn normalisations(self) -> &'static [Normalisation] {
        match self {
            Self::Convnet4 => &[Normalisation::Half],
            // timm's and Google's; DINO's, DeiT's and most others'.
            Self::VitSmall16 => &[Normalisation::Half, Normalisation::Imagenet],
            Self::BnInception => &[Normalisation::Caffe],
            _ => &[Normalisation::Imagenet],
        }
    }

    /// How pixels are normalised by default.
    pub fn normalisation(self) -> Normalisation {
        self.normalisations().first().copied().unwrap_or(Normalisation::Imagenet)
    }

    fn build<B: Backend>(self, builder: &mut Builder<'_, B>, size: [usize; 2]) -> Result<Vec<Layer>, Error> {
        match self {
            Self::Convnet4 => convnet4(builder),
            Self::BnInception => inception::build(builder),
            Self::VitSmall16 => vit::build(builder, size),
            _ => resnet::build(builder, self.residual()),
        }
    }
}

fn convnet4<B: Backend>(builder: &mut Builder<'_, B>) -> Result<Vec<Layer>, Error> {
    let channels = [CHANNELS, 32, 64, 128, 128];
    let block = |(index, channels): (usize, &[usize])| {
        let (conv, norm) = (format!("blocks.{index}.conv"), format!("blocks.{index}.norm"));
        let names = Names { conv: &conv, norm: Some(&norm), bias: false };
        let channels = [channels[0], channels[1]];
        builder.unit(names, channels, Convolution::square(3, 1, 1), After::ReluMaxPool).map(Layer::Unit)
    };
    channels.windows(2).enumerate().map(block).collect()
}

/// The longest embedding, and the most rows or columns of an image.
const LONGEST: usize = 1 << 16;
const LARGEST: usize = 1 << 12;

/// Colours of a pixel.
pub const CHANNELS: usize = 3;

/// The ways in which published networks want pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// RGB from -1 to 1: mean and deviation 0.5. timm's ViT of AugReg, and `convnet4`.
    Half,
    /// RGB less ImageNet's mean, by its deviation: torchvision, DeiT, DINO.
    Imagenet,
    /// BGR from 0 to 255 less (104, 117, 128): what came from Caffe, as BN-Inception.
    Caffe,
}

impl Normalisation {
    /// All of them, with the names that pipelines have for them.
    pub const ALL: [(&'static str, Self); 3] =
        [("half", Self::Half), ("imagenet", Self::Imagenet), ("caffe", Self::Caffe)];

    /// The name that pipelines have for it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }

    /// What it does to a pixel.
    pub fn pixels(self) -> Pixels {
        match self {
            Self::Half => Pixels { reversed: false, white: 1.0, mean: [0.5; 3], deviation: [0.5; 3] },
            Self::Imagenet => {
                Pixels { reversed: false, white: 1.0, mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] }
            }
            Self::Caffe => Pixels { reversed: true, white: 255.0, mean: [104.0, 117.0, 128.0], deviation: [1.0; 3] },
        }
    }

    /// The one that does so.
    pub(super) fn of(pixels: Pixels) -> Option<Self> {
        Self::ALL.into_iter().map(|(_, one)| one).find(|one| one.pixels() == pixels)
    }
}

/// What becomes of a pixel's colours, 0 to 255: `(colour / 255 * white - mean) / deviation`, after blue and red have changed
/// places where `reversed`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    pub reversed: bool,
    /// What 255 becomes before the mean is taken off.
    pub white: f32,
    pub mean: [f32; 3],
    pub deviation: [f32; 3],
}

impl Pixels {
    /// What a network sees of RGB pixels.
    pub fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; pixels.len()];
        self.normaliser().write(pixels, &mut values);
        values
    }

    /// The same, ready for many images.
    pub fn normaliser(&self) -> Normaliser {
        let value = |channel: usize, colour: usize| {
            (colour as f32 / 255.0 * self.white - self.mean[channel]) / self.deviation[channel]
        };
        let table = std::array::from_fn(|channel| std::array::from_fn(|colour| value(channel, colour)));
        Normaliser { table, reversed: self.reversed }
    }
}

/// What each colour of a pixel becomes.
#[derive(Debug, Clone)]
pub struct Normaliser {
    table: [[f32; 256]; CHANNELS],
    reversed: bool,
}

impl Normaliser {
    /// Writes what a network sees of RGB pixels, as many values as bytes.
    pub fn write(&self, pixels: &[u8], values: &mut [f32]) {
        let order: [usize; CHANNELS] = if self.reversed { [2, 1, 0] } else { [0, 1, 2] };
        for (values, pixel) in values.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(pixels.as_chunks::<CHANNELS>().0) {
            for channel in 0..CHANNELS {
                values[channel] = self.table[channel][usize::from(pixel[order[channel]])];
            }
        }
    }
}

/// How a backbone's map becomes one vector an image. Of a transformer, pixels are the tokens of the patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the pixels.
    Average,
    /// The largest over the pixels.
    Max,
    /// Both, added: the head of the Proxy-Anchor code and of what follows it.
    AverageMax,
    /// The class token of a transformer.
    Token,
}

/// What makes an embedding of pooled features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a network is, its numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub backbone: Backbone,
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
        self.pooling.unwrap_or(self.backbone.pooling())
    }

    /// What no network can be. Weight files say it of themselves, before anything of theirs is believed.
    pub fn check(&self) -> Result<(), Error> {
        let Self { backbone, head, dim, height, width, .. } = *self;
        let wrong = |field, message| Err(Error::Architecture { field, message });
        if dim == 0 || dim > LONGEST {
            return wrong("dim", format!("an embedding has 1 to {LONGEST} elements, not {dim}"));
        }
        if head == Head::Identity && dim != backbone.features() {
            let features = backbone.features();
            return wrong("dim", format!("without a linear head it is the {features} features of the backbone"));
        }
        if self.pooling() == Pooling::Token && backbone.pooling() != Pooling::Token {
            return wrong(
                "pooling",
                "this backbone has no class token; it pools by average, max or average_max".into(),
            );
        }
        let (smallest, patch) = (backbone.smallest(), backbone.patch());
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
            if backbone == Backbone::BnInception && !inception::halves(size) {
                let fits = "the papers use 224 and 227; 64, 96, 128, 160, 192 and 256 fit too";
                return wrong(field, format!("{size} pixels do not halve as often as bn_inception does; {fits}"));
            }
        }
        Ok(())
    }
}

/// What learns in a forward pass, and by what it normalises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// Whether the backbone has gradients.
    pub backbone: bool,
    pub statistics: Statistics,
    pub dropout: Option<Dropout>,
}

/// The pooled features that one batch does without (Srivastava et al. 2014): those that are set to 0 at random, the others
/// being made larger by as much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Their share, in [0, 1).
    pub rate: f64,
    pub seed: u64,
    pub epoch: u64,
    pub step: u64,
}

impl Dropout {
    /// 0, or what makes up for the others, for each of `len` elements.
    pub(super) fn factors(self, len: usize) -> Vec<f32> {
        let mut random = stream(self.seed, "dropout", self.epoch, self.step);
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        (0..len).map(|_| if random.uniform() < self.rate { 0.0 } else { kept }).collect()
    }
}

/// A network: images in, unit vectors out.
#[derive(Debug, Clone)]
pub struct Model<B: Backend> {
    /// What it is.
    pub architecture: Architecture,
    /// How it wants pixels: the backbone's own way, until somebody says otherwise.
    pub normalisation: Normalisation,
    pub(super) tensors: Tensors<B>,
    backbone: Vec<Layer>,
    head: Option<UnitLayer>,
}

impl<B: Backend> Model<B> {
    /// A network as `seed` starts it.
    pub fn new(device: &B, architecture: Architecture, seed: u64) -> Result<Self, Error> {
        Self::start(device, architecture, Some(seed))
    }

    /// A network whose tensors have names and shapes but no elements: to count its parameters and its work.
    pub fn outline(device: &B, architecture: Architecture) -> Result<Self, Error> {
        Self::start(device, architecture, None)
    }

    fn start(device: &B, architecture: Architecture, seed: Option<u64>) -> Result<Self, Error> {
        architecture.check()?;
        let mut builder = Builder::new(device, seed);
        let backbone = architecture.backbone.build(&mut builder, [architecture.height, architecture.width])?;
        builder.tensors.part = Part::Head;
        let features = architecture.backbone.features();
        let init = match architecture.head {
            Head::Linear => Some([Init::KaimingFanOut, Init::Constant(0.0)]),
            Head::LinearDefault => Some([Init::Uniform { fan_in: features }; 2]),
            Head::Identity => None,
        };
        let head = init.map(|init| builder.linear("head", [features, architecture.dim], init)).transpose()?;
        let normalisation = architecture.backbone.normalisation();
        Ok(Self { architecture, normalisation, tensors: builder.tensors, backbone, head })
    }

    /// Every parameter and buffer, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &NamedTensor<B>> {
        self.tensors.iter()
    }

    /// The same, to change.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut NamedTensor<B>> {
        self.tensors.iter_mut()
    }

    /// Whether a tensor is the scale or shift of a batch normalisation.
    pub fn normalises(&self, name: &str) -> bool {
        let Some((layer, "weight" | "bias")) = name.rsplit_once('.') else { return false };
        let mean = format!("{layer}.running_mean");
        self.tensors().any(|tensor| tensor.name == mean)
    }

    /// Multiplications of a forward pass of `images` through convolutions and linear layers, each with its addition.
    pub fn work(&self, images: usize) -> u64 {
        let Architecture { height, width, dim, head, .. } = self.architecture;
        let (work, out) = work(&self.backbone, Shape { images, rows: height, columns: width, channels: CHANNELS });
        work + if head == Head::Identity { 0 } else { (images * out.channels * dim) as u64 }
    }

    /// The same of the first layer alone, below which no gradient goes.
    pub fn first_work(&self, images: usize) -> u64 {
        let Architecture { height, width, .. } = self.architecture;
        let shape = Shape { images, rows: height, columns: width, channels: CHANNELS };
        work(self.backbone.get(..1).unwrap_or_default(), shape).0
    }

    /// `N x H x W x 3` to `N x dim` unit vectors, for a training step. Running statistics move where the batch's are used.
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
        if self.architecture.backbone.pooling() == Pooling::Token && pooling != Pooling::Token {
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

/// Images of so many bytes whose embeddings [`embed`] computes at a time: some 5 million bytes of them, and at most 128.
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
