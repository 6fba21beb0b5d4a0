//! RMSprop (`torch.optim.RMSprop`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{State, Step, StepError, vector};
use crate::nn::{Backend, Number, Rule};

/// The options of RMSprop; its state is `square`, `momentum` if that is above 0, and `mean` if centred.
#[derive(Debug, Clone, Copy, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RmsProp {
    /// Smoothing constant of the running mean of squared gradients (paper's code: 0.9).
    #[default = 0.99]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub alpha: f64,
    /// Term added to the denominator for numerical stability.
    #[default = 1e-8]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// Momentum factor (MLRC: 0.9).
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Normalises the gradient by its estimated variance (centered RMSprop).
    ///
    /// A variance that rounding makes negative counts as 0; in PyTorch it makes the element NaN.
    pub centered: bool,
}

impl RmsProp {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        super::rounded_to_zero("eps", self.eps)
    }

    pub(super) fn step<B: Backend>(
        &self,
        device: &B,
        hyper: Step,
        values: &mut B::Vector,
        gradient: &B::Vector,
        state: &mut State<B::Vector>,
    ) -> Result<(), StepError> {
        let len = B::len(values);
        let factors = Factors {
            hyper,
            rate: hyper.learning_rate as f32,
            decay: hyper.weight_decay as f32,
            alpha: self.alpha as f32,
            complement: (1.0 - self.alpha) as f32,
            eps: self.eps as f32,
            momentum: self.momentum as f32,
        };
        let square = vector(device, "square", &mut state.square, len)?;
        // One rule per set of vectors, so that no unused one is read.
        match (self.centered, self.momentum > 0.0) {
            (false, false) => device.update(values, gradient, [square], With::<false, false>(factors))?,
            (false, true) => {
                let momentum = vector(device, "momentum", &mut state.momentum, len)?;
                device.update(values, gradient, [square, momentum], With::<false, true>(factors))?;
            }
            (true, false) => {
                let mean = vector(device, "mean", &mut state.mean, len)?;
                device.update(values, gradient, [square, mean], With::<true, false>(factors))?;
            }
            (true, true) => {
                let mean = vector(device, "mean", &mut state.mean, len)?;
                let momentum = vector(device, "momentum", &mut state.momentum, len)?;
                device.update(values, gradient, [square, mean, momentum], With::<true, true>(factors))?;
            }
        }
        Ok(())
    }
}

/// The factors of a step, in single precision.
#[derive(Debug, Clone, Copy)]
struct Factors {
    hyper: Step,
    rate: f32,
    decay: f32,
    alpha: f32,
    complement: f32,
    eps: f32,
    momentum: f32,
}

/// The step, centred or not and with or without momentum. Its state is the running mean of the squared gradient, that
/// of the gradient if centred, and the momentum if there is any, in this order.
#[derive(Debug, Clone, Copy)]
struct With<const CENTRED: bool, const MOMENTUM: bool>(Factors);

impl<const N: usize, const CENTRED: bool, const MOMENTUM: bool> Rule<N> for With<CENTRED, MOMENTUM> {
    #[inline(always)]
    fn apply<V: Number>(self, value: V, gradient: V, mut memory: [V; N]) -> (V, [V; N]) {
        let Factors { hyper, rate, decay, alpha, complement, eps, momentum } = self.0;
        let gradient = value.clone().mul_add(decay, hyper.gradient(gradient));
        let square = memory[0].clone() * alpha + gradient.clone() * complement * gradient.clone();
        memory[0] = square.clone();
        let mut variance = square;
        if CENTRED {
            let change = gradient.clone() - memory[1].clone();
            let mean = change.mul_add(complement, memory[1].clone());
            memory[1] = mean.clone();
            variance = (variance - mean.clone() * mean).max(0.0);
        }
        let denominator = variance.sqrt() + eps;
        if !MOMENTUM {
            return (value - gradient * rate / denominator, memory);
        }
        let direction = memory[N - 1].clone() * momentum + gradient / denominator;
        memory[N - 1] = direction.clone();
        (direction.mul_add(-rate, value), memory)
    }
}
