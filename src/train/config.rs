//! The settings of a training.

mod measure;
mod validate;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use smart_default::SmartDefault;

use super::batch::BatchShape;
use super::mode::MeanFields;
use super::optimiser::{OptimiserSpec, Step};
use super::precision::Precision;
use super::schedule::{Schedule, WarmUp};
use crate::data::augment::{Augment, Variation};
use crate::data::images::SHORT_SIDE;
use crate::loss::registry::{ComparedWith, LossSpec};
use crate::math::random::seed_of;
use crate::nn::weights::Choice;
use crate::nn::{Backbone, CONVNET4, Head, Normalisation, Pooling};
use crate::settings::Settings;

pub use measure::Measure;
pub use validate::{Criterion, KeepEpoch, SelectOn, UnknownCriterion, Untrained, Validate};

/// What happens to a training whose loss, or a gradient of it, is no longer finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// With `freeze_backbone_epochs` of 1 or more it is what the official code of the mean-field paper does with its
    /// option to freeze batch normalisation: the end of its warm-up makes scale and shift trainable again. `frozen` is
    /// what that option says, and this is what it does. It is MLRC's evaluation mode too.
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

/// The settings of a training. Every field but the loss must have a default; an unknown field is an error.
///
/// The protocols of the mean-field paper, which set these, are the stage definitions `train/traditional` and `train/mlrc`
/// (docs/protocols.md).
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Network before the head; `in: { weights: FILE }` gives it pretrained weights.
    #[default(&CONVNET4)]
    #[schemars(schema_with = "backbones")]
    pub backbone: &'static Backbone,
    /// Pixel normalisation: RGB from -1 to 1; RGB by ImageNet's mean and deviation; or BGR from 0 to 255 less its mean. If not
    /// given, that of the backbone, or of the weight file; required with weights from elsewhere in vit_small_16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pixels: Option<Normalisation>,
    /// Which weights of the file to load, where it has several (`meanfield weights inspect` lists them); if not given, the only
    /// ones that fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Choice>,
    /// Pooling of the backbone's feature map to one vector; average_max is the sum of both (Proxy-Anchor code). If not given,
    /// the class token of a transformer, else average.
    pub pooling: Option<Pooling>,
    /// Dropout rate of the pooled features.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dropout: f64,
    /// Layer that makes embeddings of features: linear with a Kaiming-normal weight by fan-out (Proxy-Anchor code), linear with
    /// PyTorch's default initialisation (MLRC), or none.
    pub head: Head,
    /// Embedding dimension; with `head: identity` the number of the backbone's features.
    #[default = 64]
    #[schemars(range(min = 1, max = 65536))]
    pub dim: usize,
    /// Number of epochs, each a pass over the train split unless `steps_per_epoch` is given.
    #[default = 20]
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "epochs"))]
    pub epochs: u32,
    /// Mini-batches of an epoch; if not given, images / batch size, rounded down.
    #[schemars(range(min = 1), extend("x-unit" = "batches"))]
    pub steps_per_epoch: Option<u32>,
    /// The mini-batch: classes x per_class images, drawn without replacement; or, with `draw`, `size` images.
    pub batch: BatchShape,
    /// Optimiser of network and loss, with PyTorch's definitions and defaults.
    pub optimiser: OptimiserSpec,
    /// Learning rate of the backbone.
    #[default = 1e-3]
    #[schemars(range(max = 1000), extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Learning rate of the head; if not given, the backbone's.
    #[schemars(range(max = 1000), extend("exclusiveMinimum" = 0))]
    pub head_learning_rate: Option<f64>,
    /// Learning rate of the loss's own parameters (mean fields, proxies).
    #[default = 1e-1]
    #[schemars(range(max = 1000), extend("exclusiveMinimum" = 0))]
    pub loss_learning_rate: f64,
    /// That rate as a multiple of `learning_rate`, in place of `loss_learning_rate` (paper's code: lr_ratio, 2000).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000_000), extend("exclusiveMinimum" = 0))]
    pub loss_rate_ratio: Option<f64>,
    /// Weight decay of the backbone: decoupled with adamw, otherwise added to the gradient.
    #[default = 1e-4]
    #[schemars(range(min = 0, max = 1000))]
    pub weight_decay: f64,
    /// Weight decay of the head; if not given, the backbone's.
    #[schemars(range(min = 0, max = 1000))]
    pub head_weight_decay: Option<f64>,
    /// Weight decay of the loss's own parameters.
    #[default = 1e-4]
    #[schemars(range(min = 0, max = 1000))]
    pub loss_weight_decay: f64,
    /// Learning-rate schedule of all groups, by epoch.
    pub schedule: Schedule,
    /// Linear warm-up of the learning rates before the schedule; none if not given.
    pub warm_up: Option<WarmUp>,
    /// Initial epochs with the backbone frozen, in which head and loss learn alone (paper: 1 or 5).
    #[schemars(range(min = 0, max = 100_000), extend("x-unit" = "epochs"))]
    pub freeze_backbone_epochs: u32,
    /// Batch normalisation in training: by batch statistics; or by the stored ones, with scale and shift frozen too (frozen) or
    /// learning (frozen_statistics, the paper's code).
    pub batch_norm: BatchNorm,
    /// Gradient accumulation: batches whose gradients are averaged before a step.
    ///
    /// The last step of an epoch averages those that are left.
    #[default = 1]
    #[schemars(range(min = 1, max = 100_000), extend("x-unit" = "batches"))]
    pub accumulate: u32,
    /// Clips each element of the network's gradient to -clip..clip, after `clip_norm`; 1e30 clips nothing.
    #[default = 10.0]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip: f64,
    /// Whether `clip` applies to the gradients of the loss's parameters too; no if not given, as in the paper's code.
    ///
    /// The official code means to do it and does not (quirk 4 of docs/protocols.md).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clip_loss: bool,
    /// Clips the global norm of the network's gradient, before `clip`; none if not given.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_norm: Option<f64>,
    /// Random augmentation of training images.
    pub augment: Augment,
    /// Where images are embedded without augmentation, those that do not have the size of the network's input are resized to
    /// this short side and cropped at their centre.
    #[default(SHORT_SIDE)]
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "pixels"))]
    pub evaluation_short_side: u32,
    /// How class vectors (mean fields, proxies) are updated (docs/losses.md); joint if not given. The other ways need a loss
    /// with one vector for each class.
    #[schemars(extend("x-optional" = true))]
    pub mean_fields: MeanFields,
    /// Measurements of the training in `epochs` (docs/losses.md), each a pass over the images and up to 2 steps for each batch;
    /// none if not given.
    pub measure: Option<Measure>,
    /// Precision of products: full, or mixed, half precision with a dynamic loss scale, on a GPU (docs/networks.md); full if not
    /// given.
    #[serde(skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
    /// Scores the network on a split while it trains, and keeps the best epoch; if not given, the last epoch, unscored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate: Option<Validate>,
    /// On a NaN or infinite loss: fail the cell, or stop and keep the previous epoch, for a search to count as 0; fail if not
    /// given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_finite: Option<NotFinite>,
    /// Seed of initial weights, batches and augmentation; a list such as [${fold}, ${run}] is one seed of several numbers.
    #[serde(deserialize_with = "one_seed")]
    #[schemars(with = "u64", extend("x-type" = "seed"))]
    pub seed: u64,
    /// The loss and its parameters; `meanfield loss list` describes them.
    #[schemars(extend("x-required" = true))]
    pub loss: LossSpec,
}

