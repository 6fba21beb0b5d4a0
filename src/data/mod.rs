//! Images from archives, data sets in their layouts and generators.

pub mod archive;
pub mod augment;
pub mod checksum;
pub mod crop;
pub mod decode;
pub mod download;
pub mod error;
pub mod generate;
mod image_array;
pub mod images;
pub mod inspect;
pub mod layout;
pub mod listing;
pub mod mat;
pub mod pixels;
pub mod preprocess;
pub mod sampler;
pub mod shard;
pub mod split;

/// What the `check` of a parameter struct refuses: the field's path (`split.list`), and half a sentence with its
/// value and the valid ones ("is 0, expected an integer in 1..=4096").
pub type Problem = (String, String);
