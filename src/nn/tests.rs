//! The CPU's blocks against the same network written with dfdx's own operations, and against a plain loop.

use dfdx::prelude::*;

use super::backend::{BlockTensors, Flat, Images, download};
use super::portable::{self, Statistics};
use super::{AdamWStep, Architecture, Backbone, Backend, Model, embed};
use crate::data::random::stream;

fn random(purpose: &str, len: usize) -> Vec<f32> {
    let mut stream = stream(1, purpose, 0, len as u64);
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// Images, channels in, channels out: one pixel row, odd sizes, widths beside and beyond a vector register.
const SHAPES: [((usize, usize, usize, usize), usize); 5] =
    [((2, 2, 2, 1), 1), ((3, 5, 7, 3), 4), ((1, 8, 3, 33), 17), ((5, 6, 6, 16), 40), ((2, 13, 9, 3), 32)];

/// A block's input, kernel, scale and shift.
fn case(x: (usize, usize, usize, usize), outputs: usize) -> (Cpu, Images<Cpu>, [Flat<Cpu>; 3]) {
    let device = Cpu::default();
    let flat = |purpose: &str, len: usize| device.upload(&random(purpose, len), (len,)).unwrap();
    let images = device.upload(&random("x", x.0 * x.1 * x.2 * x.3), x).unwrap();
    let tensors = [flat("kernel", 9 * x.3 * outputs), flat("weight", outputs), flat("bias", outputs)];
    (device, images, tensors)
}

/// `max |a - b| / max |b|`, or infinity where either is not finite.
fn error(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-6f32, |most, b| most.max(b.abs()));
    a.iter().zip(b).fold(0.0, |most: f32, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_finite() { most.max(difference / scale) } else { f32::INFINITY }
    })
}

#[test]
fn training_blocks_give_the_values_gradients_and_statistics_of_dfdx() {
    for (shape, outputs) in SHAPES {
        let (device, images, tensors) = case(shape, outputs);
        let [kernel, weight, bias] = &tensors;
        let run = |own: bool| {
            let block = BlockTensors { kernel, weight, bias };
            let mut mean: Flat<Cpu> = device.zeros_like(&(outputs,));
            let mut variance: Flat<Cpu> = device.ones_like(&(outputs,));
            let x = images.leaky_trace();
            let y = match own {
                true => device.block_train(x, block, (&mut mean, &mut variance), true).unwrap(),
                false => portable::block(&device, x, block, Statistics::Batch(&mut mean, &mut variance)).unwrap(),
            };
            let values = download(&y);
            // A tail that is not linear, so that the gradient that arrives is not the same everywhere.
            let gradients = y.square().sum::<Rank0, _>().backward();
            let mut all = vec![values, download(&mean), download(&variance), download(&gradients.get(&images))];
            all.extend(tensors.iter().map(|tensor| download(&gradients.get(tensor))));
            all
        };
        for ((own, reference), what) in run(true).iter().zip(&run(false)).zip([
            "value",
            "running mean",
            "running variance",
            "gradient of the input",
            "of the kernel",
            "of the scale",
            "of the shift",
        ]) {
            let error = error(own, reference);
            assert!(error <= 2e-4, "{shape:?} to {outputs}: {what} off by {error}");
        }
    }
}

