//! What can go wrong between a folder of images and a shard.

use std::io;
use std::path::{Path, PathBuf};

use super::decode::Broken;

/// An image set that cannot be generated, preprocessed or opened.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },

    /// A parameter outside its range; the same words as `check` gives.
    #[error("parameter {field} {message}")]
    Parameter { field: String, message: String },

    /// No folder with images.
    #[error("{} holds no class: expected one folder of images a class (png, jpg, jpeg, gif, bmp, webp); {hint}", folder.display())]
    NoClass { folder: PathBuf, hint: String },

    /// More broken images than allowed.
    #[error("{count} of {total} images are broken and max_broken is {allowed}; replace or remove them, or raise max_broken. {}", list(first, *count))]
    TooManyBroken { count: usize, total: usize, allowed: usize, first: Vec<Broken> },

    /// Nothing left to write.
    #[error("no image of {} is left: all {total} are broken or not in the split's list", folder.display())]
    NoImage { folder: PathBuf, total: usize },

    /// A line of a split list that cannot be followed.
    #[error("{}:{line}: {message}", path.display())]
    SplitList { path: PathBuf, line: usize, message: String },

    /// An image set whose files contradict one another.
    #[error("image set {}: {message}; delete the folder and preprocess again", folder.display())]
    Corrupt { folder: PathBuf, message: String },

    /// The image library refused to write.
    #[error("cannot encode {}: {message}", path.display())]
    Encode { path: PathBuf, message: String },
}

impl DataError {
    /// For `map_err` after a file operation.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
        let path = path.to_path_buf();
        move |source| DataError::Io { operation, path, source }
    }

    /// The first problem that a `check` found, if any.
    pub(super) fn first_of(problems: Vec<super::Problem>) -> Result<(), DataError> {
        match problems.into_iter().next() {
            Some((field, message)) => Err(DataError::Parameter { field, message }),
            None => Ok(()),
        }
    }
}

fn list(first: &[Broken], count: usize) -> String {
    let mut text = if first.len() < count { format!("The first {}:", first.len()) } else { "They are:".to_owned() };
    for broken in first {
        text.push_str(&format!("\n  {}: {}", broken.path, broken.reason));
    }
    text
}
