//! Model selection: the score of a network on held-out images, the best epoch, and early stopping.

use std::cmp::Ordering;

use thiserror::Error;

use super::config::{Criterion, Untrained, Validate};
use super::forward::{HeldOut, embeddings};
use super::log::EpochLog;
use crate::data::images::ImageError;
use crate::eval::metric::Metric;
use crate::eval::{EvalError, Labelled, Options, retrieval};
use crate::nn::{self, Backend, Model};

impl Validate {
    /// The best finished epoch, counted from 1, and its score.
    pub fn best(log: &[EpochLog]) -> Option<(u32, f64)> {
        let scored = log.iter().filter_map(|epoch| Some((epoch.epoch, epoch.score?)));
        // Ties go to the earliest epoch: only a greater score replaces the best.
        scored.reduce(|best, next| if next.1.total_cmp(&best.1) == Ordering::Greater { next } else { best })
    }

    /// The epoch to keep after those of `log`; 0 is the untrained network, whose score is `untrained`.
    pub(super) fn kept(&self, untrained: Option<f64>, log: &[EpochLog]) -> Option<u32> {
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

    /// Whether early stopping ends the training after the epochs of `log`; `untrained` is the untrained network's
    /// score.
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
    let found = match images.query_gallery {
        None => retrieval(Labelled { vectors: &vectors, labels, dim }, None, &options)?,
        Some((query, gallery)) => {
            let [(query, query_labels), (gallery, gallery_labels)] = [rows(query), rows(gallery)];
            let gallery = Labelled { vectors: &gallery[..], labels: &gallery_labels, dim };
            retrieval(Labelled { vectors: &query[..], labels: &query_labels, dim }, Some(gallery), &options)?
        }
    };
    Ok(criterion.0.value(&found, None).unwrap_or(f64::NAN))
}

/// The reason why there is no score.
#[derive(Debug, Error)]
pub enum ScoreError {
    /// The network failed.
    #[error(transparent)]
    Network(#[from] nn::Error),
    /// An unreadable image, or one of the wrong size.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No query has a match.
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
        // A patience of 0 stops at the first epoch without improvement, as the official code always does.
        assert_eq!(ends(0, 1, &scores), Some(3));
        assert_eq!(ends(1, 1, &scores), Some(4));
        assert_eq!(ends(3, 1, &scores), Some(6));
        assert_eq!(ends(4, 1, &scores), None);
        // MLRC on CUB: epochs 2, 4, ...; the best is 4, and 14 is the first more than 9 behind it.
        assert_eq!(ends(9, 2, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), Some(14));
        // The untrained network is epoch 0, and among equals the first counts.
        assert_eq!(ends_after(Some(0.3), 9, 2, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), Some(10));
        assert_eq!(ends_after(Some(0.2), 9, 2, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]), Some(14));
        assert_eq!(ends_after(Some(0.3), 0, 1, &[0.2]), Some(1));
        assert!(!validate(r#"{"on": "test"}"#).is_over(None, &log(&[Some(0.5), Some(0.1), Some(0.1)])));
    }

    #[test]
    fn the_untrained_network_is_kept_only_where_the_settings_say_so() {
        let patience = validate(r#"{"on": "test", "patience": 3, "untrained": "patience"}"#);
        let best = validate(r#"{"on": "test", "untrained": "best"}"#);
        let scores = log(&[Some(0.2), Some(0.3), Some(0.3)]);
        for (untrained, kept) in [(0.1, 2), (0.3, 0), (0.4, 0)] {
            assert_eq!(patience.kept(Some(untrained), &scores), Some(2), "{untrained}");
            assert_eq!(best.kept(Some(untrained), &scores), Some(kept), "{untrained}");
        }
        assert_eq!((patience.kept(Some(0.1), &[]), best.kept(Some(0.1), &[])), (None, Some(0)));
    }
}
