//! Tests of every loss: reference values, gradients, extreme inputs, threads.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use super::check::{Tolerances, Verdict, check};
use super::registry::LossSpec;
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::random::stream;
use crate::math::real::Real;
use crate::settings::SettingType;

/// Values and gradients of pytorch-metric-learning 2.8.1 and of the mean-field paper's formulas, in 64 bits.
const REFERENCE: &str = include_str!("../../tests/data/losses.json");

/// The same for losses and options that the former lacks, written by `tests/data/losses_more.py`.
const MORE_REFERENCE: &str = include_str!("../../tests/data/losses_more.json");

/// A batch with its parameters.
#[derive(Debug, Clone)]
pub struct Sample {
    pub embeddings: Vec<f64>,
    pub labels: Vec<u32>,
    pub dim: usize,
    pub classes: usize,
    pub parameters: Vec<Vec<f64>>,
}

impl Sample {
    /// Standard normal embeddings and parameters, and labels that need not reach every class.
    pub fn new(loss: &dyn Loss<f64>, count: usize, dim: usize, classes: usize, seed: u64) -> Self {
        let mut s = stream(seed, "loss test", 0, 0);
        let embeddings = (0..count * dim).map(|_| s.normal()).collect();
        let labels = (0..count).map(|_| s.below(classes as u64) as u32).collect();
        let mut matrix = |p: Parameter| (0..p.rows * p.cols).map(|_| s.normal()).collect();
        let parameters = loss.parameters(classes, dim).into_iter().map(&mut matrix).collect();
        Self { parameters, embeddings, labels, dim, classes }
    }

    /// The value and gradients in one number type.
    pub fn evaluate<T: Real>(&self, loss: &dyn Loss<T>) -> Result<(T, Gradients<T>), LossError> {
        let narrow = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| T::from_f64(x)).collect() };
        let parameters: Vec<Vec<T>> = self.parameters.iter().map(|p| narrow(p)).collect();
        let parameters: Vec<&[T]> = parameters.iter().map(Vec::as_slice).collect();
        let embeddings = narrow(&self.embeddings);
        let batch = Batch { embeddings: &embeddings, labels: &self.labels, dim: self.dim };
        let mut gradients = Gradients::default();
        let value = loss.evaluate(batch, self.classes, &parameters, &mut gradients)?;
        Ok((value, gradients))
    }

    /// Element `at` of the concatenated embeddings and parameters.
    fn element(&mut self, at: usize) -> &mut f64 {
        match at.checked_sub(self.embeddings.len()) {
            None => &mut self.embeddings[at],
            Some(mut rest) => {
                let mut matrix = 0;
                while rest >= self.parameters[matrix].len() {
                    rest -= self.parameters[matrix].len();
                    matrix += 1;
                }
                &mut self.parameters[matrix][rest]
            }
        }
    }
}

/// Every reference case of `loss`, of which there must be `cases`.
pub fn equals_reference(loss: &str, cases: usize) {
    equals(REFERENCE, loss, cases);
}

/// The same in the second file.
pub fn equals_more_reference(loss: &str, cases: usize) {
    equals(MORE_REFERENCE, loss, cases);
}

fn equals(file: &str, loss: &str, cases: usize) {
    let rows = check(file, &[loss.to_owned()], Tolerances { f32: 1e-4, f64: 1e-9 }).unwrap();
    assert_eq!(rows.len(), cases);
    assert!(rows.iter().all(|row| row.verdict == Verdict::Equal), "{rows:#?}");
}

/// Central differences in every coordinate, over random shapes and those where a class, a pair or a term is missing.
pub fn slopes(loss: &dyn Loss<f64>) {
    let fixed = [(1, 1, 1), (1, 3, 1), (1, 3, 4), (2, 2, 1), (5, 3, 1), (3, 3, 40), (6, 1, 2)];
    for (seed, (count, dim, classes)) in fixed.into_iter().enumerate() {
        slope(loss, Sample::new(loss, count, dim, classes, seed as u64)).unwrap();
    }
    let mut twins = Sample::new(loss, 6, 3, 2, 99);
    twins.embeddings.copy_within(0..9, 9);
    twins.labels = vec![0, 0, 1, 0, 1, 1];
    slope(loss, twins).unwrap();

    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 24, ..Config::default() });
    let shapes = (2..10usize, 2..6usize, 1..7usize, any::<u64>());
    runner
        .run(&shapes, |(count, dim, classes, seed)| slope(loss, Sample::new(loss, count, dim, classes, seed)))
        .unwrap();
}

