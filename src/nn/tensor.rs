//! The named tensors of a network, and their initialisation.

use super::Error;
use super::backend::Backend;
use crate::math::random::stream;

/// The role of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Updated by the optimiser.
    Parameter,
    /// Running statistics: saved with the parameters, updated by the forward pass.
    Buffer,
}

/// Which part of a network a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Backbone,
    Head,
}

/// A tensor of a network under its name in weight files.
#[derive(Debug, Clone)]
pub struct NamedTensor<B: Backend> {
    /// The name in torchvision, timm or Cadene: "layer1.0.conv1.weight".
    pub name: String,
    /// The shape in weight files, PyTorch's.
    pub shape: Vec<usize>,
    pub kind: Kind,
    pub part: Part,
    /// The elements: a convolution's `O x C x H x W` are `H x W x C x O` here, a linear layer's `O x I` are `I x O`.
    pub value: B::Vector,
}

impl<B: Backend> NamedTensor<B> {
    /// The elements in the order of weight files.
    pub fn file_order(&self, device: &B) -> Vec<f32> {
        device.read(&self.value, |values| to_file_order(values, &self.shape))
    }

    /// Sets the elements from the order of weight files; there must be as many as the shape requires.
    pub fn set(&mut self, device: &B, file_order: &[f32]) {
        let values = to_compute_order(file_order, &self.shape);
        device.write(&mut self.value, |to| to.copy_from_slice(&values));
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn to_file_order(values: &[f32], shape: &[usize]) -> Vec<f32> {
    match *shape {
        [outputs, inputs, rows, columns] => transpose(values, rows * columns * inputs, outputs)
            .chunks_exact(rows * columns * inputs)
            .flat_map(|filter| transpose(filter, rows * columns, inputs))
            .collect(),
        [outputs, inputs] => transpose(values, inputs, outputs),
        _ => values.to_vec(),
    }
}

fn to_compute_order(values: &[f32], shape: &[usize]) -> Vec<f32> {
    match *shape {
        [outputs, inputs, rows, columns] => {
            let filters: Vec<f32> = values
                .chunks_exact(rows * columns * inputs)
                .flat_map(|filter| transpose(filter, inputs, rows * columns))
                .collect();
            transpose(&filters, outputs, rows * columns * inputs)
        }
        [outputs, inputs] => transpose(values, outputs, inputs),
        _ => values.to_vec(),
    }
}

/// The transpose of a row-major `rows x columns` matrix.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// The index of a tensor in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub(super) usize);

/// The initialisation of a tensor. "Fan in" is the number of inputs of one output, "fan out" the number of outputs that
/// one input reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Constant(f32),
    /// Uniform within the root of 1 / fan in: PyTorch's default for convolutions and linear layers, given the fan in.
    Uniform {
        fan_in: usize,
    },
    /// Normal with variance 2 / fan out (He et al. 2015).
    KaimingFanOut,
    /// Normal with this standard deviation.
    Normal(f32),
}

/// The declaration of a network's tensor.
#[derive(Debug, Clone)]
pub struct Declaration {
    pub name: String,
    /// As in weight files.
    pub shape: Vec<usize>,
    pub kind: Kind,
    pub part: Part,
    pub init: Init,
}

/// The tensors of a network, in the order of declaration.
#[derive(Debug, Clone)]
pub struct Tensors<B: Backend> {
    all: Vec<NamedTensor<B>>,
}

impl<B: Backend> Tensors<B> {
    /// Creates the declared tensors; without a seed they have no elements.
    pub fn new(device: &B, declared: Vec<Declaration>, seed: Option<u64>) -> Result<Self, Error> {
        // Number of randomly initialised tensors: each draws from its own stream.
        let mut drawn = 0;
        let mut make = |Declaration { name, shape, kind, part, init }: Declaration| -> Result<NamedTensor<B>, Error> {
            let value = match seed {
                Some(seed) => device.vector(&to_compute_order(&start(seed, &mut drawn, &shape, init), &shape))?,
                None => device.vector(&[])?,
            };
            Ok(NamedTensor { name, shape, kind, part, value })
        };
        Ok(Self { all: declared.into_iter().map(&mut make).collect::<Result<_, Error>>()? })
    }

    /// The elements of a tensor.
    pub fn get(&self, id: Id) -> &B::Vector {
        &self.all[id.0].value
    }

    /// Replaces the elements of a tensor.
    pub fn put(&mut self, id: Id, value: B::Vector) {
        self.all[id.0].value = value;
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &NamedTensor<B>> {
        self.all.iter()
    }

    /// All of them, mutably.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut NamedTensor<B>> {
        self.all.iter_mut()
    }
}

/// Initial elements in the order of weight files, drawn in that order.
fn start(seed: u64, drawn: &mut u64, shape: &[usize], init: Init) -> Vec<f32> {
    let len: usize = shape.iter().product();
    if let Init::Constant(value) = init {
        return vec![value; len];
    }
    let mut random = stream(seed, "init", 0, *drawn);
    *drawn += 1;
    let mut draw = || match init {
        Init::Constant(value) => f64::from(value),
        Init::Uniform { fan_in } => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            random.between(-bound, bound)
        }
        Init::KaimingFanOut => {
            let receptive: usize = shape.iter().skip(2).product();
            (2.0 / (shape[0] * receptive) as f64).sqrt() * random.normal()
        }
        Init::Normal(deviation) => f64::from(deviation) * random.normal(),
    };
    (0..len).map(|_| draw() as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_each_others_inverse_and_a_kernels_is_rows_columns_inputs_outputs() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 5).map(|i| i as f32).collect();
        for shape in [&[2, 3, 4, 5][..], &[10, 12], &[120], &[2, 3, 20]] {
            assert_eq!(to_file_order(&to_compute_order(&values, shape), shape), values);
        }
        let compute = to_compute_order(&values, &[2, 3, 4, 5]);
        let (output, input, row, column) = (1, 2, 3, 1);
        assert_eq!(
            compute[((row * 5 + column) * 3 + input) * 2 + output],
            values[((output * 3 + input) * 4 + row) * 5 + column]
        );
        assert_eq!(to_compute_order(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
