//! Optimisers as PyTorch defines them, on slices: they know tensors' elements and names of state, no network.
//!
//! | file | holds |
//! | --- | --- |
//! | `adam` | AdamW and Adam |
//! | `sgd` | SGD with momentum and Nesterov's |
//! | `rmsprop` | RMSprop, centred or not, with momentum |
//! | `clip` | the length of all gradients together, and the factor that shortens them |
//!
//! A step reads and writes each element once, so memory sets its speed: AdamW reads values, gradient and two vectors of
//! state and writes three of them, 28 bytes an element. For the 25 million of a ResNet-50 that is 0.7 GB, some 0.07 s
//! where memory moves 10 GB/s.
//!
//! Each element depends on its own past alone, and no loop's order on the number of threads: neither do the bits.

mod adam;
mod clip;
mod rmsprop;
mod sgd;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use adam::Adam;
pub use clip::{norm_factor, square_sum};
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use crate::simd::vectorise;

/// The optimisers and their options, named and preset as in `torch.optim`. Rates and weight decays are not here: they
/// belong to groups of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
    /// What is wrong with it: (path of the field, message) pairs, none if it can run.
    pub fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::AdamW(adam) | Self::Adam(adam) => adam.check(),
            Self::Sgd(sgd) => sgd.check(),
            Self::RmsProp(rmsprop) => rmsprop.check(),
        }
    }

    /// Moves one tensor: `values` and `gradient` have an element for each of its elements, in the same order. `state`
    /// is the tensor's own, empty before its first step.
    ///
    /// Refused, with nothing moved, if the lengths differ.
    pub fn step(
        &self,
        hyper: Step,
        values: &mut [f32],
        gradient: &[f32],
        state: &mut State,
    ) -> Result<(), LengthError> {
        same_length("gradient", gradient.len(), values.len())?;
        match self {
            Self::AdamW(adam) => adam.step(hyper, true, values, gradient, state),
            Self::Adam(adam) => adam.step(hyper, false, values, gradient, state),
            Self::Sgd(sgd) => sgd.step(hyper, values, gradient, state),
            Self::RmsProp(rmsprop) => rmsprop.step(hyper, values, gradient, state),
        }
    }
}

/// One step of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The rate, already multiplied by the schedule.
    pub learning_rate: f64,
    /// Weight decay, 0 for none.
    pub weight_decay: f64,
    /// Steps that the tensor has made, this one included: 1 for the first, which 0 stands for too.
    pub step: u32,
    /// What the gradient is multiplied by first: [`norm_factor`], or 1 over the number of batches it is a sum of.
    pub scale: f32,
    /// Then each of its elements is clamped to `-clip..=clip`; infinite for none.
    pub clip: f32,
}

impl Step {
    /// The gradient that the optimiser sees. NaN stays NaN, as with `torch.clamp`.
    #[inline(always)]
    fn gradient(self, gradient: f32) -> f32 {
        let gradient = gradient * self.scale;
        let gradient = if gradient > self.clip { self.clip } else { gradient };
        if gradient < -self.clip { -self.clip } else { gradient }
    }
}

/// What an optimiser remembers of a tensor: vectors as long as the tensor, empty where it does not need them or before
/// the first step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Running mean of the gradient: `exp_avg`, or `grad_avg` of centred RMSprop.
    mean: Vec<f32>,
    /// Running mean of the squared gradient: `exp_avg_sq` or `square_avg`.
    square: Vec<f32>,
    /// The direction that steps build up: `momentum_buffer`.
    momentum: Vec<f32>,
}

impl State {
    /// The names of the vectors.
    pub const NAMES: [&'static str; 3] = ["mean", "square", "momentum"];

    /// The vectors that are not empty, by name.
    pub fn vectors(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        let vectors = [&self.mean[..], &self.square, &self.momentum];
        Self::NAMES.into_iter().zip(vectors).filter(|(_, vector)| !vector.is_empty())
    }

    /// Sets the vector `name`, one of [`State::NAMES`], and tells whether there is such a one.
    pub fn set(&mut self, name: &str, vector: Vec<f32>) -> bool {
        match name {
            "mean" => self.mean = vector,
            "square" => self.square = vector,
            "momentum" => self.momentum = vector,
            _ => return false,
        }
        true
    }
}

/// A gradient or a vector of state of another length than its tensor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the {what} of a tensor of {expected} elements has {found}")]
pub struct LengthError {
    /// "gradient", or the name of the vector.
    pub what: &'static str,
    /// Its length.
    pub found: usize,
    /// The tensor's.
    pub expected: usize,
}

fn same_length(what: &'static str, found: usize, expected: usize) -> Result<(), LengthError> {
    if found == expected { Ok(()) } else { Err(LengthError { what, found, expected }) }
}

/// A vector of state, zeros before the first step.
fn vector<'a>(name: &'static str, vector: &'a mut Vec<f32>, len: usize) -> Result<&'a mut [f32], LengthError> {
    if vector.is_empty() {
        vector.resize(len, 0.0);
    }
    same_length(name, vector.len(), len)?;
    Ok(vector)
}

/// Elements of a piece of work: pieces of four slices fit a core's cache, and a tensor of one piece stays on its thread.
const CHUNK: usize = 1 << 16;

/// Runs `kernel` on equal pieces of all slices, on all threads, with the machine's vector instructions. It must be
/// marked `#[inline(always)]`.
fn in_chunks<const N: usize>(
    values: &mut [f32],
    gradient: &[f32],
    mut state: [&mut [f32]; N],
    kernel: impl Fn(&mut [f32], &[f32], [&mut [f32]; N]) + Copy + Sync + Send,
) {
    if values.len() <= CHUNK {
        vectorise(
            #[inline(always)]
            || kernel(values, gradient, state.each_mut().map(|vector| &mut **vector)),
        );
        return;
    }
    let middle = (values.len() / 2).next_multiple_of(CHUNK);
    let (values, more_values) = values.split_at_mut(middle);
    let (gradient, more_gradient) = gradient.split_at(middle);
    let mut more_state = std::array::from_fn(|_| Default::default());
    for (vector, more) in state.iter_mut().zip(&mut more_state) {
        (*vector, *more) = std::mem::take(vector).split_at_mut(middle);
    }
    rayon::join(
        || in_chunks(values, gradient, state, kernel),
        || in_chunks(more_values, more_gradient, more_state, kernel),
    );
}

/// Mistakes of the options, found one after another; a range is written as "not in the valid range", so that NaN is
/// refused.
#[derive(Debug, Default)]
struct Mistakes(Vec<(String, String)>);

impl Mistakes {
    fn require(&mut self, valid: bool, path: &str, range: &str, found: f64) {
        if !valid {
            self.0.push((path.to_string(), format!("must be {range}, but is {found}")));
        }
    }

    /// A share of the past that is kept.
    fn share(&mut self, path: &str, share: f64) {
        self.require((0.0..1.0).contains(&share), path, "at least 0 and below 1", share);
    }

    /// An addend of a divisor. Stricter than PyTorch, where 0 is allowed and an element without gradient becomes NaN.
    fn addend(&mut self, path: &str, eps: f64) {
        // In single precision, which the steps are made in.
        let valid = eps as f32 > 0.0 && (eps as f32).is_finite();
        self.require(valid, path, "finite and above 0 in single precision", eps);
    }
}
