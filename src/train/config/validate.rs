//! Settings of scoring during a training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::eval::metric::Metric;

/// Where the images come from that select an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SelectOn {
    /// Classes held out of the training for this purpose.
    Validation,
    /// The images that the table reports, so that its scores are biased upwards. The traditional protocol does this.
    Test,
}

impl SelectOn {
    /// Its name in pipelines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// A retrieval metric that an epoch can be selected by: `map_at_r`, `p1`, `rp` or `r@K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Criterion(pub(crate) Metric);

/// A name that is not a criterion.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` cannot be used for model selection; expected map_at_r, p1, rp, or r@K such as r@1")]
pub struct UnknownCriterion(String);

impl TryFrom<String> for Criterion {
    type Error = UnknownCriterion;

    fn try_from(name: String) -> Result<Self, UnknownCriterion> {
        match Metric::parse(&name) {
            Some(metric @ (Metric::MapAtR | Metric::PrecisionAt1 | Metric::RPrecision | Metric::RecallAt(_))) => {
                Ok(Self(metric))
            }
            _ => Err(UnknownCriterion(name)),
        }
    }
}

impl From<Criterion> for String {
    fn from(criterion: Criterion) -> String {
        criterion.0.to_string()
    }
}

impl Criterion {
    /// Its name in papers.
    pub fn title(self) -> String {
        match self.0 {
            Metric::MapAtR => "MAP@R".to_owned(),
            Metric::PrecisionAt1 => "P@1".to_owned(),
            Metric::RPrecision => "R-precision".to_owned(),
            Metric::RecallAt(k) => format!("R@{k}"),
            other => other.to_string(),
        }
    }
}

/// Which network a training with a score leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepEpoch {
    /// That of the epoch with the best score, the first of equals.
    #[default]
    Best,
    /// That of the last epoch.
    Last,
}

/// What the untrained network, scored as epoch 0, counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Untrained {
    /// For `patience` alone: a training that does not come up to it ends. MLRC's tool up to version 0.9.32.
    Patience,
    /// For `keep` too: it is what a training leaves that nowhere exceeds it. Version 0.9.33.
    Best,
}

/// Scoring while training: on what, by what, and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// The split; model selection on test images makes their scores too good, and tables say so.
    pub on: SelectOn,
    /// Epochs from one score to the next; its multiples are scored.
    ///
    /// No other epochs are, so that a longer training resumes from a shorter one.
    #[serde(default = "every_epoch")]
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "epochs"))]
    pub every: u32,
    /// The score: map_at_r, p1, rp, or r@K.
    #[serde(default = "map_at_r")]
    #[schemars(with = "String")]
    pub metric: Criterion,
    /// Early-stopping patience in epochs: training ends at a scored epoch more than this many behind the best; no early stopping
    /// if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000), extend("x-unit" = "epochs"))]
    pub patience: Option<u32>,
    /// Checkpoint to keep, the best or the last epoch; ties go to the earliest epoch.
    #[serde(default)]
    pub keep: KeepEpoch,
    /// Scores the network before epoch 1 too: for patience alone, or for `keep` as well (MLRC's tool up to 0.9.32, and 0.9.33); no
    /// search counts it; not scored if not given.
    ///
    /// Its score belongs to no epoch, so no log of epochs has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrained: Option<Untrained>,
    /// Group of the images used as queries; required with `gallery`.
    ///
    /// Not among the settings of a checkpoint: the digest of the held-out images covers it.
    #[serde(default, skip_serializing)]
    pub query: Option<String>,
    /// Group of the images used as gallery.
    #[serde(default, skip_serializing)]
    pub gallery: Option<String>,
}

fn every_epoch() -> u32 {
    1
}

fn map_at_r() -> Criterion {
    Criterion(Metric::MapAtR)
}

impl Validate {
    /// Mistakes in a training of `epochs`: (path, message), as [`Config::check`](super::Config::check) returns them.
    pub(super) fn check(&self, epochs: u32) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        if self.every >= 1 && self.every > epochs {
            let message = format!("must be at most the number of epochs, {epochs}, but is {}", self.every);
            mistakes.push(("every".to_owned(), message));
        }
        let is_used = match self.untrained {
            None => true,
            Some(Untrained::Patience) => self.patience.is_some(),
            Some(Untrained::Best) => self.patience.is_some() || self.keep == KeepEpoch::Best,
        };
        if !is_used {
            mistakes.push(("untrained".to_owned(), "has no effect without `patience`".to_owned()));
        }
        mistakes
    }

    /// Whether `epoch`, counted from 1, is scored.
    pub(in crate::train) fn is_due(&self, epoch: u32) -> bool {
        epoch.is_multiple_of(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn validate(text: &str) -> Validate {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_untrained_network_needs_a_setting_that_uses_its_score() {
        for unused in
            [r#"{"on": "test", "untrained": "patience"}"#, r#"{"on": "test", "keep": "last", "untrained": "best"}"#]
        {
            assert_eq!(validate(unused).check(3)[0].0, "untrained");
        }
        for used in
            [r#"{"on": "test", "patience": 3, "untrained": "patience"}"#, r#"{"on": "test", "untrained": "best"}"#]
        {
            assert_eq!(validate(used).check(3), []);
        }
    }

    #[test]
    fn metrics_have_the_names_of_evaluate_and_every_is_within_the_training() {
        for name in ["map_at_r", "p1", "rp", "r@1", "r@10"] {
            let criterion = Criterion::try_from(name.to_owned()).unwrap();
            assert_eq!(String::from(criterion), name);
        }
        for name in ["r@0", "r@", "MAP@R", "loss"] {
            assert!(Criterion::try_from(name.to_owned()).is_err(), "{name}");
        }
        assert_eq!(validate(r#"{"on": "validation", "every": 3}"#).check(3), []);
        for every in [0, 4] {
            let validate = validate(&format!(r#"{{"on": "validation", "every": {every}}}"#));
            let found: Vec<_> = Settings::faults_of(&validate).into_iter().chain(validate.check(3)).collect();
            assert!(matches!(&found[..], [(path, _)] if path == "every"), "{every}: {found:?}");
        }
    }
}
