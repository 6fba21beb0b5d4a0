//! Backbones against PyTorch's: `backbones.json` and `vit.json` under `tests/data`, made by the scripts next to them.

use dfdx::prelude::NoneTape;
use serde::Deserialize;

use super::backend::{Backend, Map, Shape};
use super::layers::{Pass, Statistics};
use super::{Architecture, Backbone, Head, Kind, Model, Native, buffer};

#[derive(Deserialize)]
struct File {
    models: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    input: [usize; 4],
    seed: u64,
    feature_dim: usize,
    num_params: usize,
    eval_features_first16: Vec<Vec<f32>>,
    eval_features_norm: Vec<f64>,
    eval_loss_mean_square: f64,
    first_conv: String,
    grad_first_conv_norm: f64,
    grad_first_conv_first8: Vec<f32>,
    train_mode_features_first8: Vec<Vec<f32>>,
    train_mode_features_norm: Vec<f64>,
    tensors: Vec<(String, Vec<usize>)>,
    /// Gradients of further tensors than the first convolution.
    #[serde(default)]
    gradients: Vec<Figures>,
}

/// The gradient of one tensor.
#[derive(Deserialize)]
struct Figures {
    name: String,
    norm: f64,
    first8: Vec<f32>,
}

impl Case {
    /// Tensors whose gradients are compared, the first convolution's first.
    fn looked_at(&self) -> Vec<&str> {
        let more = self.gradients.iter().map(|figures| figures.name.as_str());
        std::iter::once(self.first_conv.as_str()).chain(more).collect()
    }
}

fn cases() -> Vec<Case> {
    let read = |name: &str| {
        let path = format!("{}/tests/data/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str::<File>(&std::fs::read_to_string(path).unwrap()).unwrap().models
    };
    ["backbones", "vit"].into_iter().flat_map(read).collect()
}

/// The rule of the reference file: value `i` of the tensor `name`, uniform in [0, 1).
fn uniform(name: &str, len: usize, seed: u64) -> impl Iterator<Item = f64> {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (1..=len as u64).map(move |i| {
        let mut x = (hash ^ seed).wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1 << 24)
    })
}

/// A network filled according to the rule.
fn filled<B: Backend>(device: &B, case: &Case) -> Model<B> {
    let backbone = match case.name.as_str() {
        "resnet18" => Backbone::named("resnet18").unwrap(),
        "resnet50" => Backbone::named("resnet50").unwrap(),
        "bn_inception" => Backbone::named("bn_inception").unwrap(),
        "vit_small_patch16_224" => Backbone::named("vit_small_16").unwrap(),
        other => panic!("no backbone {other}"),
    };
    let [_, _, height, width] = case.input;
    let (pooling, head, dim) = (None, Head::Identity, backbone.features);
    let architecture = Architecture { backbone, pooling, head, dim, height, width };
    let mut model = Model::new(device, architecture, 0).unwrap();
    for tensor in model.tensors_mut() {
        let (len, name) = (tensor.len(), tensor.name.clone());
        let spread = match &tensor.shape[..] {
            [_, fan_in @ ..] if !fan_in.is_empty() => {
                let fan_in: usize = fan_in.iter().product();
                (-0.5, 2.0 * (3.0 / fan_in as f64).sqrt())
            }
            _ if name.ends_with("running_var") || name.ends_with("weight") => (0.5, 1.0),
            _ => (-0.5, 0.2),
        };
        let values: Vec<f32> = uniform(&name, len, case.seed)
            .map(|u| match spread {
                (0.5, _) => 0.5 + u,
                (shift, factor) => (u + shift) * factor,
            } as f32)
            .collect();
        tensor.set(device, &values);
    }
    model
}

fn input<B: Backend>(device: &B, case: &Case) -> Map<B> {
    let [images, channels, rows, columns] = case.input;
    let planes: Vec<f32> =
        uniform("input", images * channels * rows * columns, case.seed).map(|u| ((u - 0.5) * 4.0) as f32).collect();
    let mut values = vec![0.0; planes.len()];
    for (index, value) in planes.into_iter().enumerate() {
        let (image, channel, pixel) =
            (index / (channels * rows * columns), index / (rows * columns) % channels, index % (rows * columns));
        values[(image * rows * columns + pixel) * channels + channel] = value;
    }
    device.map(values, Shape { images, rows, columns, channels }).unwrap()
}

