//! The vision transformer ViT-S/16 (Dosovitskiy et al. 2021; Touvron et al. 2021 for the size) under timm's names.

use super::{Backbone, Pooling, any_size};
use crate::nn::backend::{After, Convolution};
use crate::nn::layers::{Builder, Layer, Names, Transformer};
use crate::nn::pixels::{CHANNELS, Normalisation};
use crate::nn::tensor::{Init, Kind};
use crate::nn::weights::timm_name;

/// 21.7 million parameters at 224x224. Images of any multiple of 16 pixels; position embeddings are learned for one
/// size.
pub(super) const VIT_SMALL_16: Backbone = Backbone {
    name: "vit_small_16",
    features: FEATURES,
    smallest: PATCH,
    patch: PATCH,
    misfit: any_size,
    positions: true,
    pooling: Pooling::Token,
    // That of timm's and Google's weights; that of DINO's, DeiT's and most others.
    normalisations: &[Normalisation::Half, Normalisation::Imagenet],
    alias: timm_name,
    lookalikes: &[("base_encoder.", MOCO), ("momentum_encoder.", MOCO)],
    build,
};

const MOCO: &str =
    "of MoCo v3, whose ViT-S has 12 heads of attention; vit_small_16 has 6, in tensors of the same shapes";

/// Rows and columns of a patch.
const PATCH: usize = 16;
/// Channels of a token.
const FEATURES: usize = 384;
const BLOCKS: usize = 12;
const HEADS: usize = 6;
/// Channels between the two layers of an MLP.
const HIDDEN: usize = 4 * FEATURES;
const EPSILON: f32 = 1e-6;

/// The trunk for images of `height x width` pixels, both multiples of [`PATCH`], without the classifier.
///
/// Initialised as in timm. timm calls the normal distribution of linear layers and position embeddings truncated, but
/// truncates it at 2, a hundred standard deviations away. The patch embedding's convolution is initialised as in
/// PyTorch.
fn build(builder: &mut Builder, [height, width]: [usize; 2]) -> Vec<Layer> {
    let tokens = 1 + (height / PATCH) * (width / PATCH);
    let class = builder.tensor("cls_token".into(), &[1, 1, FEATURES], Kind::Parameter, Init::Normal(1e-6));
    let positions = builder.tensor("pos_embed".into(), &[1, tokens, FEATURES], Kind::Parameter, Init::Normal(0.02));
    let patches = Names { conv: "patch_embed.proj", norm: None, bias: true };
    let patches = builder.unit(patches, [CHANNELS, FEATURES], Convolution::square(PATCH, PATCH, 0), After::Nothing);
    let mut layers = vec![Layer::Unit(patches), Layer::Tokens { class, positions }];
    let init = [Init::Normal(0.02), Init::Constant(0.0)];
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blocks.{block}.{part}");
        layers.push(Layer::Transformer(Box::new(Transformer {
            norms: [
                builder.layer_norm(&name("norm1"), FEATURES, EPSILON),
                builder.layer_norm(&name("norm2"), FEATURES, EPSILON),
            ],
            qkv: builder.linear(&name("attn.qkv"), [FEATURES, 3 * FEATURES], init),
            projection: builder.linear(&name("attn.proj"), [FEATURES, FEATURES], init),
            heads: HEADS,
            mlp: [
                builder.linear(&name("mlp.fc1"), [FEATURES, HIDDEN], init),
                builder.linear(&name("mlp.fc2"), [HIDDEN, FEATURES], init),
            ],
        })));
    }
    layers.push(Layer::Norm(builder.layer_norm("norm", FEATURES, EPSILON)));
    layers
}
