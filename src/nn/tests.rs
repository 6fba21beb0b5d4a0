//! The CPU's operations against plain loops, and what the tests of every backend share.

use super::backend::{After, Backend, Convolution, Map, Norm, Recording, Reduce, Shape, Unit, Window};
use super::{Dropout, Native};
use crate::math::random::stream;

/// Standard normal, the same for the same purpose and length.
pub(super) fn random(purpose: &str, len: usize) -> Vec<f32> {
    let mut stream = stream(1, purpose, 0, len as u64);
    (0..len).map(|_| stream.normal() as f32).collect()
}

/// `max |a - b| / max(|b|, floor)`, or infinity where either is not finite.
pub(super) fn error(a: &[f32], b: &[f32], floor: f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(floor, |most, b| most.max(b.abs()));
    a.iter().zip(b).fold(0.0, |most: f32, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_finite() { most.max(difference / scale) } else { f32::INFINITY }
    })
}

#[test]
fn an_error_that_is_not_a_number_is_seen() {
    assert_eq!(error(&[1.0, 2.0], &[1.0, 4.0], 1e-6), 0.5);
    for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::NAN, f32::NAN), (f32::INFINITY, f32::INFINITY)] {
        assert_eq!(error(&[0.0, a, 0.0], &[0.0, b, 0.0], 1e-6), f32::INFINITY);
    }
}

/// A convolution with nothing after it.
pub(super) fn bare<V>(convolution: Convolution, kernel: &V, outputs: usize) -> Unit<'_, V> {
    Unit { convolution, kernel, bias: None, outputs, norm: Norm::Without, after: After::Nothing }
}

/// A map whose gradient can be read as that of the accompanying vector: the product of a pixel's own unit vector with
/// the values.
pub(super) fn leaf<B: Backend>(device: &B, values: &[f32], shape: Shape) -> (Map<B, Recording<B>>, B::Vector) {
    let pixels = shape.images * shape.rows * shape.columns;
    let units: Vec<f32> = (0..pixels * pixels).map(|i| f32::from(u8::from(i / pixels == i % pixels))).collect();
    let units = device.record(device.map(units, Shape { channels: pixels, ..shape }).unwrap());
    let kernel = device.vector(values).unwrap();
    let unit = bare(Convolution::square(1, 1, 0), &kernel, shape.channels);
    let (map, _) = device.unit(units, unit, None).unwrap();
    assert_eq!(B::download(&map), values);
    (map, kernel)
}

/// An operation's result, and the gradient of its input for an upstream gradient `random("dy")`.
pub(super) fn operation<B: Backend>(
    device: &B,
    values: &[f32],
    shape: Shape,
    run: impl FnOnce(Map<B, Recording<B>>) -> Map<B, Recording<B>>,
) -> (Shape, Vec<f32>, Vec<f32>) {
    let (x, leaf) = leaf(device, values, shape);
    let y = run(x);
    let (out, values) = (B::shape(&y), B::download(&y));
    let mut gradients = device.backward(y, &random("dy", values.len())).unwrap();
    let gradient = device.gradient(&mut gradients, &leaf).unwrap().unwrap();
    (out, values, device.read(&gradient, <[f32]>::to_vec))
}

/// Images, rows, columns, channels.
pub(super) fn shape([images, rows, columns, channels]: [usize; 4]) -> Shape {
    Shape { images, rows, columns, channels }
}

/// Input, output channels and convolution: odd sizes, channels next to and beyond a vector register, strides 1 to 3,
/// kernels that are not square, groups.
pub(super) const CONVOLUTIONS: [([usize; 4], usize, Convolution); 12] = {
    const fn of(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], groups: usize) -> Convolution {
        Convolution { kernel, stride, padding, groups }
    }
    [
        ([2, 2, 2, 1], 1, of([3, 3], [1, 1], [1, 1], 1)),
        ([3, 5, 7, 3], 4, of([3, 3], [1, 1], [1, 1], 1)),
        ([1, 8, 3, 33], 17, of([3, 3], [1, 1], [1, 1], 1)),
        ([2, 6, 6, 16], 40, of([3, 3], [1, 1], [1, 1], 1)),
        ([2, 4, 5, 18], 20, of([1, 1], [1, 1], [0, 0], 1)),
        ([2, 5, 6, 7], 9, of([1, 1], [2, 2], [0, 0], 1)),
        ([2, 9, 8, 3], 10, of([7, 7], [2, 2], [3, 3], 1)),
        ([2, 7, 9, 4], 6, of([3, 3], [2, 2], [1, 1], 1)),
        ([2, 8, 7, 5], 3, of([2, 3], [3, 1], [0, 1], 1)),
        ([2, 6, 5, 6], 8, of([3, 3], [1, 1], [1, 1], 2)),
        ([2, 5, 7, 4], 6, of([3, 1], [2, 1], [1, 0], 2)),
        ([2, 4, 4, 6], 6, of([1, 1], [1, 1], [0, 0], 2)),
    ]
};

