//! The training loop on an easy set: modes, measurements, threads, refusals.

use super::*;
use crate::loss::registry::LossSpec;
use crate::nn::embed;

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
    serde_json::from_str(&format!("{text}{fields}}}")).unwrap()
}

fn trained(loss: &str, config: &Config) -> (Trained<Cpu>, Vec<EpochLog>) {
    let (pixels, labels) = images();
    let data = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named(loss).unwrap().build::<f32>().unwrap();
    let mut logs = Vec::new();
    let trained = train(&Cpu::default(), config, &data, &*loss, &mut |log| logs.push(log.clone())).unwrap();
    (trained, logs)
}

/// The bits of the embeddings of all images and of the loss's matrices.
fn bits(trained: &Trained<Cpu>) -> Vec<u32> {
    let vectors = embed(&Cpu::default(), &trained.model, &images().0).unwrap();
    vectors.iter().chain(trained.loss_parameters.iter().flat_map(|p| &p.values)).map(|x| x.to_bits()).collect()
}

/// The network and the mean fields as the settings of [`config`] start them.
fn beginning() -> (Model<Cpu>, Vec<f32>) {
    let architecture = Architecture { backbone: config("").backbone, dim: 8, height: 16, width: 16 };
    let loss = LossSpec::named("mean_field_contrastive").unwrap().build::<f32>().unwrap();
    let mut fields = start(loss.parameters(4, 8), 9);
    (Model::new(&Cpu::default(), architecture, 9).unwrap(), fields.remove(0).values)
}

fn parameters(model: &Model<Cpu>) -> Vec<f32> {
    let learned = model.tensors().filter(|tensor| tensor.kind == nn::Kind::Parameter);
    learned.flat_map(|tensor| tensor.file_order()).collect()
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
fn each_mode_moves_what_it_says() {
    let (network, fields) = beginning();
    let run = |mode: &str| trained("mean_field_contrastive", &config(&format!(r#", "mean_fields": {mode}"#))).0;
    let joint = run(r#"{"kind": "joint"}"#);
    assert!(bits(&joint) == bits(&trained("mean_field_contrastive", &config("")).0));
    assert!(joint.loss_parameters[0].values != fields && parameters(&joint.model) != parameters(&network));
    let frozen = run(r#"{"kind": "frozen"}"#);
    assert!(frozen.loss_parameters[0].values == fields && parameters(&frozen.model) != parameters(&network));
    // Turns longer than the training: the network's never comes.
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
    let averages = Averages::new(&embed(&Cpu::default(), &network, &pixels).unwrap(), &labels, 4, 8);
    let expected: Vec<f32> = averages.rows.iter().map(|&x| x as f32).collect();
    // Both epochs have the averages of the start.
    let fields = r#", "mean_fields": {"kind": "class_means", "every": 2}"#;
    let (found, _) = trained("mean_field_contrastive", &config(fields));
    assert_eq!(found.loss_parameters[0].values, expected);
    let fields = r#", "mean_fields": {"kind": "class_means", "every": 1}"#;
    let (found, _) = trained("mean_field_contrastive", &config(fields));
    assert_ne!(found.loss_parameters[0].values, expected);
    // A moving average of averages of unit vectors is no longer than 1, whatever the vectors were at the start.
    let fields = r#", "mean_fields": {"kind": "moving_average", "momentum": 0.99}"#;
    let (found, _) = trained("mean_field_contrastive", &config(fields));
    for field in found.loss_parameters[0].values.chunks(8) {
        let length = field.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(0.5 < length && length <= 1.0 + 1e-5, "{length}");
    }
}

#[test]
fn measuring_leaves_no_trace_in_the_training() {
    let smooth = ["mean_field_class_wise_multi_similarity", "mean_field_binomial_deviance"];
    for loss in smooth.into_iter().chain(["proxy_anchor", "class_wise_multi_similarity"]) {
        let (plain, _) = trained(loss, &config(""));
        let (measured, logs) = trained(loss, &config(r#", "measure": {"every": 2, "batches": 3}"#));
        assert!(bits(&plain) == bits(&measured), "{loss}");
        assert_eq!(logs[0].measured, None);
        let Measured { field_angle, spread, parent_gap, noise, parent_noise } = logs[1].measured.unwrap();
        assert!((0.0..=1.0).contains(&spread) && noise.is_some_and(|noise| noise > 0.0), "{loss}: {:?}", logs[1]);
        let pairs = loss.starts_with("mean_field");
        assert_eq!((parent_gap.is_some(), parent_noise.is_some()), (pairs, pairs), "{loss}");
        assert_eq!(field_angle.is_some(), loss != "class_wise_multi_similarity", "{loss}");
    }
}

#[test]
fn a_mode_that_the_loss_has_no_vectors_for_is_refused() {
    let (pixels, labels) = images();
    let data = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
    let loss = LossSpec::named("contrastive").unwrap().build::<f32>().unwrap();
    let config = config(r#", "mean_fields": {"kind": "frozen"}"#);
    let error = train(&Cpu::default(), &config, &data, &*loss, &mut |_| {}).err().unwrap().to_string();
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
        train(&Cpu::default(), &Config::default(), &data, &*loss, &mut |_| {}).err().unwrap().to_string()
    };
    let whole = TrainSet { pixels: &pixels, labels: &labels, height: 16, width: 16, classes: 4 };
    let message = go(TrainSet { pixels: &pixels[1..], ..whole });
    assert!(message.contains("are not 32 RGB images of 16x16"), "{message}");
    let message = go(whole);
    assert!(message.contains("30") && message.contains('4'), "30 classes of 4: {message}");
}