/// The schema of a backbone's name.
fn backbones(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": crate::nn::BACKBONE_NAMES })
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

impl Config {
    /// Errors in the settings: (path of the field, message) pairs, none if the training can run.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Settings::faults_of(self);
        let mut require = |valid: bool, path: &str, range: &str, found: &dyn std::fmt::Display| {
            if !valid {
                mistakes.push((path.to_string(), format!("must be {range}, but is {found}")));
            }
        };
        // JSON has no NaN, so the check above cannot distinguish one that may be absent.
        let optional = [
            ("head_learning_rate", self.head_learning_rate),
            ("loss_rate_ratio", self.loss_rate_ratio),
            ("head_weight_decay", self.head_weight_decay),
            ("clip_norm", self.clip_norm),
        ];
        for (path, value) in optional {
            require(value.is_none_or(f64::is_finite), path, "a finite number", &value.unwrap_or_default());
        }
        if self.pooling == Some(Pooling::Token) {
            let fits = self.backbone.pooling == Pooling::Token;
            require(fits, "pooling", "average, max or average_max with this backbone", &"token");
        }
        if self.head == Head::Identity {
            let features = self.backbone.features;
            require(self.dim == features, "dim", &format!("{features} with head: identity"), &self.dim);
        }
        // A phase would end between batches whose gradients are being accumulated.
        let in_turns = matches!(self.mean_fields, MeanFields::Alternating { .. });
        let fits = !in_turns || self.accumulate <= 1;
        require(fits, "accumulate", "1 with mean_fields: alternating", &self.accumulate);
        // In single precision, like the gradients.
        let rounds = self.clip > 0.0 && self.clip as f32 <= 0.0;
        require(!rounds, "clip", "above 0 in single precision", &self.clip);
        let (side, size) = (self.evaluation_short_side, self.augment.size);
        if self.augment.kind == Variation::Crop && (1..=4096).contains(&side) {
            require(side >= size, "evaluation_short_side", &format!("at least augment.size, {size}"), &side);
        }
        mistakes.extend(self.batch.check());
        let validate = self.validate.as_ref().map_or(Vec::new(), |validate| validate.check(self.epochs));
        let parts = [
            ("augment", self.augment.check()),
            ("optimiser", self.optimiser.check()),
            ("schedule", self.schedule.check()),
            ("validate", validate),
        ];
        for (part, found) in parts {
            mistakes.extend(found.into_iter().map(|(path, message)| (format!("{part}.{path}"), message)));
        }
        mistakes
    }

    /// The pixel normalisation.
    pub fn normalisation(&self) -> Normalisation {
        self.pixels.unwrap_or(self.backbone.normalisation())
    }

    /// Settings that do not fit the loss, in the form of [`Config::check`].
    pub fn check_loss(&self) -> Vec<(String, String)> {
        if self.mean_fields == MeanFields::Joint || self.loss.compared_with() == ComparedWith::ClassVector {
            return Vec::new();
        }
        let message = "needs a loss with one vector for each class, which this one has not; only `joint` fits it";
        vec![("mean_fields".into(), message.into())]
    }

    /// The factor of all learning rates in `epoch`, counted from 0.
    pub fn rate_factor(&self, epoch: u32) -> f64 {
        self.schedule.factor_after(self.warm_up, epoch, self.epochs)
    }

    /// Whether the parameters of `group` learn in `epoch`, counted from 0, as far as the network decides it: the update
    /// mode of the loss's vectors may exclude them, or the network.
    pub fn learns(&self, group: Group, epoch: u32) -> bool {
        group != Group::Backbone || epoch >= self.freeze_backbone_epochs
    }

    /// The number of accumulated batches if a step is due after `batch`, counted from 0, of the `batches` of an epoch;
    /// none if no step is due yet.
    pub fn accumulated(&self, batch: u32, batches: u32) -> Option<u32> {
        let every = self.accumulate.max(1);
        let gathered = batch % every + 1;
        (gathered == every || batch + 1 == batches).then_some(gathered)
    }

    /// The optimiser step in `epoch`, counted from 0, for the parameters of `group`: their `step`th, counted from 1,
    /// with a gradient that is multiplied by `scale` before it is clipped by value.
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
