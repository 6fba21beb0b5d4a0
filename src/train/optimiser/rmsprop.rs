//! RMSprop (`torch.optim.RMSprop`).

use serde::{Deserialize, Serialize};

use super::{LengthError, Mistakes, State, Step, in_chunks, vector};

/// The options of RMSprop; its state is `square`, `momentum` if that is above 0, and `mean` if centred.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RmsProp {
    /// The share that the running mean of the squared gradient keeps at a step, in [0, 1). Default 0.99.
    pub alpha: f64,
    /// Added to the root of that mean, above 0. Default 1e-8.
    pub eps: f64,
    /// The share of the last direction that a direction keeps, in [0, 1). Default 0.
    pub momentum: f64,
    /// Whether the gradient is divided by its deviation instead of its size. A variance that rounding makes negative
    /// counts as 0; in PyTorch it makes the element NaN. Default false.
    pub centered: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self { alpha: 0.99, eps: 1e-8, momentum: 0.0, centered: false }
    }
}

/// The factors of a step, in single precision.
#[derive(Debug, Clone, Copy)]
struct Factors {
    hyper: Step,
    decay: f32,
    alpha: f32,
    rest: f32,
    eps: f32,
}

impl Factors {
    /// Takes the gradient of one element in; returns it and what divides it. `mean` is for centred RMSprop.
    #[inline(always)]
    fn take(&self, gradient: f32, value: f32, square: &mut f32, mean: Option<&mut f32>) -> (f32, f32) {
        let gradient = self.hyper.gradient(gradient) + self.decay * value;
        *square = self.alpha * *square + self.rest * gradient * gradient;
        let variance = match mean {
            Some(mean) => {
                *mean += self.rest * (gradient - *mean);
                let variance = *square - *mean * *mean;
                if variance < 0.0 { 0.0 } else { variance }
            }
            None => *square,
        };
        (gradient, variance.sqrt() + self.eps)
    }
}

impl RmsProp {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Mistakes::default();
        mistakes.share("alpha", self.alpha);
        mistakes.addend("eps", self.eps);
        mistakes.share("momentum", self.momentum);
        mistakes.0
    }

    pub(super) fn step(
        &self,
        hyper: Step,
        values: &mut [f32],
        gradient: &[f32],
        state: &mut State,
    ) -> Result<(), LengthError> {
        let len = values.len();
        let (rate, keep) = (hyper.learning_rate as f32, self.momentum as f32);
        let factors = Factors {
            hyper,
            decay: hyper.weight_decay as f32,
            alpha: self.alpha as f32,
            rest: (1.0 - self.alpha) as f32,
            eps: self.eps as f32,
        };
        let square = vector("square", &mut state.square, len)?;
        // A loop for each set of vectors, so that none is read for nothing.
        match (self.centered, self.momentum > 0.0) {
            (false, false) => in_chunks(
                values,
                gradient,
                [square],
                #[inline(always)]
                |values: &mut [f32], gradient: &[f32], [square]: [&mut [f32]; 1]| {
                    for ((value, &gradient), square) in values.iter_mut().zip(gradient).zip(square) {
                        let (gradient, size) = factors.take(gradient, *value, square, None);
                        *value -= rate * gradient / size;
                    }
                },
            ),
            (false, true) => in_chunks(
                values,
                gradient,
                [square, vector("momentum", &mut state.momentum, len)?],
                #[inline(always)]
                |values: &mut [f32], gradient: &[f32], [square, momentum]: [&mut [f32]; 2]| {
                    let state = square.iter_mut().zip(momentum);
                    for ((value, &gradient), (square, momentum)) in values.iter_mut().zip(gradient).zip(state) {
                        let (gradient, size) = factors.take(gradient, *value, square, None);
                        *momentum = keep * *momentum + gradient / size;
                        *value -= rate * *momentum;
                    }
                },
            ),
            (true, false) => in_chunks(
                values,
                gradient,
                [square, vector("mean", &mut state.mean, len)?],
                #[inline(always)]
                |values: &mut [f32], gradient: &[f32], [square, mean]: [&mut [f32]; 2]| {
                    let state = square.iter_mut().zip(mean);
                    for ((value, &gradient), (square, mean)) in values.iter_mut().zip(gradient).zip(state) {
                        let (gradient, size) = factors.take(gradient, *value, square, Some(mean));
                        *value -= rate * gradient / size;
                    }
                },
            ),
            (true, true) => in_chunks(
                values,
                gradient,
                [square, vector("mean", &mut state.mean, len)?, vector("momentum", &mut state.momentum, len)?],
                #[inline(always)]
                |values: &mut [f32], gradient: &[f32], [square, mean, momentum]: [&mut [f32]; 3]| {
                    let state = square.iter_mut().zip(mean).zip(momentum);
                    for ((value, &gradient), ((square, mean), momentum)) in values.iter_mut().zip(gradient).zip(state) {
                        let (gradient, size) = factors.take(gradient, *value, square, Some(mean));
                        *momentum = keep * *momentum + gradient / size;
                        *value -= rate * *momentum;
                    }
                },
            ),
        }
        Ok(())
    }
}
