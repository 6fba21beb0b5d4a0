//! Weight files: safetensors and PyTorch's two formats read, safetensors written.
//!
//! | module | holds |
//! | --- | --- |
//! | `file` | an open file of any format, and the values of its tensors |
//! | `contents`, `skipped` | its tensors and the positions of their elements; its other entries |
//! | `safe`, `zipped`, `legacy` | the three formats |
//! | `pickle`, `value`, `machine`, `callable` | pickles, by a machine that knows only the opcodes and names of tensors |
//! | `suspects`, `unread` | names that run code; tensors of unsupported kinds |
//! | `checkpoint`, `prefix` | the state dicts inside a training checkpoint; the prefixes of wrappers |
//! | `layout` | strides, offsets, element types |
//! | `choice`, `matching`, `naming`, `unmatched` | matching a file's tensors to a network's, and reporting mismatches |
//!
//! Files are untrusted: nothing in them is executed, and every count in them is checked against the bytes that are
//! there.

mod callable;
mod checkpoint;
mod choice;
mod contents;
mod error;
mod file;
mod layout;
mod legacy;
mod machine;
mod matching;
mod naming;
mod pickle;
mod prefix;
mod safe;
mod skipped;
mod suspects;
#[cfg(test)]
mod tests;
mod unmatched;
mod unread;
mod value;
mod zipped;

pub use choice::Choice;
pub use contents::{TensorInfo, TensorSet};
pub use error::WeightError;
pub use file::{Format, WeightFile};
pub use matching::{Fit, fit};
pub(super) use naming::timm_name;
pub use safe::{NamedValues, write_safetensors};
pub use safetensors::tensor::Dtype;
pub use skipped::{Skipped, Unread};
pub use unmatched::{Misshapen, Missing, Unmatched, shape_words};
