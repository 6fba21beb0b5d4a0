//! Colours, if wanted: callers name what a word means, never an escape code.

use std::fmt::Display;

/// Paints text, or leaves it plain.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// Paints only if `on`.
    pub fn new(on: bool) -> Paint {
        Paint { on }
    }

    /// Whether it paints.
    pub fn on(self) -> bool {
        self.on
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Something that went well.
    pub fn good(self, text: impl Display) -> String {
        self.wrap("1;32", text)
    }

    /// Something that failed.
    pub fn bad(self, text: impl Display) -> String {
        self.wrap("1;31", text)
    }

    /// Something that needs attention.
    pub fn notice(self, text: impl Display) -> String {
        self.wrap("1;33", text)
    }

    /// Something in progress.
    pub fn busy(self, text: impl Display) -> String {
        self.wrap("1;36", text)
    }

    /// A heading.
    pub fn strong(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    /// Something less important.
    pub fn faint(self, text: impl Display) -> String {
        self.wrap("2", text)
    }
}
