//! Compares the losses with reference values of another implementation.
//!
//! The file is JSON: `{ "cases": [ { loss, params, num_classes, embeddings, labels, proxies?, proxies_shape?, note?,
//! expected: { loss, grad_embeddings, grad_proxies? } } ] }`. `params` contain the loss's parameters by their names here, and
//! may also state the conventions of [`CONVENTIONS`], which are checked and dropped.
//!
//! `proxies` are a matrix with one row per class, or its transpose. The shape decides, unless it is square; then the note
//! must contain `(num_classes` (one row per class) or `(dim` (one column per class). A loss that learns several matrices has them all in
//! `matrices` and `expected.grad_matrices`, in its own order and layout.
//!
//! `memory: [ { embeddings, labels } ]` are earlier batches of a loss with a memory, the oldest first.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::memory::Memory;
use super::registry::{LossSpec, SpecError};
use super::{Batch, Gradients, LossError};
use crate::math::real::Real;

/// Conventions that reference files state about a loss: (loss, key, the value used here).
pub const CONVENTIONS: &[(&str, &str, &str)] = &[
    ("contrastive", "reducer", "avg_non_zero per pair type"),
    ("triplet", "distance", "lp2_normalized"),
    ("triplet", "reducer", "avg_non_zero over all triplets"),
    ("snr_contrastive", "distance", "snr: var(anchor-other)/var(anchor)"),
    ("snr_contrastive", "reducer", "avg_non_zero per pair type"),
    ("snr_contrastive", "regularizer", "none"),
    ("margin", "triplets", "all"),
];

/// Reference cases.
#[derive(Debug, Clone, Deserialize)]
pub struct Reference {
    /// In the order of the file.
    pub cases: Vec<Case>,
}

/// One loss on one batch, with the value and gradients of another implementation.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// The loss's name.
    pub loss: String,
    /// Its parameters.
    pub params: Map<String, Value>,
    /// Free text; see the module documentation on square matrices.
    #[serde(default)]
    pub note: String,
    /// `C`.
    pub num_classes: usize,
    /// `B` rows of length `D`.
    pub embeddings: Vec<Vec<f64>>,
    /// `B` class indices.
    pub labels: Vec<u32>,
    /// The loss's parameter matrix.
    #[serde(default)]
    pub proxies: Option<Vec<Vec<f64>>>,
    /// All matrices, for a loss with several.
    #[serde(default)]
    pub matrices: Vec<Vec<Vec<f64>>>,
    /// Earlier batches, for a loss with a memory.
    #[serde(default)]
    pub memory: Vec<Past>,
    /// The expected result.
    pub expected: Expected,
}

/// An earlier batch.
#[derive(Debug, Clone, Deserialize)]
pub struct Past {
    /// Rows of length `D`.
    pub embeddings: Vec<Vec<f64>>,
    /// As many class indices.
    pub labels: Vec<u32>,
}

/// The reference values of a case.
#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    /// The loss.
    pub loss: f64,
    /// Its gradient with respect to the raw embeddings.
    pub grad_embeddings: Vec<Vec<f64>>,
    /// Its gradient with respect to the raw proxies, in their layout.
    #[serde(default)]
    pub grad_proxies: Option<Vec<Vec<f64>>>,
    /// The gradients with respect to all matrices, for a loss with several.
    #[serde(default)]
    pub grad_matrices: Vec<Vec<Vec<f64>>>,
}

/// Largest relative errors of one case in one number type. A gradient's is the largest absolute difference over the
/// largest absolute reference element.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Errors {
    /// Of the value.
    pub value: f64,
    /// Of the gradient with respect to the embeddings.
    pub embeddings: f64,
    /// Of the gradients with respect to the parameter matrices, the largest; none for a loss without.
    pub parameters: Option<f64>,
}

/// The result of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The loss.
    pub loss: String,
    /// `B`.
    pub batch: usize,
    /// `D`.
    pub dim: usize,
    /// `C`.
    pub classes: usize,
    /// In 32 bits; none if the loss is not built in.
    pub f32: Option<Errors>,
    /// In 64 bits; none if the loss is not built in.
    pub f64: Option<Errors>,
    /// The verdict.
    pub verdict: Verdict,
}