fn slope(loss: &dyn Loss<f64>, mut sample: Sample) -> Result<(), TestCaseError> {
    const STEP: f64 = 1e-6;
    let (_, gradients) = sample.evaluate(loss).unwrap();
    let all: Vec<f64> = gradients.embeddings.into_iter().chain(gradients.parameters.concat()).collect();
    let scale = all.iter().fold(1e-2, |m: f64, g| m.max(g.abs()));
    for (at, &gradient) in all.iter().enumerate() {
        let start = *sample.element(at);
        let mut value_at = |x: f64| {
            *sample.element(at) = x;
            sample.evaluate(loss).unwrap().0
        };
        let (low, high) = (value_at(start - STEP), value_at(start + STEP));
        let middle = value_at(start);
        let found = (high - low) / (2.0 * STEP);
        // A kink between the two points, detected by unequal one-sided slopes, has no derivative to compare with.
        let kink = ((high - middle) - (middle - low)).abs() / STEP > 1e-3 * scale;
        prop_assert!(
            kink || (found - gradient).abs() <= 2e-5 * scale,
            "coordinate {at}: slope {found}, gradient {gradient}, scale {scale}, {sample:?}"
        );
    }
    Ok(())
}

/// Inputs on which losses have failed: tiny and huge norms, zero rows, duplicates, collapsed batches.
fn extremes(loss: &dyn Loss<f64>) -> Vec<(String, Sample)> {
    let mut all = Vec::new();
    for scale in [1e-30, 1e-11, 1e30, 1e37] {
        let mut s = Sample::new(loss, 9, 5, 4, 7);
        s.embeddings.iter_mut().chain(s.parameters.iter_mut().flatten()).for_each(|x| *x *= scale);
        all.push((format!("scale {scale:e}"), s));
    }
    let mut zero = Sample::new(loss, 6, 4, 3, 8);
    zero.embeddings[..8].fill(0.0);
    zero.parameters.iter_mut().for_each(|p| p.iter_mut().take(4).for_each(|x| *x = 0.0));
    all.push(("zero rows".into(), zero));
    let mut same = Sample::new(loss, 8, 4, 3, 9);
    same.embeddings.fill(1.0);
    same.parameters.iter_mut().for_each(|p| p.fill(1.0));
    all.push(("all equal".into(), same));
    let mut opposite = Sample::new(loss, 8, 4, 3, 10);
    opposite.embeddings.fill(-1.0);
    opposite.parameters.iter_mut().for_each(|p| p.fill(1.0));
    all.push(("opposite to the parameters".into(), opposite));
    for (count, dim, classes) in [(1, 1, 1), (1, 4, 1), (1, 4, 3), (5, 4, 1), (2, 1, 2)] {
        all.push((format!("{count} x {dim}, {classes} classes"), Sample::new(loss, count, dim, classes, 11)));
    }
    all
}

#[test]
fn no_input_gives_a_nan_or_an_infinity() {
    for name in LossSpec::NAMES {
        for spec in steep(name) {
            for (what, sample) in extremes(&*spec.build::<f64>().unwrap()) {
                finite::<f64>(&spec, &what, &sample);
                finite::<f32>(&spec, &what, &sample);
            }
        }
    }
}

