//! What a training run is told.

use serde::{Deserialize, Serialize};

use super::measure::Measure;
use super::mode::MeanFields;
use crate::data::augment::Augment;
use crate::loss::{Loss, has_class_vectors};
use crate::nn::Backbone;

/// Classes and images of a mini-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchShape {
    /// Classes, drawn without replacement. Default 30.
    pub classes: usize,
    /// Images of each class, drawn without replacement where a class has that many. Default 4.
    pub per_class: usize,
}

impl Default for BatchShape {
    fn default() -> Self {
        Self { classes: 30, per_class: 4 }
    }
}

/// A step decay of both learning rates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decay {
    /// The rates are multiplied after every so many epochs.
    pub every: u32,
    /// By this factor, in (0, 1].
    pub factor: f64,
}

/// The settings of a run. Every field has a default; an unknown field is an error.
///
/// | field | default | range |
/// | --- | --- | --- |
/// | `backbone` | `convnet4` | a [`Backbone`] |
/// | `dim` | 64 | at least 1 |
/// | `epochs` | 20 | at least 1 |
/// | `steps_per_epoch` | images / batch, rounded down | at least 1 |
/// | `batch` | 30 classes of 4 | each at least 1 |
/// | `learning_rate` | 1e-3 | finite, above 0 |
/// | `loss_learning_rate` | 1e-1 | finite, above 0 |
/// | `weight_decay` | 1e-4 | finite, 0 or above |
/// | `loss_weight_decay` | 1e-4 | finite, 0 or above |
/// | `decay` | none | `every` at least 1, `factor` in (0, 1] |
/// | `clip` | 10 | above 0, may be infinite |
/// | `augment` | flip 0.5, shift 3 | `flip` in [0, 1] |
/// | `mean_fields` | joint | a [`MeanFields`] |
/// | `measure` | none | a [`Measure`] |
/// | `seed` | 0 | any |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The network's trunk.
    pub backbone: Backbone,
    /// Length of an embedding.
    pub dim: usize,
    /// Passes over the training set, in the sense of `steps_per_epoch`.
    pub epochs: u32,
    /// Mini-batches of an epoch.
    pub steps_per_epoch: Option<u32>,
    /// The mini-batch.
    pub batch: BatchShape,
    /// AdamW's rate for the network.
    pub learning_rate: f64,
    /// AdamW's rate for the loss's parameters.
    pub loss_learning_rate: f64,
    /// AdamW's decoupled weight decay for the network.
    pub weight_decay: f64,
    /// AdamW's decoupled weight decay for the loss's parameters.
    pub loss_weight_decay: f64,
    /// Step decay of both rates.
    pub decay: Option<Decay>,
    /// Each element of the network's gradient is clamped to `-clip..=clip`; the loss's gradient is not.
    pub clip: f64,
    /// Random variation of the images.
    pub augment: Augment,
    /// How the loss's vectors of the classes come about.
    pub mean_fields: MeanFields,
    /// What is measured on the way; nothing if absent.
    pub measure: Option<Measure>,
    /// Everything random follows from it.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backbone: Backbone::Convnet4,
            dim: 64,
            epochs: 20,
            steps_per_epoch: None,
            batch: BatchShape::default(),
            learning_rate: 1e-3,
            loss_learning_rate: 1e-1,
            weight_decay: 1e-4,
            loss_weight_decay: 1e-4,
            decay: None,
            clip: 10.0,
            augment: Augment::default(),
            mean_fields: MeanFields::default(),
            measure: None,
            seed: 0,
        }
    }
}

