//! The optimisers against PyTorch's, step for step, and properties that all of them have.

use std::collections::BTreeSet;

use dfdx::prelude::Cpu;

use super::*;
use crate::nn::{Native, Portable};
use crate::settings::Setting;
use crate::train::schedule::{Schedule, WarmUp};

/// Steps computed by PyTorch in single precision; `tests/data/optimisers.py` wrote the file and defines the problem.
const REFERENCE: &str = include_str!("../../../tests/data/optimisers.json");

/// Tolerance to PyTorch's parameters, relative to the largest value of a parameter or its update so far. The operations
/// and their order are PyTorch's, so the only difference is an occasional rounding (2^-24, carried through 12 steps),
/// where PyTorch fuses a product with a sum. Observed: up to 3e-7.
const TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct Reference {
    problem: Problem,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Problem {
    start: Vec<Vec<f32>>,
    target: Vec<Vec<f32>>,
    slope: Vec<Vec<f32>>,
    push: Vec<Vec<Vec<f32>>>,
}

#[derive(Deserialize)]
struct Case {
    optimiser: OptimiserSpec,
    learning_rates: Vec<f64>,
    weight_decays: Vec<f64>,
    schedule: Schedule,
    warm_up: Option<WarmUp>,
    clip: Option<f32>,
    clip_norm: Option<f64>,
    norms: Vec<f64>,
    after: Vec<Vec<Vec<f32>>>,
}

impl Problem {
    fn gradients(&self, step: usize, values: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let of = |(tensor, values): (usize, &Vec<f32>)| {
            let slope = |at: usize| self.slope[tensor][at] * (values[at] - self.target[tensor][at]);
            (0..values.len()).map(|at| slope(at) + self.push[step][tensor][at]).collect()
        };
        values.iter().enumerate().map(of).collect()
    }
}

/// A vector copied from the host to `device`.
fn on<B: Backend>(device: &B, values: &[f32]) -> B::Vector {
    device.vector(values).unwrap()
}

fn host<B: Backend>(device: &B, vector: &B::Vector) -> Vec<f32> {
    device.read(vector, <[f32]>::to_vec)
}

/// The largest difference to PyTorch over all steps, in the unit of [`TOLERANCE`].
fn largest_difference<B: Backend>(device: &B, problem: &Problem, case: &Case) -> f64 {
    let mut values = problem.start.clone();
    let mut vectors: Vec<B::Vector> = values.iter().map(|values| on(device, values)).collect();
    let mut states: Vec<State<B::Vector>> = values.iter().map(|_| State::default()).collect();
    let mut largest: Vec<Vec<f32>> = values.iter().map(|tensor| tensor.iter().map(|x| x.abs()).collect()).collect();
    let mut worst = 0.0f64;
    for (at, expected) in case.after.iter().enumerate() {
        let gradients: Vec<B::Vector> =
            problem.gradients(at, &values).iter().map(|gradient| on(device, gradient)).collect();
        let mut scale = 1.0;
        if let Some(limit) = case.clip_norm {
            let norm = gradients.iter().map(|gradient| device.square_sum(gradient).unwrap()).sum::<f64>().sqrt();
            worst = worst.max((norm / case.norms[at] - 1.0).abs());
            scale = norm_factor(norm, limit) as f32;
        }
        let factor = case.schedule.factor_after(case.warm_up, at as u32, case.after.len() as u32);
        for tensor in 0..values.len() {
            let hyper = Step {
                learning_rate: case.learning_rates[tensor] * factor,
                weight_decay: case.weight_decays[tensor],
                step: at as u32 + 1,
                scale,
                clip: case.clip.unwrap_or(f32::INFINITY),
            };
            case.optimiser.step(device, hyper, &mut vectors[tensor], &gradients[tensor], &mut states[tensor]).unwrap();
            let before = std::mem::replace(&mut values[tensor], host(device, &vectors[tensor]));
            for (((x, expected), largest), before) in
                values[tensor].iter().zip(&expected[tensor]).zip(&mut largest[tensor]).zip(before)
            {
                *largest = largest.max(x.abs()).max((x - before).abs());
                let difference = f64::from(x - expected).abs() / f64::from(*largest);
                worst = if difference <= worst { worst } else { difference };
            }
        }
    }
    worst
}

#[test]
fn twelve_steps_are_those_of_pytorch() {
    let Reference { problem, cases } = serde_json::from_str(REFERENCE).unwrap();
    assert_eq!(cases.len(), 13);
    for case in &cases {
        assert_eq!((case.optimiser.check(), case.after.len()), (vec![], 12));
        let native = largest_difference(&Native::default(), &problem, case);
        let portable = largest_difference(&Portable::new(Cpu::default()), &problem, case);
        assert!(native <= TOLERANCE && portable <= TOLERANCE, "{:?}: {native} {portable}", case.optimiser);
        // The comparison is meaningful: each step moves each parameter by more than the tolerance.
        let starts = std::iter::once(&problem.start).chain(&case.after);
        for (before, after) in starts.zip(&case.after) {
            let moved = before.iter().flatten().zip(after.iter().flatten()).map(|(a, b)| (a - b).abs());
            let least = moved.fold(f32::INFINITY, f32::min);
            assert!(f64::from(least) > TOLERANCE, "{:?} rests: {least}", case.optimiser);
        }
    }
}

#[test]
fn slightly_wrong_options_fail_the_reference_values() {
    let Reference { problem, mut cases } = serde_json::from_str(REFERENCE).unwrap();
    let native = Native::default();
    for case in &mut cases {
        case.weight_decays.iter_mut().for_each(|decay| *decay += 1e-3);
        assert!(largest_difference(&native, &problem, case) > 10.0 * TOLERANCE, "{:?}", case.optimiser);
        case.weight_decays.iter_mut().for_each(|decay| *decay -= 1e-3);
        let altered = match case.optimiser {
            OptimiserSpec::AdamW(adam) => OptimiserSpec::Adam(adam),
            OptimiserSpec::Adam(Adam { betas: [a, b], eps }) => OptimiserSpec::Adam(Adam { betas: [a + 1e-3, b], eps }),
            OptimiserSpec::Sgd(sgd) => OptimiserSpec::Sgd(Sgd { momentum: sgd.momentum + 1e-3, ..sgd }),
            OptimiserSpec::RmsProp(rms) => OptimiserSpec::RmsProp(RmsProp { centered: !rms.centered, ..rms }),
        };
        case.optimiser = altered;
        assert!(largest_difference(&native, &problem, case) > 10.0 * TOLERANCE, "{altered:?}");
    }
}

/// Each optimiser with every state vector that it can have.
fn all() -> [OptimiserSpec; 7] {
    [
        OptimiserSpec::AdamW(Adam::default()),
        OptimiserSpec::Adam(Adam::default()),
        OptimiserSpec::Sgd(Sgd::default()),
        OptimiserSpec::Sgd(Sgd { momentum: 0.9, dampening: 0.0, nesterov: true }),
        OptimiserSpec::RmsProp(RmsProp::default()),
        OptimiserSpec::RmsProp(RmsProp { momentum: 0.9, ..RmsProp::default() }),
        OptimiserSpec::RmsProp(RmsProp { momentum: 0.9, centered: true, ..RmsProp::default() }),
    ]
}

const HYPER: Step = Step { learning_rate: 1e-2, weight_decay: 1e-2, step: 1, scale: 0.5, clip: 3.0 };

fn wave(len: usize, phase: f64) -> Vec<f32> {
    (0..len).map(|at| (5.0 * (0.37 * at as f64 + phase).sin()) as f32).collect()
}

/// The elements after one step.
fn stepped<B: Backend>(
    device: &B,
    optimiser: OptimiserSpec,
    hyper: Step,
    values: &[f32],
    gradient: &[f32],
    state: &mut State<B::Vector>,
) -> Vec<f32> {
    let mut vector = on(device, values);
    optimiser.step(device, hyper, &mut vector, &on(device, gradient), state).unwrap();
    host(device, &vector)
}

#[test]
fn elements_do_not_depend_on_threads_or_on_their_neighbours() {
    // Four chunks of a Native step, the last one short.
    let (piece, native) = (1 << 16, Native::default());
    let len = 3 * piece + 17;
    for optimiser in all() {
        let run = |range: std::ops::Range<usize>| {
            let (mut values, mut state) = (wave(len, 0.3)[range.clone()].to_vec(), State::default());
            for step in 1..=3 {
                let gradient = &wave(len, f64::from(step))[range.clone()];
                values = stepped(&native, optimiser, Step { step, ..HYPER }, &values, gradient, &mut state);
            }
            values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        };
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let whole = on(1).install(|| run(0..len));
        for threads in [2, 4, 7] {
            assert!(on(threads).install(|| run(0..len)) == whole, "{optimiser:?} on {threads} threads");
        }
        for range in [0..1, piece - 3..piece + 5, len - 18..len] {
            assert!(run(range.clone()) == whole[range.clone()], "{optimiser:?} alone in {range:?}");
        }
        assert!(run(0..0).is_empty());
    }
}

fn state_goes_on<B: Backend>(device: &B) {
    for optimiser in all() {
        let step = |step, values: &[f32], state: &mut State<B::Vector>| {
            stepped(device, optimiser, Step { step, ..HYPER }, values, &wave(9, f64::from(step)), state)
        };
        let mut state = State::default();
        let values = step(1, &wave(9, 0.0), &mut state);
        let mut copy = State::default();
        for (name, vector) in state.vectors() {
            assert!(copy.set(name, on(device, &host(device, vector))), "{name}");
        }
        assert!(!copy.set("velocity", on(device, &[])));
        let expected = step(2, &values, &mut state);
        assert_eq!(step(2, &values, &mut copy), expected, "{optimiser:?}");
        let remembered = |state: &State<B::Vector>| -> Vec<(&str, Vec<f32>)> {
            state.vectors().map(|(name, vector)| (name, host(device, vector))).collect()
        };
        assert_eq!(remembered(&copy), remembered(&state), "{optimiser:?}");
        // The state matters: the same step without it gives another result.
        if state.vectors().next().is_some() {
            assert_ne!(step(2, &values, &mut State::default()), expected, "{optimiser:?}");
        }
    }
}

#[test]
fn saved_and_restored_state_continues_with_the_same_bits() {
    state_goes_on(&Native::default());
    state_goes_on(&Portable::new(Cpu::default()));
}

#[test]
fn a_step_changes_no_copy_of_a_parameter() {
    for optimiser in all() {
        let device = Portable::new(Cpu::default());
        let mut values = on(&device, &wave(9, 0.0));
        let (copy, gradient) = (values.clone(), on(&device, &wave(9, 1.0)));
        optimiser.step(&device, HYPER, &mut values, &gradient, &mut State::default()).unwrap();
        assert_eq!((host(&device, &copy), host(&device, &gradient)), (wave(9, 0.0), wave(9, 1.0)), "{optimiser:?}");
        assert_ne!(host(&device, &values), wave(9, 0.0));
    }
}

fn lengths_are_refused<B: Backend>(device: &B) {
    for optimiser in all() {
        let (mut values, mut state) = (on(device, &wave(4, 0.0)), State::default());
        let error = optimiser.step(device, HYPER, &mut values, &on(device, &[0.5; 3]), &mut state).unwrap_err();
        assert_eq!(error.to_string(), "the gradient of a tensor of 4 elements has 3");
        optimiser.step(device, HYPER, &mut values, &on(device, &[0.5; 4]), &mut state).unwrap();
        let names: Vec<&str> = state.vectors().map(|(name, _)| name).collect();
        for name in names {
            let mut short = state.clone();
            short.set(name, on(device, &[1.0; 5]));
            let before = host(device, &values);
            let error = optimiser.step(device, HYPER, &mut values, &on(device, &[0.5; 4]), &mut short).unwrap_err();
            assert_eq!(error.to_string(), format!("the {name} of a tensor of 4 elements has 5"));
            assert_eq!(host(device, &values), before);
        }
    }
}

#[test]
fn different_lengths_are_refused_and_change_nothing() {
    lengths_are_refused(&Native::default());
    lengths_are_refused(&Portable::new(Cpu::default()));
}

fn not_finite_is_seen<B: Backend>(device: &B) {
    for optimiser in all() {
        let gradient = [1.0, f32::NAN, 1.0];
        let values = stepped(device, optimiser, HYPER, &[1.0; 3], &gradient, &mut State::default());
        assert!(values[1].is_nan() && values[0].is_finite() && values[0] == values[2], "{optimiser:?}: {values:?}");
    }
    assert!(device.square_sum(&on(device, &[1.0, f32::NAN])).unwrap().is_nan());
}

#[test]
fn a_gradient_that_is_not_finite_is_not_hidden() {
    not_finite_is_seen(&Native::default());
    not_finite_is_seen(&Portable::new(Cpu::default()));
    assert!(norm_factor(f64::NAN, 1.0).is_nan());
    assert_eq!(norm_factor(f64::INFINITY, 1.0), 0.0);
}

fn centred_variance_is_not_negative<B: Backend>(device: &B) {
    let optimiser = OptimiserSpec::RmsProp(RmsProp { alpha: 0.3, centered: true, ..RmsProp::default() });
    let gradient = wave(64, 0.1);
    let (mut values, mut state) = (vec![0.0; 64], State::default());
    let hyper = Step { weight_decay: 0.0, ..HYPER };
    for step in 1..=60 {
        values = stepped(device, optimiser, Step { step, ..hyper }, &values, &gradient, &mut state);
    }
    let [mean, square] = [&state.mean, &state.square].map(|vector| host(device, vector.as_ref().unwrap()));
    let negative = square.iter().zip(&mean).filter(|(square, mean)| *square - *mean * *mean < 0.0).count();
    assert!(negative > 0, "the case has such elements");
    assert!(values.iter().all(|x| x.is_finite()), "{values:?}");
}

#[test]
fn a_centred_variance_below_zero_by_rounding_counts_as_zero() {
    centred_variance_is_not_negative(&Native::default());
    centred_variance_is_not_negative(&Portable::new(Cpu::default()));
}

#[test]
fn a_device_adds_up_squares_in_pieces() {
    let device = Portable::new(Cpu::default());
    for len in [1, 7, 1023, 1024, 1025, 5 * 1024, 5 * 1024 + 9] {
        let values = wave(len, 0.2);
        let plain: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        let found = device.square_sum(&on(&device, &values)).unwrap();
        assert!((found / plain - 1.0).abs() < 1e-5, "{len}: {found} {plain}");
    }
    assert_eq!(device.square_sum(&on(&device, &[])).unwrap(), 0.0);
}

#[test]
fn accumulated_gradients_are_their_sum() {
    fn sum<B: Backend>(device: &B) -> Vec<f32> {
        let mut sum = on(device, &[1.0, -2.0, 0.5]);
        device.update(&mut sum, &on(device, &[0.25, 2.0, 1e30]), [], Sum).unwrap();
        host(device, &sum)
    }
    assert_eq!(sum(&Native::default()), [1.25, 0.0, 1e30]);
    assert_eq!(sum(&Portable::new(Cpu::default())), [1.25, 0.0, 1e30]);
}

#[test]
fn clipping_by_norm_never_lengthens() {
    assert_eq!([0.0, 0.5, 0.999].map(|norm| norm_factor(norm, 1.0)), [1.0; 3]);
    assert_eq!(norm_factor(3.0, 1.5), 1.5 / (3.0 + 1e-6));
    assert_eq!(norm_factor(3.0, f64::INFINITY), 1.0);
}

#[test]
fn documents_name_an_optimiser_by_its_kind_and_defaults_are_pytorchs() {
    let parse = |text: &str| serde_json::from_str::<OptimiserSpec>(text);
    let adam = Adam { betas: [0.9, 0.999], eps: 1e-8 };
    assert_eq!(parse(r#"{"kind": "adamw"}"#).unwrap(), OptimiserSpec::AdamW(adam));
    assert_eq!(parse(r#"{"kind": "adam", "eps": 1e-8}"#).unwrap(), OptimiserSpec::Adam(adam));
    let sgd = Sgd { momentum: 0.0, dampening: 0.0, nesterov: false };
    assert_eq!(parse(r#"{"kind": "sgd"}"#).unwrap(), OptimiserSpec::Sgd(sgd));
    let rmsprop = RmsProp { alpha: 0.99, eps: 1e-8, momentum: 0.9, centered: false };
    assert_eq!(parse(r#"{"kind": "rmsprop", "momentum": 0.9}"#).unwrap(), OptimiserSpec::RmsProp(rmsprop));
    for optimiser in all() {
        let text = serde_json::to_string(&optimiser).unwrap();
        assert_eq!(parse(&text).unwrap(), optimiser, "{text}");
    }
    for (wrong, message) in [
        (r#"{"kind": "sgd", "betas": [0.9, 0.9]}"#, "unknown field `betas`, expected"),
        (r#"{"kind": "adamw", "ep": 1}"#, "unknown field `ep`, expected"),
        (r#"{"kind": "lion"}"#, "unknown variant `lion`, expected one of"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn options_out_of_range_are_named() {
    let paths = |optimiser: OptimiserSpec| {
        let found = Setting::faults_of(&optimiser).into_iter().chain(optimiser.check());
        found.map(|(path, _)| path).collect::<BTreeSet<String>>().into_iter().collect::<Vec<_>>().join(" ")
    };
    for eps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-50, 1e300] {
        assert_eq!(paths(OptimiserSpec::AdamW(Adam { betas: [1.0, f64::NAN], eps })), "betas.0 betas.1 eps");
        let rmsprop = RmsProp { alpha: -0.1, eps, momentum: 1.0, centered: true };
        assert_eq!(paths(OptimiserSpec::RmsProp(rmsprop)), "alpha eps momentum");
    }
    let sgd = Sgd { momentum: f64::NAN, dampening: 1.0, nesterov: false };
    assert_eq!(paths(OptimiserSpec::Sgd(sgd)), "dampening momentum");
    let sgd = Sgd { momentum: 0.0, dampening: 0.1, nesterov: true };
    assert_eq!(paths(OptimiserSpec::Sgd(sgd)), "dampening momentum");
    assert!(all().into_iter().all(|optimiser| paths(optimiser).is_empty()));
}
