//! The operations of a transformer against plain loops in double precision, and against dfdx's own operations.

use dfdx::prelude::{Backward, Cpu, HasShape, NoneTape, OwnedTape, SumTo, Tensor, TensorFromVec, Trace, TryMul};

use super::backend::{Backend, Convolution, Map, Recording, Shape};
use super::portable::transformer::{self as portable, Flat, Matrix};
use super::tests::bare;
use super::{Architecture, Backbone, Error, Head, Kind, Model, Native, Pooling, embed};
use crate::math::random::stream;

type Vector = <Native as Backend>::Vector;
type Traced = Map<Native, Recording<Native>>;
type TracedMatrix = Matrix<Cpu, OwnedTape<f32, Cpu>>;

fn random(purpose: &str, len: usize, deviation: f32) -> Vec<f32> {
    let mut stream = stream(1, purpose, 0, len as u64);
    (0..len).map(|_| deviation * stream.normal() as f32).collect()
}

/// Our operation on a map and parameters.
type NativeForm<'a> = &'a dyn Fn(&Native, Traced, &[Vector]) -> Result<Traced, Error>;

/// An operation in its three forms. The first input is the map (`images x pixels x channels`), the rest are parameters.
struct Case<'a> {
    what: String,
    shape: [usize; 3],
    inputs: Vec<Vec<f32>>,
    native: NativeForm<'a>,
    dfdx: &'a dyn Fn(TracedMatrix, &[Flat<Cpu>]) -> TracedMatrix,
    plain: &'a dyn Fn(&[Vec<f64>]) -> Vec<f64>,
}

/// The value, and the gradients of all inputs for a gradient `g` of the value.
fn native(case: &Case<'_>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = Native::default();
    let [images, pixels, channels] = case.shape;
    let rows = images * pixels;
    // A map with a gradient: the product of a unit matrix with a parameter.
    let unit: Vec<f32> = (0..rows * rows).map(|i| f32::from(u8::from(i / rows == i % rows))).collect();
    let parameters: Vec<Vector> = case.inputs.iter().map(|values| device.vector(values).unwrap()).collect();
    let shape = Shape { images, rows: 1, columns: pixels, channels: rows };
    let layer = bare(Convolution::square(1, 1, 0), &parameters[0], channels);
    let x = device.record(device.map(unit.clone(), shape).unwrap());
    let (x, _) = device.unit(x, layer, None).unwrap();
    let y = (case.native)(&device, x, &parameters[1..]).unwrap();
    let values = Native::download(&y);
    let mut gradients = device.backward(y, &random("g", values.len(), 1.0)).unwrap();
    let gradients = parameters.iter().map(|parameter| {
        let gradient = device.gradient(&mut gradients, parameter).unwrap().unwrap();
        device.read(&gradient, <[f32]>::to_vec)
    });
    (values, gradients.collect())
}

fn dfdx(case: &Case<'_>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = Cpu::default();
    let [images, pixels, channels] = case.shape;
    let x: Matrix<Cpu> = device.tensor_from_vec(case.inputs[0].clone(), (images * pixels, channels));
    let flat = |values: &Vec<f32>| device.tensor_from_vec(values.clone(), (values.len(),));
    let parameters: Vec<Flat<Cpu>> = case.inputs[1..].iter().map(flat).collect();
    let y = (case.dfdx)(x.leaky_trace(), &parameters);
    let values = y.as_vec();
    let g: Matrix<Cpu> = device.tensor_from_vec(random("g", values.len(), 1.0), *y.shape());
    let sum: Tensor<(), f32, Cpu, OwnedTape<f32, Cpu>> = y.try_mul(g).unwrap().sum();
    let gradients = sum.backward();
    let of_x = gradients.get(&x).as_vec();
    (values, std::iter::once(of_x).chain(parameters.iter().map(|p| gradients.get(p).as_vec())).collect())
}

/// Within `tolerance` of the largest, and none NaN.
fn close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        // Not the other way round: NaN is not close.
        let near = (f64::from(found) - expected).abs() <= tolerance * scale;
        assert!(near, "{what}, element {i}: {found} for {expected}, the largest {scale}");
    }
}

