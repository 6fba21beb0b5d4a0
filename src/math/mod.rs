//! The arithmetic used by losses, networks, metrics and searches.
//!
//! | module | holds |
//! | --- | --- |
//! | [`real`] | the number trait of `f32` and `f64`, with an exponential and a logarithm that vectorise |
//! | [`product`](mod@product) | the matrix product |
//! | [`rows`] | loops over one row, such as the dot product |
//! | [`random`] | counter-based random streams |
//! | `simd` | runs a loop with the vector instructions of this machine |
//!
//! Every result has the same bits for any number of threads.

pub mod product;
pub mod random;
pub mod real;
pub mod rows;
pub(crate) mod simd;