impl Config {
    /// What is wrong with it: (path of the field, message) pairs, none if it can run.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        // Written as "not in the valid range", so that NaN is refused.
        let mut require = |valid: bool, path: &str, range: &str, found: &dyn std::fmt::Display| {
            if !valid {
                mistakes.push((path.to_string(), format!("must be {range}, but is {found}")));
            }
        };
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        require(self.dim >= 1, "dim", "at least 1", &self.dim);
        require(self.epochs >= 1, "epochs", "at least 1", &self.epochs);
        if let Some(steps) = self.steps_per_epoch {
            require(steps >= 1, "steps_per_epoch", "at least 1", &steps);
        }
        require(self.batch.classes >= 1, "batch.classes", "at least 1", &self.batch.classes);
        require(self.batch.per_class >= 1, "batch.per_class", "at least 1", &self.batch.per_class);
        for (path, rate) in [("learning_rate", self.learning_rate), ("loss_learning_rate", self.loss_learning_rate)] {
            require(positive(rate), path, "finite and above 0", &rate);
        }
        for (path, decay) in [("weight_decay", self.weight_decay), ("loss_weight_decay", self.loss_weight_decay)] {
            require(not_negative(decay), path, "finite and 0 or above", &decay);
        }
        if let Some(Decay { every, factor }) = self.decay {
            require(every >= 1, "decay.every", "at least 1", &every);
            require(factor > 0.0 && factor <= 1.0, "decay.factor", "above 0 and at most 1", &factor);
        }
        require(self.clip > 0.0, "clip", "above 0", &self.clip);
        let flip = self.augment.flip;
        require((0.0..=1.0).contains(&flip), "augment.flip", "between 0 and 1", &flip);
        match self.mean_fields {
            MeanFields::Joint | MeanFields::Frozen { .. } => {}
            MeanFields::Alternating { steps } => require(steps >= 1, "mean_fields.steps", "at least 1", &steps),
            MeanFields::ClassMeans { every, .. } => require(every >= 1, "mean_fields.every", "at least 1", &every),
            MeanFields::MovingAverage { momentum, .. } => {
                let valid = (0.0..1.0).contains(&momentum);
                require(valid, "mean_fields.momentum", "at least 0 and below 1", &momentum);
            }
        }
        if let Some(Measure { every, batches }) = self.measure {
            require(every >= 1, "measure.every", "at least 1", &every);
            require(batches >= 2, "measure.batches", "at least 2", &batches);
        }
        mistakes
    }

    /// What of it does not fit `loss`, in the form of [`Config::check`].
    pub fn check_loss(&self, loss: &dyn Loss<f32>) -> Vec<(String, String)> {
        if self.mean_fields == MeanFields::Joint || has_class_vectors(loss) {
            return Vec::new();
        }
        let message = "needs a loss with one vector for each class, which this one has not; only `joint` fits it";
        vec![("mean_fields".into(), message.into())]
    }

    /// What both learning rates are multiplied by in `epoch`, counted from 0.
    pub fn schedule(&self, epoch: u32) -> f64 {
        self.decay.map_or(1.0, |Decay { every, factor }| factor.powf(f64::from(epoch / every.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::registry::LossSpec;

    #[test]
    fn defaults_pass_and_an_empty_document_is_the_default() {
        assert_eq!(Config::default().check(), []);
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    }

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        for document in [r#"{"learning_rat": 1}"#, r#"{"batch": {"class": 3}}"#, r#"{"augment": {"flips": 1}}"#] {
            let error = serde_json::from_str::<Config>(document).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn every_field_out_of_range_is_named_by_its_path() {
        let bad = Config {
            dim: 0,
            epochs: 0,
            steps_per_epoch: Some(0),
            batch: BatchShape { classes: 0, per_class: 0 },
            learning_rate: f64::NAN,
            loss_learning_rate: 0.0,
            weight_decay: -1.0,
            loss_weight_decay: f64::INFINITY,
            decay: Some(Decay { every: 0, factor: f64::NAN }),
            clip: f64::NAN,
            augment: Augment { flip: 1.5, shift: 0 },
            mean_fields: MeanFields::MovingAverage { momentum: 1.0, after: 0 },
            measure: Some(Measure { every: 0, batches: 1 }),
            ..Config::default()
        };
        let paths: Vec<String> = bad.check().into_iter().map(|(path, _)| path).collect();
        let expected = "dim epochs steps_per_epoch batch.classes batch.per_class learning_rate loss_learning_rate \
                        weight_decay loss_weight_decay decay.every decay.factor clip augment.flip mean_fields.momentum measure.every measure.batches";
        assert_eq!(paths.join(" "), expected);
        for mean_fields in [MeanFields::Alternating { steps: 0 }, MeanFields::ClassMeans { every: 0, after: 0 }] {
            assert_eq!(Config { mean_fields, ..Config::default() }.check().len(), 1, "{mean_fields:?}");
        }
    }

    #[test]
    fn modes_are_for_losses_with_one_vector_for_each_class() {
        let frozen = Config { mean_fields: MeanFields::Frozen { after: 0 }, ..Config::default() };
        let fits = |name: &str| {
            let loss = LossSpec::named(name).unwrap().build::<f32>().unwrap();
            assert_eq!(Config::default().check_loss(&*loss), [], "{name}");
            frozen.check_loss(&*loss).is_empty()
        };
        for name in ["mean_field_contrastive", "mean_field_triplet", "proxy_anchor", "cosface"] {
            assert!(fits(name), "{name}");
        }
        for name in ["contrastive", "class_wise_multi_similarity", "soft_triple"] {
            assert!(!fits(name), "{name}");
        }
    }

    #[test]
    fn the_schedule_multiplies_after_every_so_many_epochs() {
        let config = Config { decay: Some(Decay { every: 3, factor: 0.5 }), ..Config::default() };
        assert_eq!([0, 2, 3, 5, 6].map(|epoch| config.schedule(epoch)), [1.0, 1.0, 0.5, 0.5, 0.25]);
        assert_eq!(Config::default().schedule(19), 1.0);
    }
}