/// The verdict on a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within both tolerances.
    Equal,
    /// Not.
    Differs,
    /// The program has no such loss.
    NotBuiltIn,
}

/// Why a case cannot be compared.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Not JSON of the format above.
    #[error("not a file of reference losses")]
    Format(#[from] serde_json::Error),
    /// The parameters are not those of the loss.
    #[error("case {case} ({loss}): parameters {params}: {reason}")]
    Parameters { case: usize, loss: String, params: String, reason: String },
    /// A parameter is out of range.
    #[error("case {case}")]
    Range { case: usize, source: SpecError },
    /// The loss refuses the batch.
    #[error("case {case} ({loss})")]
    Loss { case: usize, loss: String, source: LossError },
    /// A matrix does not have the shape that the case needs.
    #[error("case {case} ({loss}): {what} must be {expected}")]
    Shape { case: usize, loss: String, what: &'static str, expected: String },
}

/// The largest relative errors that count as equal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// In 32 bits.
    pub f32: f64,
    /// In 64 bits.
    pub f64: f64,
}

/// Evaluates every case of a reference file, in the file's order; with `only` non-empty, only those losses.
pub fn check(json: &str, only: &[String], tolerances: Tolerances) -> Result<Vec<Row>, CheckError> {
    let reference: Reference = serde_json::from_str(json)?;
    let cases = reference.cases.iter().enumerate();
    cases
        .filter(|(_, case)| only.is_empty() || only.contains(&case.loss))
        .map(|(number, case)| row(number + 1, case, tolerances))
        .collect()
}

fn row(number: usize, case: &Case, tolerances: Tolerances) -> Result<Row, CheckError> {
    let mut row = Row {
        loss: case.loss.clone(),
        batch: case.labels.len(),
        dim: case.embeddings.first().map_or(0, Vec::len),
        classes: case.num_classes,
        f32: None,
        f64: None,
        verdict: Verdict::NotBuiltIn,
    };
    if LossSpec::named(&case.loss).is_none() {
        return Ok(row);
    }
    let spec = spec(number, case)?;
    let (single, double) = (errors::<f32>(number, case, &spec)?, errors::<f64>(number, case, &spec)?);
    let equal = single.within(tolerances.f32) && double.within(tolerances.f64);
    row.verdict = if equal { Verdict::Equal } else { Verdict::Differs };
    (row.f32, row.f64) = (Some(single), Some(double));
    Ok(row)
}

impl Errors {
    fn within(&self, tolerance: f64) -> bool {
        self.value <= tolerance
            && self.embeddings <= tolerance
            && self.parameters.is_none_or(|error| error <= tolerance)
    }
}

/// The loss of a case, with the parameter names used here.
fn spec(number: usize, case: &Case) -> Result<LossSpec, CheckError> {
    let refuse = |reason: String| CheckError::Parameters {
        case: number,
        loss: case.loss.clone(),
        params: Value::Object(case.params.clone()).to_string(),
        reason,
    };
    let mut params = case.params.clone();
    for (_, key, here) in CONVENTIONS.iter().filter(|(loss, ..)| *loss == case.loss) {
        let stated = params.shift_remove(*key);
        if stated.as_ref().is_some_and(|stated| stated.as_str() != Some(here)) {
            return Err(refuse(format!("{key} is always {here} here")));
        }
    }
    if case.loss == "contrastive" {
        match params.get("distance").and_then(Value::as_str) {
            Some("lp2_normalized") => _ = params.insert("distance".into(), json!("euclidean")),
            Some("cosine_similarity") => {
                params.insert("distance".into(), json!("cosine"));
                // There, margins are similarities.
                for key in ["pos_margin", "neg_margin"] {
                    let margin =
                        params.get(key).and_then(Value::as_f64).ok_or_else(|| refuse(format!("{key} is missing")))?;
                    params.insert(key.into(), json!(1.0 - margin));
                }
            }
            _ => {}
        }
    }
    params.insert("kind".into(), json!(case.loss));
    serde_json::from_value(Value::Object(params)).map_err(|error| refuse(error.to_string()))
}

