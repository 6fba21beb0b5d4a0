//! The training loop on an easy set: modes, measurements, threads, refusals.

use super::*;
use crate::data::images::{EvalImages, Images, Plain};
use crate::loss::registry::LossSpec;
use crate::loss::{LossError, Parameter};
use crate::math::random::stream;
use crate::nn::{self, Architecture, Head, Native, Portable, embed};
use crate::train::Measured;
use crate::train::parameters::start;

/// Eight images of 16x16 in each of four classes: a class is a colour, a sample its noise.
fn images() -> (Vec<u8>, Vec<u32>) {
    let mut random = stream(5, "test images", 0, 0);
    let labels: Vec<u32> = (0..32).map(|i| i / 8).collect();
    let mut pixels = Vec::new();
    for &label in &labels {
        for position in 0..16 * 16 * 3 {
            let base = if position % 3 == label as usize % 3 { 60.0 + 90.0 * f64::from(label / 3) } else { 30.0 };
            pixels.push((base + 40.0 * random.uniform()) as u8);
        }
    }
    (pixels, labels)
}

fn config(fields: &str) -> Config {
    let text = r#"{"dim": 8, "epochs": 2, "steps_per_epoch": 4, "batch": {"classes": 4, "per_class": 4}, "seed": 9"#;
    // Of a duplicate field the second counts.
    let fields: Value = serde_json::from_str(&format!("{text}{fields}}}")).unwrap();
    serde_json::from_value(fields).unwrap()
}

fn trained(loss: &str, config: &Config) -> (Trained<Native>, Vec<EpochLog>) {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named(loss).unwrap().build::<f32>().unwrap();
    let mut logs = Vec::new();
    let trained =
        train_with(&Native::default(), config, &data, &*loss, Start::default(), &mut |log| logs.push(log.clone()))
            .unwrap();
    (trained, logs)
}

/// The bits of the embeddings of all images and of the loss's matrices.
fn bits(trained: &Trained<Native>) -> Vec<u32> {
    let vectors = embed(&Native::default(), &trained.model, &images().0).unwrap();
    vectors.iter().chain(trained.loss_parameters.iter().flat_map(|p| &p.values)).map(|x| x.to_bits()).collect()
}

/// The network and the mean fields as initialised by the settings of [`config`].
fn beginning() -> (Model<Native>, Vec<f32>) {
    let (pooling, head) = (None, Head::Linear);
    let architecture = Architecture { backbone: config("").backbone, pooling, head, dim: 8, height: 16, width: 16 };
    let loss = LossSpec::named("mean_field_contrastive").unwrap().build::<f32>().unwrap();
    let mut fields = start(loss.parameters(4, 8), 9);
    (Model::new(&Native::default(), architecture, 9).unwrap(), fields.remove(0).values)
}

fn parameters(model: &Model<Native>) -> Vec<f32> {
    let learned = model.tensors().filter(|tensor| tensor.kind == nn::Kind::Parameter);
    learned.flat_map(|tensor| tensor.file_order(&Native::default())).collect()
}

#[test]
fn a_training_has_the_same_bits_on_any_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let all = [
                "",
                r#", "mean_fields": {"kind": "class_means", "every": 1}, "measure": {"batches": 3}"#,
                r#", "mean_fields": {"kind": "moving_average", "momentum": 0.9}"#,
            ];
            all.map(|fields| {
                let (trained, logs) = trained("mean_field_class_wise_multi_similarity", &config(fields));
                let logged: Vec<_> = logs.iter().map(|log| (log.mean_loss.to_bits(), log.measured)).collect();
                (bits(&trained), logged)
            })
        })
    };
    let one = on(1);
    for threads in [2, 4, 7] {
        assert!(on(threads) == one, "{threads} threads");
    }
}

