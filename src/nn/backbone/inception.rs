//! BN-Inception (Ioffe and Szegedy 2015) under the names of Cadene's port, whose ImageNet weights the papers use.
//!
//! Every convolution has a bias and is followed by batch normalisation and ReLU. The port applies its ReLUs in place,
//! so they take effect although its code passes on the tensors from before them.

use super::{Backbone, Pooling, no_alias};
use crate::nn::backend::{After, Convolution, Reduce, Window};
use crate::nn::layers::{Builder, Layer, Names, UnitLayer};
use crate::nn::pixels::{CHANNELS, Normalisation};

/// 10.3 million parameters.
pub(super) const BN_INCEPTION: Backbone = Backbone {
    name: "bn_inception",
    features: 1024,
    smallest: 32,
    patch: 1,
    misfit: |size| (!halves(size)).then_some(MISFIT),
    positions: false,
    pooling: Pooling::Average,
    normalisations: &[Normalisation::Caffe],
    alias: no_alias,
    lookalikes: &[],
    build,
};

const MISFIT: &str =
    "do not halve as often as bn_inception does; the papers use 224 and 227; 64, 96, 128, 160, 192 and 256 fit too";

/// One inception module: the channels of its branches.
struct Module {
    name: &'static str,
    /// The 1x1 branch; none in modules that halve the resolution.
    single: Option<usize>,
    /// The 3x3 branch: after the reduction, after the convolution.
    square: [usize; 2],
    /// The branch of two 3x3 convolutions: after the reduction, after each of them the same.
    double: [usize; 2],
    /// The pooling of the last branch, and its projection; without one the pooled channels are passed on.
    pool: (Reduce, Option<usize>),
}

const fn module(name: &'static str, single: usize, square: [usize; 2], double: [usize; 2], project: usize) -> Module {
    Module { name, single: Some(single), square, double, pool: (Reduce::Average, Some(project)) }
}

const fn halving(name: &'static str, square: [usize; 2], double: [usize; 2]) -> Module {
    Module { name, single: None, square, double, pool: (Reduce::Max, None) }
}

const MODULES: [Module; 10] = [
    module("3a", 64, [64, 64], [64, 96], 32),
    module("3b", 64, [64, 96], [64, 96], 64),
    halving("3c", [128, 160], [64, 96]),
    module("4a", 224, [64, 96], [96, 128], 128),
    module("4b", 192, [96, 128], [96, 128], 128),
    module("4c", 160, [128, 160], [128, 160], 128),
    module("4d", 96, [128, 192], [160, 192], 128),
    halving("4e", [128, 192], [192, 256]),
    module("5a", 352, [192, 320], [160, 224], 128),
    Module { pool: (Reduce::Max, Some(128)), ..module("5b", 352, [192, 320], [192, 224], 128) },
];

/// The pooling between the stages.
const HALVE: Window = Window { size: 3, stride: 2, padding: 0, ceil: true };
/// The pooling in a module that keeps the resolution.
const KEEP: Window = Window { size: 3, stride: 1, padding: 1, ceil: true };

/// Whether so many rows or columns can be halved: modules 3c and 4e halve them both by convolutions and by pooling,
/// which agree only on even numbers.
fn halves(size: usize) -> bool {
    let mut len = HALVE.count(HALVE.count((size - 1) / 2 + 1));
    (0..2).all(|_| {
        let agrees = len == 1 || len.is_multiple_of(2);
        len = len.div_ceil(2);
        agrees
    })
}

/// The trunk, without the classifier.
fn build(builder: &mut Builder, _: [usize; 2]) -> Vec<Layer> {
    // The value of Cadene's port, and so of the papers.
    builder.momentum = 0.9;
    let mut unit = |name: String, channels: [usize; 2], convolution: Convolution| -> UnitLayer {
        let norm = format!("{name}_bn");
        builder.unit(Names { conv: &name, norm: Some(&norm), bias: true }, channels, convolution, After::Relu)
    };
    let point = Convolution::square(1, 1, 0);
    let mut layers = vec![
        Layer::Unit(unit("conv1_7x7_s2".into(), [CHANNELS, 64], Convolution::square(7, 2, 3))),
        Layer::Pool(HALVE, Reduce::Max),
        Layer::Unit(unit("conv2_3x3_reduce".into(), [64, 64], point)),
        Layer::Unit(unit("conv2_3x3".into(), [64, 192], Convolution::square(3, 1, 1))),
        Layer::Pool(HALVE, Reduce::Max),
    ];
    let mut inputs = 192;
    for Module { name, single, square, double, pool: (reduce, project) } in &MODULES {
        let stride = if single.is_some() { 1 } else { 2 };
        let three = Convolution::square(3, 1, 1);
        let last = Convolution::square(3, stride, 1);
        let mut unit = |suffix: &str, channels, convolution| {
            Layer::Unit(unit(format!("inception_{name}_{suffix}"), channels, convolution))
        };
        let mut branches = Vec::new();
        if let Some(outputs) = single {
            branches.push(vec![unit("1x1", [inputs, *outputs], point)]);
        }
        branches.push(vec![unit("3x3_reduce", [inputs, square[0]], point), unit("3x3", *square, last)]);
        branches.push(vec![
            unit("double_3x3_reduce", [inputs, double[0]], point),
            unit("double_3x3_1", *double, three),
            unit("double_3x3_2", [double[1]; 2], last),
        ]);
        let mut pooled = vec![Layer::Pool(if stride == 1 { KEEP } else { HALVE }, *reduce)];
        if let Some(outputs) = project {
            pooled.push(unit("pool_proj", [inputs, *outputs], point));
        }
        branches.push(pooled);
        layers.push(Layer::Branches(branches));
        let kept = if project.is_some() { 0 } else { inputs };
        inputs = single.unwrap_or(0) + square[1] + double[1] + project.unwrap_or(kept);
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_of_the_papers_halve_and_odd_maps_do_not() {
        assert!([32, 64, 96, 224, 227, 256].into_iter().all(halves));
        assert!(![48, 80, 112, 200, 240, 299].into_iter().any(halves));
    }
}