#[test]
fn evaluation_blocks_equal_a_plain_loop() {
    for ((n, h, w, c), outputs) in SHAPES {
        let (device, images, tensors) = case((n, h, w, c), outputs);
        let [kernel, weight, bias] = &tensors;
        let mean = device.upload(&random("mean", outputs), (outputs,)).unwrap();
        let variance: Vec<f32> = random("variance", outputs).iter().map(|x| x * x + 0.1).collect();
        let variance = device.upload(&variance, (outputs,)).unwrap();
        let block = || BlockTensors { kernel, weight, bias };
        let found = download(&device.block_eval(images.clone(), block(), (&mean, &variance)).unwrap());
        let statistics = Statistics::Running(&mean, &variance);
        let portable = download(&portable::block(&device, images.clone(), block(), statistics).unwrap());

        let (x, k) = (download(&images), download(kernel));
        let [g, b, m, v] = [weight, bias, &mean, &variance].map(download);
        let at = |i: usize, y: isize, z: isize, channel: usize| -> f64 {
            let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&z);
            if inside { f64::from(x[((i * h + y as usize) * w + z as usize) * c + channel]) } else { 0.0 }
        };
        let activation = |i: usize, y: usize, z: usize, o: usize| -> f64 {
            let taps = (0..9).flat_map(|tap| (0..c).map(move |channel| (tap, channel)));
            let sum: f64 = taps
                .map(|(tap, channel)| {
                    let (dy, dz) = ((tap / 3) as isize - 1, (tap % 3) as isize - 1);
                    at(i, y as isize + dy, z as isize + dz, channel) * f64::from(k[(tap * c + channel) * outputs + o])
                })
                .sum();
            let scale = f64::from(g[o]) / (f64::from(v[o]) + 1e-5).sqrt();
            ((sum - f64::from(m[o])) * scale + f64::from(b[o])).max(0.0)
        };
        let mut expected = Vec::new();
        for i in 0..n {
            for (y, z) in (0..h / 2).flat_map(|y| (0..w / 2).map(move |z| (2 * y, 2 * z))) {
                for o in 0..outputs {
                    let window = [(y, z), (y, z + 1), (y + 1, z), (y + 1, z + 1)];
                    expected
                        .push(window.iter().fold(0.0, |most: f64, &(y, z)| most.max(activation(i, y, z, o))) as f32);
                }
            }
        }
        for (found, what) in [(&found, "ours"), (&portable, "dfdx's")] {
            let error = error(found, &expected);
            assert!(error <= 1e-5, "({n}, {h}, {w}, {c}) to {outputs}: {what} off by {error}");
        }
    }
}

#[test]
fn adamw_of_dfdx_operations_equals_ours() {
    let device = Cpu::default();
    let flat = |values: &[f32]| device.upload(values, (values.len(),)).unwrap();
    let start = random("parameter", 37);
    let moments = || [vec![0.0f32; 37], vec![0.0f32; 37]];
    let (mut own, mut own_moments) = (flat(&start), moments().map(|m| flat(&m)));
    let (mut portable, mut portable_moments) = (flat(&start), moments().map(|m| flat(&m)));
    for step in 1..=5 {
        let gradient = flat(&random("gradient", 37));
        let step = AdamWStep { learning_rate: 0.1, weight_decay: 0.01, clip: 0.5, step };
        device.adamw(step, &mut own, &gradient, &mut own_moments).unwrap();
        portable::adamw_step(step, &mut portable, &gradient, &mut portable_moments).unwrap();
    }
    let moved = error(&download(&own), &start);
    let error = error(&download(&portable), &download(&own));
    assert!(moved > 0.1 && error <= 1e-5, "moved by {moved}, differ by {error}");
}

fn model() -> (Cpu, Model<Cpu>) {
    let device = Cpu::default();
    let architecture = Architecture { backbone: Backbone::Convnet4, dim: 8, height: 16, width: 16 };
    let model = Model::new(&device, architecture, 3).unwrap();
    (device, model)
}

#[test]
fn a_weight_file_gives_the_same_embeddings_bit_for_bit() {
    let (device, model) = model();
    let pixels: Vec<u8> = (0..3 * 16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let embeddings = embed(&device, &model, &pixels).unwrap();
    for row in embeddings.chunks_exact(8) {
        let norm: f32 = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() <= 1e-5, "{norm}");
    }
    let bytes = model.to_safetensors().unwrap();
    let read = Model::from_safetensors(&device, &bytes).unwrap();
    assert_eq!(embed(&device, &read, &pixels).unwrap(), embeddings);
    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        assert!(Model::from_safetensors(&device, &bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn tensors_of_another_name_or_shape_are_named() {
    let (device, model) = model();
    let bytes = model.to_safetensors().unwrap();
    // The header is JSON of a known length: only replacements of equal length keep the file whole.
    let edited = |from: &str, to: &str| {
        let text: Vec<u8> = from.bytes().collect();
        let mut edited = bytes.clone();
        let at = edited.windows(text.len()).position(|window| window == text).unwrap();
        edited[at..at + text.len()].copy_from_slice(to.as_bytes());
        Model::from_safetensors(&device, &edited).err().unwrap().to_string()
    };
    let name = &model.tensors().next().unwrap().name;
    let other = name.to_uppercase();
    assert_eq!(
        edited(name, &other),
        format!("tensors missing from the weight file: [{name}]; unexpected in it: [{other}]")
    );
    let message = edited("\"shape\":[32,3,3,3]", "\"shape\":[3,32,3,3]");
    assert!(message.contains("is F32 [3, 32, 3, 3] in the weight file, expected F32 [32, 3, 3, 3]"), "{message}");
}
