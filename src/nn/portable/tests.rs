//! The operations on dfdx's CPU against those of `Native`.

use dfdx::prelude::Cpu;

use super::super::tests::{CONVOLUTIONS, WINDOWS, bare, error, leaf, operation, random, shape, ties};
use super::super::{Architecture, Backbone, Dropout, Head, Kind, Model, Native, Pooling, Statistics, Training};
use super::Portable;
use crate::nn::backend::{After, Backend, Convolution, Map, Norm, Recording, Reduce, Shape, Unit, Window};

/// Relative to the largest element.
const TOLERANCE: f32 = 2e-4;

/// The normalisation of a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Norms {
    Without,
    Batch,
    Running { learn: bool },
}

/// A unit to run.
#[derive(Debug, Clone, Copy)]
struct Case {
    x: Shape,
    outputs: usize,
    convolution: Convolution,
    norm: Norms,
    after: After,
    bias: bool,
    residual: bool,
}

/// The results of a unit, by name; nothing for what must be absent. Its inputs are from `plain`.
fn run<B: Backend>(device: &B, plain: &B, case: Case) -> Vec<(&'static str, Option<Vec<f32>>)> {
    let Case { x, outputs, convolution, norm, after, bias, residual } = case;
    let vector = |purpose: &str, len| device.vector(&random(purpose, len)).unwrap();
    let [rows, columns] = convolution.kernel;
    let kernel = vector("kernel", rows * columns * x.channels / convolution.groups * outputs);
    let [conv_bias, weight, shift, mean] = ["conv bias", "weight", "shift", "mean"].map(|name| vector(name, outputs));
    let variance: Vec<f32> = random("variance", outputs).iter().map(|x| x * x + 0.1).collect();
    let variance = device.vector(&variance).unwrap();
    let (weight, shift, mean, variance) = (&weight, &shift, &mean, &variance);
    let epsilon = 1e-3;
    let unit = |after| Unit {
        convolution,
        kernel: &kernel,
        bias: bias.then_some(&conv_bias),
        outputs,
        norm: match norm {
            Norms::Without => Norm::Without,
            Norms::Batch => Norm::Batch { weight, bias: shift, mean, variance, epsilon, momentum: 0.3 },
            Norms::Running { learn } => Norm::Running { weight, bias: shift, mean, variance, epsilon, learn },
        },
        after,
    };
    let values = random("x", x.len());
    let (map, input) = leaf(plain, &values, x);
    let (bare, _) = device.unit(device.map(values.clone(), x).unwrap(), unit(After::Nothing), None).unwrap();
    let full = B::shape(&bare);
    let (short, short_leaf) = leaf(plain, &random("residual", full.len()), full);
    let (y, running) = device.unit(map, unit(after), residual.then_some(short)).unwrap();
    let host = |vector: &B::Vector| device.read(vector, <[f32]>::to_vec);
    let out = B::shape(&y);
    let extents = [out.images, out.rows, out.columns, out.channels].map(|extent| extent as f32);
    let mut all = vec![("shape", Some(extents.to_vec())), ("value", Some(B::download(&y)))];
    let [mean, variance] = running.as_ref().map_or([None, None], |running| running.each_ref().map(|v| Some(host(v))));
    all.extend([("running mean", mean), ("running variance", variance)]);
    let mut gradients = device.backward(y, &random("dy", out.len())).unwrap();
    for (name, vector) in [
        ("gradient of the input", &input),
        ("of the residual", &short_leaf),
        ("of the kernel", &kernel),
        ("of the convolution's bias", &conv_bias),
        ("of the scale", weight),
        ("of the shift", shift),
    ] {
        let gradient = device.gradient(&mut gradients, vector).unwrap();
        assert!(device.gradient(&mut gradients, vector).unwrap().is_none(), "{name} is taken out");
        all.push((name, gradient.as_ref().map(host)));
    }
    all
}

/// Compares both backends on one unit; returns how many results there were.
fn agree(native: &Native, portable: &Portable<Cpu>, case: Case) -> usize {
    let (found, expected) = (run(portable, portable, case), run(native, native, case));
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert_eq!(found.is_some(), expected.is_some(), "{case:?}: {name}");
        // The mean subtracts a constant again: the true gradient of a bias before batch normalisation is 0.
        let zero = case.norm == Norms::Batch && *name == "of the convolution's bias";
        if let (Some(found), Some(expected)) = (found, expected) {
            let error = error(found, expected, if zero { 1.0 } else { 1e-6 });
            assert!(error <= TOLERANCE, "{case:?}: {name} off by {error}");
        }
    }
    expected.iter().filter(|(_, result)| result.is_some()).count()
}

