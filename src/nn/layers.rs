//! The building blocks of networks: layers as data, and running them on any device.

use dfdx::prelude::Tape;

use super::Error;
use super::backend::{After, Backend, Convolution, Map, Norm, Reduce, Running, Shape, Unit, Window};
use super::tensor::{Declaration, Id, Init, Kind, Part, Tensors};

/// Which mean and variance batch normalisation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// The batch's; the running ones are updated.
    Batch,
    /// The running ones, which are not updated; with `learn`, scale and shift have gradients.
    Running { learn: bool },
}

/// The tensors of a batch normalisation.
#[derive(Debug, Clone, Copy)]
struct BatchNorm {
    weight: Id,
    bias: Id,
    mean: Id,
    variance: Id,
    epsilon: f32,
    momentum: f32,
}

/// A convolution with what follows it.
#[derive(Debug, Clone)]
pub struct UnitLayer {
    convolution: Convolution,
    kernel: Id,
    bias: Option<Id>,
    outputs: usize,
    norm: Option<BatchNorm>,
    after: After,
}

/// A layer, or a small graph of them.
#[derive(Debug, Clone)]
pub enum Layer {
    Unit(UnitLayer),
    Pool(Window, Reduce),
    /// The last unit adds the shortcut (the input itself if there is none) before its ReLU.
    Residual {
        units: Vec<UnitLayer>,
        shortcut: Option<UnitLayer>,
    },
    /// Branches whose output channels are concatenated.
    Branches(Vec<Vec<Layer>>),
    /// Pixels as tokens after a class token, with position embeddings.
    Tokens {
        class: Id,
        positions: Id,
    },
    Norm(LayerNorm),
    Transformer(Box<Transformer>),
}

/// Layer normalisation.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Id,
    bias: Id,
    epsilon: f32,
}

/// A pre-norm transformer block: `x + attention(norm(x))`, then `x + MLP(norm(x))`.
#[derive(Debug, Clone)]
pub struct Transformer {
    pub norms: [LayerNorm; 2],
    /// The projection to queries, keys and values.
    pub qkv: UnitLayer,
    pub projection: UnitLayer,
    pub heads: usize,
    /// The two linear layers around the GELU.
    pub mlp: [UnitLayer; 2],
}

impl UnitLayer {
    /// Multiplications for a map of this shape, and the shape after them.
    fn work(&self, shape: Shape) -> (u64, Shape) {
        let Convolution { kernel, stride, padding, groups } = self.convolution;
        let along = |i: usize, len: usize| (len + 2 * padding[i] - kernel[i]) / stride[i] + 1;
        let out = Shape {
            images: shape.images,
            rows: along(0, shape.rows),
            columns: along(1, shape.columns),
            channels: self.outputs,
        };
        let work = out.len() * kernel[0] * kernel[1] * shape.channels / groups;
        let out = match self.after {
            After::ReluMaxPool => Shape { rows: out.rows / 2, columns: out.columns / 2, ..out },
            _ => out,
        };
        (work as u64, out)
    }
}

impl Layer {
    /// Multiply-accumulate operations of a forward pass of a map of this shape, and the shape after it.
    fn work(&self, shape: Shape) -> (u64, Shape) {
        match self {
            Self::Unit(unit) => unit.work(shape),
            Self::Pool(window, _) => (0, window.out(shape)),
            Self::Residual { units, shortcut } => {
                let short = shortcut.as_ref().map_or(0, |unit| unit.work(shape).0);
                units.iter().fold((short, shape), |(work, shape), unit| {
                    let (more, shape) = unit.work(shape);
                    (work + more, shape)
                })
            }
            Self::Branches(branches) => {
                let ways: Vec<(u64, Shape)> = branches.iter().map(|branch| work(branch, shape)).collect();
                let channels = ways.iter().map(|(_, shape)| shape.channels).sum();
                let out = ways.first().map_or(shape, |(_, out)| Shape { channels, ..*out });
                (ways.iter().map(|(work, _)| work).sum(), out)
            }
            Self::Tokens { .. } => (0, Shape { rows: 1, columns: 1 + shape.rows * shape.columns, ..shape }),
            Self::Norm(_) => (0, shape),
            Self::Transformer(block) => {
                let Transformer { qkv, projection, mlp, .. } = &**block;
                // Scores and their products with the values: two matrix products of size tokens x tokens x channels.
                let attention = 2 * (shape.len() * shape.columns * shape.rows) as u64;
                let linear =
                    [(qkv, shape), (projection, shape), (&mlp[0], shape)].map(|(unit, shape)| unit.work(shape).0);
                let back = mlp[1].work(mlp[0].work(shape).1).0;
                (attention + linear.iter().sum::<u64>() + back, shape)
            }
        }
    }
}

