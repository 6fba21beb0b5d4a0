//! Pixel normalisation of networks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Channels of a pixel.
pub const CHANNELS: usize = 3;

/// The ways in which published networks want pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// RGB from -1 to 1: mean and deviation 0.5. timm's ViT of AugReg, and `convnet4`.
    Half,
    /// RGB less ImageNet's mean, by its deviation: torchvision, DeiT, DINO.
    Imagenet,
    /// BGR from 0 to 255 less (104, 117, 128): what came from Caffe, as BN-Inception.
    Caffe,
}

impl Normalisation {
    /// All of them, with their names in pipelines.
    pub const ALL: [(&'static str, Self); 3] =
        [("half", Self::Half), ("imagenet", Self::Imagenet), ("caffe", Self::Caffe)];

    /// Its name in pipelines.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }

    /// Its arithmetic for one pixel.
    pub fn pixels(self) -> Pixels {
        match self {
            Self::Half => Pixels { reversed: false, white: 1.0, mean: [0.5; 3], deviation: [0.5; 3] },
            Self::Imagenet => {
                Pixels { reversed: false, white: 1.0, mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] }
            }
            Self::Caffe => Pixels { reversed: true, white: 255.0, mean: [104.0, 117.0, 128.0], deviation: [1.0; 3] },
        }
    }

    /// The normalisation with these values, if there is one.
    pub(super) fn of(pixels: Pixels) -> Option<Self> {
        Self::ALL.into_iter().map(|(_, one)| one).find(|one| one.pixels() == pixels)
    }
}

/// The arithmetic on a pixel's colours, 0 to 255: `(colour / 255 * white - mean) / deviation`, after red and blue are
/// swapped if `reversed`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    pub reversed: bool,
    /// The value of 255 before the mean is subtracted.
    pub white: f32,
    pub mean: [f32; 3],
    pub deviation: [f32; 3],
}

impl Pixels {
    /// The network's input for RGB pixels.
    pub fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; pixels.len()];
        self.normaliser().write(pixels, &mut values);
        values
    }

    /// The same, prepared for many images.
    pub fn normaliser(&self) -> Normaliser {
        let value = |channel: usize, colour: usize| {
            (colour as f32 / 255.0 * self.white - self.mean[channel]) / self.deviation[channel]
        };
        let table = std::array::from_fn(|channel| std::array::from_fn(|colour| value(channel, colour)));
        Normaliser { table, reversed: self.reversed }
    }
}

/// The arithmetic for each colour of a pixel.
#[derive(Debug, Clone)]
pub struct Normaliser {
    table: [[f32; 256]; CHANNELS],
    reversed: bool,
}

impl Normaliser {
    /// Writes the network's input for RGB pixels, one value per byte.
    pub fn write(&self, pixels: &[u8], values: &mut [f32]) {
        let order: [usize; CHANNELS] = if self.reversed { [2, 1, 0] } else { [0, 1, 2] };
        for (values, pixel) in values.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(pixels.as_chunks::<CHANNELS>().0) {
            for channel in 0..CHANNELS {
                values[channel] = self.table[channel][usize::from(pixel[order[channel]])];
            }
        }
    }
}