/// A convolution in double precision: value, and the gradients of input and kernel.
fn loops(
    x: &[f32],
    kernel: &[f32],
    dy: &[f32],
    shape: Shape,
    outputs: usize,
    convolution: Convolution,
) -> [Vec<f64>; 3] {
    let Convolution { kernel: size, stride, padding, groups } = convolution;
    let image = [shape.rows, shape.columns];
    let [rows, columns] = [0, 1].map(|axis| (image[axis] + 2 * padding[axis] - size[axis]) / stride[axis] + 1);
    let (depth, width) = (shape.channels / groups, outputs / groups);
    let mut y = vec![0.0; shape.images * rows * columns * outputs];
    let (mut dx, mut dk) = (vec![0.0; x.len()], vec![0.0; kernel.len()]);
    for (at, y) in y.iter_mut().enumerate() {
        let (o, pixel) = (at % outputs, at / outputs);
        let (image, row, column) = (pixel / columns / rows, pixel / columns % rows, pixel % columns);
        for (tap, c) in (0..size[0] * size[1]).flat_map(|tap| (0..depth).map(move |c| (tap, c))) {
            let v = (row * stride[0] + tap / size[1]).wrapping_sub(padding[0]);
            let h = (column * stride[1] + tap % size[1]).wrapping_sub(padding[1]);
            if v < shape.rows && h < shape.columns {
                let from = ((image * shape.rows + v) * shape.columns + h) * shape.channels + o / width * depth + c;
                let by = (tap * depth + c) * outputs + o;
                *y += f64::from(x[from]) * f64::from(kernel[by]);
                dx[from] += f64::from(dy[at]) * f64::from(kernel[by]);
                dk[by] += f64::from(dy[at]) * f64::from(x[from]);
            }
        }
    }
    [y, dx, dk]
}

#[test]
fn convolutions_are_those_of_plain_loops() {
    let device = Native::default();
    for (extents, outputs, convolution) in CONVOLUTIONS {
        let shape = shape(extents);
        let x = random("x", shape.len());
        let [rows, columns] = convolution.kernel;
        let k = random("kernel", rows * columns * shape.channels / convolution.groups * outputs);
        let kernel = device.vector(&k).unwrap();
        let (map, leaf) = leaf(&device, &x, shape);
        let unit = bare(convolution, &kernel, outputs);
        let (y, _) = device.unit(map, unit, None).unwrap();
        let y_values = Native::download(&y);
        let dy = random("dy", y_values.len());
        let mut gradients = device.backward(y, &dy).unwrap();
        let mut gradient = |vector| {
            let gradient = device.gradient(&mut gradients, vector).unwrap().unwrap();
            device.read(&gradient, <[f32]>::to_vec)
        };
        let found = [y_values, gradient(&leaf), gradient(&kernel)];
        let expected = loops(&x, &k, &dy, shape, outputs, convolution);
        let expected = expected.map(|values| values.into_iter().map(|value| value as f32).collect::<Vec<_>>());
        for ((found, expected), what) in found.iter().zip(&expected).zip(["value", "of the input", "of the kernel"]) {
            let error = error(found, expected, 1e-6);
            assert!(error <= 2e-5, "{extents:?} to {outputs}, {convolution:?}: {what} off by {error}");
        }
    }
}

#[test]
fn winograds_algorithm_rounds_less_than_three_times_as_much_as_a_plain_sum() {
    let (shape, outputs, convolution) = (shape([1, 16, 16, 64]), 32, Convolution::square(3, 1, 1));
    let x: Vec<f32> = random("x", shape.len()).into_iter().map(|x| x.max(0.0)).collect();
    let k = random("kernel", 9 * shape.channels * outputs);
    let pixels = shape.rows * shape.columns;
    let [expected, ..] = loops(&x, &k, &vec![0.0; pixels * outputs], shape, outputs, convolution);
    let rounding = |device: Native| {
        let kernel = device.vector(&k).unwrap();
        let unit = bare(convolution, &kernel, outputs);
        let (y, _) = device.unit(device.map(x.clone(), shape).unwrap(), unit, None).unwrap();
        let errors =
            Native::download(&y).into_iter().zip(&expected).map(|(found, expected)| f64::from(found) - expected);
        errors.map(|error| error * error).sum::<f64>().sqrt()
    };
    let [with, without] = [Native::default(), Native::direct()].map(rounding);
    assert!(with != without && with < 3.0 * without, "{with} against {without}");
}

/// Windows with and without padding, overlap, gaps and a truncated last window.
pub(super) const WINDOWS: [Window; 6] = [
    Window { size: 2, stride: 2, padding: 0, ceil: false },
    Window { size: 3, stride: 2, padding: 1, ceil: false },
    Window { size: 3, stride: 2, padding: 0, ceil: true },
    Window { size: 3, stride: 1, padding: 1, ceil: true },
    Window { size: 3, stride: 2, padding: 1, ceil: true },
    Window { size: 2, stride: 3, padding: 1, ceil: true },
];

