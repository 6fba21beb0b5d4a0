//! Adam, with weight decay in the gradient or apart from it (`torch.optim.Adam`, `torch.optim.AdamW`).

use serde::{Deserialize, Serialize};

use super::{LengthError, Mistakes, State, Step, in_chunks, vector};

/// The options of Adam and AdamW; its state is `mean` and `square`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adam {
    /// The shares that the running means of the gradient and of its square keep at a step, each in [0, 1).
    /// Default 0.9 and 0.999.
    pub betas: [f64; 2],
    /// Added to the root of the latter, above 0. Default 1e-8.
    pub eps: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8 }
    }
}

impl Adam {
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut mistakes = Mistakes::default();
        mistakes.share("betas.0", self.betas[0]);
        mistakes.share("betas.1", self.betas[1]);
        mistakes.addend("eps", self.eps);
        mistakes.0
    }

    pub(super) fn step(
        &self,
        hyper: Step,
        decoupled: bool,
        values: &mut [f32],
        gradient: &[f32],
        state: &mut State,
    ) -> Result<(), LengthError> {
        let mean = vector("mean", &mut state.mean, values.len())?;
        let square = vector("square", &mut state.square, values.len())?;
        let Step { learning_rate, weight_decay, .. } = hyper;
        let correction = self.betas.map(|beta| 1.0 - beta.powf(f64::from(hyper.step.max(1))));
        // As PyTorch does it: the factors of a step in double precision, each rounded once, and the operations of an
        // element in its order.
        let keep = if decoupled { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 };
        let decay = if decoupled { 0.0 } else { weight_decay as f32 };
        let [rest_1, rest_2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let beta_2 = self.betas[1] as f32;
        let (rate, root) = ((learning_rate / correction[0]) as f32, correction[1].sqrt() as f32);
        let eps = self.eps as f32;
        in_chunks(
            values,
            gradient,
            [mean, square],
            #[inline(always)]
            |values: &mut [f32], gradient: &[f32], [mean, square]: [&mut [f32]; 2]| {
                for (((value, &gradient), mean), square) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
                    let gradient = hyper.gradient(gradient) + decay * *value;
                    *mean += rest_1 * (gradient - *mean);
                    *square = beta_2 * *square + rest_2 * gradient * gradient;
                    *value = keep * *value - rate * *mean / (square.sqrt() / root + eps);
                }
            },
        );
        Ok(())
    }
}