#[test]
fn units_in_half_precision_are_near_and_round_each_product() {
    let full = Portable::new(Cpu::default());
    let mixed = full.mixed().unwrap();
    for (index, (extents, outputs, convolution)) in CONVOLUTIONS.into_iter().enumerate() {
        let norm = [Norms::Without, Norms::Batch, Norms::Running { learn: true }][index % 3];
        let (x, after) = (shape(extents), After::Nothing);
        let case = Case { x, outputs, convolution, norm, after, bias: true, residual: index % 2 == 0 };
        for ((name, found), (_, expected)) in run(&mixed, &full, case).into_iter().zip(run(&full, &full, case)) {
            assert_eq!(found.is_some(), expected.is_some(), "{case:?}: {name}");
            let zero = norm == Norms::Batch && name == "of the convolution's bias";
            if let (Some(found), Some(expected)) = (found, expected) {
                let error = error(&found, &expected, if zero { 1.0 } else { 1e-6 });
                assert!(error <= 1e-2, "{case:?}: {name} off by {error}");
                let product = ["value", "gradient of the input", "of the kernel"].contains(&name);
                assert!(!product || error > 1e-6, "{case:?}: {name} is that of single precision");
            }
        }
    }
}

/// A convolution of one pixel and one channel: `y = k x`.
fn single(device: &Portable<Cpu>, plain: &Portable<Cpu>, x: f32, k: f32, dy: f32) -> [f32; 3] {
    let (map, input) = leaf(plain, &[x], shape([1, 1, 1, 1]));
    let kernel = device.vector(&[k]).unwrap();
    let unit = bare(Convolution::square(1, 1, 0), &kernel, 1);
    let (y, _) = device.unit(map, unit, None).unwrap();
    let value = Portable::<Cpu>::download(&y)[0];
    let mut gradients = device.backward(y, &[dy]).unwrap();
    let mut gradient = |vector| device.read(&device.gradient(&mut gradients, vector).unwrap().unwrap(), |v| v[0]);
    [value, gradient(&input), gradient(&kernel)]
}

#[test]
fn half_precision_has_eleven_bits_and_ends_at_65504() {
    let full = Portable::new(Cpu::default());
    let mixed = full.mixed().unwrap();
    let x = 1.0 + 2f32.powi(-11) + 2f32.powi(-12);
    assert_eq!(single(&full, &full, x, 2.0, 1.0), [2.0 * x, 2.0, x]);
    let rounded = 1.0 + 2f32.powi(-10);
    assert_eq!(single(&mixed, &full, x, 2.0, 1.0), [2.0 * rounded, 2.0, rounded]);
    // Overflow gives infinity and is detected; underflow is lost.
    let [value, dx, dk] = single(&mixed, &full, 300.0, 300.0, 1.0);
    assert_eq!((value, dx, dk), (f32::INFINITY, 300.0, 300.0));
    let [value, dx, dk] = single(&mixed, &full, 1.0, 2.0, 1e5);
    assert_eq!((value, dx, dk), (2.0, f32::INFINITY, f32::INFINITY));
    assert_eq!(single(&mixed, &full, 1.0, 1.0, 1e-9), [1.0, 0.0, 0.0]);
    assert_eq!(single(&full, &full, 1.0, 1.0, 1e-9), [1.0, 1e-9, 1e-9]);
}

#[test]
fn a_map_used_twice_has_both_gradients_in_half_precision() {
    let mixed = Portable::new(Cpu::default()).mixed().unwrap();
    let (map, input) = leaf(&mixed, &[1.0], shape([1, 1, 1, 1]));
    let kernel = mixed.vector(&[3.0]).unwrap();
    let unit = bare(Convolution::square(1, 1, 0), &kernel, 1);
    let residual = Portable::<Cpu>::again(&map);
    let (y, _) = mixed.unit(map, unit, Some(residual)).unwrap();
    let mut gradients = mixed.backward(y, &[2.0]).unwrap();
    let gradient = mixed.gradient(&mut gradients, &input).unwrap().unwrap();
    assert_eq!(mixed.read(&gradient, <[f32]>::to_vec), [8.0]);
}

