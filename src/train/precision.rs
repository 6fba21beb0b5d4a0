//! Mixed-precision training: the loss scale that keeps small gradients from underflowing (Micikevicius et al. 2018).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;

/// The precision in which the products of convolutions, linear layers and attention are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    Full,
    /// What is multiplied in half precision (16 bits), sums in single. Parameters, optimiser, normalisations and losses stay in
    /// single precision. For GPUs.
    Mixed,
}

impl Precision {
    /// Whether it is `Full`.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

/// The dynamic loss scale: the factor of the loss's gradient before the backward pass, and its history.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// A power of 2, so that scaling does not round.
    pub factor: f32,
    /// Steps since it last changed.
    good: u32,
    /// Steps skipped because a gradient was not finite.
    pub skipped: u32,
}

/// The initial factor, and the number of steps before it is doubled, as in PyTorch's `GradScaler`.
const START: f32 = 65536.0;
const EVERY: u32 = 2000;
/// The maximum: unscaled gradients are in single precision.
const MOST: f32 = 16_777_216.0;

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: START, good: 0, skipped: 0 }
    }
}

/// The names of its fields in a checkpoint.
const COUNTERS: [&str; 3] = ["loss scale", "loss scale steps", "skipped steps"];

impl LossScale {
    /// Updates the scale after a step whose gradients are `finite`, or not, in which case the step is skipped. None if
    /// they are not and the factor, at 1, cannot be the reason.
    pub(super) fn note(&mut self, finite: bool) -> Option<()> {
        if finite {
            self.good += 1;
            if self.good == EVERY {
                (self.factor, self.good) = ((2.0 * self.factor).min(MOST), 0);
            }
        } else if self.factor > 1.0 {
            (self.factor, self.good, self.skipped) = (self.factor / 2.0, 0, self.skipped + 1);
        } else {
            return None;
        }
        Some(())
    }

    pub(super) fn save(self, checkpoint: &mut Checkpoint) {
        let counters = [self.factor as u64, self.good.into(), self.skipped.into()];
        checkpoint.counters.extend(COUNTERS.map(str::to_owned).into_iter().zip(counters));
    }

    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) {
        let [factor, good, skipped] = COUNTERS.map(|name| checkpoint.counters.get(name).copied());
        self.factor = factor.map_or(START, |factor| factor as f32);
        [self.good, self.skipped] = [good, skipped].map(|count| count.unwrap_or(0) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_after_good_steps_and_halves_at_a_bad_one() {
        let mut scale = LossScale::default();
        for _ in 0..EVERY - 1 {
            scale.note(true).unwrap();
        }
        assert_eq!(scale.factor, START);
        scale.note(true).unwrap();
        assert_eq!((scale.factor, scale.skipped), (2.0 * START, 0));
        for _ in 0..EVERY - 1 {
            scale.note(true).unwrap();
        }
        // A skipped step resets the count.
        scale.note(false).unwrap();
        assert_eq!((scale.factor, scale.skipped), (START, 1));
        scale.note(true).unwrap();
        assert_eq!(scale.factor, START);
        for _ in 0..20 * EVERY {
            scale.note(true).unwrap();
        }
        assert_eq!(scale.factor, MOST);
        for _ in 0..24 {
            scale.note(false).unwrap();
        }
        assert_eq!((scale.factor, scale.skipped), (1.0, 25));
        assert_eq!(scale.note(false), None);
    }

    #[test]
    fn a_checkpoint_restores_the_loss_scale() {
        let mut scale = LossScale::default();
        [true, false, true, true].into_iter().for_each(|finite| scale.note(finite).unwrap());
        let (mut checkpoint, mut restored) = (Checkpoint::default(), LossScale::default());
        scale.save(&mut checkpoint);
        restored.restore(&checkpoint);
        assert!(restored == scale && scale != LossScale::default(), "{restored:?}");
        restored.restore(&Checkpoint::default());
        assert_eq!(restored, LossScale::default());
    }
}
