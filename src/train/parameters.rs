//! The matrices that a loss learns: how they start, and what a loss may return for them.

use super::error::TrainError;
use crate::data::random::stream;
use crate::loss::{Gradients, Init, Parameter};

/// A matrix that the loss learned.
#[derive(Debug, Clone, PartialEq)]
pub struct LossParameter {
    /// Its name, shape and start.
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

/// The loss's matrices as `seed` starts them.
pub(super) fn start(parameters: Vec<Parameter>, seed: u64) -> Vec<LossParameter> {
    let begin = |(index, parameter): (usize, Parameter)| {
        let mut random = stream(seed, "loss init", 0, index as u64);
        let (mean, deviation) = match parameter.init {
            Init::Normal => (0.0, 1.0),
            Init::KaimingNormalFanOut => (0.0, (2.0 / parameter.rows as f64).sqrt()),
            Init::Constant(value) => (value, 0.0),
        };
        let values =
            (0..parameter.rows * parameter.cols).map(|_| (mean + deviation * random.normal()) as f32).collect();
        LossParameter { parameter, values }
    };
    parameters.into_iter().enumerate().map(begin).collect()
}

/// What can be wrong with what a loss returned.
pub(super) enum Problem {
    NotFinite(String),
    Length(TrainError),
}

/// Checks the loss's value and gradients before anything is moved by them.
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