#[test]
fn units_give_the_values_gradients_and_statistics_of_native() {
    let (native, portable) = (Native::default(), Portable::new(Cpu::default()));
    let norms = [Norms::Without, Norms::Batch, Norms::Running { learn: true }, Norms::Running { learn: false }];
    for (index, (extents, outputs, convolution)) in CONVOLUTIONS.into_iter().enumerate() {
        let bare = Case {
            x: shape(extents),
            outputs,
            convolution,
            norm: Norms::Without,
            after: After::Nothing,
            bias: false,
            residual: false,
        };
        // Each normalisation with alternating values of the other options.
        for (turn, norm) in norms.into_iter().enumerate() {
            let turn = turn + index;
            let (bias, residual) = (turn % 2 == 0, turn % 3 != 0);
            let after = [After::Nothing, After::Relu][turn / 2 % 2];
            let count = agree(&native, &portable, Case { norm, after, bias, residual, ..bare });
            let expected = 4
                + usize::from(bias)
                + usize::from(residual)
                + match norm {
                    Norms::Without | Norms::Running { learn: false } => 0,
                    Norms::Running { learn: true } => 2,
                    Norms::Batch => 4,
                };
            assert_eq!(count, expected);
        }
    }
    let pooled = Case {
        x: shape([3, 7, 8, 5]),
        outputs: 18,
        convolution: Convolution::square(3, 1, 1),
        norm: Norms::Without,
        after: After::ReluMaxPool,
        bias: true,
        residual: false,
    };
    for norm in norms {
        agree(&native, &portable, Case { norm, ..pooled });
    }
}

/// Operations with one input.
#[derive(Debug)]
enum Operation {
    Pool(Window, Reduce),
    GlobalPool(Reduce),
    /// With the mean and the largest of a window, and with itself in between.
    Concat,
    /// To the sum of itself and a part of it.
    Add,
    Scale,
    L2Normalise,
}

impl Operation {
    fn run<B: Backend>(&self, device: &B, x: Map<B, Recording<B>>) -> Map<B, Recording<B>> {
        let keep = Window { size: 3, stride: 1, padding: 1, ceil: false };
        let result = match self {
            Self::Pool(window, reduce) => device.pool(x, *window, *reduce),
            Self::GlobalPool(reduce) => device.global_pool(x, *reduce),
            Self::Concat => {
                let [first, last] =
                    [Reduce::Average, Reduce::Max].map(|reduce| device.pool(B::again(&x), keep, reduce).unwrap());
                device.concat(vec![first, x, last])
            }
            Self::Add => {
                let (part, twice) = (device.pool(B::again(&x), keep, Reduce::Average).unwrap(), B::again(&x));
                device.add(device.add(x, twice).unwrap(), part)
            }
            Self::Scale => {
                let factors = random("factors", B::shape(&x).len());
                device.scale(x, &factors)
            }
            Self::L2Normalise => device.l2_normalise(x),
        };
        result.unwrap()
    }

    /// Compares both backends.
    fn agrees(&self, values: &[f32], shape: Shape) {
        let (native, portable) = (Native::default(), Portable::new(Cpu::default()));
        let (out, y, dx) = operation(&native, values, shape, |x| self.run(&native, x));
        let (found_out, found_y, found_dx) = operation(&portable, values, shape, |x| self.run(&portable, x));
        assert_eq!(found_out, out, "{self:?}");
        let [value, input] = [error(&found_y, &y, 1e-6), error(&found_dx, &dx, 1e-6)];
        assert!(value <= 1e-5 && input <= 1e-5, "{self:?} of {shape:?}: off by {value}, gradient by {input}");
    }
}

#[test]
fn poolings_agree_and_the_first_of_equals_wins() {
    for shape in [[2, 7, 8, 3], [1, 6, 5, 20]].map(shape) {
        for reduce in [Reduce::Max, Reduce::Average] {
            for window in WINDOWS {
                Operation::Pool(window, reduce).agrees(&ties(shape.len()), shape);
            }
            Operation::GlobalPool(reduce).agrees(&ties(shape.len()), shape);
        }
    }
}

#[test]
fn other_operations_agree() {
    for shape in [[2, 3, 4, 5], [1, 5, 2, 17]].map(shape) {
        for operation in [Operation::Concat, Operation::Add, Operation::Scale, Operation::L2Normalise] {
            operation.agrees(&random("x", shape.len()), shape);
        }
    }
    // A pixel of zeros, and one shorter than the bound.
    let mut values = random("x", 15);
    values[..5].fill(0.0);
    values[5..10].iter_mut().for_each(|value| *value *= 1e-14);
    Operation::L2Normalise.agrees(&values, Shape::vectors(3, 5));
}

