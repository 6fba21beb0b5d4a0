//! ResNet-18, -34, -50 and -101 (He et al. 2016) under torchvision's names.

use super::{Backbone, Pooling, any_size, no_alias};
use crate::nn::backend::{After, Convolution, Reduce, Window};
use crate::nn::layers::{Builder, Layer, Names};
use crate::nn::pixels::{CHANNELS, Normalisation};
use crate::nn::tensor::Init;

/// 11.2 million parameters.
pub(super) const RESNET18: Backbone =
    row("resnet18", Block::Basic, |builder, _| build(builder, [2, 2, 2, 2], Block::Basic));
/// 21.3 million parameters.
pub(super) const RESNET34: Backbone =
    row("resnet34", Block::Basic, |builder, _| build(builder, [3, 4, 6, 3], Block::Basic));
/// 23.5 million parameters.
pub(super) const RESNET50: Backbone =
    row("resnet50", Block::Bottleneck, |builder, _| build(builder, [3, 4, 6, 3], Block::Bottleneck));
/// 42.5 million parameters.
pub(super) const RESNET101: Backbone =
    row("resnet101", Block::Bottleneck, |builder, _| build(builder, [3, 4, 23, 3], Block::Bottleneck));

const fn row(name: &'static str, block: Block, build: fn(&mut Builder, [usize; 2]) -> Vec<Layer>) -> Backbone {
    Backbone {
        name,
        features: 512 * block.expansion(),
        smallest: 32,
        patch: 1,
        misfit: any_size,
        positions: false,
        pooling: Pooling::Average,
        normalisations: &[Normalisation::Imagenet],
        alias: no_alias,
        lookalikes: &[],
        build,
    }
}

/// The block of which the four stages are built.
#[derive(Debug, Clone, Copy)]
enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// A 3x3 convolution between two of 1x1, the last with four times the channels.
    Bottleneck,
}

impl Block {
    /// Output channels per channel of the block's width.
    const fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The trunk without the classifier, with so many blocks in each stage. Convolutions are initialised as in torchvision:
/// Kaiming normal by fan-out.
fn build(builder: &mut Builder, stages: [usize; 4], block: Block) -> Vec<Layer> {
    builder.init = Some(Init::KaimingFanOut);
    let stem = Names { conv: "conv1", norm: Some("bn1"), bias: false };
    let mut layers = vec![
        Layer::Unit(builder.unit(stem, [CHANNELS, 64], Convolution::square(7, 2, 3), After::Relu)),
        Layer::Pool(Window { size: 3, stride: 2, padding: 1, ceil: false }, Reduce::Max),
    ];
    let mut inputs = 64;
    for (stage, &blocks) in stages.iter().enumerate() {
        let width = 64 << stage;
        let outputs = width * block.expansion();
        for index in 0..blocks {
            let stride = if index == 0 && stage > 0 { 2 } else { 1 };
            let prefix = format!("layer{}.{index}", stage + 1);
            // As in torchvision, the stride of a bottleneck is in its 3x3 convolution.
            let convolutions = match block {
                Block::Bottleneck => vec![(1, 1, width), (3, stride, width), (1, 1, outputs)],
                Block::Basic => vec![(3, stride, width), (3, 1, width)],
            };
            let mut units = Vec::new();
            let mut channels = inputs;
            for (at, (kernel, stride, out)) in (1..).zip(convolutions) {
                let (conv, norm) = (format!("{prefix}.conv{at}"), format!("{prefix}.bn{at}"));
                let names = Names { conv: &conv, norm: Some(&norm), bias: false };
                let convolution = Convolution::square(kernel, stride, kernel / 2);
                units.push(builder.unit(names, [channels, out], convolution, After::Relu));
                channels = out;
            }
            let shortcut = match stride != 1 || inputs != outputs {
                true => {
                    let (conv, norm) = (format!("{prefix}.downsample.0"), format!("{prefix}.downsample.1"));
                    let names = Names { conv: &conv, norm: Some(&norm), bias: false };
                    let convolution = Convolution::square(1, stride, 0);
                    Some(builder.unit(names, [inputs, outputs], convolution, After::Nothing))
                }
                false => None,
            };
            layers.push(Layer::Residual { units, shortcut });
            inputs = outputs;
        }
    }
    layers
}