#[test]
fn each_mode_updates_its_parameters_alone() {
    let (network, fields) = beginning();
    let run = |mode: &str| trained("mean_field_contrastive", &config(&format!(r#", "mean_fields": {mode}"#))).0;
    let joint = run(r#"{"kind": "joint"}"#);
    assert!(bits(&joint) == bits(&trained("mean_field_contrastive", &config("")).0));
    assert!(joint.loss_parameters[0].values != fields && parameters(&joint.model) != parameters(&network));
    let frozen = run(r#"{"kind": "frozen"}"#);
    assert!(frozen.loss_parameters[0].values == fields && parameters(&frozen.model) != parameters(&network));
    // Phases longer than the training: the network's never starts.
    let turns = run(r#"{"kind": "alternating", "steps": 8}"#);
    assert!(turns.loss_parameters[0].values != fields && parameters(&turns.model) == parameters(&network));
    let later = run(r#"{"kind": "frozen", "after": 1}"#);
    let one = trained("mean_field_contrastive", &Config { epochs: 1, ..config("") }).0;
    assert!(later.loss_parameters == one.loss_parameters && later.loss_parameters != joint.loss_parameters);
    let turns = run(r#"{"kind": "alternating", "steps": 4}"#);
    assert!(parameters(&turns.model) != parameters(&network));
}

#[test]
fn class_means_are_the_averages_of_the_embeddings() {
    let (pixels, labels) = images();
    let (network, _) = beginning();
    let averages = Averages::new(&embed(&Native::default(), &network, &pixels).unwrap(), &labels, 4, 8);
    let expected: Vec<f32> = averages.rows.iter().map(|&x| x as f32).collect();
    // Both epochs use the averages of the initial network.
    let fields = r#", "mean_fields": {"kind": "class_means", "every": 2}"#;
    let (found, _) = trained("mean_field_contrastive", &config(fields));
    assert_eq!(found.loss_parameters[0].values, expected);
    let fields = r#", "mean_fields": {"kind": "class_means", "every": 1}"#;
    let (found, _) = trained("mean_field_contrastive", &config(fields));
    assert_ne!(found.loss_parameters[0].values, expected);
    // A moving average of averages of unit vectors is no longer than 1, whatever the initial vectors.
    let fields = r#", "mean_fields": {"kind": "moving_average", "momentum": 0.99}"#;
    let (found, _) = trained("mean_field_contrastive", &config(fields));
    for field in found.loss_parameters[0].values.chunks(8) {
        let length = field.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(0.5 < length && length <= 1.0 + 1e-5, "{length}");
    }
}

#[test]
fn measuring_does_not_change_the_training() {
    let smooth = ["mean_field_class_wise_multi_similarity", "mean_field_binomial_deviance"];
    for loss in smooth.into_iter().chain(["proxy_anchor", "class_wise_multi_similarity"]) {
        let (plain, _) = trained(loss, &config(""));
        let (measured, logs) = trained(loss, &config(r#", "measure": {"every": 2, "batches": 3}"#));
        assert!(bits(&plain) == bits(&measured), "{loss}");
        assert_eq!(logs[0].measured, None);
        let Measured { field_angle, spread, parent_gap, noise, parent_noise } = logs[1].measured.unwrap();
        assert!(
            spread.is_some_and(|spread| (0.0..=1.0).contains(&spread)) && noise.is_some_and(|noise| noise > 0.0),
            "{loss}: {:?}",
            logs[1]
        );
        let pairs = loss.starts_with("mean_field");
        assert_eq!((parent_gap.is_some(), parent_noise.is_some()), (pairs, pairs), "{loss}");
        assert_eq!(field_angle.is_some(), loss != "class_wise_multi_similarity", "{loss}");
    }
}

#[test]
fn a_mode_that_the_loss_has_no_vectors_for_is_refused() {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let config = config(r#", "mean_fields": {"kind": "frozen"}, "loss": {"kind": "contrastive"}"#);
    let error = train(&Native::default(), &config, &data, Start::default(), &mut |_| {}).err().unwrap().to_string();
    assert!(error.contains("mean_fields needs a loss with one vector for each class"), "{error}");
}

#[test]
fn every_loss_learns_a_set_that_is_easy() {
    for loss in LossSpec::NAMES {
        let (_, logs) = trained(loss, &Config { epochs: 6, ..config("") });
        assert!(logs[5].mean_loss < logs[0].mean_loss, "{loss}: {logs:?}");
    }
}

#[test]
fn a_batch_that_cannot_be_drawn_and_pixels_that_do_not_fit_are_refused() {
    let (pixels, labels) = images();
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let go = |data: TrainSet<'_>| {
        train_with(&Native::default(), &Config::default(), &data, &*loss, Start::default(), &mut |_| {})
            .err()
            .unwrap()
            .to_string()
    };
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let whole = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let message = Plain::new(&pixels[1..], &labels, [16, 16]).unwrap_err().to_string();
    assert!(message.contains("are not 32 RGB images of 16x16"), "{message}");
    let message = go(TrainSet { height: 15, ..whole });
    assert!(message.contains("image 0 of the set is 16x16 pixels, not 15x16"), "{message}");
    let message = go(whole);
    assert!(message.contains("30") && message.contains('4'), "30 classes of 4: {message}");
}

/// A training that saves its state at `path`.
fn kept(path: &Path, fields: &str, epochs: u32) -> Result<(Trained<Native>, Vec<EpochLog>), TrainError> {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let mut logs = Vec::new();
    let held_out = Some(HeldOut { images: EvalImages::new(&stored, [16, 16], 256), query_gallery: None });
    let start = Start { checkpoint: Some(path), held_out, ..Start::default() };
    let loss = LossSpec::named("cross_batch_memory").unwrap();
    let config = Config { epochs, loss, ..config(fields) };
    let device = Native::default();
    train(&device, &config, &data, start, &mut |log| logs.push(log.clone())).map(|trained| (trained, logs))
}

/// The part that two logs of one training share: all but the clock and the memory of the process.
fn told(logs: &[EpochLog]) -> Vec<(u32, u64, u64, Option<u64>)> {
    let bits = |log: &EpochLog| (log.mean_loss.to_bits(), log.learning_rate.to_bits(), log.score.map(f64::to_bits));
    logs.iter().map(|log| (log.epoch, bits(log).0, bits(log).1, bits(log).2)).collect()
}

#[test]
fn a_resumed_training_has_the_bits_of_an_uninterrupted_one() {
    for fields in [
        r#", "schedule": {"kind": "step", "every": 1, "factor": 0.5}, "freeze_backbone_epochs": 1"#,
        r#", "optimiser": {"kind": "rmsprop", "momentum": 0.9, "centered": true}, "dropout": 0.2, "accumulate": 3"#,
        r#", "validate": {"on": "test", "every": 1}, "learning_rate": 0.3"#,
        r#", "validate": {"on": "test", "every": 1, "keep": "last"}, "batch": {"draw": "shuffled", "size": 10}"#,
        r#", "validate": {"on": "test", "patience": 9, "untrained": "best"}, "learning_rate": 1e-12, "batch_norm": "frozen""#,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let whole = kept(&folder.path().join("whole"), fields, 3).unwrap();
        // A run of one epoch, then a longer one, then the same again with nothing left to do.
        kept(&path, fields, 1).unwrap();
        let longer = kept(&path, fields, 3).unwrap();
        let again = kept(&path, fields, 3).unwrap();
        for (trained, logs) in [&longer, &again] {
            assert!(bits(trained) == bits(&whole.0), "{fields}");
            assert_eq!((trained.epoch, trained.untrained), (whole.0.epoch, whole.0.untrained), "{fields}");
            assert_eq!(told(logs), told(&whole.1));
        }
        assert!(whole.1[0].step_memory > 0 && whole.1[1].mean_loss != whole.1[2].mean_loss);
    }
}

#[test]
fn the_state_of_another_training_is_refused_by_the_setting_that_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let cosine = r#", "schedule": {"kind": "cosine"}"#;
    kept(&path, cosine, 1).unwrap();
    let message = kept(&path, cosine, 2).err().unwrap().to_string();
    assert!(message.starts_with("epochs: 1 -> 2, but the schedule depends on the number of epochs"), "{message}");
    let message = kept(&path, "", 1).err().unwrap().to_string();
    assert!(message.contains("schedule.kind: \"cosine\" -> \"constant\""), "{message}");
    let message = kept(&path, r#", "schedule": {"kind": "cosine"}, "weight_decay": 0.5"#, 1).err().unwrap().to_string();
    assert!(message.ends_with("weight_decay: 0.0001 -> 0.5"), "{message}");
}

/// The losses of all epochs of a short training, and the network's parameters after it.
fn short<B: Backend>(device: &B, config: &Config) -> (Vec<f64>, Vec<f32>) {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("mean_field_contrastive").unwrap().build::<f32>().unwrap();
    let mut losses = Vec::new();
    let mut on_epoch = |log: &EpochLog| losses.push(log.mean_loss);
    let trained = train_with(device, config, &data, &*loss, Start::default(), &mut on_epoch).unwrap();
    let learned = trained.model.tensors().filter(|tensor| tensor.kind == nn::Kind::Parameter);
    (losses, learned.flat_map(|tensor| tensor.file_order(device)).collect())
}

/// The norm of the difference.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn trainings_on_a_dfdx_device_equal_native_ones_up_to_rounding() {
    for fields in [
        r#", "optimiser": {"kind": "sgd", "momentum": 0.9, "nesterov": true}, "clip_norm": 0.5"#,
        r#", "optimiser": {"kind": "rmsprop", "momentum": 0.9, "centered": true, "eps": 1e-2}, "accumulate": 3"#,
        r#", "optimiser": {"kind": "adamw", "eps": 1e-2}, "clip": 0.01, "weight_decay": 0.1"#,
        r#", "optimiser": {"kind": "adam", "eps": 1e-2}, "weight_decay": 0.1"#,
    ] {
        // An optimiser that divides by almost nothing would let rounding decide the direction.
        let config = config(fields);
        let (native_losses, native) = short(&Native::default(), &config);
        let (losses, portable) = short(&Portable::new(dfdx::prelude::Cpu::default()), &config);
        let (error, moved) = (apart(&portable, &native), apart(&native, &parameters(&beginning().0)));
        // Optimisers that divide by the size of a gradient amplify a rounding at a ReLU's kink; their options are
        // compared with PyTorch's steps to 1e-6.
        assert!(error < 0.2 * moved, "{fields}: {error} of {moved}");
        for (found, expected) in losses.iter().zip(&native_losses) {
            assert!((found / expected - 1.0).abs() < 1e-2, "{fields}: {losses:?} {native_losses:?}");
        }
    }
}

#[test]
fn a_training_on_a_dfdx_device_resumes_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("mean_field_contrastive").unwrap().build::<f32>().unwrap();
    let device = Portable::new(dfdx::prelude::Cpu::default());
    let run = |epochs: u32, checkpoint: Option<&Path>| {
        let config = Config { epochs, ..config(r#", "optimiser": {"kind": "rmsprop", "momentum": 0.9}"#) };
        let trained =
            train_with(&device, &config, &data, &*loss, Start { checkpoint, ..Start::default() }, &mut |_| {}).unwrap();
        let network: Vec<f32> = trained.model.tensors().flat_map(|tensor| tensor.file_order(&device)).collect();
        (network, trained.loss_parameters)
    };
    run(1, Some(&path));
    assert!(run(2, Some(&path)) == run(2, None));
}

#[test]
fn mixed_precision_is_near_full_precision_and_the_cpu_refuses_it() {
    let fields = r#", "optimiser": {"kind": "sgd", "momentum": 0.9}, "clip_norm": 1.0, "accumulate": 2"#;
    let full = config(fields);
    let mixed = config(&format!(r#"{fields}, "precision": "mixed""#));
    let device = Portable::new(dfdx::prelude::Cpu::default());
    let ((full_losses, expected), (losses, found)) = (short(&device, &full), short(&device, &mixed));
    let (error, moved) = (apart(&found, &expected), apart(&expected, &parameters(&beginning().0)));
    assert!(error > 0.0 && error < 0.1 * moved, "{error} of {moved}");
    for (found, expected) in losses.iter().zip(&full_losses) {
        assert!((found / expected - 1.0).abs() < 1e-2, "{losses:?} {full_losses:?}");
    }
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let refused = train_with(&Native::default(), &mixed, &data, &*loss, Start::default(), &mut |_| {});
    let message = refused.err().unwrap().to_string();
    assert!(message.starts_with("invalid training settings: precision mixed needs a GPU"), "{message}");
}

/// A loss whose gradient is 1 for the first element of each embedding, times `slope`.
#[derive(Clone)]
struct Steep(f32);

impl Loss<f32> for Steep {
    fn parameters(&self, _: usize, _: usize) -> Vec<Parameter> {
        Vec::new()
    }

    fn evaluate(
        &self,
        batch: Batch<'_, f32>,
        _: usize,
        _: &[&[f32]],
        gradients: &mut Gradients<f32>,
    ) -> Result<f32, LossError> {
        let slope = |at: usize| if at.is_multiple_of(batch.dim) { self.0 } else { 0.0 };
        gradients.embeddings = (0..batch.embeddings.len()).map(slope).collect();
        gradients.parameters = Vec::new();
        Ok(0.0)
    }
}

#[test]
fn a_gradient_beyond_half_precision_lowers_the_scale_and_skips_the_step() {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let device = Portable::new(dfdx::prelude::Cpu::default());
    let run = |slope: f32, epochs: u32, checkpoint: Option<&Path>| {
        let config = Config { epochs, ..config(r#", "precision": "mixed", "clip": 1e30"#) };
        let mut scales = Vec::new();
        let mut on_epoch = |log: &EpochLog| scales.push(log.loss_scale.unwrap());
        let start = Start { checkpoint, ..Start::default() };
        let trained = train_with(&device, &config, &data, &Steep(slope), start, &mut on_epoch);
        trained
            .map(|trained| (trained.model.tensors().flat_map(|t| t.file_order(&device)).collect::<Vec<f32>>(), scales))
    };
    // Four steps per epoch; a scaled slope of 2^16 and more is infinite in half precision.
    let (_, scales) = run(1.0, 2, None).unwrap();
    assert!(scales[1].skipped >= 1 && scales[1].factor == 65536.0 / 2f32.powi(scales[1].skipped as i32), "{scales:?}");
    let (steep, scales) = run(2f32.powi(10), 1, None).unwrap();
    assert_eq!((scales[0].factor, scales[0].skipped), (4096.0, 4));
    let unmoved = |values: &[f32]| {
        let mut rest = values;
        beginning().0.tensors().all(|tensor| {
            let start = tensor.file_order(&Native::default());
            let (found, after) = rest.split_at(start.len());
            rest = after;
            tensor.kind != nn::Kind::Parameter || found == start
        })
    };
    assert!(unmoved(&steep));
    let (moved, scales) = run(2f32.powi(10), 4, None).unwrap();
    assert!(!unmoved(&moved) && scales[3].factor < 64.0, "{scales:?}");
    // A resumed training continues with the scale at which it stopped.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    run(2f32.powi(10), 2, Some(&path)).unwrap();
    let again = run(2f32.powi(10), 4, Some(&path)).unwrap();
    assert!(again == (moved, scales));
    // The scale cannot help a gradient that is itself too large.
    let error = run(1e10, 8, None).err().unwrap().to_string();
    assert!(error.starts_with("epoch 5: a gradient of the network is not finite in half precision"), "{error}");
}

#[test]
fn accumulated_batches_equal_one_large_batch() {
    // Without batch statistics the mean gradient of two batches is that of both together; one step of plain SGD shows
    // it.
    let fields = r#", "steps_per_epoch": 2, "optimiser": {"kind": "sgd"}, "batch_norm": "frozen", "clip": 1e30, "weight_decay": 0"#;
    let text = |more: &str| {
        format!(r#"{{"dim": 8, "epochs": 1, "batch": {{"classes": 4, "per_class": 4}}, "seed": 9{fields}{more}}}"#)
    };
    let run = |more: &str| {
        let config: Config = serde_json::from_str(&text(more)).unwrap();
        trained("contrastive", &config).0
    };
    let start = parameters(&beginning().0);
    let moved = |model: &Model<Native>| -> Vec<f64> {
        parameters(model).iter().zip(&start).map(|(a, b)| f64::from(a - b)).collect()
    };
    let gathered = moved(&run(r#", "accumulate": 2, "learning_rate": 1e-6"#).model);
    // Two consecutive tiny steps move as far as the sum of both: twice the mean.
    let apart = moved(&run(r#", "learning_rate": 1e-6"#).model);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let ratio = dot(&apart, &gathered) / dot(&gathered, &gathered);
    assert!((ratio - 2.0).abs() < 0.1, "{ratio}");
    // The length of the step is the norm of the gradient, which is clipped.
    let cut = moved(&run(r#", "accumulate": 2, "learning_rate": 1, "clip_norm": 0.001"#).model);
    assert!((dot(&cut, &cut).sqrt() - 0.001).abs() < 1e-5, "{}", dot(&cut, &cut).sqrt());
}

#[test]
fn a_frozen_backbone_and_frozen_statistics_stay() {
    let tensors = |trained: &Trained<Native>, name: &str| -> Vec<Vec<f32>> {
        let device = Native::default();
        trained.model.tensors().filter(|t| t.name.contains(name)).map(|tensor| tensor.file_order(&device)).collect()
    };
    let run = |fields: &str| trained("contrastive", &Config { epochs: 1, ..config(fields) }).0;
    let plain = run("");
    let frozen = run(r#", "freeze_backbone_epochs": 1, "batch_norm": "frozen_statistics""#);
    let (network, _) = beginning();
    let begun = Trained { model: network, loss_parameters: Vec::new(), epoch: 0, not_finite: None, untrained: None };
    for name in ["blocks", "running"] {
        assert!(tensors(&frozen, name) == tensors(&begun, name) && tensors(&plain, name) != tensors(&begun, name));
    }
    assert!(tensors(&frozen, "head") != tensors(&begun, "head"));
    let statistics = run(r#", "batch_norm": "frozen_statistics""#);
    assert!(tensors(&statistics, "running") == tensors(&begun, "running"));
    assert!(tensors(&statistics, "norm.weight") != tensors(&begun, "norm.weight"));
    let scales = run(r#", "batch_norm": "frozen""#);
    assert!(tensors(&scales, "norm") == tensors(&begun, "norm") && tensors(&scales, "conv") != tensors(&begun, "conv"));
}

#[test]
fn a_weight_file_initialises_the_backbone_and_not_the_head() {
    let device = Native::default();
    let (other, _) = trained("contrastive", &config(""));
    let file = WeightFile::from_bytes("other", other.model.to_safetensors(&device).unwrap()).unwrap();
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let config = config(r#", "batch_norm": "frozen_statistics", "freeze_backbone_epochs": 2"#);
    let start = Start { weights: Some(&file), ..Start::default() };
    let found = train_with(&device, &config, &data, &*loss, start, &mut |_| {}).unwrap();
    for (found, other) in found.model.tensors().zip(other.model.tensors()) {
        let equal = found.file_order(&device) == other.file_order(&device);
        assert_eq!(equal, !found.name.starts_with("head"), "{}", found.name);
    }
    let wrong = Config { backbone: crate::nn::Backbone::named("resnet18").unwrap(), ..config };
    let larger = Plain::new(&[0; 32 * 32 * 32 * 3], &labels, [32, 32]).unwrap();
    let images = TrainSet { images: &larger, height: 32, width: 32, ..data };
    let message = train_with(&device, &wrong, &images, &*loss, start, &mut |_| {}).err().unwrap().to_string();
    assert!(message.contains("conv1.weight") && message.contains("blocks.0.conv.weight"), "{message}");
}

/// A training scored on its own images.
fn scored(fields: &str) -> Result<(Trained<Native>, Vec<EpochLog>), TrainError> {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let start = Start {
        held_out: Some(HeldOut { images: EvalImages::new(&stored, [16, 16], 256), query_gallery: None }),
        ..Start::default()
    };
    let mut logs = Vec::new();
    train_with(&Native::default(), &config(fields), &data, &*loss, start, &mut |log| logs.push(log.clone()))
        .map(|trained| (trained, logs))
}

/// Learning rates at which the scores rise and fall.
const ROUGH: &str = r#", "learning_rate": 0.05, "optimiser": {"kind": "sgd", "momentum": 0.9}"#;

#[test]
fn a_training_keeps_the_weights_of_its_best_epoch() {
    let with = |epochs: u32, more: &str| {
        let text = format!(r#"{ROUGH}, "epochs": {epochs}, "validate": {{"on": "test", "metric": "rp"{more}}}"#);
        scored(&text).unwrap()
    };
    let (best, logs) = with(9, "");
    let (last, same) = with(9, r#", "keep": "last""#);
    assert_eq!(told(&logs), told(&same), "scoring and keeping do not change the training");
    let scores: Vec<f64> = logs.iter().map(|log| log.score.unwrap()).collect();
    let top = scores.iter().copied().fold(0.0, f64::max);
    let first = scores.iter().position(|&score| score == top).unwrap() as u32 + 1;
    assert_eq!((best.epoch, last.epoch), (first, 9), "{scores:?}");
    assert!(first < 9, "this test needs a best epoch before the last: {scores:?}");
    // The best network equals the last one of a training that ends at that epoch.
    assert!(bits(&best) == bits(&with(first, r#", "keep": "last""#).0) && bits(&best) != bits(&last));
    // The score is that of the embeddings of the network it leaves.
    let vectors = embed(&Native::default(), &best.model, &images().0).unwrap();
    let (labels, options) = (images().1, crate::eval::Options::default());
    let queries = crate::eval::Labelled { vectors: &vectors, labels: &labels, dim: 8 };
    assert_eq!(crate::eval::retrieval(queries, None, &options).unwrap().r_precision, top);
    // With patience the same training ends as soon as that many epochs have brought no improvement.
    let patience = 1;
    let ends = (1..=scores.len()).find(|&epoch| {
        let best = scores[..epoch].iter().copied().fold(0.0, f64::max);
        epoch - 1 - scores.iter().position(|&score| score == best).unwrap() > patience
    });
    let (trained, short) = with(9, &format!(r#", "patience": {patience}"#));
    assert_eq!(short.len(), ends.unwrap_or(9));
    assert_eq!(told(&short), told(&logs)[..short.len()]);
    assert!(trained.epoch <= short.len() as u32);
}

#[test]
fn the_untrained_network_counts_as_epoch_0() {
    // Steps that change nothing: every epoch has the initial score, and among equals the first counts.
    let with = |more: &str| {
        let fields = r#", "learning_rate": 1e-12, "batch_norm": "frozen", "epochs": 9, "validate": {"on": "test", "patience": 2"#;
        let (trained, logs) = scored(&format!("{fields}{more}}}")).unwrap();
        let score = logs[0].score.unwrap();
        assert!(logs.iter().all(|log| log.score == Some(score)), "{logs:?}");
        assert_eq!(trained.untrained, (!more.is_empty()).then_some(score));
        (trained, logs.len())
    };
    let (trained, epochs) = with("");
    assert_eq!((trained.epoch, epochs), (1, 4));
    let (trained, epochs) = with(r#", "untrained": "patience""#);
    assert_eq!((trained.epoch, epochs), (1, 3));
    let (trained, epochs) = with(r#", "untrained": "best""#);
    assert_eq!((trained.epoch, epochs), (0, 3));
    assert_eq!(parameters(&trained.model), parameters(&beginning().0));
}

#[test]
fn held_out_images_may_be_split_into_queries_and_gallery() {
    // Labels that are independent of the images.
    let (pixels, labels) = (images().0, (0..32).map(|image| image % 4).collect::<Vec<u32>>());
    let (network, _) = beginning();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let of = |parts| {
        let images = HeldOut { images: EvalImages::new(&stored, [16, 16], 256), query_gallery: parts };
        score(&Native::default(), &network, images, "r@1".to_owned().try_into().unwrap()).unwrap()
    };
    // A query finds itself in a gallery that it is part of, and never among the others.
    let all: Vec<usize> = (0..32).collect();
    assert_eq!(of(Some((&all, &all))), 1.0);
    assert!(of(None) < 1.0 && of(Some((&all[..16], &all[16..]))) < 1.0);
}

#[test]
fn a_scored_training_without_held_out_images_is_refused() {
    let config = config(r#", "validate": {"on": "validation"}"#);
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let found = train_with(&Native::default(), &config, &data, &*loss, Start::default(), &mut |_| {});
    assert!(found.err().unwrap().to_string().contains("scored on its validation images, but there are none"));
}

/// A loss that becomes NaN or infinite after so many batches.
struct Lost {
    loss: Box<dyn Loss<f32>>,
    after: u32,
    batches: std::sync::atomic::AtomicU32,
}

impl Loss<f32> for Lost {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        self.loss.parameters(classes, dim)
    }

    fn evaluate(
        &self,
        batch: Batch<'_, f32>,
        classes: usize,
        parameters: &[&[f32]],
        gradients: &mut Gradients<f32>,
    ) -> Result<f32, LossError> {
        let value = self.loss.evaluate(batch, classes, parameters, gradients)?;
        let batches = self.batches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(if batches < self.after { value } else { f32::NAN })
    }
}

#[test]
fn a_diverged_training_may_stop_with_the_previous_epoch() {
    let (pixels, labels) = images();
    let stored = Plain::new(&pixels, &labels, [16, 16]).unwrap();
    let data = TrainSet { images: &stored, height: 16, width: 16, classes: 4 };
    let run = |fields: &str, after: u32| {
        let loss = LossSpec::named("mean_field_contrastive").unwrap().build::<f32>().unwrap();
        let loss = Lost { loss, after, batches: 0.into() };
        let mut epochs = 0;
        let found =
            train_with(&Native::default(), &config(fields), &data, &loss, Start::default(), &mut |_| epochs += 1);
        found.map(|trained| (trained, epochs))
    };
    // Four batches per epoch: the third epoch ends in its second batch, after one step.
    assert!(matches!(run(r#", "epochs": 4"#, 9), Err(TrainError::NotFinite { .. })));
    let (trained, epochs) = run(r#", "epochs": 4, "not_finite": "stop""#, 9).unwrap();
    assert!(trained.not_finite.as_ref().is_some_and(|why| why.contains("epoch 3, step 2: the loss is not finite")));
    assert_eq!((trained.epoch, epochs), (2, 2));
    let (whole, _) = run(r#", "epochs": 2, "not_finite": "stop""#, 9).unwrap();
    assert!(bits(&trained) == bits(&whole) && whole.not_finite.is_none());
}

/// A training with random crops of 20 x 16 images of different sizes.
#[test]
fn crops_train_on_images_of_any_size_and_are_evaluated_at_their_centre() {
    #[derive(Debug)]
    struct Shapes(Vec<Vec<u8>>, Vec<u32>);
    impl Images for Shapes {
        fn labels(&self) -> &[u32] {
            &self.1
        }
        fn image(&self, index: usize) -> crate::data::pixels::Stored<'_> {
            let size = [20 + index as u32 % 3, 24 + index as u32 % 5];
            crate::data::pixels::Stored { size, bytes: &self.0[index], encoded: false }
        }
    }
    let labels = images().1;
    let of = |index: usize| {
        let mut random = stream(6, "test images", 0, index as u64);
        let len = (20 + index % 3) * (24 + index % 5) * 3;
        (0..len).map(|at| if at % 3 == labels[index] as usize % 3 { 150 } else { random.below(90) as u8 }).collect()
    };
    let shapes = Shapes((0..32).map(of).collect(), labels.clone());
    let data = TrainSet { images: &shapes, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let fields =
        r#", "augment": {"kind": "crop", "size": 16}, "evaluation_short_side": 18, "validate": {"on": "test"}"#;
    let go = |config: &Config| {
        let held_out = HeldOut { images: data.for_evaluation(config), query_gallery: None };
        let start = Start { held_out: Some(held_out), ..Start::default() };
        let mut logs = Vec::new();
        let trained = train_with(&Native::default(), config, &data, &*loss, start, &mut |log| logs.push(log.clone()));
        trained.map(|trained| (bits(&trained), told(&logs)))
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| go(&config(fields)).unwrap())
    };
    let one = on(1);
    assert!(one == on(2) && one == on(5));
    assert!(one != go(&config(&fields.replace("\"size\": 16", "\"size\": 16, \"scale\": [0.5, 1]"))).unwrap());
    // Without crops the images cannot form a batch.
    let message = go(&config(r#", "evaluation_short_side": 18"#)).err().unwrap().to_string();
    assert!(message.contains("augment: { kind: crop }"), "{message}");
    let small = config(r#", "augment": {"kind": "crop", "size": 16}, "evaluation_short_side": 15"#);
    assert!(small.check()[0].0 == "evaluation_short_side");
}