/// Pooled features of the case's input, and the gradients of their mean square with respect to the compared tensors.
fn run<B: Backend>(device: &B, model: &Model<B>, case: &Case, statistics: Statistics) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut pass = Pass { device, tensors: &model.tensors, statistics, moved: Vec::new() };
    let x = device.record(input(device, case));
    let features = model.features(&mut pass, x).unwrap();
    let values = B::download(&features);
    let scale = 2.0 / values.len() as f32;
    let gradient: Vec<f32> = values.iter().map(|value| scale * value).collect();
    let mut gradients = device.backward(features, &gradient).unwrap();
    let looked_at = case.looked_at();
    let others = |name: &str| !looked_at.contains(&name);
    for tensor in model.tensors().filter(|tensor| tensor.kind == Kind::Parameter && others(&tensor.name)) {
        assert!(device.gradient(&mut gradients, &tensor.value).unwrap().is_some(), "no gradient for {}", tensor.name);
    }
    let gradients = looked_at.into_iter().map(|name| {
        let mut holder = model.tensors().find(|tensor| tensor.name == name).unwrap().clone();
        holder.value = device.gradient(&mut gradients, &holder.value).unwrap().unwrap();
        holder.file_order(device)
    });
    (values, gradients.collect())
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Tolerance for elements of gradients, relative to the largest. A rounding that moves a single value to the other side
/// of a ReLU's kink changes a gradient by that value's whole share, far more than this.
const GRADIENTS: f32 = 2e-5;

/// Within `tolerance` of the largest.
fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let scale = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(scale > 0.0, "{what}: nothing to compare");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * scale, "{what}: {found} for {expected}");
    }
}

fn near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-3 * expected.abs(), "{what}: {found} for {expected}");
}

#[test]
fn features_and_gradients_are_those_of_pytorch() {
    for device in [Native::direct(), Native::default()] {
        for case in cases() {
            compare(&device, &case);
        }
    }
    buffer::release();
}

fn compare(device: &Native, case: &Case) {
    let what = |which: &str| format!("{} at {}: {which}", case.name, case.input[3]);
    let model = filled(device, case);
    let mut names: Vec<_> = model.tensors().map(|tensor| (tensor.name.clone(), tensor.shape.clone())).collect();
    let mut expected = case.tensors.clone();
    names.sort();
    expected.sort();
    assert_eq!(names, expected, "{}", what("names and shapes"));
    assert_eq!(model.tensors().map(|tensor| tensor.len()).sum::<usize>(), case.num_params);

    let (features, gradients) = run(device, &model, case, Statistics::Running { learn: true });
    assert_eq!(features.len(), 2 * case.feature_dim);
    for (row, features) in features.chunks(case.feature_dim).enumerate() {
        close(&features[..16], &case.eval_features_first16[row], 1e-5, &what("evaluation"));
        near(norm(features), case.eval_features_norm[row], &what("length of the features"));
    }
    let mean_square = norm(&features).powi(2) / features.len() as f64;
    near(mean_square, case.eval_loss_mean_square, &what("mean square"));
    near(norm(&gradients[0]), case.grad_first_conv_norm, &what("length of the gradient"));
    close(&gradients[0][..8], &case.grad_first_conv_first8, GRADIENTS, &what("gradient"));
    for (figures, gradient) in case.gradients.iter().zip(&gradients[1..]) {
        near(norm(gradient), figures.norm, &what(&figures.name));
        close(&gradient[..8], &figures.first8, GRADIENTS, &what(&figures.name));
    }

    let (features, _) = run(device, &model, case, Statistics::Batch);
    for (row, features) in features.chunks(case.feature_dim).enumerate() {
        close(&features[..8], &case.train_mode_features_first8[row], 1e-3, &what("training mode"));
        near(norm(features), case.train_mode_features_norm[row], &what("length in training mode"));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for case in cases().into_iter().filter(|case| ["bn_inception", "vit_small_patch16_224"].contains(&&*case.name)) {
        let all: Vec<_> = [1, 2, 4]
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let device = Native::default();
                    let model = filled(&device, &case);
                    run(&device, &model, &case, Statistics::Batch)
                })
            })
            .into();
        assert!(norm(&all[0].0) > 0.0 && all[0].1.iter().all(|gradient| norm(gradient) > 0.0));
        assert!(all[1] == all[0] && all[2] == all[0], "{}", case.name);
    }
}

#[test]
fn frozen_and_recorded_passes_agree() {
    // Without a tape nothing is kept, and the values have the same bits.
    let device = Native::default();
    let case = cases().into_iter().find(|case| case.name == "resnet18").unwrap();
    let model = filled(&device, &case);
    let statistics = Statistics::Running { learn: true };
    let (recorded, _) = run(&device, &model, &case, statistics);
    let mut pass = Pass { device: &device, tensors: &model.tensors, statistics, moved: Vec::new() };
    let features = model.features::<NoneTape>(&mut pass, input(&device, &case)).unwrap();
    assert_eq!(Native::download(&features), recorded);
}