/// The same for consecutive layers.
pub fn work(layers: &[Layer], shape: Shape) -> (u64, Shape) {
    layers.iter().fold((0, shape), |(work, shape), layer| {
        let (more, shape) = layer.work(shape);
        (work + more, shape)
    })
}

/// New running statistics, to be stored after the forward pass.
pub type Moved<B> = Vec<(Id, <B as Backend>::Vector)>;

/// A forward pass through layers.
pub struct Pass<'a, B: Backend> {
    pub device: &'a B,
    pub tensors: &'a Tensors<B>,
    pub statistics: Statistics,
    pub moved: Moved<B>,
}

impl<B: Backend> Pass<'_, B> {
    /// Runs `layers` in sequence.
    pub fn run<T: Tape<f32, B::Device>>(&mut self, layers: &[Layer], mut x: Map<B, T>) -> Result<Map<B, T>, Error> {
        for layer in layers {
            x = match layer {
                Layer::Unit(unit) => self.unit(unit, x, None)?,
                Layer::Pool(window, reduce) => self.device.pool(x, *window, *reduce)?,
                Layer::Residual { units, shortcut } => {
                    let mut way = B::again(&x);
                    let short = match shortcut {
                        Some(unit) => self.unit(unit, x, None)?,
                        None => x,
                    };
                    let mut short = Some(short);
                    for (index, unit) in units.iter().enumerate() {
                        let residual = if index + 1 == units.len() { short.take() } else { None };
                        way = self.unit(unit, way, residual)?;
                    }
                    way
                }
                Layer::Branches(branches) => {
                    let mut outputs = Vec::with_capacity(branches.len());
                    let mut input = Some(x);
                    for (index, branch) in branches.iter().enumerate() {
                        let last = index + 1 == branches.len();
                        let next = if last { None } else { input.as_ref().map(|x| B::again(x)) };
                        let Some(x) = std::mem::replace(&mut input, next) else { break };
                        outputs.push(self.run(branch, x)?);
                    }
                    self.device.concat(outputs)?
                }
                Layer::Tokens { class, positions } => {
                    self.device.tokens(x, self.tensors.get(*class), self.tensors.get(*positions))?
                }
                Layer::Norm(norm) => self.layer_norm(norm, x)?,
                Layer::Transformer(block) => self.transformer(block, x)?,
            };
        }
        Ok(x)
    }

    fn layer_norm<T: Tape<f32, B::Device>>(&self, norm: &LayerNorm, x: Map<B, T>) -> Result<Map<B, T>, Error> {
        let LayerNorm { weight, bias, epsilon } = *norm;
        self.device.layer_norm(x, self.tensors.get(weight), self.tensors.get(bias), epsilon)
    }

    fn transformer<T: Tape<f32, B::Device>>(&mut self, block: &Transformer, x: Map<B, T>) -> Result<Map<B, T>, Error> {
        let way = self.layer_norm(&block.norms[0], B::again(&x))?;
        let way = self.unit(&block.qkv, way, None)?;
        let way = self.device.attention(way, block.heads)?;
        let x = self.unit(&block.projection, way, Some(x))?;
        let way = self.layer_norm(&block.norms[1], B::again(&x))?;
        let way = self.unit(&block.mlp[0], way, None)?;
        let way = self.device.gelu(way)?;
        self.unit(&block.mlp[1], way, Some(x))
    }

    /// Runs one unit.
    pub fn unit<T: Tape<f32, B::Device>>(
        &mut self,
        layer: &UnitLayer,
        x: Map<B, T>,
        residual: Option<Map<B, T>>,
    ) -> Result<Map<B, T>, Error> {
        let get = |id: Id| self.tensors.get(id);
        let norm = match (layer.norm, self.statistics) {
            (None, _) => Norm::Without,
            (Some(BatchNorm { weight, bias, mean, variance, epsilon, momentum }), Statistics::Batch) => Norm::Batch {
                weight: get(weight),
                bias: get(bias),
                mean: get(mean),
                variance: get(variance),
                epsilon,
                momentum,
            },
            (Some(BatchNorm { weight, bias, mean, variance, epsilon, .. }), Statistics::Running { learn }) => {
                Norm::Running {
                    weight: get(weight),
                    bias: get(bias),
                    mean: get(mean),
                    variance: get(variance),
                    epsilon,
                    learn,
                }
            }
        };
        let unit = Unit {
            convolution: layer.convolution,
            kernel: get(layer.kernel),
            bias: layer.bias.map(get),
            outputs: layer.outputs,
            norm,
            after: layer.after,
        };
        let (y, running) = self.device.unit(x, unit, residual)?;
        if let (Some([mean, variance]), Some(norm)) = (running as Option<Running<B::Vector>>, layer.norm) {
            self.moved.extend([(norm.mean, mean), (norm.variance, variance)]);
        }
        Ok(y)
    }
}

