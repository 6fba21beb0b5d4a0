//! The cost of a loss: seconds and memory of forward and backward, with the compute-bound lower limit.

use std::fs;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::registry::{LossSpec, SpecError};
use super::{Batch, Gradients, LossError};
use crate::math::product::{Onto, View, product};
use crate::math::random::{Stream, stream};

/// The measurements of one loss at one size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub repetitions: usize,
    pub median_ms: f64,
    pub min_ms: f64,
    /// Time of its matrix products at the rate of a square product: 6 B C D operations, and C C D more with a penalty on close
    /// class vectors; C is the number of rows of its parameters, B for a pair-based loss.
    pub floor_ms: f64,
    /// Memory beyond inputs and parameters, including gradients; none if the system does not report it. Accurate only in a
    /// process that did nothing before.
    pub bytes: Option<u64>,
    /// The same over B C + C D numbers of four bytes.
    pub times_scores_and_parameters: Option<f64>,
}

/// Why there is no measurement.
#[derive(Debug, Error)]
pub enum CostError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Loss(#[from] LossError),
}

/// Times a loss on standard normal embeddings and parameters, with four samples per class, for some seconds and at least five times.
pub fn measure(spec: &LossSpec, [batch, classes, dim]: [usize; 3], seconds: f64) -> Result<Cost, CostError> {
    let loss = spec.build::<f32>()?;
    let rate = product_rate();
    let mut random = stream(1, "loss bench", 0, 0);
    let embeddings = normal(batch * dim, &mut random);
    let labels: Vec<u32> = (0..batch).map(|i| (i / 4 % classes) as u32).collect();
    let shapes = loss.parameters(classes, dim);
    let parameters: Vec<Vec<f32>> = shapes.iter().map(|p| normal(p.rows * p.cols, &mut random)).collect();
    let parameters: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
    let rows = shapes.iter().filter(|p| p.cols == dim).map(|p| p.rows).max().unwrap_or(batch);
    let input = Batch { embeddings: &embeddings, labels: &labels, dim };

    let before = status("VmRSS:");
    let mut gradients = Gradients::default();
    let mut times = Vec::new();
    let start = Instant::now();
    // The first repetition is a warm-up and does not count.
    while times.len() < 6 || start.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        loss.evaluate(input, classes, &parameters, &mut gradients)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let bytes = before.zip(status("VmHWM:")).map(|(before, peak)| peak.saturating_sub(before));
    times.remove(0);
    times.sort_by(f64::total_cmp);

    let numbers = (batch * rows + rows * dim) as f64;
    Ok(Cost {
        repetitions: times.len(),
        median_ms: times[times.len() / 2],
        min_ms: times[0],
        floor_ms: operations(spec, [batch, rows, dim]) / rate * 1e3,
        bytes,
        times_scores_and_parameters: bytes.map(|bytes| bytes as f64 / (4.0 * numbers)),
    })
}

/// Operations of the matrix products of a loss with `rows` class vectors.
fn operations(spec: &LossSpec, [batch, rows, dim]: [usize; 3]) -> f64 {
    let settings = serde_json::to_value(spec).unwrap_or_default();
    let penalty = settings["mf_reg"].as_f64().is_some_and(|weight| weight > 0.0);
    let products = 6.0 * batch as f64 + if penalty { rows as f64 } else { 0.0 };
    products * rows as f64 * dim as f64
}

fn normal(count: usize, random: &mut Stream) -> Vec<f32> {
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Operations per second of a 1,024 x 1,024 x 1,024 product: the best of a few.
pub fn product_rate() -> f64 {
    const SIDE: usize = 1024;
    let (matrix, mut out) = (vec![0.5f32; SIDE * SIDE], vec![0.0; SIDE * SIDE]);
    let view = View::new(&matrix, SIDE, SIDE);
    let best = (0..8).map(|_| {
        let start = Instant::now();
        product(view, view, Onto::Replace, &mut out);
        start.elapsed().as_secs_f64()
    });
    2.0 * (SIDE * SIDE * SIDE) as f64 / best.fold(f64::INFINITY, f64::min)
}

/// A number of this process's status, in bytes, if the system has one.
pub fn status(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> LossSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_floor_counts_the_products_and_those_of_the_penalty() {
        let size = [8, 4, 2];
        assert_eq!(operations(&spec(r#"{"kind": "mean_field_contrastive"}"#), size), 6.0 * 8.0 * 4.0 * 2.0);
        let penalty = spec(r#"{"kind": "mean_field_contrastive", "mf_reg": 1}"#);
        assert_eq!(operations(&penalty, size), 6.0 * 8.0 * 4.0 * 2.0 + 4.0 * 4.0 * 2.0);
    }

    #[test]
    fn a_loss_is_repeated_and_one_without_a_value_is_an_error() {
        let found = measure(&spec(r#"{"kind": "mean_field_contrastive"}"#), [8, 4, 2], 0.0).unwrap();
        assert!(found.repetitions == 5 && found.min_ms > 0.0 && found.min_ms <= found.median_ms, "{found:?}");
        let error = measure(&spec(r#"{"kind": "triplet"}"#), [0, 4, 2], 0.0).unwrap_err().to_string();
        assert_eq!(error, "the batch has 0 labels and embeddings of length 2, expected at least 1 of each");
    }
}
