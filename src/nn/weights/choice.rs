//! Which of several networks in a weight file is wanted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of the weights of a file are wanted, where it has several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The key of the state dict in a training checkpoint: `teacher`; keys below each other joined by dots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What stands before the names of the network: `backbone.`; empty for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

impl fmt::Display for Choice {
    /// As a pipeline says it: `weights: { key: teacher, prefix: "backbone." }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted =
            |text: &str| match text.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) && !text.is_empty() {
                true => text.to_owned(),
                false => format!("{text:?}"),
            };
        let part =
            |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}: {}", quoted(value)));
        let parts: Vec<String> = [part("key", &self.key), part("prefix", &self.prefix)].into_iter().flatten().collect();
        write!(f, "weights: {{ {} }}", parts.join(", "))
    }
}
