//! Gradient descent with momentum (`torch.optim.SGD`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{State, Step, StepError, vector};
use crate::nn::{Backend, Number, Rule};

/// The options of SGD; its state is `momentum`, none without momentum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Momentum factor.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// Dampening for momentum, from the second step on.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub dampening: f64,
    /// Nesterov momentum; needs momentum, and no dampening.
    pub nesterov: bool,
}

impl Sgd {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let fits = [
            (self.momentum != 0.0, "momentum", "above 0", self.momentum),
            (self.dampening == 0.0, "dampening", "0", self.dampening),
        ];
        let wrong = fits.into_iter().filter(|(fits, ..)| self.nesterov && !fits);
        wrong
            .map(|(_, path, range, found)| (path.into(), format!("must be {range} for `nesterov`, but is {found}")))
            .collect()
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
        let decay = self.momentum as f32;
        // The update direction is `look_ahead * momentum + own * gradient`.
        let (own, look_ahead) = if self.nesterov { (1.0, decay) } else { (0.0, 1.0) };
        // The momentum is initialised to the gradient, without dampening.
        let share = if state.momentum.is_none() { 1.0 } else { (1.0 - self.dampening) as f32 };
        let momentum = vector(device, "momentum", &mut state.momentum, B::len(values))?;
        Ok(device.update(values, gradient, [momentum], WithMomentum { plain, decay, share, own, look_ahead })?)
    }
}

/// Gradient descent without momentum.
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

/// Gradient descent with momentum.
#[derive(Debug, Clone, Copy)]
struct WithMomentum {
    plain: Plain,
    decay: f32,
    share: f32,
    own: f32,
    look_ahead: f32,
}

impl Rule<1> for WithMomentum {
    #[inline(always)]
    fn apply<V: Number>(self, value: V, gradient: V, [momentum]: [V; 1]) -> (V, [V; 1]) {
        let gradient = self.plain.gradient(gradient, value.clone());
        let momentum = gradient.clone().mul_add(self.share, momentum * self.decay);
        let direction = gradient.mul_add(self.own, momentum.clone() * self.look_ahead);
        (direction.mul_add(-self.plain.rate, value), [momentum])
    }
}
