//! The settings of a training.

mod measure;
mod validate;

use serde::{Deserialize, Deserializer, Serialize};

use super::batch::BatchShape;
use super::mode::MeanFields;
use super::optimiser::{OptimiserSpec, Step};
use super::precision::Precision;
use super::schedule::{Schedule, WarmUp};
use crate::data::augment::{Augment, Variation};
use crate::data::images::SHORT_SIDE;
use crate::loss::{Loss, has_class_vectors};
use crate::math::random::seed_of;
use crate::nn::weights::Choice;
use crate::nn::{Backbone, CONVNET4, Head, Normalisation, Pooling};

pub use measure::Measure;
pub use validate::{Criterion, KeepEpoch, SelectOn, UnknownCriterion, Untrained, Validate};

/// What happens to a training whose loss, or a gradient of it, is no finite number any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotFinite {
    /// It fails.
    #[default]
    Fail,
    /// It ends there, with the network of the epoch before, and says so in its log: a search counts such a trial as 0,
    /// as MLRC does.
    Stop,
}

/// How the backbone's batch normalisation works while it trains. The head has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNorm {
    /// By the statistics of the batch, which move the running ones, in epochs with a frozen backbone too; scale and
    /// shift learn.
    #[default]
    Batch,
    /// By the running statistics, which stay as they are; so do scale and shift.
    Frozen,
    /// By the running statistics, which stay as they are; scale and shift learn as the rest of the backbone does.
    ///
    /// With `freeze_backbone_epochs` of 1 or more it is what the official code of the mean-field paper does when told to
    /// freeze batch normalisation: the end of its warm-up makes scale and shift trainable again, so that `frozen` is
    /// what it says and this what it does. It is MLRC's evaluation mode too.
    FrozenStatistics,
}

/// Parameters that have a rate and a weight decay of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The network before its head.
    Backbone,
    /// The layer that makes embeddings.
    Head,
    /// What the loss learns: mean fields, proxies.
    Loss,
}

/// The settings of a run. Every field has a default; an unknown field is an error.
///
/// | field | default | range |
/// | --- | --- | --- |
/// | `backbone` | `convnet4` | a [`Backbone`] |
/// | `pixels` | the backbone's own | a [`Normalisation`] |
/// | `weights` | the only ones that fit | a [`Choice`] |
/// | `pooling` | class token of a transformer, else average | a [`Pooling`] |
/// | `dropout` | 0 | in [0, 1) |
/// | `head` | linear | a [`Head`] |
/// | `dim` | 64 | at least 1; with `head: identity` the backbone's features |
/// | `epochs` | 20 | at least 1 |
/// | `steps_per_epoch` | images / batch, rounded down | at least 1 |
/// | `batch` | 30 classes of 4 | a [`BatchShape`] |
/// | `optimiser` | AdamW | an [`OptimiserSpec`] |
/// | `learning_rate` | 1e-3 | finite, above 0 |
/// | `head_learning_rate` | `learning_rate` | finite, above 0 |
/// | `loss_learning_rate` | 1e-1 | finite, above 0 |
/// | `loss_rate_ratio` | none | finite, above 0 |
/// | `weight_decay` | 1e-4 | finite, 0 or above |
/// | `head_weight_decay` | `weight_decay` | finite, 0 or above |
/// | `loss_weight_decay` | 1e-4 | finite, 0 or above |
/// | `schedule` | constant | a [`Schedule`] |
/// | `warm_up` | none | a [`WarmUp`] |
/// | `freeze_backbone_epochs` | 0 | any |
/// | `batch_norm` | batch | a [`BatchNorm`] |
/// | `accumulate` | 1 | at least 1 |
/// | `clip` | 10 | above 0, may be infinite |
/// | `clip_loss` | false | any |
/// | `clip_norm` | none | finite, above 0 |
/// | `augment` | flip 0.5, shift 3 | an [`Augment`] |
/// | `evaluation_short_side` | 256 | in 1..=4096, at least `augment.size` with crops |
/// | `mean_fields` | joint | a [`MeanFields`] |
/// | `measure` | none | a [`Measure`] |
/// | `precision` | full | a [`Precision`]; `mixed` needs a GPU |
/// | `validate` | none | a [`Validate`], its `every` at most `epochs` |
/// | `not_finite` | fail | a [`NotFinite`] |
/// | `seed` | 0 | any, or a list of such numbers |
///
/// The protocols of the mean-field paper, which set these, are the stage definitions `train/traditional` and `train/mlrc`
/// (docs/protocols.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The network's trunk.
    pub backbone: &'static Backbone,
    /// How pixels are normalised; in the backbone's own way if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixels: Option<Normalisation>,
    /// Which weights of the file that the backbone starts from; the only ones that fit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Choice>,
    /// How its map becomes one vector; the backbone's own way if absent.
    pub pooling: Option<Pooling>,
    /// Share of the pooled features that a batch does without, drawn anew for each batch.
    pub dropout: f64,
    /// What makes an embedding of them.
    pub head: Head,
    /// Length of an embedding.
    pub dim: usize,
    /// Passes over the training set, in the sense of `steps_per_epoch`.
    pub epochs: u32,
    /// Mini-batches of an epoch.
    pub steps_per_epoch: Option<u32>,
    /// The mini-batch.
    pub batch: BatchShape,
    /// The optimiser of all groups.
    pub optimiser: OptimiserSpec,
    /// Rate of the backbone.
    pub learning_rate: f64,
    /// Rate of the head; the backbone's if absent.
    pub head_learning_rate: Option<f64>,
    /// Rate of the loss's parameters.
    pub loss_learning_rate: f64,
    /// That rate as a multiple of the backbone's, in place of `loss_learning_rate`: `lr_ratio` of the official code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_rate_ratio: Option<f64>,
    /// Weight decay of the backbone, of all its parameters: decoupled with AdamW, else added to the gradient.
    pub weight_decay: f64,
    /// The same of the head; the backbone's if absent.
    pub head_weight_decay: Option<f64>,
    /// The same of the loss's parameters.
    pub loss_weight_decay: f64,
    /// How all rates change from epoch to epoch.
    pub schedule: Schedule,
    /// How they rise before that.
    pub warm_up: Option<WarmUp>,
    /// Epochs at the start in which the head and the loss's parameters learn alone: the warm-up of the official code.
    pub freeze_backbone_epochs: u32,
    /// Batch normalisation while it trains.
    pub batch_norm: BatchNorm,
    /// Batches whose gradients are averaged before a step. The last step of an epoch averages those that are left.
    pub accumulate: u32,
    /// Each element of the network's gradient is clamped to `-clip..=clip`, after `clip_norm`; the loss's gradient is
    /// not, as in the official code.
    pub clip: f64,
    /// Whether `clip` holds for the loss's gradient too: what the official code means to do and does not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clip_loss: bool,
    /// The network's gradient, that of all its learning parameters together, is shortened to this length if it is
    /// longer; the loss's gradient is not.
    pub clip_norm: Option<f64>,
    /// Random variation of the images.
    pub augment: Augment,
    /// Where images are embedded without variation, those that are not of the network's input size are resized to this short
    /// side, and their centre is cropped. Default 256, as in the papers.
    pub evaluation_short_side: u32,
    /// How the loss's vectors of the classes come about.
    pub mean_fields: MeanFields,
    /// What is measured on the way; nothing if absent.
    pub measure: Option<Measure>,
    /// What products are reckoned in.
    #[serde(skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
    /// How it is scored on the way, and which epoch it leaves; the last, unscored, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<Validate>,
    /// What happens if the loss is no finite number; the training fails if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_finite: Option<NotFinite>,
    /// Everything random follows from it. Several numbers, as in `[2, 0]`, are one seed by [`seed_of`].
    #[serde(deserialize_with = "one_seed")]
    pub seed: u64,
}