/// Integers of which many are equal, and a pixel of negative ones where zero padding would show.
pub(super) fn ties(len: usize) -> Vec<f32> {
    random("ties", len).iter().enumerate().map(|(i, x)| if i % 3 == 0 { -3.0 } else { (1.5 * x).round() }).collect()
}

/// Pooling in double precision: value, and the gradient of the input.
fn pooled(x: &[f32], dy: &[f32], shape: Shape, window: Window, reduce: Reduce) -> [Vec<f32>; 2] {
    let Shape { rows, columns, channels, .. } = shape;
    let out = window.out(shape);
    let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
    for (at, dy) in dy.iter().enumerate() {
        let (c, cell) = (at % channels, at / channels);
        let (image, row, column) = (cell / out.columns / out.rows, cell / out.columns % out.rows, cell % out.columns);
        let (mut inside, mut padded) = (Vec::new(), 0.0);
        for (v, h) in (0..window.size).flat_map(|v| (0..window.size).map(move |h| (v, h))) {
            let (v, h) = (row * window.stride + v, column * window.stride + h);
            if v < rows + 2 * window.padding && h < columns + 2 * window.padding {
                padded += 1.0;
            }
            let (v, h) = (v.wrapping_sub(window.padding), h.wrapping_sub(window.padding));
            if v < rows && h < columns {
                inside.push(((image * rows + v) * columns + h) * channels + c);
            }
        }
        match reduce {
            Reduce::Max => {
                let winner = inside.iter().copied().reduce(|best, i| if x[i] > x[best] { i } else { best }).unwrap();
                y.push(x[winner]);
                dx[winner] += f64::from(*dy);
            }
            Reduce::Average => {
                y.push((inside.iter().map(|&i| f64::from(x[i])).sum::<f64>() / padded) as f32);
                inside.iter().for_each(|&i| dx[i] += f64::from(*dy) / padded);
            }
        }
    }
    [y, dx.into_iter().map(|value| value as f32).collect()]
}

#[test]
fn pooling_windows_are_those_of_plain_loops() {
    let device = Native::default();
    for (extents, window) in [[2, 7, 8, 3], [1, 6, 5, 20]].into_iter().flat_map(|e| WINDOWS.map(|window| (e, window))) {
        let shape = shape(extents);
        let x = ties(shape.len());
        for reduce in [Reduce::Max, Reduce::Average] {
            let (out, y, dx) = operation(&device, &x, shape, |x| device.pool(x, window, reduce).unwrap());
            assert_eq!(out, window.out(shape));
            let [expected, gradient] = pooled(&x, &random("dy", y.len()), shape, window, reduce);
            let [value, input] = [error(&y, &expected, 1e-6), error(&dx, &gradient, 1e-6)];
            assert!(value <= 1e-6 && input <= 1e-6, "{extents:?}, {window:?}, {reduce:?}: off by {value}, {input}");
        }
    }
}

#[test]
fn dropout_keeps_its_share_and_the_mean() {
    for rate in [0.1, 0.5] {
        let dropout = Dropout { rate, seed: 1, epoch: 2, step: 3 };
        let factors = dropout.factors(100_000);
        let dropped = factors.iter().filter(|factor| **factor == 0.0).count() as f64 / 1e5;
        let mean = factors.iter().map(|&factor| f64::from(factor)).sum::<f64>() / 1e5;
        assert!((dropped - rate).abs() < 0.01 && (mean - 1.0).abs() < 0.01, "{dropped} dropped, mean {mean}");
        assert!(factors.iter().all(|&factor| factor == 0.0 || (f64::from(factor) * (1.0 - rate) - 1.0).abs() < 1e-6));
        assert_ne!(Dropout { step: 4, ..dropout }.factors(100), factors[..100]);
    }
}

#[test]
fn l2_normalisation_gives_unit_vectors_and_the_slopes_of_small_steps() {
    let device = Native::default();
    let shape = Shape::vectors(4, 9);
    let x = random("x", shape.len());
    let (_, y, gradient) = operation(&device, &x, shape, |x| device.l2_normalise(x).unwrap());
    for row in y.chunks_exact(9) {
        let length: f32 = row.iter().map(|y| y * y).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() <= 1e-6, "{length}");
    }
    let dy = random("dy", y.len());
    let loss = |x: &[f32]| -> f64 {
        let y = device.l2_normalise(device.map(x.to_vec(), shape).unwrap()).unwrap();
        Native::download(&y).iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
    };
    let slopes: Vec<f32> = (0..x.len())
        .map(|i| {
            let step = |by: f32| {
                let mut x = x.clone();
                x[i] += by;
                loss(&x)
            };
            ((step(1e-2) - step(-1e-2)) / 2e-2) as f32
        })
        .collect();
    let error = error(&gradient, &slopes, 1e-6);
    assert!(error <= 1e-3, "off by {error}");
}
