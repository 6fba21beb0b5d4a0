//! What can go wrong between a folder of images and a shard.

use std::io;
use std::path::PathBuf;

use super::decode::Broken;

/// An image set that cannot be generated, preprocessed or opened.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refused; the error names the operation and the path.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A parameter outside its range; the same words as `check` gives.
    #[error("parameter {field} {message}")]
    Parameter { field: String, message: String },

    /// No folder with images.
    #[error("{} holds no class: expected one folder of images per class ({formats}); {hint}", folder.display())]
    NoClass { folder: PathBuf, formats: &'static str, hint: String },

    /// More broken images than allowed.
    #[error("{count} of {total} images are broken and max_broken is {allowed}; replace or remove them, or raise max_broken. {}", list(first, *count))]
    TooManyBroken { count: usize, total: usize, allowed: usize, first: Vec<Broken> },

    /// Nothing left to write.
    #[error("no image of {} is left: all {total} are broken or not in the split's list", folder.display())]
    NoImage { folder: PathBuf, total: usize },

    /// A line of a list, or a row of a table, that is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Line { path: PathBuf, line: usize, message: String },

    /// A file of a data set that is not what its layout expects.
    #[error("{}: {message}", path.display())]
    Content { path: PathBuf, message: String },

    /// A layout whose folder or list is missing.
    #[error("{} holds no {what} of {set}; {help}", folder.display())]
    NoLayout { folder: PathBuf, set: &'static str, what: &'static str, help: String },

    /// Images that lists name and that are missing.
    #[error("{} names {count} of {total} images that are missing: {}; {hint}", list.display(), names(first, *count))]
    MissingImages { list: PathBuf, count: usize, total: usize, first: Vec<String>, hint: String },

    /// A data set of another size than the published one.
    #[error("{set} differs from what was published: {}{}; fetch it again, or set counts: any for a set of another size", differences.join(", "), unlisted_words(first, *unlisted))]
    Counts { set: &'static str, differences: Vec<String>, unlisted: usize, first: Vec<String> },

    /// A class in a training split and in the test split.
    #[error("class {class:?}{} is in {} and in {}: zero-shot retrieval tests on classes unseen in training; correct the split, or set shared_classes: true for a closed set of classes", others(*count - 1), splits[0], splits[1])]
    SharedClasses { class: String, count: usize, splits: [&'static str; 2] },

    /// An image set whose files contradict one another.
    #[error("image set {}: {message}; delete the folder and preprocess again", folder.display())]
    Corrupt { folder: PathBuf, message: String },

    /// The image library refused to write.
    #[error("cannot encode {}: {message}", path.display())]
    Encode { path: PathBuf, message: String },
}

impl DataError {
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
