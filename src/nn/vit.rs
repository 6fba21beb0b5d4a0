//! The vision transformer ViT-S/16 (Dosovitskiy et al. 2021; Touvron et al. 2021 for the size) under timm's names.

use super::Error;
use super::backend::{After, Backend, Convolution};
use super::layers::{Builder, Layer, Names, Transformer};
use super::model::CHANNELS;
use super::tensor::{Init, Kind};

/// Rows and columns of a patch.
pub(super) const PATCH: usize = 16;
/// Channels of a token.
pub(super) const FEATURES: usize = 384;
const BLOCKS: usize = 12;
const HEADS: usize = 6;
/// Channels between the two layers of an MLP.
const HIDDEN: usize = 4 * FEATURES;
const EPSILON: f32 = 1e-6;

/// The trunk for images of `height x width` pixels, both multiples of [`PATCH`], without the classifier.
///
/// It starts as timm's. timm calls the normal of linear layers and positions truncated, but cuts it at 2, a hundred
/// deviations away. The patches' convolution starts as PyTorch's.
pub(super) fn build<B: Backend>(
    builder: &mut Builder<'_, B>,
    [height, width]: [usize; 2],
) -> Result<Vec<Layer>, Error> {
    let tokens = 1 + (height / PATCH) * (width / PATCH);
    let class = builder.tensor("cls_token".into(), &[1, 1, FEATURES], Kind::Parameter, Init::Normal(1e-6))?;
    let positions = builder.tensor("pos_embed".into(), &[1, tokens, FEATURES], Kind::Parameter, Init::Normal(0.02))?;
    let patches = Names { conv: "patch_embed.proj", norm: None, bias: true };
    let patches = builder.unit(patches, [CHANNELS, FEATURES], Convolution::square(PATCH, PATCH, 0), After::Nothing)?;
    let mut layers = vec![Layer::Unit(patches), Layer::Tokens { class, positions }];
    let init = [Init::Normal(0.02), Init::Constant(0.0)];
    for block in 0..BLOCKS {
        let name = |part: &str| format!("blocks.{block}.{part}");
        layers.push(Layer::Transformer(Box::new(Transformer {
            norms: [
                builder.layer_norm(&name("norm1"), FEATURES, EPSILON)?,
                builder.layer_norm(&name("norm2"), FEATURES, EPSILON)?,
            ],
            qkv: builder.linear(&name("attn.qkv"), [FEATURES, 3 * FEATURES], init)?,
            projection: builder.linear(&name("attn.proj"), [FEATURES, FEATURES], init)?,
            heads: HEADS,
            mlp: [
                builder.linear(&name("mlp.fc1"), [FEATURES, HIDDEN], init)?,
                builder.linear(&name("mlp.fc2"), [HIDDEN, FEATURES], init)?,
            ],
        })));
    }
    layers.push(Layer::Norm(builder.layer_norm("norm", FEATURES, EPSILON)?));
    Ok(layers)
}
