//! The parameters of a loss: their initialisation, and the validation of their gradients.

use super::error::TrainError;
use crate::loss::{Gradients, Init, Parameter};
use crate::math::random::stream;

/// A parameter of the loss with its values.
#[derive(Debug, Clone, PartialEq)]
pub struct LossParameter {
    /// Its name, shape and initialisation.
    pub parameter: Parameter,
    /// `rows x cols`, row-major.
    pub values: Vec<f32>,
}

impl LossParameter {
    /// Its name among the optimiser's states and in checkpoints.
    pub(super) fn state_name(&self) -> String {
        format!("loss.{}", self.parameter.name)
    }
}

/// The loss's parameters, initialised from `seed`.
pub(super) fn start(parameters: Vec<Parameter>, seed: u64) -> Vec<LossParameter> {
    let begin = |(index, parameter): (usize, Parameter)| {
        let mut random = stream(seed, "loss init", 0, index as u64);
        let (init, rows) = (parameter.init, parameter.rows as f64);
        let mut draw = || match init {
            Init::Normal => random.normal(),
            Init::KaimingNormalFanOut => (2.0 / rows).sqrt() * random.normal(),
            Init::KaimingUniform => random.between(-1.0, 1.0) / rows.sqrt(),
            Init::Constant(value) => value,
        };
        let values = (0..parameter.rows * parameter.cols).map(|_| draw() as f32).collect();
        LossParameter { parameter, values }
    };
    parameters.into_iter().enumerate().map(begin).collect()
}

/// Errors in the result of a loss.
pub(super) enum Problem {
    NotFinite(String),
    Length(TrainError),
}

/// Checks the loss's value and gradients before they are applied.
pub(super) fn check(
    value: f32,
    gradients: &Gradients<f32>,
    parameters: &[LossParameter],
    embeddings: usize,
) -> Result<(), Problem> {
    if !value.is_finite() {
        return Err(Problem::NotFinite("loss".into()));
    }
    let length = |what: &str, found, expected| match found == expected {
        true => Ok(()),
        false => Err(Problem::Length(TrainError::LossGradient { what: what.into(), found, expected })),
    };
    let finite = |what: &str, gradient: &[f32]| match gradient.iter().all(|element| element.is_finite()) {
        true => Ok(()),
        false => Err(Problem::NotFinite(format!("loss's gradient of its {what}"))),
    };
    length("embeddings", gradients.embeddings.len(), embeddings)?;
    finite("embeddings", &gradients.embeddings)?;
    length("list of parameters", gradients.parameters.len(), parameters.len())?;
    for (matrix, gradient) in parameters.iter().zip(&gradients.parameters) {
        length(matrix.parameter.name, gradient.len(), matrix.values.len())?;
        finite(matrix.parameter.name, gradient)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Init;
    use crate::loss::registry::LossSpec;

    /// The mean length of a row of a loss's first matrix for 75 classes of 128 dimensions.
    fn initial_length(loss: &str) -> f64 {
        let loss = LossSpec::named(loss).unwrap().build::<f32>().unwrap();
        let LossParameter { parameter, values } = start(loss.parameters(75, 128), 3).remove(0);
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let sum: f64 = values.chunks(parameter.cols).map(length).sum();
        sum / parameter.rows as f64
    }

    /// The table of docs/losses.md, taken from pytorch-metric-learning 0.9.88 and 2.8.1.
    #[test]
    fn class_vectors_start_with_the_lengths_of_the_original_code() {
        // The square root of 128 dimensions of variance 1.
        let normal = 128f64.sqrt();
        for loss in ["normalized_softmax", "cosface", "arcface", "proxy_nca", "mean_field_contrastive", "center"] {
            assert!((initial_length(loss) / normal - 1.0).abs() < 0.03, "{loss}");
        }
        // Of variance 2 / classes.
        assert!((initial_length("proxy_anchor") / (normal * (2.0 / 75f64).sqrt()) - 1.0).abs() < 0.03);
        // Of variance 1 / (3 x centres), ten per class.
        let length = initial_length("soft_triple");
        assert!((length - 0.2385).abs() < 0.003 && (normal / length - 47.4).abs() < 1.0, "{length}");
    }

    #[test]
    fn kaiming_uniform_stays_within_the_root_of_one_over_rows_and_reaches_it() {
        let parameter = Parameter { name: "centres", rows: 400, cols: 30, init: Init::KaimingUniform };
        let values = start(vec![parameter], 1).remove(0).values;
        let (bound, top) = (1.0 / 20.0, values.iter().fold(0f32, |top, x| top.max(x.abs())));
        assert!(top <= bound && top > 0.999 * bound, "{top}");
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 4.0 * 0.05 / (3.0 * 12_000f64).sqrt(), "{mean}");
    }
}
