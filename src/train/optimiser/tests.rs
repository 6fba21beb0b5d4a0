//! The optimisers against PyTorch's, step for step, and what must hold for all of them.

use super::*;
use crate::train::schedule::{Schedule, WarmUp};

/// Steps made by PyTorch in single precision; `tests/data/optimisers.py` made the file and states the problem.
const REFERENCE: &str = include_str!("../../../tests/data/optimisers.json");

/// How far a parameter may be from PyTorch's, in shares of the largest that it or its update has been. The operations
/// and their order are PyTorch's, so what differs is a rounding here and there (2^-24, carried through 12 steps), where
/// PyTorch fuses a product with a sum. Seen: up to 3e-7.
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

/// The largest difference to PyTorch over all steps, in the measure of [`TOLERANCE`].
fn largest_difference(problem: &Problem, case: &Case) -> f64 {
    let mut values = problem.start.clone();
    let mut states = vec![State::default(); values.len()];
    let mut largest: Vec<Vec<f32>> = values.iter().map(|tensor| tensor.iter().map(|x| x.abs()).collect()).collect();
    let mut worst = 0.0f64;
    for (at, expected) in case.after.iter().enumerate() {
        let gradients = problem.gradients(at, &values);
        let mut scale = 1.0;
        if let Some(limit) = case.clip_norm {
            let norm = square_sum(gradients.iter().map(Vec::as_slice)).sqrt();
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
            let before = values[tensor].clone();
            case.optimiser.step(hyper, &mut values[tensor], &gradients[tensor], &mut states[tensor]).unwrap();
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
        let found = largest_difference(&problem, case);
        assert!(found <= TOLERANCE, "{:?}: {found}", case.optimiser);
        // The comparison means something: each step moves each parameter by more than the tolerance.
        let starts = std::iter::once(&problem.start).chain(&case.after);
        for (before, after) in starts.zip(&case.after) {
            let moved = before.iter().flatten().zip(after.iter().flatten()).map(|(a, b)| (a - b).abs());
            let least = moved.fold(f32::INFINITY, f32::min);
            assert!(f64::from(least) > TOLERANCE, "{:?} rests: {least}", case.optimiser);
        }
    }
}

#[test]
fn an_option_that_is_a_little_wrong_is_seen() {
    let Reference { problem, mut cases } = serde_json::from_str(REFERENCE).unwrap();
    for case in &mut cases {
        case.weight_decays.iter_mut().for_each(|decay| *decay += 1e-3);
        assert!(largest_difference(&problem, case) > 10.0 * TOLERANCE, "{:?}", case.optimiser);
        case.weight_decays.iter_mut().for_each(|decay| *decay -= 1e-3);
        let altered = match case.optimiser {
            OptimiserSpec::AdamW(adam) => OptimiserSpec::Adam(adam),
            OptimiserSpec::Adam(Adam { betas: [a, b], eps }) => OptimiserSpec::Adam(Adam { betas: [a + 1e-3, b], eps }),
            OptimiserSpec::Sgd(sgd) => OptimiserSpec::Sgd(Sgd { momentum: sgd.momentum + 1e-3, ..sgd }),
            OptimiserSpec::RmsProp(rms) => OptimiserSpec::RmsProp(RmsProp { centered: !rms.centered, ..rms }),
        };
        case.optimiser = altered;
        assert!(largest_difference(&problem, case) > 10.0 * TOLERANCE, "{altered:?}");
    }
}

/// Each optimiser with every vector of state that it can have.
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

#[test]
fn elements_do_not_depend_on_threads_or_on_their_neighbours() {
    let len = 3 * CHUNK + 17;
    for optimiser in all() {
        let run = |range: std::ops::Range<usize>| {
            let (mut values, mut state) = (wave(len, 0.3)[range.clone()].to_vec(), State::default());
            for step in 1..=3 {
                let gradient = &wave(len, f64::from(step))[range.clone()];
                optimiser.step(Step { step, ..HYPER }, &mut values, gradient, &mut state).unwrap();
            }
            values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
        };
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let whole = on(1).install(|| run(0..len));
        for threads in [2, 4, 7] {
            assert!(on(threads).install(|| run(0..len)) == whole, "{optimiser:?} on {threads} threads");
        }
        for range in [0..1, CHUNK - 3..CHUNK + 5, len - 18..len] {
            assert!(run(range.clone()) == whole[range.clone()], "{optimiser:?} alone in {range:?}");
        }
        assert!(run(0..0).is_empty());
    }
}

#[test]
fn state_taken_out_and_set_again_goes_on_with_the_same_bits() {
    for optimiser in all() {
        let (mut values, mut state) = (wave(9, 0.0), State::default());
        let step = |step, values: &mut [f32], state: &mut State| {
            optimiser.step(Step { step, ..HYPER }, values, &wave(9, f64::from(step)), state).unwrap();
        };
        step(1, &mut values, &mut state);
        let mut copy = State::default();
        for (name, vector) in state.vectors() {
            assert!(copy.set(name, vector.to_vec()), "{name}");
        }
        assert!(!copy.set("velocity", vec![]));
        let mut continued = values.clone();
        step(2, &mut values, &mut state);
        step(2, &mut continued, &mut copy);
        assert!(continued == values && copy == state, "{optimiser:?}");
        // What is remembered matters: the same step without it goes elsewhere.
        if state != State::default() {
            let mut forgetful = wave(9, 0.0);
            step(1, &mut forgetful, &mut State::default());
            step(2, &mut forgetful, &mut State::default());
            assert!(forgetful != values, "{optimiser:?}");
        }
    }
}

#[test]
fn lengths_that_differ_are_refused_and_nothing_moves() {
    for optimiser in all() {
        let (mut values, mut state) = (wave(4, 0.0), State::default());
        let error = optimiser.step(HYPER, &mut values, &[0.5; 3], &mut state).unwrap_err();
        assert_eq!(error.to_string(), "the gradient of a tensor of 4 elements has 3");
        optimiser.step(HYPER, &mut values, &[0.5; 4], &mut state).unwrap();
        let names: Vec<&str> = state.vectors().map(|(name, _)| name).collect();
        for name in names {
            let mut short = state.clone();
            short.set(name, vec![1.0; 5]);
            let before = values.clone();
            let error = optimiser.step(HYPER, &mut values, &[0.5; 4], &mut short).unwrap_err();
            assert_eq!(error, LengthError { what: name, found: 5, expected: 4 });
            assert_eq!(values, before);
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_not_hidden() {
    for optimiser in all() {
        let (mut values, mut state) = (vec![1.0; 3], State::default());
        optimiser.step(HYPER, &mut values, &[1.0, f32::NAN, 1.0], &mut state).unwrap();
        assert!(values[1].is_nan() && values[0].is_finite() && values[0] == values[2], "{optimiser:?}: {values:?}");
    }
    assert!(square_sum([&[1.0, f32::NAN][..]]).is_nan());
    assert!(norm_factor(f64::NAN, 1.0).is_nan());
    assert_eq!(norm_factor(f64::INFINITY, 1.0), 0.0);
}

#[test]
fn a_centred_variance_below_zero_by_rounding_counts_as_zero() {
    let optimiser = OptimiserSpec::RmsProp(RmsProp { alpha: 0.3, centered: true, ..RmsProp::default() });
    let gradient = wave(64, 0.1);
    let (mut values, mut state) = (vec![0.0; 64], State::default());
    let hyper = Step { weight_decay: 0.0, ..HYPER };
    for step in 1..=60 {
        optimiser.step(Step { step, ..hyper }, &mut values, &gradient, &mut state).unwrap();
    }
    let negative = state.square.iter().zip(&state.mean).filter(|(square, mean)| *square - *mean * *mean < 0.0).count();
    assert!(negative > 0, "the case has such elements");
    assert!(values.iter().all(|x| x.is_finite()), "{values:?}");
}

#[test]
fn the_sum_of_squares_has_the_same_bits_on_any_number_of_threads() {
    let gradients = [wave(3 * CHUNK + 5, 0.2), wave(7, 0.1), vec![]];
    let sum = || square_sum(gradients.iter().map(Vec::as_slice));
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(sum);
    let plain: f64 = gradients.iter().flatten().map(|&x| f64::from(x).powi(2)).sum();
    assert!((on(1) / plain - 1.0).abs() < 1e-12 && plain > 1e6, "{plain}");
    for threads in [2, 4, 7] {
        assert_eq!(on(threads).to_bits(), on(1).to_bits());
    }
    // Squares that single precision cannot hold.
    assert_eq!(square_sum([&[1e30f32, -1e-30][..]]), f64::from(1e30f32).powi(2));
    assert_eq!(square_sum([]), 0.0);
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
    for wrong in [r#"{"kind": "sgd", "betas": [0.9, 0.9]}"#, r#"{"kind": "adamw", "ep": 1}"#, r#"{"kind": "lion"}"#] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn options_out_of_range_are_named() {
    let paths = |optimiser: OptimiserSpec| {
        optimiser.check().into_iter().map(|(path, _)| path).collect::<Vec<String>>().join(" ")
    };
    for eps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-50, 1e300] {
        assert_eq!(paths(OptimiserSpec::AdamW(Adam { betas: [1.0, f64::NAN], eps })), "betas.0 betas.1 eps");
        let rmsprop = RmsProp { alpha: -0.1, eps, momentum: 1.0, centered: true };
        assert_eq!(paths(OptimiserSpec::RmsProp(rmsprop)), "alpha eps momentum");
    }
    let sgd = Sgd { momentum: f64::NAN, dampening: 1.0, nesterov: false };
    assert_eq!(paths(OptimiserSpec::Sgd(sgd)), "momentum dampening");
    let sgd = Sgd { momentum: 0.0, dampening: 0.1, nesterov: true };
    assert_eq!(paths(OptimiserSpec::Sgd(sgd)), "momentum dampening");
    assert!(all().into_iter().all(|optimiser| optimiser.check().is_empty()));
}
