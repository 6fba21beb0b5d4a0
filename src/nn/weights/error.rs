//! Why a weight file could not be read, matched or written.

use std::io;
use std::path::{Path, PathBuf};

use super::unmatched::Unmatched;
use crate::format::Known;

/// Why a weight file could not be read, matched or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// A file-system operation failed; the error names the operation and the path.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// Neither safetensors nor a PyTorch format.
    #[error(
        "{}: not a weight file: it starts with {start}, expected safetensors or what torch.save writes",
        file.display()
    )]
    UnknownFormat { file: PathBuf, start: String },

    /// Another kind of file under the name: a Git-LFS pointer, a web page, an archive.
    #[error("{}: not a weight file: it is {known}{}", file.display(), known.advice())]
    Other { file: PathBuf, known: Known },

    /// A pickle that calls for code to be run; none of it was executed.
    #[error(
        "{}: {place}: {what} at byte {at} runs code in whoever loads this file; no weights need it. The file is not \
         loaded: do not open it in Python either, and tell whoever gave it to you",
        file.display()
    )]
    Suspect { file: PathBuf, place: String, at: usize, what: String },

    /// A pickle that contains more than tensors; none of it was executed.
    #[error(
        "{}: {place}: {what} at byte {at} is not a tensor; this file is not loaded. If you trust it, save \
         model.state_dict() from Python and load that",
        file.display()
    )]
    Refused { file: PathBuf, place: String, at: usize, what: String },

    /// Truncated, altered, or made to look like a weight file. `at` counts bytes from the start of `place`.
    #[error("{}: {place}: byte {at}: {what}; fetch the file again and compare its checksum", file.display())]
    Damaged { file: PathBuf, place: String, at: usize, what: String },

    /// An intact file of an unsupported kind.
    #[error("{}: {place}: {what}; {help}", file.display())]
    Unsupported { file: PathBuf, place: String, what: String, help: &'static str },

    /// The tensors of a file are not those of the network.
    #[error(transparent)]
    Unmatched(Box<Unmatched>),

    /// The file has no state dict under the requested key.
    #[error("{}: there are no tensors under the key {key:?}; there are some under {}", file.display(), keys.join(", "))]
    Key { file: PathBuf, key: String, keys: Vec<String> },

    /// Several state dicts of a file fit, with different values.
    #[error(
        "{}: {} sets of weights in it fit this network; say which with one of\n  {}",
        file.display(),
        choices.len(),
        choices.join("\n  ")
    )]
    Ambiguous { file: PathBuf, choices: Vec<String> },

    /// Tensors that no safetensors file can hold.
    #[error("cannot write tensor {tensor:?}: {what}")]
    Unwritable { tensor: String, what: String },
}

/// An error inside a pickle; the caller knows the file and its part.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    Suspect { at: usize, what: String },
    Refused { at: usize, what: String },
    Damaged { at: usize, what: String },
}

impl Flaw {
    pub(super) fn within(self, file: &Path, place: &str) -> WeightError {
        let (file, place) = (file.to_path_buf(), place.to_owned());
        match self {
            Flaw::Suspect { at, what } => WeightError::Suspect { file, place, at, what },
            Flaw::Refused { at, what } => WeightError::Refused { file, place, at, what },
            Flaw::Damaged { at, what } => WeightError::Damaged { file, place, at, what },
        }
    }
}