/// Builds layers, and declares their tensors under the names of weight files.
pub struct Builder {
    /// In the order of declaration.
    pub declared: Vec<Declaration>,
    /// The part to which the next tensors belong.
    pub part: Part,
    /// Of all batch normalisations.
    pub epsilon: f32,
    pub momentum: f32,
    /// Of all convolutions; none for PyTorch's default.
    pub init: Option<Init>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { declared: Vec::new(), part: Part::Backbone, epsilon: 1e-5, momentum: 0.1, init: None }
    }
}

/// The names of a unit's tensors, without suffixes such as ".weight".
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub conv: &'a str,
    pub norm: Option<&'a str>,
    /// Whether the convolution has a bias.
    pub bias: bool,
}

impl Builder {
    /// Declares a tensor; `shape` as in weight files.
    pub fn tensor(&mut self, name: String, shape: &[usize], kind: Kind, init: Init) -> Id {
        self.declared.push(Declaration { name, shape: shape.to_vec(), kind, part: self.part, init });
        Id(self.declared.len() - 1)
    }

    /// A convolution from `inputs` to `outputs` channels, one group, with what follows it.
    pub fn unit(
        &mut self,
        names: Names<'_>,
        [inputs, outputs]: [usize; 2],
        convolution: Convolution,
        after: After,
    ) -> UnitLayer {
        let [rows, columns] = convolution.kernel;
        let inputs = inputs / convolution.groups;
        let default = Init::Uniform { fan_in: inputs * rows * columns };
        let init = self.init.unwrap_or(default);
        let Names { conv, norm, bias } = names;
        let kernel = self.tensor(format!("{conv}.weight"), &[outputs, inputs, rows, columns], Kind::Parameter, init);
        let bias = match bias {
            true => Some(self.tensor(format!("{conv}.bias"), &[outputs], Kind::Parameter, default)),
            false => None,
        };
        let norm = match norm {
            Some(norm) => {
                let (epsilon, momentum) = (self.epsilon, self.momentum);
                let mut vector = |name: &str, kind, value| {
                    self.tensor(format!("{norm}.{name}"), &[outputs], kind, Init::Constant(value))
                };
                Some(BatchNorm {
                    weight: vector("weight", Kind::Parameter, 1.0),
                    bias: vector("bias", Kind::Parameter, 0.0),
                    mean: vector("running_mean", Kind::Buffer, 0.0),
                    variance: vector("running_var", Kind::Buffer, 1.0),
                    epsilon,
                    momentum,
                })
            }
            None => None,
        };
        UnitLayer { convolution, kernel, bias, outputs, norm, after }
    }

    /// A layer normalisation.
    pub fn layer_norm(&mut self, name: &str, channels: usize, epsilon: f32) -> LayerNorm {
        let mut vector = |part: &str, value| {
            self.tensor(format!("{name}.{part}"), &[channels], Kind::Parameter, Init::Constant(value))
        };
        LayerNorm { weight: vector("weight", 1.0), bias: vector("bias", 0.0), epsilon }
    }

    /// A linear layer: a 1x1 convolution, its weight `outputs x inputs` in files.
    pub fn linear(&mut self, name: &str, [inputs, outputs]: [usize; 2], [weight, bias]: [Init; 2]) -> UnitLayer {
        let kernel = self.tensor(format!("{name}.weight"), &[outputs, inputs], Kind::Parameter, weight);
        let bias = Some(self.tensor(format!("{name}.bias"), &[outputs], Kind::Parameter, bias));
        let convolution = Convolution::square(1, 1, 0);
        UnitLayer { convolution, kernel, bias, outputs, norm: None, after: After::Nothing }
    }
}