/// Finite values and gradients, or the error that a loss of raw vectors or one with a small memory has.
fn finite<T: Real>(spec: &LossSpec, what: &str, sample: &Sample) {
    match sample.evaluate(&*spec.build::<T>().unwrap()) {
        Ok((value, gradients)) => {
            let mut all = gradients.embeddings.iter().chain(gradients.parameters.iter().flatten());
            assert!(
                value.is_finite() && all.all(|g| g.is_finite()),
                "{spec:?} in {}: {what}",
                std::any::type_name::<T>()
            );
        }
        Err(error) => {
            let fits = match error {
                LossError::Overflow => matches!(spec.name(), "n_pair" | "center") && what.starts_with("scale 1e3"),
                LossError::Memory { size, batch } => spec.name() == "cross_batch_memory" && size < batch,
                _ => false,
            };
            assert!(fits, "{spec:?}: {what}: {error}");
        }
    }
}

/// The loss with its defaults, with each numeric field at each end of a steep range, and with each of its options.
fn steep(name: &str) -> Vec<LossSpec> {
    let plain = LossSpec::named(name).unwrap();
    let mut all = vec![plain.clone()];
    for (field, setting) in &plain.settings().0 {
        let words = match &setting.of {
            SettingType::Union(variants) => {
                variants.iter().map(|(name, _)| json!(LossSpec::named(name).unwrap())).collect()
            }
            _ => setting.one_of.clone(),
        };
        for end in [json!(1e-3), json!(1e3), json!(1), json!(200)].into_iter().chain(words) {
            let mut values = serde_json::to_value(&plain).unwrap();
            values[field] = end;
            if let Ok(spec) = serde_json::from_value::<LossSpec>(values)
                && spec.check().is_empty()
            {
                all.push(spec);
            }
        }
    }
    assert!(all.len() > 1, "{name}");
    all
}

#[test]
fn one_two_and_four_threads_give_the_same_bits() {
    for name in LossSpec::NAMES {
        let mut values = serde_json::to_value(LossSpec::named(name).unwrap()).unwrap();
        if values.get("mf_reg").is_some() {
            values["mf_reg"] = json!(0.5);
        }
        let loss = serde_json::from_value::<LossSpec>(values).unwrap().build::<f32>().unwrap();
        let double = LossSpec::named(name).unwrap().build::<f64>().unwrap();
        let sample = Sample::new(&*double, 60, 24, 290, 3);
        let mut sample = Sample { labels: (0..60).map(|i| i / 4).collect(), ..sample };
        // Near duplicates, so that every hinge of every loss is active somewhere.
        sample.embeddings.copy_within(0..24, 24);
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (value, gradients) = pool.install(|| sample.evaluate(&*loss)).unwrap();
            let all = gradients.embeddings.into_iter().chain(gradients.parameters.concat());
            std::iter::once(value).chain(all).map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = bits(1);
        assert!(one.iter().any(|&b| b != 0), "{name}");
        assert!(one == bits(2) && one == bits(4), "{name}");
    }
}

#[test]
fn batches_that_do_not_fit_are_refused_in_words() {
    for name in LossSpec::NAMES {
        let loss = LossSpec::named(name).unwrap().build::<f64>().unwrap();
        let sample = Sample::new(&*loss, 3, 2, 2, 1);
        let refuse = |edit: &dyn Fn(&mut Sample)| {
            let mut sample = sample.clone();
            edit(&mut sample);
            let parameters: Vec<&[f64]> = sample.parameters.iter().map(Vec::as_slice).collect();
            let batch = Batch { embeddings: &sample.embeddings, labels: &sample.labels, dim: sample.dim };
            loss.evaluate(batch, sample.classes, &parameters, &mut Gradients::default()).unwrap_err().to_string()
        };
        assert_eq!(refuse(&|s| s.labels[1] = 2), "label 2 at position 1 is not below the number of classes, 2");
        assert_eq!(refuse(&|s| s.embeddings[5] = f64::NAN), "embeddings is not finite at position 5");
        assert_eq!(refuse(&|s| s.embeddings.truncate(5)), "embeddings, 3 x 2, has 5 elements, expected 6");
        assert_eq!(
            refuse(&|s| s.labels.clear()),
            "the batch has 0 labels and embeddings of length 2, expected at least 1 of each"
        );
        assert!(refuse(&|s| s.parameters.push(vec![])).starts_with("the list of parameters has"));
    }
}
