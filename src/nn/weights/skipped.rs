//! The entries of a weight file other than the tensors that are read.

/// An entry of a checkpoint other than its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its key; `optimizer` or `epoch`.
    pub name: String,
    /// The type of its value: `int`, `dict`, `argparse.Namespace`.
    pub kind: String,
}

/// A tensor, or an array, of an unsupported kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub name: String,
    /// The Python name of its constructor.
    pub class: String,
}
