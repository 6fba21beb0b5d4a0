//! Settings of how a mini-batch is drawn.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use crate::data::sampler::Draw;

/// The images of a mini-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchShape {
    /// Classes of a batch without `draw`.
    #[default = 30]
    #[schemars(range(min = 1, max = 65536))]
    pub classes: usize,
    /// Images of each class.
    #[default = 4]
    #[schemars(range(min = 1, max = 65536))]
    pub per_class: usize,
    /// How images are drawn; classes if not given. shuffled: images in random order, the last incomplete batch left out
    /// (traditional protocol). balanced: size / per_class classes, their images with replacement (its IPC). in_turn: all
    /// classes once before any comes again (MLRC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<BatchDraw>,
    /// Images of a batch, with any `draw` but classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub size: Option<usize>,
}

/// How the images of a mini-batch are drawn: a [`Draw`] by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchDraw {
    /// [`Draw::Classes`].
    Classes,
    /// [`Draw::Shuffled`].
    Shuffled,
    /// [`Draw::Balanced`].
    Balanced,
    /// [`Draw::InTurn`].
    InTurn,
}

impl BatchShape {
    /// Images of a batch.
    pub fn images(&self) -> usize {
        self.size.unwrap_or(self.classes * self.per_class)
    }

    /// The draw of the sampler. `size` is a multiple of `per_class`, as checked by
    /// [`Config::check`](super::Config::check).
    pub fn draw(&self) -> Draw {
        let Self { per_class, .. } = *self;
        let size = self.size.unwrap_or_default();
        let classes = size / per_class.max(1);
        match self.draw.unwrap_or(BatchDraw::Classes) {
            BatchDraw::Classes => Draw::Classes { classes: self.classes, per_class },
            BatchDraw::Shuffled => Draw::Shuffled { size },
            BatchDraw::Balanced => Draw::Balanced { classes, per_class },
            BatchDraw::InTurn => Draw::InTurn { classes, per_class },
        }
    }

    /// Settings that do not fit together: (path, message).
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut require = |valid: bool, path: &str, range: String, found: String| {
            if !valid {
                mistakes.push((path.to_owned(), format!("must be {range}, but is {found}")));
            }
        };
        let Self { per_class, draw, size, .. } = *self;
        let found = size.map_or("absent".to_owned(), |size| size.to_string());
        match draw.unwrap_or(BatchDraw::Classes) {
            BatchDraw::Classes => {
                let range = "absent where classes are drawn: a batch is `classes` x `per_class`";
                require(size.is_none(), "batch.size", range.into(), found);
            }
            BatchDraw::Shuffled => {
                require(size.is_some_and(|size| size >= 1), "batch.size", "at least 1".into(), found)
            }
            BatchDraw::Balanced | BatchDraw::InTurn => {
                let fits = size.is_some_and(|size| size >= 1 && size.is_multiple_of(per_class.max(1)));
                require(fits, "batch.size", format!("a multiple of `per_class`, {per_class}"), found);
            }
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_says_its_size_once() {
        let batch = |text: &str| serde_json::from_str::<BatchShape>(text).unwrap();
        let paths = |text: &str| batch(text).check().into_iter().map(|(path, _)| path).collect::<Vec<_>>().join(" ");
        assert_eq!(batch("{}").draw(), Draw::Classes { classes: 30, per_class: 4 });
        assert_eq!(batch(r#"{"draw": "shuffled", "size": 180}"#).draw(), Draw::Shuffled { size: 180 });
        let balanced = r#"{"draw": "balanced", "size": 180, "per_class": 5}"#;
        assert_eq!(batch(balanced).draw(), Draw::Balanced { classes: 36, per_class: 5 });
        let in_turn = r#"{"draw": "in_turn", "size": 32, "per_class": 4}"#;
        assert_eq!(batch(in_turn).draw(), Draw::InTurn { classes: 8, per_class: 4 });
        for good in ["{}", balanced, in_turn, r#"{"draw": "shuffled", "size": 1}"#, r#"{"draw": "classes"}"#] {
            assert_eq!(paths(good), "", "{good}");
        }
        assert_eq!(paths(r#"{"size": 8}"#), "batch.size");
        assert_eq!(paths(r#"{"draw": "shuffled"}"#), "batch.size");
        assert_eq!(paths(r#"{"draw": "balanced", "size": 32, "per_class": 5}"#), "batch.size");
        assert_eq!(paths(r#"{"draw": "in_turn", "size": 0, "per_class": 0}"#), "batch.size");
        // Keys and checkpoints of trainings without these settings are unchanged.
        assert_eq!(serde_json::to_string(&BatchShape::default()).unwrap(), r#"{"classes":30,"per_class":4}"#);
    }
}
