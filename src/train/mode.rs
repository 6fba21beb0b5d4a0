//! Update modes of a loss's class vectors, its mean fields or proxies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The ways. All but `joint` need a loss with one vector for each class. Those with `after` learn jointly for that many
/// epochs first; 0 unless given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MeanFields {
    /// Learned with the network: each step moves both.
    #[default]
    Joint,
    /// Learned in turns: so many steps move the class vectors alone, as many then the network alone.
    Alternating {
        /// Steps that move the class vectors alone, then as many that move the network.
        #[serde(default = "ten")]
        #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "steps"))]
        steps: u32,
    },
    /// Set to the averages of the classes: the embeddings of all training images in evaluation mode, one pass over them
    /// each time, at the start of an epoch.
    ClassMeans {
        /// Epochs from one averaging over all training images to the next.
        #[serde(default = "one")]
        #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "epochs"))]
        every: u32,
        /// Epochs of joint learning before.
        #[serde(default)]
        #[schemars(range(min = 0, max = 100_000), extend("x-unit" = "epochs"))]
        after: u32,
    },
    /// Moved towards the averages of the classes of each batch, after its step.
    MovingAverage {
        /// Momentum: weight of the old class vector when it moves to the average of the batch.
        ///
        /// The average that a class is first seen with is taken over whole.
        #[serde(default = "nine_tenths")]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        momentum: f64,
        /// Epochs of joint learning before.
        #[serde(default)]
        #[schemars(range(min = 0, max = 100_000), extend("x-unit" = "epochs"))]
        after: u32,
    },
    /// Left as they are.
    Frozen {
        /// Epochs of joint learning before.
        #[serde(default)]
        #[schemars(range(min = 0, max = 100_000), extend("x-unit" = "epochs"))]
        after: u32,
    },
}

fn one() -> u32 {
    1
}

fn ten() -> u32 {
    10
}

fn nine_tenths() -> f64 {
    0.9
}

impl MeanFields {
    /// The mode in `epoch`, counted from 0: joint until `after`.
    pub(super) fn in_epoch(self, epoch: u32) -> Self {
        match self {
            Self::ClassMeans { after, .. } | Self::MovingAverage { after, .. } | Self::Frozen { after }
                if epoch < after =>
            {
                Self::Joint
            }
            _ => self,
        }
    }

    /// Whether step `step` of the training, counted from 0, updates (the network, the loss's parameters) by gradients.
    pub(super) fn updates(self, step: u32) -> (bool, bool) {
        match self {
            Self::Joint => (true, true),
            Self::Alternating { steps } => {
                let network = (step / steps.max(1)) % 2 == 1;
                (network, !network)
            }
            Self::ClassMeans { .. } | Self::MovingAverage { .. } | Self::Frozen { .. } => (true, false),
        }
    }

    /// Whether the class vectors are set to the averages at the start of `epoch`, counted from 0.
    pub(super) fn averages_at(self, epoch: u32) -> bool {
        matches!(self, Self::ClassMeans { every, after }
            if epoch.checked_sub(after).is_some_and(|epoch| epoch.is_multiple_of(every.max(1))))
    }
}

/// The mean of the rows of each class, `dim` elements each, and the number of its rows.
#[derive(Debug, Clone)]
pub(super) struct Averages {
    pub rows: Vec<f64>,
    pub counts: Vec<u32>,
}

impl Averages {
    /// From `embeddings`, a row of `dim` per label.
    pub fn new(embeddings: &[f32], labels: &[u32], classes: usize, dim: usize) -> Self {
        let (mut rows, mut counts) = (vec![0.0; classes * dim], vec![0; classes]);
        for (embedding, &label) in embeddings.chunks_exact(dim).zip(labels) {
            counts[label as usize] += 1;
            let row = &mut rows[label as usize * dim..][..dim];
            row.iter_mut().zip(embedding).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        for (row, &count) in rows.chunks_exact_mut(dim).zip(&counts) {
            row.iter_mut().for_each(|sum| *sum /= f64::from(count.max(1)));
        }
        Self { rows, counts }
    }

    /// The classes that have samples, with their averages.
    pub fn present(&self) -> impl Iterator<Item = (usize, &[f64])> {
        let dim = self.rows.len() / self.counts.len().max(1);
        let rows = self.rows.chunks_exact(dim.max(1)).enumerate();
        rows.zip(&self.counts).filter(|(_, count)| **count > 0).map(|(row, _)| row)
    }

    /// Moves the `vectors` of the classes that have samples to `keep * vector + (1 - keep) * average`, with `keep` by
    /// class.
    pub fn move_towards(&self, vectors: &mut [f32], keep: impl Fn(usize) -> f64) {
        for (class, average) in self.present() {
            let keep = keep(class);
            let vector = &mut vectors[class * average.len()..][..average.len()];
            for (x, average) in vector.iter_mut().zip(average) {
                *x = (keep * f64::from(*x) + (1.0 - keep) * average) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternation_starts_with_the_class_vectors() {
        let network: Vec<bool> = (0..7).map(|step| MeanFields::Alternating { steps: 2 }.updates(step).0).collect();
        assert_eq!(network, [false, false, true, true, false, false, true]);
        assert!((0..7).all(|step| {
            let (network, fields) = MeanFields::Alternating { steps: 2 }.updates(step);
            network != fields
        }));
    }

    #[test]
    fn a_delayed_mode_is_joint_until_its_epoch() {
        let means = MeanFields::ClassMeans { every: 2, after: 3 };
        assert_eq!([2, 3].map(|epoch| means.in_epoch(epoch)), [MeanFields::Joint, means]);
        let averaged: Vec<u32> = (0..9).filter(|&epoch| means.averages_at(epoch)).collect();
        assert_eq!(averaged, [3, 5, 7]);
    }

    #[test]
    fn averages_move_only_the_vectors_of_their_class() {
        let averages = Averages::new(&[1.0, 0.0, 0.0, 4.0, 3.0, 2.0], &[2, 0, 2], 3, 2);
        assert_eq!(averages.rows, [0.0, 4.0, 0.0, 0.0, 2.0, 1.0]);
        let mut vectors = [8.0; 6];
        averages.move_towards(&mut vectors, |class| if class == 0 { 0.0 } else { 0.75 });
        assert_eq!(vectors, [0.0, 4.0, 8.0, 8.0, 6.5, 6.25]);
    }

    #[test]
    fn documents_name_a_mode_by_its_kind() {
        let parse = |text: &str| serde_json::from_str::<MeanFields>(text);
        assert_eq!(
            parse(r#"{"kind": "moving_average", "momentum": 0.9, "after": 2}"#).unwrap(),
            MeanFields::MovingAverage { momentum: 0.9, after: 2 }
        );
        assert_eq!(parse(r#"{"kind": "frozen"}"#).unwrap(), MeanFields::Frozen { after: 0 });
        let error = parse(r#"{"kind": "class_means", "evry": 1}"#).unwrap_err().to_string();
        assert!(error.starts_with("unknown field `evry`, expected"), "{error}");
    }
}