/// Values by the plain loop, gradients by its central differences (of some fifty elements of each input).
fn check(case: &Case<'_>) {
    let mut inputs: Vec<Vec<f64>> = case.inputs.iter().map(|x| x.iter().map(|&x| f64::from(x)).collect()).collect();
    let expected = (case.plain)(&inputs);
    let g = random("g", expected.len(), 1.0);
    let loss =
        |inputs: &[Vec<f64>]| -> f64 { (case.plain)(inputs).iter().zip(&g).map(|(y, &g)| y * f64::from(g)).sum() };
    let mut places = Vec::new();
    let mut differences = Vec::new();
    for input in 0..inputs.len() {
        for at in (0..inputs[input].len()).step_by(inputs[input].len() / 50 + 1) {
            let (here, step) = (inputs[input][at], 1e-5);
            inputs[input][at] = here + step;
            let above = loss(&inputs);
            inputs[input][at] = here - step;
            differences.push((above - loss(&inputs)) / (2.0 * step));
            inputs[input][at] = here;
            places.push((input, at));
        }
    }
    for (who, (values, gradients)) in [("ours", native(case)), ("dfdx's", dfdx(case))] {
        close(&values, &expected, 2e-6, &format!("{} {who} value", case.what));
        for (input, gradient) in gradients.iter().enumerate() {
            let picked = || places.iter().zip(&differences).filter(|(place, _)| place.0 == input);
            let found: Vec<f32> = picked().map(|(place, _)| gradient[place.1]).collect();
            let expected: Vec<f64> = picked().map(|(_, &difference)| difference).collect();
            close(&found, &expected, 1e-5, &format!("{} {who} gradient of input {input}", case.what));
        }
    }
}

/// `softmax(Q K' / sqrt(d)) V` for `images x tokens x 3C`.
fn plain_attention([images, tokens, channels]: [usize; 3], heads: usize, x: &[f64]) -> Vec<f64> {
    let (width, size) = (channels / 3, channels / 3 / heads);
    let at = |image: usize, token: usize, part: usize, c: usize| x[((image * tokens + token) * 3 + part) * width + c];
    let mut y = vec![0.0; images * tokens * width];
    for (image, head) in (0..images).flat_map(|image| (0..heads).map(move |head| (image, head))) {
        let columns = head * size..(head + 1) * size;
        for token in 0..tokens {
            let scores: Vec<f64> = (0..tokens)
                .map(|key| {
                    let sum: f64 = columns.clone().map(|c| at(image, token, 0, c) * at(image, key, 1, c)).sum();
                    sum / (size as f64).sqrt()
                })
                .collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            for (key, score) in scores.iter().enumerate() {
                let share = (score - most).exp() / total;
                for c in columns.clone() {
                    y[(image * tokens + token) * width + c] += share * at(image, key, 2, c);
                }
            }
        }
    }
    y
}

