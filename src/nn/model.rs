//! The backbones, their parameters, and embeddings of images.

use dfdx::prelude::*;
use serde::{Deserialize, Serialize};

use super::Error;
use super::backend::{
    Backend, BlockTensors, Flat, Images, Matrix, Recording, average_pool, download, l2_normalise, linear,
};
use crate::data::random::stream;

/// A network's trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backbone {
    /// Four blocks of 3x3 convolution (32, 64, 128, 128 channels), batch normalisation, ReLU and 2x2 max pooling;
    /// global average pooling. 0.24 million parameters.
    Convnet4,
}

impl Backbone {
    /// Output channels of the blocks.
    fn channels(self) -> &'static [usize] {
        match self {
            Self::Convnet4 => &[32, 64, 128, 128],
        }
    }
}

/// Colours of a pixel.
const COLOURS: usize = 3;

/// What a network is, its numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// The trunk.
    pub backbone: Backbone,
    /// Length of an embedding.
    pub dim: usize,
    /// Rows of an input image.
    pub height: usize,
    /// Columns of an input image.
    pub width: usize,
}

/// What a tensor of a network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The optimiser moves it.
    Parameter,
    /// Running statistics: saved with the parameters, moved by the forward pass.
    Buffer,
}

/// A tensor of a network under its name in weight files.
#[derive(Debug, Clone)]
pub struct NamedTensor<B: Backend> {
    /// As PyTorch would name it: "blocks.0.conv.weight".
    pub name: String,
    /// The shape in weight files, PyTorch's.
    pub shape: Vec<usize>,
    /// Learned or counted.
    pub kind: Kind,
    /// The elements; a convolution's are `H x W x C x O` here and `O x C x H x W` in files.
    pub value: Flat<B>,
}

impl<B: Backend> NamedTensor<B> {
    fn new(device: &B, name: String, shape: Vec<usize>, kind: Kind, file_order: &[f32]) -> Result<Self, Error> {
        let value = device.upload(file_order, (file_order.len(),)).map_err(Error::device("creating a parameter"))?;
        let mut tensor = Self { name, shape, kind, value };
        tensor.set(file_order);
        Ok(tensor)
    }

    /// The elements in the order of weight files.
    pub fn file_order(&self) -> Vec<f32> {
        let values = download(&self.value);
        match self.shape[..] {
            [outputs, inputs, rows, columns] => transpose(&values, rows * columns * inputs, outputs)
                .chunks_exact(rows * columns * inputs)
                .flat_map(|filter| transpose(filter, rows * columns, inputs))
                .collect(),
            _ => values,
        }
    }

    /// Takes the elements over from the order of weight files; there must be as many as the shape says.
    pub fn set(&mut self, file_order: &[f32]) {
        match self.shape[..] {
            [outputs, inputs, rows, columns] => {
                let filters: Vec<f32> = file_order
                    .chunks_exact(rows * columns * inputs)
                    .flat_map(|filter| transpose(filter, inputs, rows * columns))
                    .collect();
                self.value.copy_from(&transpose(&filters, outputs, rows * columns * inputs));
            }
            _ => self.value.copy_from(file_order),
        }
    }
}

/// The transpose of a row-major `rows x columns` matrix.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Convolution, normalisation, ReLU, pooling.
#[derive(Debug, Clone)]
struct Block<B: Backend> {
    kernel: NamedTensor<B>,
    weight: NamedTensor<B>,
    bias: NamedTensor<B>,
    running_mean: NamedTensor<B>,
    running_variance: NamedTensor<B>,
}

/// A network: images in, unit vectors out.
#[derive(Debug, Clone)]
pub struct Model<B: Backend> {
    /// What it is.
    pub architecture: Architecture,
    blocks: Vec<Block<B>>,
    head: [NamedTensor<B>; 2],
}

