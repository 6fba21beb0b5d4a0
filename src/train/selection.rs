//! Which epoch's network a training leaves: scored on images that it does not train on, while it trains.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::log::EpochLog;
use super::run::embeddings;
use crate::data::images::{EvalImages, ImageError};
use crate::eval::metric::Metric;
use crate::eval::{EvalError, Labelled, Options, retrieval};
use crate::nn::{self, Backend, Model};

/// Images that a training is scored on.
#[derive(Debug, Clone, Copy)]
pub struct HeldOut<'a> {
    /// As the network sees them.
    pub images: EvalImages<'a>,
    /// The positions of the images that ask and of those that answer; without them every image asks all the others.
    pub parts: Option<(&'a [usize], &'a [usize])>,
}

/// Where the images come from that select an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectOn {
    /// Classes held out of the training for this purpose.
    Validation,
    /// The images that the table reports: what it says of the selected epoch is too good. The traditional protocol
    /// does so (paper notes 7.1, quirk 2).
    Test,
}

impl SelectOn {
    /// As pipelines write it.
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
pub struct Criterion(Metric);

/// A name that is no criterion.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no metric to select by; expected map_at_r, p1, rp, or r@K such as r@1")]
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
    /// As papers write it.
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leave {
    /// That of the epoch with the best score, the first of equals.
    #[default]
    Best,
    /// That of the last epoch.
    Last,
}

/// What the untrained network, scored as epoch 0, counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Untrained {
    /// For `patience` alone: a training that does not come up to it ends. MLRC's tool up to version 0.9.32.
    Patience,
    /// For `keep` too: it is what a training leaves that nowhere exceeds it. Version 0.9.33.
    Best,
}

/// Scoring while training: on what, by what, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validate {
    /// The images.
    pub on: SelectOn,
    /// Epochs from one scoring to the next. The epochs that are its multiples are scored, and no others: so a longer
    /// training goes on from a shorter one.
    #[serde(default = "every_epoch")]
    pub every: u32,
    /// The score.
    #[serde(default = "map_at_r")]
    pub metric: Criterion,
    /// The training ends with a scored epoch that lies more than this many epochs behind the best; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// What the training leaves.
    #[serde(default)]
    pub keep: Leave,
    /// What the network counts for before its first step; it is not scored if absent. Its score is none of an epoch's, so
    /// no log of epochs has it, and no search by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrained: Option<Untrained>,
}

fn every_epoch() -> u32 {
    1
}

fn map_at_r() -> Criterion {
    Criterion(Metric::MapAtR)
}

impl Validate {
    /// What is wrong with it in a training of `epochs`, in the form of [`Config::check`](super::Config::check).
    pub(super) fn check(&self, epochs: u32) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        if self.every == 0 || self.every > epochs {
            let message = format!("must be from 1 to the number of epochs, {epochs}, but is {}", self.every);
            mistakes.push(("every".to_owned(), message));
        }
        let counts = match self.untrained {
            None => true,
            Some(Untrained::Patience) => self.patience.is_some(),
            Some(Untrained::Best) => self.patience.is_some() || self.keep == Leave::Best,
        };
        if !counts {
            mistakes.push(("untrained".to_owned(), "counts for nothing without `patience`".to_owned()));
        }
        mistakes
    }

    /// Whether `epoch`, counted from 1, is scored.
    pub(super) fn is_due(&self, epoch: u32) -> bool {
        epoch.is_multiple_of(self.every)
    }

    /// The best epoch of those that are over, counted from 1, and its score.
    pub fn best(log: &[EpochLog]) -> Option<(u32, f64)> {
        let scored = log.iter().filter_map(|epoch| Some((epoch.epoch, epoch.score?)));
        // Of equals the first: only a greater score takes its place.
        scored.reduce(|best, next| if next.1.total_cmp(&best.1) == Ordering::Greater { next } else { best })
    }

    /// The epoch whose network is left after those of `log`, 0 being the untrained one with its score.
    pub(super) fn left(&self, untrained: Option<f64>, log: &[EpochLog]) -> Option<u32> {
        match self.untrained {
            Some(Untrained::Best) => Self::leader(untrained, log),
            _ => Self::leader(None, log),
        }
    }

    fn leader(untrained: Option<f64>, log: &[EpochLog]) -> Option<u32> {
        match (untrained, Self::best(log)) {
            (Some(start), Some((_, score))) if score.total_cmp(&start) != Ordering::Greater => Some(0),
            (_, Some((epoch, _))) => Some(epoch),
            (start, None) => start.map(|_| 0),
        }
    }

    /// Whether the training is over after the epochs of `log`, where the untrained network has the score `untrained`.
    pub(super) fn is_over(&self, untrained: Option<f64>, log: &[EpochLog]) -> bool {
        let (Some(patience), Some(best)) = (self.patience, Self::leader(untrained, log)) else { return false };
        log.iter().rev().find(|epoch| epoch.score.is_some()).is_some_and(|last| last.epoch - best > patience)
    }
}

