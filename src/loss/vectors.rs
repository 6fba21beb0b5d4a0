//! The paper's vectors: values and norms of gradients on one small batch, with a class that is absent from it.

use serde_json::json;

use super::registry::LossSpec;
use super::{Batch, Gradients};
use crate::math::real::Real;

/// Set, row, class and four elements of each embedding, class vector and SoftTriple centre.
const INPUTS: &str = include_str!("../../tests/data/loss_vectors_inputs.csv");
/// Loss, its parameters, value and Frobenius norms of the gradients with respect to raw embeddings and raw class vectors.
const LOSSES: &str = include_str!("../../tests/data/loss_vectors.csv");
const DIM: usize = 4;
const CLASSES: usize = 4;

/// The name of a loss in the file, and here.
const NAMES: &[(&str, &str)] = &[
    ("MeanFieldContrastive", "mean_field_contrastive"),
    ("MeanFieldClassWiseMultiSimilarity", "mean_field_class_wise_multi_similarity"),
    ("ClassWiseMultiSimilarity", "class_wise_multi_similarity"),
    ("Contrastive", "contrastive"),
    ("Triplet", "triplet"),
    ("NTXent", "nt_xent"),
    ("ProxyNCA", "proxy_nca"),
    ("Margin", "margin"),
    ("NormalizedSoftmax", "normalized_softmax"),
    ("CosFace", "cosface"),
    ("ArcFace", "arcface"),
    ("FastAP", "fast_ap"),
    ("SNRContrastive", "snr_contrastive"),
    ("MultiSimilarity", "multi_similarity"),
    ("MultiSimilarity+Miner", "multi_similarity"),
    ("SoftTriple", "soft_triple"),
    ("ProxyAnchor", "proxy_anchor"),
];

/// Labels and elements of one set of inputs.
fn set(name: &str) -> (Vec<u32>, Vec<f64>) {
    let (mut labels, mut elements) = (Vec::new(), Vec::new());
    for line in INPUTS.lines().filter(|line| line.split(',').next() == Some(name)) {
        let cells: Vec<&str> = line.split(',').collect();
        labels.push(cells[2].parse().unwrap());
        elements.extend(cells[3..].iter().map(|cell| cell.parse::<f64>().unwrap()));
    }
    assert_eq!(elements.len(), labels.len() * DIM);
    (labels, elements)
}

/// The loss of a line. Parts of its parameters that are not `key=value` describe defaults.
fn spec(name: &str, parameters: &str) -> LossSpec {
    let kind = NAMES.iter().find(|(there, _)| *there == name).unwrap().1;
    let mut values = json!({ "kind": kind });
    for (key, value) in parameters.split(';').filter_map(|part| part.split_once('=')) {
        let degrees = value.strip_suffix("deg");
        let key = match key {
            "margin" if degrees.is_some() => "margin_degrees",
            "lambda" => "mf_reg",
            "power" => "mf_power",
            "delta" => "base",
            "epsilon" => "miner_epsilon",
            "K" => "centers_per_class",
            other => other,
        };
        values[key] = serde_json::from_str(degrees.unwrap_or(value)).unwrap();
    }
    if name.ends_with("+Miner") {
        values["miner"] = json!("multi_similarity");
    }
    serde_json::from_value(values).unwrap()
}

/// Value and norms, the second 0 for a loss without class vectors.
fn evaluate<T: Real>(spec: &LossSpec) -> [f64; 3] {
    let narrow = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| T::from_f64(x)).collect() };
    let (labels, embeddings) = set("embedding");
    let vectors = set(if spec.name() == "soft_triple" { "softtriple_centre" } else { "class_vector" }).1;
    let (embeddings, vectors) = (narrow(&embeddings), narrow(&vectors));
    let loss = spec.build::<T>().unwrap();
    let parameters: Vec<&[T]> = loss.parameters(CLASSES, DIM).iter().map(|_| &vectors[..]).collect();
    let mut gradients = Gradients::default();
    let batch = Batch { embeddings: &embeddings, labels: &labels, dim: DIM };
    let value = loss.evaluate(batch, CLASSES, &parameters, &mut gradients).unwrap();
    let norm = |all: &[T]| all.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt();
    [value.to_f64(), norm(&gradients.embeddings), norm(&gradients.parameters.concat())]
}

#[test]
fn every_line_of_the_vectors_is_met() {
    let mut lines = 0;
    for line in LOSSES.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let spec = spec(cells[0], cells[1]);
        for (found, tolerance) in [(evaluate::<f64>(&spec), 1e-9), (evaluate::<f32>(&spec), 1e-4)] {
            for (found, cell) in found.iter().zip(&cells[2..5]) {
                let expected: f64 = if cell.is_empty() { 0.0 } else { cell.parse().unwrap() };
                assert!((found - expected).abs() <= tolerance * expected, "{line}\n{found} within {tolerance}");
            }
        }
        lines += 1;
    }
    assert_eq!(lines, 22);
}
