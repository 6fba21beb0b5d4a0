//! Which of several networks in a weight file is wanted.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the weights of a file are wanted, where it has several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Key of the state dict in a training checkpoint, such as teacher or state_dict_ema; nested keys are joined by dots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Prefix of the network's tensor names, such as backbone. or module.encoder_q.; empty for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

impl fmt::Display for Choice {
    /// In the notation of pipelines: `weights: { key: teacher, prefix: "backbone." }`.
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