/// Evaluates a case in one number type.
fn errors<T: Real>(number: usize, case: &Case, spec: &LossSpec) -> Result<Errors, CheckError> {
    let loss = spec.build::<T>().map_err(|source| CheckError::Range { case: number, source })?;
    let dim = case.embeddings.first().map_or(0, Vec::len);
    let shape = |what, expected| CheckError::Shape { case: number, loss: case.loss.clone(), what, expected };
    let batch_shape = || format!("{} x {dim}", case.labels.len());
    let flat = |rows: &[Vec<f64>], wanted: usize| -> Option<Vec<f64>> {
        (rows.len() == wanted && rows.iter().all(|row| row.len() == dim)).then(|| rows.concat())
    };
    let embeddings = flat(&case.embeddings, case.labels.len()).ok_or_else(|| shape("embeddings", batch_shape()))?;
    let expected = flat(&case.expected.grad_embeddings, case.labels.len())
        .ok_or_else(|| shape("expected.grad_embeddings", batch_shape()))?;

    let expected_parameters = loss.parameters(case.num_classes, dim);
    let several = expected_parameters.len() > 1;
    let mut matrices = Vec::new();
    for (at, parameter) in expected_parameters.into_iter().enumerate() {
        let words =
            || format!("{} x {} or its transpose, told apart by the note if square", parameter.rows, parameter.cols);
        let oriented = |what, one: &Option<Vec<Vec<f64>>>, all: &[Vec<Vec<f64>>]| {
            let matrix = if several { all.get(at) } else { one.as_ref() };
            let note = if several { "(num_classes" } else { &case.note };
            let matrix = matrix.ok_or_else(|| shape(what, words()))?;
            by_class(matrix, parameter.rows, parameter.cols, note).ok_or_else(|| shape(what, words()))
        };
        let values = oriented("proxies", &case.proxies, &case.matrices)?;
        let slopes = oriented("expected.grad_proxies", &case.expected.grad_proxies, &case.expected.grad_matrices)?;
        matrices.push((values, slopes));
    }

    let narrow = |values: &[f64]| -> Vec<T> { values.iter().map(|&x| T::from_f64(x)).collect() };
    let values: Vec<Vec<T>> = matrices.iter().map(|(values, _)| narrow(values)).collect();
    let values: Vec<&[T]> = values.iter().map(Vec::as_slice).collect();
    let mut gradients = Gradients::default();
    let mut memory = Memory::default();
    let mut step = |embeddings: &[f64], labels: &[u32]| {
        let batch = Batch { embeddings: &narrow(embeddings), labels, dim };
        let refuse = |source| CheckError::Loss { case: number, loss: case.loss.clone(), source };
        loss.step(&mut memory, batch, case.num_classes, &values, &mut gradients).map_err(refuse)
    };
    for Past { embeddings, labels } in &case.memory {
        let embeddings =
            flat(embeddings, labels.len()).ok_or_else(|| shape("memory", format!("batches of rows of {dim}")))?;
        step(&embeddings, labels)?;
    }
    let value = step(&embeddings, &case.labels)?;
    Ok(Errors {
        value: relative(&[value], &[case.expected.loss]),
        embeddings: relative(&gradients.embeddings, &expected),
        parameters: matrices
            .iter()
            .zip(&gradients.parameters)
            .map(|((_, slopes), ours)| relative(ours, slopes))
            .reduce(f64::max),
    })
}