/// The score of `model` on `images`.
pub(super) fn score<B: Backend>(
    device: &B,
    model: &Model<B>,
    images: HeldOut<'_>,
    criterion: Criterion,
) -> Result<f64, ScoreError> {
    let dim = model.architecture.dim;
    let vectors = embeddings::<B, ScoreError>(device, model, &images.images)?;
    let labels = images.images.labels();
    let recall_at = match criterion.0 {
        Metric::RecallAt(k) => vec![k],
        _ => Vec::new(),
    };
    let options = Options { recall_at, ..Options::default() };
    let rows = |positions: &[usize]| -> (Vec<f32>, Vec<u32>) {
        let vectors = positions.iter().flat_map(|&row| &vectors[row * dim..(row + 1) * dim]).copied().collect();
        (vectors, positions.iter().map(|&row| labels[row]).collect())
    };
    let found = match images.parts {
        None => retrieval(Labelled { vectors: &vectors, labels, dim }, None, &options)?,
        Some((asked, searched)) => {
            let [(asked, asked_labels), (searched, searched_labels)] = [rows(asked), rows(searched)];
            let gallery = Labelled { vectors: &searched[..], labels: &searched_labels, dim };
            retrieval(Labelled { vectors: &asked[..], labels: &asked_labels, dim }, Some(gallery), &options)?
        }
    };
    Ok(criterion.0.value(&found, None).unwrap_or(f64::NAN))
}

/// Why there is no score.
#[derive(Debug, Error)]
pub enum ScoreError {
    /// The network failed.
    #[error(transparent)]
    Network(#[from] nn::Error),
    /// An image that the network cannot be given.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The images have no answer.
    #[error(transparent)]
    Retrieval(#[from] EvalError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(scores: &[Option<f64>]) -> Vec<EpochLog> {
        let epoch = |(index, score): (usize, &Option<f64>)| EpochLog {
            epoch: index as u32 + 1,
            mean_loss: 0.0,
            learning_rate: 1.0,
            loss_learning_rate: 1.0,
            seconds: 1.0,
            images_per_second: 1.0,
            peak_memory: None,
            step_memory: 0,
            device_memory: None,
            loss_scale: None,
            waiting: 0.0,
            measured: None,
            score: *score,
        };
        scores.iter().enumerate().map(epoch).collect()
    }

    fn validate(text: &str) -> Validate {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_best_epoch_is_the_first_of_equals() {
        assert_eq!(Validate::best(&log(&[None, None])), None);
        assert_eq!(Validate::best(&log(&[None, Some(0.5), None, Some(0.7), Some(0.7), Some(0.6)])), Some((4, 0.7)));
    }

    #[test]
    fn patience_counts_epochs_behind_the_best() {
        let ends_after = |untrained: Option<f64>, patience: u32, every: u32, scores: &[f64]| {
            let validate = validate(&format!(r#"{{"on": "test", "patience": {patience}, "every": {every}}}"#));
            let mut all: Vec<Option<f64>> = Vec::new();
            for score in scores {
                all.extend(vec![None; every as usize - 1]);
                all.push(Some(*score));
                if validate.is_over(untrained, &log(&all)) {
                    return Some(all.len());
                }
            }
            None
        };
        let ends = |patience, every, scores| ends_after(None, patience, every, scores);
        let scores = [0.1, 0.3, 0.2, 0.25, 0.3, 0.2];
        // None at all: the first epoch that is no better, as the official code does whatever it is told.
        assert_eq!(ends(0, 1, &scores), Some(3));
        assert_eq!(ends(1, 1, &scores), Some(4));
        assert_eq!(ends(3, 1, &scores), Some(6));
        assert_eq!(ends(4, 1, &scores), None);
        // MLRC on CUB: epochs 2, 4, ...; the best is 4, and 14 is the first more than 9 behind it.
        assert_eq!(ends(9, 2, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), Some(14));
        // The untrained network is epoch 0, and the first of equals.
        assert_eq!(ends_after(Some(0.3), 9, 2, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), Some(10));
        assert_eq!(ends_after(Some(0.2), 9, 2, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), Some(14));
        assert_eq!(ends_after(Some(0.3), 0, 1, &[0.2]), Some(1));
        assert!(!validate(r#"{"on": "test"}"#).is_over(None, &log(&[Some(0.5), Some(0.1), Some(0.1)])));
    }

    #[test]
    fn the_untrained_network_is_left_only_where_it_counts_for_that() {
        let patience = validate(r#"{"on": "test", "patience": 3, "untrained": "patience"}"#);
        let best = validate(r#"{"on": "test", "untrained": "best"}"#);
        let scores = log(&[Some(0.2), Some(0.3), Some(0.3)]);
        for (untrained, left) in [(0.1, 2), (0.3, 0), (0.4, 0)] {
            assert_eq!(patience.left(Some(untrained), &scores), Some(2), "{untrained}");
            assert_eq!(best.left(Some(untrained), &scores), Some(left), "{untrained}");
        }
        assert_eq!((patience.left(Some(0.1), &[]), best.left(Some(0.1), &[])), (None, Some(0)));
        for useless in
            [r#"{"on": "test", "untrained": "patience"}"#, r#"{"on": "test", "keep": "last", "untrained": "best"}"#]
        {
            assert_eq!(validate(useless).check(3)[0].0, "untrained");
        }
        assert_eq!((patience.check(3), best.check(3)), (vec![], vec![]));
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
            let found = validate(&format!(r#"{{"on": "validation", "every": {every}}}"#)).check(3);
            assert_eq!(found[0].0, "every", "{every}");
        }
    }
}