fn attention(shape: [usize; 3], heads: usize, deviation: f32, with: impl FnOnce(&Case<'_>)) {
    with(&Case {
        what: format!("attention of {heads} heads on {shape:?} at {deviation}"),
        shape,
        inputs: vec![random("x", shape.iter().product(), deviation)],
        native: &|device, x, _| device.attention(x, heads),
        dfdx: &|x, _| portable::attention(x, shape[0], heads, false).unwrap(),
        plain: &|inputs| plain_attention(shape, heads, &inputs[0]),
    });
}

#[test]
fn attention_is_that_of_a_plain_loop() {
    // One token, odd sizes, heads next to and beyond a panel, several blocks of queries forward (61) and backward
    // (230).
    for (images, tokens, heads, size) in [(2, 5, 3, 7), (3, 1, 2, 4), (2, 33, 1, 33), (1, 61, 2, 8), (1, 230, 1, 3)] {
        attention([images, tokens, 3 * heads * size], heads, 1.0, check);
    }
}

#[test]
fn attention_with_scores_in_the_thousands_stays_finite() {
    // The function is close to a step, so finite differences are useless: the values alone are compared, and gradients
    // must be finite.
    attention([2, 19, 3 * 2 * 8], 2, 60.0, |case| {
        let inputs: Vec<f64> = case.inputs[0].iter().map(|&x| f64::from(x)).collect();
        let (values, gradients) = native(case);
        close(&values, &(case.plain)(&[inputs]), 1e-3, &case.what);
        assert!(gradients[0].iter().all(|x| x.is_finite()));
    });
}

#[test]
fn what_is_not_a_number_stays_so() {
    let device = Native::default();
    let mut values = random("x", 3 * 12, 1.0);
    values[12] = f32::NAN;
    let x = device.map(values.clone(), Shape { images: 1, rows: 1, columns: 3, channels: 12 }).unwrap();
    let y = Native::download(&device.attention::<NoneTape>(x, 2).unwrap());
    // The second token's first query.
    let expected: Vec<bool> = (0..12).map(|i| i == 4 || i == 5).collect();
    assert_eq!(y.iter().map(|y| y.is_nan()).collect::<Vec<_>>(), expected);
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let device = Native::default();
    for heads in [0, 3] {
        let x = device.map(vec![0.0; 24], Shape { images: 1, rows: 1, columns: 2, channels: 12 }).unwrap();
        assert!(device.attention::<NoneTape>(x, heads).is_err(), "{heads}");
    }
}

#[test]
fn layer_normalisation_is_that_of_a_plain_loop() {
    for [images, pixels, channels] in [[2, 3, 5], [1, 1, 1], [3, 7, 33], [2, 31, 384]] {
        let inputs = vec![
            random("x", images * pixels * channels, 1.0).iter().map(|x| x + 3.0).collect(),
            random("weight", channels, 1.0),
            random("bias", channels, 1.0),
        ];
        check(&Case {
            what: format!("layer normalisation of {channels}"),
            shape: [images, pixels, channels],
            inputs,
            native: &|device, x, parameters| device.layer_norm(x, &parameters[0], &parameters[1], 1e-2),
            dfdx: &|x, parameters| {
                portable::layer_norm(x, parameters[0].retaped(), parameters[1].retaped(), 1e-2).unwrap()
            },
            plain: &|inputs| {
                let normalise = |x: &[f64]| -> Vec<f64> {
                    let mean = x.iter().sum::<f64>() / channels as f64;
                    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / channels as f64;
                    let deviation = (variance + f64::from(1e-2f32)).sqrt();
                    (0..channels).map(|c| (x[c] - mean) / deviation * inputs[1][c] + inputs[2][c]).collect()
                };
                inputs[0].chunks_exact(channels).flat_map(normalise).collect()
            },
        });
    }
}

#[test]
fn tokens_and_stretches_of_them_are_those_of_a_plain_loop() {
    for [images, pixels, channels] in [[3, 4, 5], [2, 1, 33]] {
        let all = (pixels + 1) * channels;
        check(&Case {
            what: format!("tokens of {pixels} pixels"),
            shape: [images, pixels, channels],
            inputs: vec![
                random("x", images * pixels * channels, 1.0),
                random("class", channels, 1.0),
                random("positions", all, 1.0),
            ],
            native: &|device, x, parameters| device.tokens(x, &parameters[0], &parameters[1]),
            dfdx: &|x, parameters| {
                portable::tokens(x, images, parameters[0].retaped(), parameters[1].retaped()).unwrap()
            },
            plain: &|inputs| {
                let image = |x: &[f64]| -> Vec<f64> {
                    inputs[1].iter().chain(x).zip(&inputs[2]).map(|(token, position)| token + position).collect()
                };
                inputs[0].chunks_exact(pixels * channels).flat_map(image).collect()
            },
        });
    }
    for range in [0..1, 1..5, 2..3] {
        check(&Case {
            what: format!("pixels {range:?}"),
            shape: [3, 5, 7],
            inputs: vec![random("x", 3 * 5 * 7, 1.0)],
            native: &|device, x, _| device.pixels(x, range.clone()),
            dfdx: &|x, _| portable::pixels(x, 3, range.clone()).unwrap(),
            plain: &|inputs| {
                inputs[0].chunks_exact(35).flat_map(|x| x[range.start * 7..range.end * 7].to_vec()).collect()
            },
        });
    }
}

/// The error function by its Taylor series: to 1e-10 where `|x| <= 4`.
fn erf(x: f64) -> f64 {
    let (mut power, mut sum) = (x, x);
    for n in 1..100 {
        power *= -x * x / f64::from(n);
        sum += power / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn gelu_is_that_of_the_error_function() {
    let inputs = vec![random("x", 2 * 9 * 33, 1.0)];
    check(&Case {
        what: "GELU".into(),
        shape: [2, 9, 33],
        inputs,
        native: &|device, x, _| device.gelu(x),
        dfdx: &|x, _| portable::gelu(x).unwrap(),
        plain: &|inputs| inputs[0].iter().map(|x| x / 2.0 * (1.0 + erf(x / 2.0f64.sqrt()))).collect(),
    });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    attention([3, 230, 3 * 2 * 9], 2, 1.0, |case| {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (inputs, shape) = (case.inputs.clone(), case.shape);
            pool.install(move || {
                native(&Case {
                    what: String::new(),
                    shape,
                    inputs,
                    native: &|device, x, _| device.attention(x, 2),
                    dfdx: &|x, _| x,
                    plain: &|_| Vec::new(),
                })
            })
        };
        let one = run(1);
        assert!(one.1[0].iter().any(|&x| x != 0.0));
        assert!(run(2) == one && run(4) == one);
    });
}

fn architecture(pooling: Option<Pooling>, height: usize, width: usize) -> Architecture {
    Architecture {
        backbone: Backbone::named("vit_small_16").unwrap(),
        pooling,
        head: Head::Identity,
        dim: 384,
        height,
        width,
    }
}

#[test]
fn what_no_transformer_can_be_is_refused() {
    let device = Native::default();
    let message = |architecture| Model::new(&device, architecture, 0).err().unwrap().to_string();
    assert_eq!(message(architecture(None, 32, 40)), "width: 40 pixels are not whole patches of 16");
    assert_eq!(message(architecture(None, 0, 32)), "height: 0 pixels are too few for this backbone; at least 16");
    let cnn = Architecture {
        backbone: Backbone::named("resnet18").unwrap(),
        dim: 512,
        ..architecture(Some(Pooling::Token), 32, 32)
    };
    assert_eq!(message(cnn), "pooling: this backbone has no class token; it pools by average, max or average_max");
}

#[test]
fn poolings_of_a_transformer() {
    let device = Native::default();
    let pixels =
        |height: usize, width: usize| -> Vec<u8> { (0..height * width * 3).map(|i| (i * 7 % 251) as u8).collect() };
    let run = |pooling, height, width| {
        let model = Model::new(&device, architecture(pooling, height, width), 5).unwrap();
        embed(&device, &model, &pixels(height, width)).unwrap()
    };
    let token = run(None, 16, 16);
    assert_eq!(run(Some(Pooling::Token), 16, 16), token);
    // Of a single patch, mean and maximum are its token, which is not the class's.
    let patch = run(Some(Pooling::Average), 16, 16);
    assert_eq!(run(Some(Pooling::Max), 16, 16), patch);
    assert_ne!(patch, token);
    let largest = run(Some(Pooling::Max), 32, 48);
    assert_ne!(largest, run(Some(Pooling::Average), 32, 48));
    assert_ne!(largest, run(Some(Pooling::AverageMax), 32, 48));
}

#[test]
fn it_starts_as_timm_starts_it() {
    let device = Native::default();
    let model = Model::new(&device, architecture(None, 224, 224), 1).unwrap();
    let moments = |name: &str| {
        let tensor = model.tensors().find(|tensor| tensor.name == name).unwrap();
        assert_eq!(tensor.kind, Kind::Parameter);
        let values = tensor.file_order(&device);
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, square.sqrt())
    };
    let patch = 1.0 / (768.0f64 * 3.0).sqrt();
    for (name, mean, deviation) in [
        ("cls_token", 0.0, 1e-6),
        ("pos_embed", 0.0, 0.02),
        ("patch_embed.proj.weight", 0.0, patch),
        ("patch_embed.proj.bias", 0.0, patch),
        ("blocks.0.norm1.weight", 1.0, 0.0),
        ("blocks.3.attn.qkv.weight", 0.0, 0.02),
        ("blocks.3.attn.qkv.bias", 0.0, 0.0),
        ("blocks.11.mlp.fc2.weight", 0.0, 0.02),
        ("norm.bias", 0.0, 0.0),
    ] {
        let found = moments(name);
        assert!((found.0 - mean).abs() <= 0.2 * deviation, "{name}: mean {}", found.0);
        assert!((found.1 - deviation).abs() <= 0.1 * deviation, "{name}: deviation {}", found.1);
    }
    assert_eq!(model.tensors().map(|tensor| tensor.len()).sum::<usize>(), 21_665_664);
}

#[test]
fn its_name_in_a_description() {
    let text = r#"{"backbone": "vit_small_16", "pooling": "token", "dim": 8, "height": 224, "width": 224}"#;
    let found: Architecture = serde_json::from_str(text).unwrap();
    assert_eq!((found.backbone, found.pooling), (Backbone::named("vit_small_16").unwrap(), Some(Pooling::Token)));
    let text = r#"{"backbone": "vit_small_16", "dim": 8, "height": 224, "width": 224}"#;
    assert_eq!(serde_json::from_str::<Architecture>(text).unwrap().pooling(), Pooling::Token);
    let text = r#"{"backbone": "resnet18", "dim": 8, "height": 224, "width": 224}"#;
    assert_eq!(serde_json::from_str::<Architecture>(text).unwrap().pooling(), Pooling::Average);
}