impl<B: Backend> Model<B> {
    /// A network as `seed` starts it: convolutions by PyTorch's default (Kaiming uniform, a = sqrt 5), the linear head
    /// by Kaiming normal over its outputs, bias 0.
    pub fn new(device: &B, architecture: Architecture, seed: u64) -> Result<Self, Error> {
        let Architecture { backbone, dim, height, width } = architecture;
        if dim == 0 {
            return Err(Error::Architecture { field: "dim", message: "an embedding has at least one element".into() });
        }
        let channels = backbone.channels();
        let smallest = 1usize << channels.len();
        for (field, size) in [("height", height), ("width", width)] {
            if size < smallest {
                let message = format!("{size} pixels vanish in {} poolings; at least {smallest}", channels.len());
                return Err(Error::Architecture { field, message });
            }
        }
        let mut blocks = Vec::new();
        let mut inputs = COLOURS;
        for (index, &outputs) in channels.iter().enumerate() {
            let mut random = stream(seed, "init", 0, index as u64);
            let bound = 1.0 / ((9 * inputs) as f64).sqrt();
            let kernel: Vec<f32> = (0..outputs * inputs * 9).map(|_| random.between(-bound, bound) as f32).collect();
            let vector = |name: &str, kind, value| {
                let name = format!("blocks.{index}.norm.{name}");
                NamedTensor::new(device, name, vec![outputs], kind, &vec![value; outputs])
            };
            let name = format!("blocks.{index}.conv.weight");
            blocks.push(Block {
                kernel: NamedTensor::new(device, name, vec![outputs, inputs, 3, 3], Kind::Parameter, &kernel)?,
                weight: vector("weight", Kind::Parameter, 1.0)?,
                bias: vector("bias", Kind::Parameter, 0.0)?,
                running_mean: vector("running_mean", Kind::Buffer, 0.0)?,
                running_variance: vector("running_var", Kind::Buffer, 1.0)?,
            });
            inputs = outputs;
        }
        let mut random = stream(seed, "init", 0, channels.len() as u64);
        let deviation = (2.0 / dim as f64).sqrt();
        let weight: Vec<f32> = (0..dim * inputs).map(|_| (deviation * random.normal()) as f32).collect();
        let head = [
            NamedTensor::new(device, "head.weight".into(), vec![dim, inputs], Kind::Parameter, &weight)?,
            NamedTensor::new(device, "head.bias".into(), vec![dim], Kind::Parameter, &vec![0.0; dim])?,
        ];
        Ok(Self { architecture, blocks, head })
    }

    /// Every parameter and buffer, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = &NamedTensor<B>> {
        self.blocks
            .iter()
            .flat_map(|b| [&b.kernel, &b.weight, &b.bias, &b.running_mean, &b.running_variance])
            .chain(&self.head)
    }

    /// The same, to change.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut NamedTensor<B>> {
        self.blocks
            .iter_mut()
            .flat_map(|b| [&mut b.kernel, &mut b.weight, &mut b.bias, &mut b.running_mean, &mut b.running_variance])
            .chain(&mut self.head)
    }

    /// `N x H x W x 3` to `N x dim` in training mode: batch statistics, running statistics moved.
    pub fn forward_train(&mut self, device: &B, x: Images<B>) -> Result<Matrix<B, Recording<B>>, Error> {
        let mut x = x.put_tape(OwnedTape::default());
        for (index, b) in self.blocks.iter_mut().enumerate() {
            let tensors = BlockTensors { kernel: &b.kernel.value, weight: &b.weight.value, bias: &b.bias.value };
            let running = (&mut b.running_mean.value, &mut b.running_variance.value);
            x = device.block_train(x, tensors, running, index > 0).map_err(Error::device("a block"))?;
        }
        self.head(x)
    }

    /// `N x H x W x 3` to `N x dim` in evaluation mode: running statistics, no tape.
    pub fn forward_eval(&self, device: &B, mut x: Images<B>) -> Result<Matrix<B>, Error> {
        for b in &self.blocks {
            let tensors = BlockTensors { kernel: &b.kernel.value, weight: &b.weight.value, bias: &b.bias.value };
            let running = (&b.running_mean.value, &b.running_variance.value);
            x = device.block_eval(x, tensors, running).map_err(Error::device("a block"))?;
        }
        self.head(x)
    }

    fn head<T: Tape<f32, B>>(&self, x: Images<B, T>) -> Result<Matrix<B, T>, Error> {
        let [weight, bias] = self.head.each_ref().map(|tensor| &tensor.value);
        average_pool(x).and_then(|x| linear(x, weight, bias)).and_then(l2_normalise).map_err(Error::device("the head"))
    }
}

/// The normalisation of a pixel's colour, as weight files record it: `(x / 255 - MEAN) / DEVIATION`.
pub(super) const MEAN: f32 = 0.5;
pub(super) const DEVIATION: f32 = 0.5;

/// What a network sees of pixels.
pub fn normalise(pixels: &[u8]) -> Vec<f32> {
    let table: [f32; 256] = std::array::from_fn(|colour| (colour as f32 / 255.0 - MEAN) / DEVIATION);
    pixels.iter().map(|&colour| table[usize::from(colour)]).collect()
}

/// Images whose embeddings are computed at a time.
const EMBED_BATCH: usize = 128;

/// The embeddings (`N x dim`, row-major, unit vectors) of `pixels` (`N x H x W x 3`), in evaluation mode.
pub fn embed<B: Backend>(device: &B, model: &Model<B>, pixels: &[u8]) -> Result<Vec<f32>, Error> {
    let Architecture { dim, height, width, .. } = model.architecture;
    let image = height * width * COLOURS;
    if !pixels.len().is_multiple_of(image) {
        return Err(Error::Pixels { pixels: pixels.len(), height, width });
    }
    let mut embeddings = Vec::with_capacity(pixels.len() / image * dim);
    for batch in pixels.chunks(EMBED_BATCH * image) {
        let x = device
            .upload(&normalise(batch), (batch.len() / image, height, width, COLOURS))
            .map_err(Error::device("uploading a batch"))?;
        embeddings.extend(download(&model.forward_eval(device, x)?));
    }
    Ok(embeddings)
}
