//! Gradient descent with momentum (`torch.optim.SGD`).

use serde::{Deserialize, Serialize};

use super::{LengthError, Mistakes, State, Step, in_chunks, vector};

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

    pub(super) fn step(
        &self,
        hyper: Step,
        values: &mut [f32],
        gradient: &[f32],
        state: &mut State,
    ) -> Result<(), LengthError> {
        let (rate, decay) = (hyper.learning_rate as f32, hyper.weight_decay as f32);
        if self.momentum == 0.0 {
            in_chunks(
                values,
                gradient,
                [],
                #[inline(always)]
                |values: &mut [f32], gradient: &[f32], []: [&mut [f32]; 0]| {
                    for (value, &gradient) in values.iter_mut().zip(gradient) {
                        *value -= rate * (hyper.gradient(gradient) + decay * *value);
                    }
                },
            );
            return Ok(());
        }
        // The first direction is the gradient, whatever the dampening.
        let share = if state.momentum.is_empty() { 1.0 } else { (1.0 - self.dampening) as f32 };
        let keep = self.momentum as f32;
        let (own, ahead) = if self.nesterov { (1.0, keep) } else { (0.0, 1.0) };
        let momentum = vector("momentum", &mut state.momentum, values.len())?;
        in_chunks(
            values,
            gradient,
            [momentum],
            #[inline(always)]
            |values: &mut [f32], gradient: &[f32], [momentum]: [&mut [f32]; 1]| {
                for ((value, &gradient), momentum) in values.iter_mut().zip(gradient).zip(momentum) {
                    let gradient = hyper.gradient(gradient) + decay * *value;
                    *momentum = keep * *momentum + share * gradient;
                    *value -= rate * (own * gradient + ahead * *momentum);
                }
            },
        );
        Ok(())
    }
}
