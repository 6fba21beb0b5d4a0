//! Gradient descent with momentum (`torch.optim.SGD`).

use serde::{Deserialize, Serialize};

use super::{Mistakes, State, Step, StepError, vector};
use crate::nn::{Backend, Number, Rule};

/// The options of SGD; its state is `momentum`, none without momentum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// The share of the last direction that a direction keeps, in [0, 1). Default 0.
    pub momentum: f64,
    /// The share of the gradient that a direction leaves out, in [0, 1), from the second step on. Default 0.
    pub dampening: f64,
    /// Whether a step goes where the next direction would lead (Nesterov 1983). Needs momentum, and no dampening.
    pub nesterov: bool,
}

impl Sgd {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Mistakes::default();
        mistakes.share("momentum", self.momentum);
        mistakes.share("dampening", self.dampening);
        if self.nesterov {
            mistakes.require(self.momentum > 0.0, "momentum", "above 0 for `nesterov`", self.momentum);
            mistakes.require(self.dampening == 0.0, "dampening", "0 for `nesterov`", self.dampening);
        }
        mistakes.0
    }

    pub(super) fn step<B: Backend>(
        &self,
        device: &B,
        hyper: Step,
        values: &mut B::Vector,
        gradient: &B::Vector,
        state: &mut State<B::Vector>,
    ) -> Result<(), StepError> {
        let plain = Plain { hyper, rate: hyper.learning_rate as f32, decay: hyper.weight_decay as f32 };
        if self.momentum == 0.0 {
            return Ok(device.update(values, gradient, [], plain)?);
        }
        let keep = self.momentum as f32;
        let (own, ahead) = if self.nesterov { (1.0, keep) } else { (0.0, 1.0) };
        // The first direction is the gradient, whatever the dampening.
        let share = if state.momentum.is_none() { 1.0 } else { (1.0 - self.dampening) as f32 };
        let momentum = vector(device, "momentum", &mut state.momentum, B::len(values))?;
        Ok(device.update(values, gradient, [momentum], WithMomentum { plain, keep, share, own, ahead })?)
    }
}

/// A step along the gradient.
#[derive(Debug, Clone, Copy)]
struct Plain {
    hyper: Step,
    rate: f32,
    decay: f32,
}

impl Plain {
    #[inline(always)]
    fn gradient<V: Number>(self, gradient: V, value: V) -> V {
        value.mul_add(self.decay, self.hyper.gradient(gradient))
    }
}

impl Rule<0> for Plain {
    #[inline(always)]
    fn apply<V: Number>(self, value: V, gradient: V, []: [V; 0]) -> (V, [V; 0]) {
        let gradient = self.gradient(gradient, value.clone());
        (gradient.mul_add(-self.rate, value), [])
    }
}

/// A step along the direction that gradients have built up.
#[derive(Debug, Clone, Copy)]
struct WithMomentum {
    plain: Plain,
    keep: f32,
    share: f32,
    own: f32,
    ahead: f32,
}

impl Rule<1> for WithMomentum {
    #[inline(always)]
    fn apply<V: Number>(self, value: V, gradient: V, [momentum]: [V; 1]) -> (V, [V; 1]) {
        let gradient = self.plain.gradient(gradient, value.clone());
        let momentum = gradient.clone().mul_add(self.share, momentum * self.keep);
        let direction = gradient.mul_add(self.own, momentum.clone() * self.ahead);
        (direction.mul_add(-self.plain.rate, value), [momentum])
    }
}
