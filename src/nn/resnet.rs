//! ResNet-18, -34, -50 and -101 (He et al. 2016) under torchvision's names.

use super::Error;
use super::backend::{After, Backend, Convolution, Reduce, Window};
use super::layers::{Builder, Layer, Names};
use super::tensor::Init;

/// Blocks of the four stages, and whether they are bottlenecks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub blocks: [usize; 4],
    pub bottleneck: bool,
}

impl Plan {
    /// Channels that come out.
    pub fn features(self) -> usize {
        512 * self.expansion()
    }

    fn expansion(self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }
}

/// The trunk, without the classifier. Convolutions start as in torchvision: Kaiming normal over their outputs.
pub(super) fn build<B: Backend>(builder: &mut Builder<'_, B>, plan: Plan) -> Result<Vec<Layer>, Error> {
    builder.init = Some(Init::KaimingFanOut);
    let stem = Names { conv: "conv1", norm: Some("bn1"), bias: false };
    let mut layers = vec![
        Layer::Unit(builder.unit(stem, [3, 64], Convolution::square(7, 2, 3), After::Relu)?),
        Layer::Pool(Window { size: 3, stride: 2, padding: 1, ceil: false }, Reduce::Max),
    ];
    let mut inputs = 64;
    for (stage, &blocks) in plan.blocks.iter().enumerate() {
        let width = 64 << stage;
        let outputs = width * plan.expansion();
        for block in 0..blocks {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let prefix = format!("layer{}.{block}", stage + 1);
            // The stride is in the 3x3 convolution of a bottleneck, as torchvision has it.
            let convolutions = match plan.bottleneck {
                true => vec![(1, 1, width), (3, stride, width), (1, 1, outputs)],
                false => vec![(3, stride, width), (3, 1, width)],
            };
            let mut units = Vec::new();
            let mut channels = inputs;
            for (index, (kernel, stride, out)) in convolutions.into_iter().enumerate() {
                let at = index + 1;
                let (conv, norm) = (format!("{prefix}.conv{at}"), format!("{prefix}.bn{at}"));
                let names = Names { conv: &conv, norm: Some(&norm), bias: false };
                let convolution = Convolution::square(kernel, stride, kernel / 2);
                units.push(builder.unit(names, [channels, out], convolution, After::Relu)?);
                channels = out;
            }
            let shortcut = match stride != 1 || inputs != outputs {
                true => {
                    let (conv, norm) = (format!("{prefix}.downsample.0"), format!("{prefix}.downsample.1"));
                    let names = Names { conv: &conv, norm: Some(&norm), bias: false };
                    let convolution = Convolution::square(1, stride, 0);
                    Some(builder.unit(names, [inputs, outputs], convolution, After::Nothing)?)
                }
                false => None,
            };
            layers.push(Layer::Residual { units, shortcut });
            inputs = outputs;
        }
    }
    Ok(layers)
}
