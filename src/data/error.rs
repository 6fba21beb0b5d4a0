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
    #[error("{} holds no class: expected one folder of images a class ({formats}); {hint}", folder.display())]
    NoClass { folder: PathBuf, formats: &'static str, hint: String },

    /// More broken images than allowed.
    #[error("{count} of {total} images are broken and max_broken is {allowed}; replace or remove them, or raise max_broken. {}", list(first, *count))]
    TooManyBroken { count: usize, total: usize, allowed: usize, first: Vec<Broken> },

    /// Nothing left to write.
    #[error("no image of {} is left: all {total} are broken or not in the split's list", folder.display())]
    NoImage { folder: PathBuf, total: usize },

    /// A line of a list, or a row of a table, that cannot be followed.
    #[error("{}:{line}: {message}", path.display())]
    Line { path: PathBuf, line: usize, message: String },

    /// A file of a data set that is not what its layout asks for.
    #[error("{}: {message}", path.display())]
    Content { path: PathBuf, message: String },

    /// A layout whose folder or list is not there.
    #[error("{} holds no {what} of {set}; {help}", folder.display())]
    NoLayout { folder: PathBuf, set: &'static str, what: &'static str, help: String },

    /// Images that lists name and that are not there.
    #[error("{} names {count} of {total} images that are not there: {}; {hint}", list.display(), names(first, *count))]
    MissingImages { list: PathBuf, count: usize, total: usize, first: Vec<String>, hint: String },

    /// A data set of another size than the published one.
    #[error("{set} differs from what was published: {}{}; fetch it again, or set counts: any for a set of another size", differences.join(", "), unlisted_words(first, *unlisted))]
    Counts { set: &'static str, differences: Vec<String>, unlisted: usize, first: Vec<String> },

    /// A class that is trained on and tested on.
    #[error("class {class:?}{} is in {} and in {}: zero-shot retrieval tests on classes that no training has seen; correct the split, or set shared_classes: true for a closed set of classes", others(*count - 1), splits[0], splits[1])]
    SharedClasses { class: String, count: usize, splits: [&'static str; 2] },

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

/// `a, b and 3 more`.
fn names(first: &[String], count: usize) -> String {
    match count - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// ` (and 3 others)`.
fn others(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (and another one)".to_owned(),
        more => format!(" (and {more} others)"),
    }
}

fn unlisted_words(first: &[String], count: usize) -> String {
    if count == 0 { String::new() } else { format!("; in no list: {}", names(first, count)) }
}

fn list(first: &[Broken], count: usize) -> String {
    let mut text = if first.len() < count { format!("The first {}:", first.len()) } else { "They are:".to_owned() };
    for broken in first {
        text.push_str(&format!("\n  {}: {}", broken.path, broken.reason));
    }
    text
}
