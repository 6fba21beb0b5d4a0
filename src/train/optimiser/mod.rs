//! PyTorch's optimisers, on the elements of tensors and named states, independent of a network.
//!
//! | file | holds |
//! | --- | --- |
//! | `adam` | AdamW and Adam |
//! | `sgd` | SGD with momentum and Nesterov's |
//! | `rmsprop` | RMSprop, centred or not, with momentum |
//! | `clip` | clipping by the global gradient norm |
//!
//! Each formula is written once, as a [`Rule`] for one element, and runs where the vectors are stored.

mod adam;
mod clip;
mod rmsprop;
mod sgd;
#[cfg(test)]
mod tests;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

pub use adam::Adam;
pub use clip::norm_factor;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use crate::nn::{self, Backend, Number, Rule};

/// The optimisers and their options, named and preset as in `torch.optim`. Rates and weight decays are not here: they
/// belong to groups of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimiserSpec {
    /// Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019).
    AdamW(Adam),
    /// Adam (Kingma and Ba 2015); weight decay is added to the gradient.
    Adam(Adam),
    /// Gradient descent, with momentum if asked for; weight decay is added to the gradient.
    Sgd(Sgd),
    /// RMSprop (Hinton 2012); weight decay is added to the gradient.
    RmsProp(RmsProp),
}

impl Default for OptimiserSpec {
    fn default() -> Self {
        Self::AdamW(Adam::default())
    }
}

impl OptimiserSpec {
    /// Options that do not fit together: (path of the field, message) pairs.
    pub fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::AdamW(adam) | Self::Adam(adam) => adam.check(),
            Self::Sgd(sgd) => sgd.check(),
            Self::RmsProp(rmsprop) => rmsprop.check(),
        }
    }

    /// Updates one tensor: `values` and `gradient` have its elements, in the same order. `state` belongs to the tensor
    /// and is empty before its first step.
    ///
    /// Returns an error, and changes nothing, if the lengths differ.
    pub fn step<B: Backend>(
        &self,
        device: &B,
        hyper: Step,
        values: &mut B::Vector,
        gradient: &B::Vector,
        state: &mut State<B::Vector>,
    ) -> Result<(), StepError> {
        same_length("gradient", B::len(gradient), B::len(values))?;
        match self {
            Self::AdamW(adam) => adam.step(device, hyper, true, values, gradient, state),
            Self::Adam(adam) => adam.step(device, hyper, false, values, gradient, state),
            Self::Sgd(sgd) => sgd.step(device, hyper, values, gradient, state),
            Self::RmsProp(rmsprop) => rmsprop.step(device, hyper, values, gradient, state),
        }
    }
}

/// One step of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The learning rate, already multiplied by the schedule.
    pub learning_rate: f64,
    /// Weight decay, 0 for none.
    pub weight_decay: f64,
    /// The number of this step of the tensor, from 1; 0 counts as 1.
    pub step: u32,
    /// The first factor of the gradient: [`norm_factor`], divided by the number of accumulated batches.
    pub scale: f32,
    /// Then each element is clamped to `-clip..=clip`; infinite for no clipping.
    pub clip: f32,
}

impl Step {
    /// The gradient that the optimiser sees. NaN stays NaN, as with `torch.clamp`.
    #[inline(always)]
    fn gradient<V: Number>(self, gradient: V) -> V {
        (gradient * self.scale).min(self.clip).max(-self.clip)
    }
}

/// The sum of two gradients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum;

impl Rule<0> for Sum {
    #[inline(always)]
    fn apply<V: Number>(self, value: V, gradient: V, []: [V; 0]) -> (V, [V; 0]) {
        (value + gradient, [])
    }
}

/// An optimiser's state for a tensor: vectors as long as the tensor, absent where it does not need them or before the
/// first step.
#[derive(Debug, Clone)]
pub struct State<V> {
    /// Running mean of the gradient: `exp_avg`, or `grad_avg` of centred RMSprop.
    mean: Option<V>,
    /// Running mean of the squared gradient: `exp_avg_sq` or `square_avg`.
    square: Option<V>,
    /// The momentum: `momentum_buffer`.
    momentum: Option<V>,
}

impl<V> Default for State<V> {
    fn default() -> Self {
        Self { mean: None, square: None, momentum: None }
    }
}

impl<V> State<V> {
    /// The names of the vectors.
    pub const NAMES: [&'static str; 3] = ["mean", "square", "momentum"];

    /// The existing vectors, by name.
    pub fn vectors(&self) -> impl Iterator<Item = (&'static str, &V)> {
        let vectors = [&self.mean, &self.square, &self.momentum];
        Self::NAMES.into_iter().zip(vectors).filter_map(|(name, vector)| Some((name, vector.as_ref()?)))
    }

    /// Sets the vector `name`, one of [`State::NAMES`], and returns whether it exists.
    pub fn set(&mut self, name: &str, vector: V) -> bool {
        let place = match name {
            "mean" => &mut self.mean,
            "square" => &mut self.square,
            "momentum" => &mut self.momentum,
            _ => return false,
        };
        *place = Some(vector);
        true
    }
}

/// Why a step failed.
#[derive(Debug, Error)]
pub enum StepError {
    /// Vectors of different lengths.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] nn::Error),
}

/// A gradient or a state vector whose length differs from its tensor's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what} of a tensor of {expected} elements has {found}")]
pub struct LengthError {
    /// "gradient", or the name of the vector.
    pub what: &'static str,
    /// Its length.
    pub found: usize,
    /// The tensor's length.
    pub expected: usize,
}

fn same_length(what: &'static str, found: usize, expected: usize) -> Result<(), LengthError> {
    if found == expected { Ok(()) } else { Err(LengthError { what, found, expected }) }
}

/// A state vector, zeros before the first step.
fn vector<'a, B: Backend>(
    device: &B,
    name: &'static str,
    vector: &'a mut Option<B::Vector>,
    len: usize,
) -> Result<&'a mut B::Vector, StepError> {
    let vector = match vector {
        Some(vector) => vector,
        None => vector.insert(device.vector(&vec![0.0; len])?),
    };
    same_length(name, B::len(vector), len)?;
    Ok(vector)
}

/// The schema of two decay rates.
fn two_shares(_: &mut SchemaGenerator) -> Schema {
    let share = json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 });
    json_schema!({ "type": "array", "items": share, "minItems": 2, "maxItems": 2 })
}

/// Refuses a number above 0 that rounds to 0 or to infinity in single precision, in which steps are computed. Stricter
/// than PyTorch, where an `eps` of 0 is allowed and an element without gradient becomes NaN.
fn rounded_to_zero(path: &str, number: f64) -> Vec<(String, String)> {
    let rounded = number as f32;
    if number > 0.0 && !(rounded > 0.0 && rounded.is_finite()) {
        return vec![(path.to_owned(), format!("must be finite and above 0 in single precision, but is {number}"))];
    }
    Vec::new()
}