#[test]
fn what_is_not_a_number_is_seen() {
    let portable = Portable::new(Cpu::default());
    let shape = shape([1, 2, 2, 1]);
    let values = [f32::NAN, 1.0, f32::NEG_INFINITY, 2.0];
    let x = || portable.map(values.to_vec(), shape).unwrap();
    let one = portable.vector(&[1.0]).unwrap();
    for (after, len) in [(After::Relu, 4), (After::ReluMaxPool, 1)] {
        let (convolution, norm) = (Convolution::square(1, 1, 0), Norm::Without);
        let unit = Unit { convolution, kernel: &one, bias: None, outputs: 1, norm, after };
        let y = Portable::download(&portable.unit(x(), unit, None).unwrap().0);
        assert!(y.len() == len && y[0].is_nan(), "{after:?}: {y:?}");
    }
    for reduce in [Reduce::Max, Reduce::Average] {
        assert!(Portable::download(&portable.global_pool(x(), reduce).unwrap())[0].is_nan(), "{reduce:?}");
    }
}

#[test]
fn a_clone_is_the_same_parameter_and_keeps_its_values() {
    let portable = Portable::new(Cpu::default());
    let mut kernel = portable.vector(&[2.0, 3.0]).unwrap();
    let clone = kernel.clone();
    portable.write(&mut kernel, |values| values[1] = 5.0);
    portable.read(&kernel, |values| assert_eq!(values, [2.0, 5.0]));
    portable.read(&clone, |values| assert_eq!(values, [2.0, 3.0]));
    let x = portable.record(portable.map(vec![1.0, 2.0], Shape::vectors(1, 2)).unwrap());
    let (convolution, norm, after) = (Convolution::square(1, 1, 0), Norm::Without, After::Nothing);
    let unit = Unit { convolution, kernel: &kernel, bias: None, outputs: 1, norm, after };
    let (y, _) = portable.unit(x, unit, None).unwrap();
    assert_eq!(Portable::download(&y), [12.0]);
    // A gradient of zeros is one.
    let mut gradients = portable.backward(y, &[0.0]).unwrap();
    let gradient = portable.gradient(&mut gradients, &clone).unwrap().unwrap();
    portable.read(&gradient, |values| assert_eq!(values, [0.0, 0.0]));
}

/// Embeddings, moved statistics and gradients of a training step: name, whether a gradient, values.
fn step<B: Backend>(
    device: &B,
    architecture: Architecture,
    images: usize,
    training: Training,
) -> Vec<(String, bool, Vec<f32>)> {
    let mut model = Model::new(device, architecture, 7).unwrap();
    let Architecture { height, width, dim, .. } = architecture;
    let shape = Shape { images, rows: height, columns: width, channels: 3 };
    let x = device.map(random("pixels", shape.len()), shape).unwrap();
    let y = model.forward_train(device, x, training).unwrap();
    let mut all = vec![("embeddings".into(), false, B::download(&y))];
    let mut gradients = device.backward(y, &random("dy", images * dim)).unwrap();
    for tensor in model.tensors() {
        let value = match tensor.kind {
            Kind::Buffer => Some(tensor.value.clone()),
            Kind::Parameter => device.gradient(&mut gradients, &tensor.value).unwrap(),
        };
        if let Some(value) = value {
            all.push((tensor.name.clone(), tensor.kind == Kind::Parameter, device.read(&value, <[f32]>::to_vec)));
        }
    }
    all
}

#[test]
fn networks_take_the_same_step() {
    for (backbone, size, images) in [
        (Backbone::named("convnet4").unwrap(), 16, 6),
        (Backbone::named("resnet18").unwrap(), 32, 6),
        (Backbone::named("bn_inception").unwrap(), 32, 6),
    ] {
        let pooling = Pooling::AverageMax;
        let architecture =
            Architecture { backbone, pooling: Some(pooling), head: Head::Linear, dim: 8, height: size, width: size };
        for statistics in [Statistics::Batch, Statistics::Running { learn: true }, Statistics::Running { learn: false }]
        {
            let dropout = Some(Dropout { rate: 0.2, seed: 1, epoch: 0, step: 0 });
            let training = Training { backbone: true, statistics, dropout };
            let found = step(&Portable::new(Cpu::default()), architecture, images, training);
            let expected = step(&Native::default(), architecture, images, training);
            assert_eq!(found.len(), expected.len());
            // Not compared: on `Native` alone, pixels moved by 1e-7 move BN-Inception's gradients by up to a quarter
            // when so small a batch normalises it.
            let steep = backbone == Backbone::named("bn_inception").unwrap() && statistics == Statistics::Batch;
            for ((name, is_gradient, found), (expected_name, _, expected)) in found.iter().zip(&expected) {
                assert_eq!(name, expected_name);
                if !(steep && *is_gradient) {
                    let error = error(found, expected, 1e-6);
                    assert!(error <= TOLERANCE, "{backbone:?}, {statistics:?}: {name} off by {error}");
                }
            }
        }
    }
    super::super::buffer::release();
}