fn one_seed<'de, D: Deserializer<'de>>(numbers: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a whole number from 0 upwards, or a list of such numbers")]
    enum Numbers {
        One(u64),
        Several(Vec<u64>),
    }
    Ok(match Numbers::deserialize(numbers)? {
        Numbers::One(number) => number,
        Numbers::Several(numbers) => seed_of(&numbers),
    })
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backbone: &CONVNET4,
            pixels: None,
            weights: None,
            pooling: None,
            dropout: 0.0,
            head: Head::default(),
            dim: 64,
            epochs: 20,
            steps_per_epoch: None,
            batch: BatchShape::default(),
            optimiser: OptimiserSpec::default(),
            learning_rate: 1e-3,
            head_learning_rate: None,
            loss_learning_rate: 1e-1,
            loss_rate_ratio: None,
            weight_decay: 1e-4,
            head_weight_decay: None,
            loss_weight_decay: 1e-4,
            schedule: Schedule::default(),
            warm_up: None,
            freeze_backbone_epochs: 0,
            batch_norm: BatchNorm::default(),
            accumulate: 1,
            clip: 10.0,
            clip_loss: false,
            clip_norm: None,
            augment: Augment::default(),
            evaluation_short_side: SHORT_SIDE,
            mean_fields: MeanFields::default(),
            measure: None,
            precision: Precision::Full,
            validate: None,
            not_finite: None,
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
        if self.pooling == Some(Pooling::Token) {
            let fits = self.backbone.pooling == Pooling::Token;
            require(fits, "pooling", "average, max or average_max with this backbone", &"token");
        }
        if self.head == Head::Identity {
            let features = self.backbone.features;
            require(self.dim == features, "dim", &format!("{features} with head: identity"), &self.dim);
        }
        require((0.0..1.0).contains(&self.dropout), "dropout", "at least 0 and below 1", &self.dropout);
        require(self.epochs >= 1, "epochs", "at least 1", &self.epochs);
        if let Some(steps) = self.steps_per_epoch {
            require(steps >= 1, "steps_per_epoch", "at least 1", &steps);
        }
        for (prefix, group) in [("", Group::Backbone), ("head_", Group::Head), ("loss_", Group::Loss)] {
            let (rate, decay) = (self.rate(group), self.decay(group));
            // A head without values of its own has the backbone's mistakes.
            if group != Group::Head || self.head_learning_rate.is_some() {
                require(positive(rate), &format!("{prefix}learning_rate"), "finite and above 0", &rate);
            }
            if group != Group::Head || self.head_weight_decay.is_some() {
                require(not_negative(decay), &format!("{prefix}weight_decay"), "finite and 0 or above", &decay);
            }
        }
        if let Some(ratio) = self.loss_rate_ratio {
            require(positive(ratio), "loss_rate_ratio", "finite and above 0", &ratio);
        }
        require(self.accumulate >= 1, "accumulate", "at least 1", &self.accumulate);
        // A turn would end between batches that wait for each other.
        let in_turns = matches!(self.mean_fields, MeanFields::Alternating { .. });
        let fits = !in_turns || self.accumulate <= 1;
        require(fits, "accumulate", "1 with mean_fields: alternating", &self.accumulate);
        // In single precision, which gradients are in.
        require(self.clip as f32 > 0.0, "clip", "above 0", &self.clip);
        if let Some(limit) = self.clip_norm {
            require(positive(limit), "clip_norm", "finite and above 0", &limit);
        }
        let least = if self.augment.kind == Variation::Crop { self.augment.size.clamp(1, 4096) } else { 1 };
        let side = self.evaluation_short_side;
        require((least..=4096).contains(&side), "evaluation_short_side", &format!("in {least}..=4096"), &side);
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
        let warm_up = self.warm_up.map_or(Vec::new(), |warm_up| warm_up.check());
        mistakes.extend(self.batch.check());
        let validate = self.validate.map_or(Vec::new(), |validate| validate.check(self.epochs));
        let parts = [
            ("augment", self.augment.check()),
            ("optimiser", self.optimiser.check()),
            ("schedule", self.schedule.check()),
            ("warm_up", warm_up),
            ("validate", validate),
        ];
        for (part, found) in parts {
            mistakes.extend(found.into_iter().map(|(path, message)| (format!("{part}.{path}"), message)));
        }
        mistakes
    }

    /// How pixels are normalised.
    pub fn normalisation(&self) -> Normalisation {
        self.pixels.unwrap_or(self.backbone.normalisation())
    }

    /// What of it does not fit `loss`, in the form of [`Config::check`].
    pub fn check_loss(&self, loss: &dyn Loss<f32>) -> Vec<(String, String)> {
        if self.mean_fields == MeanFields::Joint || has_class_vectors(loss) {
            return Vec::new();
        }
        let message = "needs a loss with one vector for each class, which this one has not; only `joint` fits it";
        vec![("mean_fields".into(), message.into())]
    }

    /// What all learning rates are multiplied by in `epoch`, counted from 0.
    pub fn rate_factor(&self, epoch: u32) -> f64 {
        self.schedule.factor_after(self.warm_up, epoch, self.epochs)
    }

    /// Whether the parameters of `group` learn in `epoch`, counted from 0, as far as the network decides it: how the
    /// loss's vectors come about may keep them, or the network, from it.
    pub fn learns(&self, group: Group, epoch: u32) -> bool {
        group != Group::Backbone || epoch >= self.freeze_backbone_epochs
    }

    /// How many batches the gradient is a sum of that a step is due with after `batch`, counted from 0, of the
    /// `batches` of an epoch; none if the step is to come.
    pub fn accumulated(&self, batch: u32, batches: u32) -> Option<u32> {
        let every = self.accumulate.max(1);
        let gathered = batch % every + 1;
        (gathered == every || batch + 1 == batches).then_some(gathered)
    }

    /// What a step in `epoch`, counted from 0, is for the parameters of `group`: their `step`th, counted from 1, by a
    /// gradient that is to be multiplied by `scale` before it is clipped by value.
    pub fn step(&self, group: Group, epoch: u32, step: u32, scale: f32) -> Step {
        Step {
            learning_rate: self.rate(group) * self.rate_factor(epoch),
            weight_decay: self.decay(group),
            step,
            scale,
            clip: if group == Group::Loss && !self.clip_loss { f32::INFINITY } else { self.clip as f32 },
        }
    }

    fn rate(&self, group: Group) -> f64 {
        match group {
            Group::Backbone => self.learning_rate,
            Group::Head => self.head_learning_rate.unwrap_or(self.learning_rate),
            Group::Loss => match self.loss_rate_ratio {
                Some(ratio) => self.learning_rate * ratio,
                None => self.loss_learning_rate,
            },
        }
    }

    fn decay(&self, group: Group) -> f64 {
        match group {
            Group::Backbone => self.weight_decay,
            Group::Head => self.head_weight_decay.unwrap_or(self.weight_decay),
            Group::Loss => self.loss_weight_decay,
        }
    }
}

#[cfg(test)]
mod tests;
