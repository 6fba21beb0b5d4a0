//! What a weight file holds besides the tensors that are read.

/// What a checkpoint holds besides its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its key; `optimizer` or `epoch`.
    pub name: String,
    /// The type of its value: `int`, `dict`, `argparse.Namespace`.
    pub kind: String,
}

/// A tensor, or an array, of a kind that is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub name: String,
    /// The name in Python of what would have made it.
    pub class: String,
}
