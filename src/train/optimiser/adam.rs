//! Adam, with weight decay in the gradient or decoupled (`torch.optim.Adam`, `torch.optim.AdamW`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{State, Step, StepError, vector};
use crate::nn::{Backend, Number, Rule};

/// The options of Adam and AdamW; its state is `mean` and `square`.
#[derive(Debug, Clone, Copy, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adam {
    /// Decay rates of the first and second moment estimates.
    #[default([0.9, 0.999])]
    #[schemars(schema_with = "super::two_shares")]
    pub betas: [f64; 2],
    /// Term added to the denominator for numerical stability.
    #[default = 1e-8]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
}

impl Adam {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        super::rounded_to_zero("eps", self.eps)
    }

    pub(super) fn step<B: Backend>(
        &self,
        device: &B,
        hyper: Step,
        decoupled: bool,
        values: &mut B::Vector,
        gradient: &B::Vector,
        state: &mut State<B::Vector>,
    ) -> Result<(), StepError> {
        let mean = vector(device, "mean", &mut state.mean, B::len(values))?;
        let square = vector(device, "square", &mut state.square, B::len(values))?;
        let Step { learning_rate, weight_decay, .. } = hyper;
        let correction = self.betas.map(|beta| 1.0 - beta.powf(f64::from(hyper.step.max(1))));
        let factors = Factors {
            hyper,
            shrink: if decoupled { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 },
            decay: if decoupled { 0.0 } else { weight_decay as f32 },
            complements: self.betas.map(|beta| (1.0 - beta) as f32),
            beta_2: self.betas[1] as f32,
            rate: (learning_rate / correction[0]) as f32,
            correction_root: correction[1].sqrt() as f32,
            eps: self.eps as f32,
        };
        Ok(device.update(values, gradient, [mean, square], factors)?)
    }
}

/// The factors of a step, as in PyTorch: computed in double precision, rounded once, and applied in PyTorch's order.
#[derive(Debug, Clone, Copy)]
struct Factors {
    hyper: Step,
    shrink: f32,
    decay: f32,
    complements: [f32; 2],
    beta_2: f32,
    rate: f32,
    correction_root: f32,
    eps: f32,
}

impl Rule<2> for Factors {
    #[inline(always)]
    fn apply<V: Number>(self, value: V, gradient: V, [mean, square]: [V; 2]) -> (V, [V; 2]) {
        let gradient = value.clone().mul_add(self.decay, self.hyper.gradient(gradient));
        let change = gradient.clone() - mean.clone();
        let mean = change.mul_add(self.complements[0], mean);
        let square = square * self.beta_2 + gradient.clone() * self.complements[1] * gradient;
        let denominator = square.clone().sqrt() / self.correction_root + self.eps;
        (value * self.shrink - mean.clone() * self.rate / denominator, [mean, square])
    }
}
