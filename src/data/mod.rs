//! Images from archives, folders and generators, and the random streams that everything draws from.

pub mod augment;
pub mod random;
pub mod sampler;
