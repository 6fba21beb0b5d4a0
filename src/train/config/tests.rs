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
        head_weight_decay: Some(-1.0),
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
    let expected = "dim epochs steps_per_epoch batch.classes batch.per_class optimiser.betas.1 optimiser.eps \
                    learning_rate head_learning_rate loss_learning_rate loss_rate_ratio weight_decay \
                    head_weight_decay loss_weight_decay schedule.every schedule.factor warm_up.epochs warm_up.start \
                    accumulate clip clip_norm augment.flip mean_fields.momentum measure.every measure.batches \
                    validate.every";
    assert_eq!(paths.join(" "), expected);
    for mean_fields in [MeanFields::Alternating { steps: 0 }, MeanFields::ClassMeans { every: 0, after: 0 }] {
        assert_eq!(Config { mean_fields, ..Config::default() }.check().len(), 1, "{mean_fields:?}");
    }
}

#[test]
fn modes_are_for_losses_with_one_vector_for_each_class() {
    let fits = |name: &str| {
        let loss = LossSpec::named(name).unwrap();
        let config = Config { loss, ..Config::default() };
        assert_eq!(config.check_loss(), [], "{name}");
        Config { mean_fields: MeanFields::Frozen { after: 0 }, ..config }.check_loss().is_empty()
    };
    for name in ["mean_field_contrastive", "mean_field_triplet", "proxy_anchor", "cosface"] {
        assert!(fits(name), "{name}");
    }
    for name in ["contrastive", "class_wise_multi_similarity", "soft_triple"] {
        assert!(!fits(name), "{name}");
    }
}

#[test]
fn an_optional_number_that_is_not_finite_is_refused() {
    let bad = Config { head_learning_rate: Some(f64::NAN), clip_norm: Some(f64::INFINITY), ..Config::default() };
    let paths: Vec<String> = bad.check().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["head_learning_rate", "clip_norm"]);
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
fn the_rate_of_the_loss_may_follow_the_networks_and_its_gradient_be_clipped() {
    let plain = Config { learning_rate: 6e-4, ..Config::default() };
    let step = |config: &Config| config.step(Group::Loss, 0, 1, 1.0);
    assert_eq!((step(&plain).learning_rate, step(&plain).clip), (0.1, f32::INFINITY));
    let ratio = Config { loss_rate_ratio: Some(2000.0), clip_loss: true, ..plain };
    assert!((step(&ratio).learning_rate - 1.2).abs() < 1e-12);
    assert_eq!(step(&ratio).clip, 10.0);
}
