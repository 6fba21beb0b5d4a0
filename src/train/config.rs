//! What a training run is told.

use serde::{Deserialize, Serialize};

use super::measure::Measure;
use super::mode::MeanFields;
use super::optimiser::{OptimiserSpec, Step};
use super::precision::Precision;
use super::schedule::{Schedule, WarmUp};
use super::selection::Validate;
use crate::data::augment::{Augment, Variation};
use crate::data::images::SHORT_SIDE;
use crate::data::sampler::Draw;
use crate::loss::{Loss, has_class_vectors};
use crate::nn::{Backbone, Head, Pooling};

/// The images of a mini-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchShape {
    /// Classes of a batch that is drawn by [`BatchDraw::Classes`]. Default 30.
    pub classes: usize,
    /// Images of each class, unless they are shuffled. Default 4.
    pub per_class: usize,
    /// How they are drawn; by classes if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<BatchDraw>,
    /// Images of a batch that is drawn in any other way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
}

/// How the images of a mini-batch are drawn: a [`Draw`] by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Default for BatchShape {
    fn default() -> Self {
        Self { classes: 30, per_class: 4, draw: None, size: None }
    }
}

impl BatchShape {
    /// What the sampler draws. `size` is a multiple of `per_class`, as [`Config::check`] has seen.
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

    fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut require = |valid: bool, path: &str, range: String, found: String| {
            if !valid {
                mistakes.push((path.to_owned(), format!("must be {range}, but is {found}")));
            }
        };
        let Self { classes, per_class, draw, size } = *self;
        require(classes >= 1, "batch.classes", "at least 1".into(), classes.to_string());
        require(per_class >= 1, "batch.per_class", "at least 1".into(), per_class.to_string());
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

/// What happens to a training whose loss, or a gradient of it, is no finite number any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotFinite {
    /// It fails.
    #[default]
    Fail,
    /// It ends there, with the network of the epoch before, and says so in its log: a search counts such a trial as 0,
    /// as MLRC does (paper notes 8).
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
    /// what it says and this what it does (paper notes 7.1, quirk 3). It is MLRC's evaluation mode too.
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
/// | `seed` | 0 | any |
///
/// The protocols of the mean-field paper, which set these, are the stage definitions `train/traditional` and `train/mlrc`
/// (docs/protocols.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The network's trunk.
    pub backbone: Backbone,
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
    /// Whether `clip` holds for the loss's gradient too: what the official code means to do and does not (paper notes 7.1,
    /// quirk 4).
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
    /// Everything random follows from it.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backbone: Backbone::Convnet4,
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
            let fits = self.backbone == Backbone::VitSmall16;
            require(fits, "pooling", "average, max or average_max with this backbone", &"token");
        }
        if self.head == Head::Identity {
            let features = self.backbone.features();
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
mod tests {
    use super::super::optimiser::Adam;
    use super::*;
    use crate::loss::registry::LossSpec;

    #[test]
    fn defaults_pass_and_an_empty_document_is_the_default() {
        assert_eq!(Config::default().check(), []);
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    }

    #[test]
    fn unknown_fields_are_refused_at_every_level() {
        for document in [
            r#"{"learning_rat": 1}"#,
            r#"{"batch": {"class": 3}}"#,
            r#"{"augment": {"flips": 1}}"#,
            r#"{"optimiser": {"kind": "sgd", "momentun": 0.9}}"#,
            r#"{"schedule": {"kind": "step", "every": 1, "factor": 1, "at": 3}}"#,
            r#"{"warm_up": {"epochs": 1, "stop": 1}}"#,
        ] {
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
            batch: BatchShape { classes: 0, per_class: 0, ..BatchShape::default() },
            learning_rate: f64::NAN,
            loss_learning_rate: 0.0,
            weight_decay: -1.0,
            loss_weight_decay: f64::INFINITY,
            optimiser: OptimiserSpec::Adam(Adam { betas: [0.9, 1.0], eps: 0.0 }),
            head_learning_rate: Some(-1.0),
            head_weight_decay: Some(f64::NAN),
            schedule: Schedule::Step { every: 0, factor: f64::NAN },
            warm_up: Some(WarmUp { epochs: 0, start: 2.0 }),
            accumulate: 0,
            clip: f64::NAN,
            clip_norm: Some(0.0),
            augment: Augment { flip: 1.5, shift: 0, ..Augment::default() },
            mean_fields: MeanFields::MovingAverage { momentum: 1.0, after: 0 },
            measure: Some(Measure { every: 0, batches: 1 }),
            loss_rate_ratio: Some(0.0),
            validate: Some(serde_json::from_str(r#"{"on": "test", "every": 0}"#).unwrap()),
            ..Config::default()
        };
        let paths: Vec<String> = bad.check().into_iter().map(|(path, _)| path).collect();
        let expected = "dim epochs steps_per_epoch learning_rate weight_decay head_learning_rate head_weight_decay \
                        loss_learning_rate loss_weight_decay loss_rate_ratio accumulate clip clip_norm \
                        mean_fields.momentum measure.every measure.batches batch.classes batch.per_class augment.flip \
                        optimiser.betas.1 optimiser.eps schedule.every schedule.factor warm_up.epochs warm_up.start \
                        validate.every";
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
    fn a_step_has_the_rate_decay_and_clip_of_its_group() {
        let text = r#"{"learning_rate": 1e-4, "head_learning_rate": 1e-3, "loss_learning_rate": 0.2, "clip": 5,
            "head_weight_decay": 0, "schedule": {"kind": "step", "every": 2, "factor": 0.5}, "warm_up": {"epochs": 1}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.check(), []);
        let of = |group, epoch| {
            let Step { learning_rate, weight_decay, step, scale, clip } = config.step(group, epoch, 7, 0.25);
            assert_eq!((step, scale), (7, 0.25));
            (learning_rate, weight_decay, clip)
        };
        assert_eq!(of(Group::Backbone, 1), (1e-4, 1e-4, 5.0));
        assert_eq!(of(Group::Head, 1), (1e-3, 0.0, 5.0));
        assert_eq!(of(Group::Loss, 1), (0.2, 1e-4, f32::INFINITY));
        assert_eq!([0, 1, 2, 3, 5].map(|epoch| of(Group::Loss, epoch).0 / 0.2), [1.0 / 3.0, 1.0, 1.0, 0.5, 0.25]);
        let plain = Config::default();
        assert_eq!(plain.step(Group::Head, 19, 1, 1.0), plain.step(Group::Backbone, 0, 1, 1.0));
    }

    #[test]
    fn every_batch_is_in_one_step_and_an_epoch_leaves_none_over() {
        let steps = |accumulate: u32, batches: u32| -> Vec<Option<u32>> {
            let config = Config { accumulate, ..Config::default() };
            (0..batches).map(|batch| config.accumulated(batch, batches)).collect()
        };
        assert_eq!(steps(1, 3), [Some(1); 3]);
        assert_eq!(steps(3, 7), [None, None, Some(3), None, None, Some(3), Some(1)]);
        assert_eq!(steps(4, 2), [None, Some(2)]);
    }

    #[test]
    fn a_frozen_backbone_lets_head_and_loss_learn() {
        let config = Config { freeze_backbone_epochs: 5, ..Config::default() };
        assert_eq!([4, 5].map(|epoch| config.learns(Group::Backbone, epoch)), [false, true]);
        assert!(config.learns(Group::Head, 0) && config.learns(Group::Loss, 0));
    }

    #[test]
    fn the_rate_of_the_loss_may_follow_the_networks_and_its_gradient_may_be_clipped() {
        let plain = Config { learning_rate: 6e-4, ..Config::default() };
        let step = |config: &Config| config.step(Group::Loss, 0, 1, 1.0);
        assert_eq!((step(&plain).learning_rate, step(&plain).clip), (0.1, f32::INFINITY));
        let ratio = Config { loss_rate_ratio: Some(2000.0), clip_loss: true, ..plain };
        assert!((step(&ratio).learning_rate - 1.2).abs() < 1e-12);
        assert_eq!(step(&ratio).clip, 10.0);
    }

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
        assert_eq!(paths(r#"{"draw": "in_turn", "size": 0, "per_class": 0}"#), "batch.per_class batch.size");
        // Keys and checkpoints of trainings that say nothing of it are what they were.
        assert_eq!(serde_json::to_string(&BatchShape::default()).unwrap(), r#"{"classes":30,"per_class":4}"#);
    }
}
