//! The backbones: their definition and their table. One file per family declares its rows and builds their layers.

mod convnet4;
mod inception;
mod resnet;
mod vit;

use std::fmt;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::convnet4::CONVNET4;
use super::layers::{Builder, Layer};
use super::pixels::Normalisation;

/// A network's trunk: everything that the rest of the program knows about it. Two are equal if their names are.
pub struct Backbone {
    /// Its name in pipelines and weight files.
    pub name: &'static str,
    /// Channels of its pooled features.
    pub features: usize,
    /// Minimum rows and columns of an image.
    pub smallest: usize,
    /// Rows and columns of an image must be multiples of this: 1 except for transformers.
    pub patch: usize,
    /// What is wrong with a number of rows or columns that `smallest` and `patch` allow; none if it fits.
    pub misfit: fn(usize) -> Option<&'static str>,
    /// Whether it has position embeddings, which are learned for one image size: the shape of a tensor then depends on
    /// the size.
    pub positions: bool,
    /// The pooling that its authors use.
    pub pooling: Pooling,
    /// Pixel normalisations of its published weights, never empty. Where there are several, the tensors of a file do
    /// not show which it needs, and the first is that of a network without a weight file.
    pub normalisations: &'static [Normalisation],
    /// Maps another library's name of a tensor to the name here; none if it is not a name of that library.
    pub alias: fn(&str) -> Option<String>,
    /// Prefixes that identify a file as another network with the same names and shapes, and what that network is.
    pub lookalikes: &'static [(&'static str, &'static str)],
    /// Builds its layers for images of so many rows and columns, and declares their tensors.
    pub(in crate::nn) build: fn(&mut Builder, [usize; 2]) -> Vec<Layer>,
}

/// Every backbone, one row each.
pub const BACKBONES: [&Backbone; 7] = [
    &CONVNET4,
    &resnet::RESNET18,
    &resnet::RESNET34,
    &resnet::RESNET50,
    &resnet::RESNET101,
    &inception::BN_INCEPTION,
    &vit::VIT_SMALL_16,
];

/// The names of [`BACKBONES`].
pub const NAMES: [&str; BACKBONES.len()] = {
    let mut names = [""; BACKBONES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = BACKBONES[at].name;
        at += 1;
    }
    names
};

impl Backbone {
    /// The backbone of that name.
    pub fn named(name: &str) -> Option<&'static Backbone> {
        BACKBONES.into_iter().find(|backbone| backbone.name == name)
    }

    /// The default pixel normalisation.
    pub fn normalisation(&self) -> Normalisation {
        self.normalisations.first().copied().unwrap_or(Normalisation::Imagenet)
    }
}

impl fmt::Debug for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Backbone {
    fn eq(&self, other: &Backbone) -> bool {
        self.name == other.name
    }
}

impl Eq for Backbone {}

impl Serialize for Backbone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Backbone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Backbone::named(&name).ok_or_else(|| D::Error::unknown_variant(&name, &NAMES))
    }
}

/// How a backbone's map becomes one vector an image. Of a transformer, pixels are the tokens of the patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the pixels.
    Average,
    /// The largest over the pixels.
    Max,
    /// Both, added: the head of the Proxy-Anchor code and of what follows it.
    AverageMax,
    /// The class token of a transformer.
    Token,
}

/// For backbones whose tensors have the same names in every library.
pub(in crate::nn) fn no_alias(_: &str) -> Option<String> {
    None
}

/// For backbones that accept every size that is not too small.
fn any_size(_: usize) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_read_back() {
        for name in NAMES {
            let backbone: &Backbone = serde_json::from_value(name.into()).unwrap();
            assert_eq!((backbone.name, serde_json::to_value(backbone).unwrap()), (name, name.into()));
            assert!(!backbone.normalisations.is_empty(), "{name}");
        }
        let unknown = serde_json::from_str::<&Backbone>("\"resnet19\"").unwrap_err().to_string();
        assert!(unknown.starts_with("unknown variant `resnet19`, expected one of `convnet4`, `resnet18`"), "{unknown}");
    }
}
