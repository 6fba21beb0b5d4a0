//! One error that lists everything in a file that does not fit a network.

use std::fmt;
use std::path::PathBuf;

use super::choice::Choice;

/// Maximum names of each kind in one message.
pub(super) const SHOWN: usize = 8;

/// The tensors of a file compared with those of a network.
#[derive(Debug, PartialEq)]
pub struct Unmatched {
    pub file: PathBuf,
    /// Number of tensors of the network.
    pub wanted: usize,
    /// The place in the file that was compared; none for all of it.
    pub place: Option<Choice>,
    pub missing: Vec<Missing>,
    /// Tensors of the file that are not in the network, in the order of the file.
    pub unexpected: Vec<String>,
    pub misshapen: Vec<Misshapen>,
    /// Places in the file where all would fit.
    pub fitting: Vec<Choice>,
    pub hint: Option<&'static str>,
}

/// A tensor of the network that is not in the file.
#[derive(Debug, PartialEq)]
pub struct Missing {
    pub name: String,
    /// The most similar unexpected name, for the first few.
    pub nearest: Option<String>,
    /// The unsupported tensor that the file has under the name, and what to do.
    pub unread: Option<String>,
}

/// A tensor whose shape in the file differs from the network's.
#[derive(Debug, PartialEq)]
pub struct Misshapen {
    pub name: String,
    pub found: Vec<usize>,
    pub expected: Vec<usize>,
}

impl std::error::Error for Unmatched {}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: not the weights of this network of {} tensors", self.file.display(), self.wanted)?;
        if let Some(place) = &self.place {
            write!(f, ", looked for with `{place}`")?;
        }
        list(f, "missing", &self.missing, |Missing { name, nearest, unread }| match (unread, nearest) {
            (Some(unread), _) => format!("{name} (in the file it is {unread})"),
            (None, Some(nearest)) => format!("{name} (the file has {nearest})"),
            (None, None) => name.clone(),
        })?;
        list(f, "unexpected", &self.unexpected, |name| name.escape_debug().to_string())?;
        list(f, "of another shape", &self.misshapen, |Misshapen { name, found, expected }| {
            format!("{name} is {}, expected {}", shape_words(found), shape_words(expected))
        })?;
        for fitting in self.fitting.iter().take(SHOWN) {
            write!(f, "\nall {} names fit with `{fitting}`", self.wanted)?;
        }
        if let Some(hint) = self.hint {
            write!(f, "\n{hint}")?;
        }
        if self.fitting.is_empty() {
            f.write_str(
                "\n`meanfield weights inspect` lists what the file holds; give the architecture that it was saved from",
            )?;
        }
        Ok(())
    }
}

/// One line of the message, truncated.
fn list<T>(f: &mut fmt::Formatter<'_>, what: &str, items: &[T], words: impl Fn(&T) -> String) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = items.iter().take(SHOWN).map(words).collect();
    write!(f, "\n  {} {what}: {}", items.len(), shown.join(", "))?;
    match items.len() - shown.len() {
        0 => Ok(()),
        left => write!(f, " and {left} more"),
    }
}

/// A shape for readers: `64x3x7x7`, and `scalar` for none.
pub fn shape_words(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".to_owned();
    }
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
