//! Which images train, which validate and which test.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of an image set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    /// Held out of the training, to choose settings and epochs by.
    Validation,
    Test,
}

impl Split {
    /// In the order in which an image set holds them.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    /// As pipelines and lists write it.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }

    /// The split of that name.
    pub(super) fn named(name: &str) -> Option<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name)
    }
}

/// How images are divided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRule {
    /// As the layout's own lists say; where it has none, as `FirstHalfOfClasses`.
    #[default]
    Official,
    /// The first `floor(n / 2)` classes in the layout's order train, the others test: the zero-shot protocol of CUB-200,
    /// Cars-196 and SOP (Oh Song et al. 2016).
    FirstHalfOfClasses,
    /// All images are test images.
    None,
    /// As a text file says, by its path below the raw folder. A line holds a name and `train`, `validation` or `test`,
    /// with space between; the name is a class, or the path of an image. Images that no line names are left out; empty
    /// lines and lines that begin with `#` say nothing.
    List(String),
    /// One of the four folds of A Metric Learning Reality Check (Musgrave et al. 2020).
    Mlrc(MlrcFold),
}

/// All images are pooled; of `n` classes in the layout's order the first `half = floor(n / 2)` train and validate, the
/// others test. The `half - floor(half / 4)` classes from position `floor(fold * half / 4)` on train, and the
/// `floor(half / 4)` that follow validate; positions wrap to 0 after `half - 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlrcFold {
    /// In `0..4`.
    pub fold: u32,
}

impl MlrcFold {
    /// The split of the class at `position` of `classes`, which are at least 8.
    pub fn split_of(self, position: usize, classes: usize) -> Split {
        let half = classes / 2;
        if position >= half {
            return Split::Test;
        }
        let start = self.fold as usize * half / 4;
        let from_start = (position + half - start) % half;
        if from_start < half - half / 4 { Split::Train } else { Split::Validation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_a_word_a_list_or_a_fold() {
        let read = |text: &str| serde_json::from_str::<SplitRule>(text).ok();
        assert_eq!(read(r#""official""#), Some(SplitRule::Official));
        assert_eq!(read(r#""first_half_of_classes""#), Some(SplitRule::FirstHalfOfClasses));
        assert_eq!(read(r#""none""#), Some(SplitRule::None));
        assert_eq!(read(r#"{"list": "a.txt"}"#), Some(SplitRule::List("a.txt".into())));
        assert_eq!(read(r#"{"mlrc": {"fold": 3}}"#), Some(SplitRule::Mlrc(MlrcFold { fold: 3 })));
        assert_eq!(read(r#""all""#), None);
    }

    /// Positions of the validation classes of folds 0 to 3, and how many classes train, as MLRC has them.
    #[test]
    fn the_folds_of_cub_cars_and_sop_are_those_of_mlrc() {
        for (classes, train, blocks) in [
            (200, 75, [75..=99, 0..=24, 25..=49, 50..=74]),
            (196, 74, [74..=97, 0..=23, 25..=48, 49..=72]),
            (22_634, 8_488, [8_488..=11_316, 0..=2_828, 2_829..=5_657, 5_658..=8_486]),
        ] {
            for (fold, block) in (0..).zip(blocks) {
                let split = |position| MlrcFold { fold }.split_of(position, classes);
                let of = |wanted| (0..classes).filter(|&i| split(i) == wanted).collect::<Vec<_>>();
                assert_eq!(of(Split::Validation), block.collect::<Vec<_>>(), "{classes} fold {fold}");
                assert_eq!(of(Split::Train).len(), train);
                assert_eq!(of(Split::Test), (classes / 2..classes).collect::<Vec<_>>());
            }
        }
    }
}
