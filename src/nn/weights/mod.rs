//! Weight files: safetensors and PyTorch's two formats read, safetensors written.
//!
//! | module | holds |
//! | --- | --- |
//! | `file` | an open file of any format, its tensors and their values |
//! | `safe`, `zipped`, `legacy` | the three formats |
//! | `pickle`, `machine`, `callable` | pickles, by a machine that knows only the opcodes and names of tensors |
//! | `checkpoint` | the state dict inside a training checkpoint |
//! | `layout` | strides, offsets, element types |
//! | `matching`, `naming` | which tensor of a file is which of a network |
//!
//! Files are anyone's: nothing in them is executed, and no count in them is believed before the bytes behind it are
//! seen.

mod callable;
mod checkpoint;
mod error;
mod file;
mod layout;
mod legacy;
mod machine;
mod matching;
mod naming;
mod pickle;
mod safe;
#[cfg(test)]
mod tests;
mod zipped;

pub use checkpoint::Skipped;
pub use error::WeightError;
pub use file::{Format, TensorInfo, WeightFile};
pub use matching::{Misshapen, Missing, Unmatched, load_tensors, match_tensors, shape_words};
pub use safe::{NamedValues, write_safetensors};
pub use safetensors::tensor::Dtype;