/// `matrix` as `rows x cols`, row-major, transposed if necessary.
fn by_class(matrix: &[Vec<f64>], rows: usize, cols: usize, note: &str) -> Option<Vec<f64>> {
    let is = |r: usize, c: usize| matrix.len() == r && matrix.iter().all(|row| row.len() == c);
    let (straight, turned) = match rows == cols && rows > 1 {
        true => (note.contains("(num_classes"), note.contains("(dim")),
        false => (true, true),
    };
    if straight && is(rows, cols) {
        return Some(matrix.concat());
    }
    let transpose = || (0..rows * cols).map(|at| matrix[at % cols][at / cols]).collect();
    (turned && is(cols, rows)).then(transpose)
}

/// The largest difference over the largest reference value; infinite for a NaN; the difference itself if all is 0.
fn relative<T: Real>(ours: &[T], reference: &[f64]) -> f64 {
    let scale = reference.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let mut worst: f64 = 0.0;
    for (ours, reference) in ours.iter().zip(reference) {
        let difference = (ours.to_f64() - reference).abs();
        worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
    }
    if scale > 0.0 { worst / scale } else { worst }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCES: Tolerances = Tolerances { f32: 1e-4, f64: 1e-9 };

    fn case(edit: impl Fn(&mut Value)) -> String {
        let mut case = json!({
            "loss": "mean_field_contrastive", "params": { "pos_margin": 0.0, "neg_margin": 0.5 }, "num_classes": 2,
            "embeddings": [[1.0, 0.0]], "labels": [0], "proxies": [[0.0, 0.8], [1.0, 0.6]],
            "note": "fields (dim, classes)",
            "expected": { "loss": 1.3, "grad_embeddings": [[0.0, -0.4]], "grad_proxies": [[-1.0, 0.36], [0.0, -0.48]] },
        });
        edit(&mut case);
        json!({ "cases": [case] }).to_string()
    }

    #[test]
    fn a_case_on_paper_is_equal_and_any_changed_number_differs() {
        let rows = check(&case(|_| {}), &[], TOLERANCES).unwrap();
        assert_eq!(rows[0].verdict, Verdict::Equal, "{rows:?}");
        for pointer in ["/expected/loss", "/expected/grad_embeddings/0/1", "/expected/grad_proxies/1/1"] {
            let rows = check(&case(|case| *case.pointer_mut(pointer).unwrap() = json!(1.4)), &[], TOLERANCES).unwrap();
            assert_eq!(rows[0].verdict, Verdict::Differs, "{pointer}");
        }
    }

    #[test]
    fn a_square_matrix_without_a_telling_note_is_refused() {
        let error = check(&case(|case| case["note"] = json!("")), &[], TOLERANCES).unwrap_err();
        assert!(error.to_string().starts_with("case 1 (mean_field_contrastive): proxies must be 2 x 2"), "{error}");
    }

    #[test]
    fn losses_that_are_not_built_in_are_counted_and_not_failed() {
        let rows = check(&case(|case| case["loss"] = json!("of_tomorrow")), &[], TOLERANCES).unwrap();
        assert_eq!((rows[0].verdict, rows[0].f32), (Verdict::NotBuiltIn, None));
        assert_eq!(check(&case(|_| {}), &["contrastive".into()], TOLERANCES).unwrap(), []);
    }

    #[test]
    fn a_parameter_that_the_loss_does_not_have_is_refused() {
        let error = check(&case(|case| case["params"]["margn"] = json!(1)), &[], TOLERANCES).unwrap_err();
        assert!(error.to_string().contains("unknown field `margn`"), "{error}");
    }

    #[test]
    fn a_convention_that_does_not_hold_here_is_refused() {
        let other = |case: &mut Value| {
            case["loss"] = json!("margin");
            case["params"] = json!({ "triplets": "some" });
        };
        let error = check(&case(other), &[], TOLERANCES).unwrap_err().to_string();
        assert_eq!(error, "case 1 (margin): parameters {\"triplets\":\"some\"}: triplets is always all here");
    }

    #[test]
    fn a_nan_is_an_infinite_error() {
        assert_eq!(relative(&[f64::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative(&[1.0, 0.5], &[1.0, 1.0]), 0.5);
        assert_eq!(relative(&[1e-3], &[0.0]), 1e-3);
    }
}
