//! The small convolutional network of few-shot learning (Vinyals et al. 2016, "Conv-4").

use super::{Backbone, Pooling, any_size, no_alias};
use crate::nn::backend::{After, Convolution};
use crate::nn::layers::{Builder, Layer, Names};
use crate::nn::pixels::{CHANNELS, Normalisation};

/// Four blocks of 3x3 convolution (32, 64, 128, 128 channels), batch normalisation, ReLU and 2x2 max pooling. 0.24
/// million parameters.
pub const CONVNET4: Backbone = Backbone {
    name: "convnet4",
    features: 128,
    smallest: 16,
    patch: 1,
    misfit: any_size,
    positions: false,
    pooling: Pooling::Average,
    normalisations: &[Normalisation::Half],
    alias: no_alias,
    lookalikes: &[],
    build,
};

fn build(builder: &mut Builder, _: [usize; 2]) -> Vec<Layer> {
    let channels = [CHANNELS, 32, 64, 128, 128];
    let block = |(index, channels): (usize, &[usize])| {
        let (conv, norm) = (format!("blocks.{index}.conv"), format!("blocks.{index}.norm"));
        let names = Names { conv: &conv, norm: Some(&norm), bias: false };
        let channels = [channels[0], channels[1]];
        Layer::Unit(builder.unit(names, channels, Convolution::square(3, 1, 1), After::ReluMaxPool))
    };
    channels.windows(2).enumerate().map(block).collect()
}
