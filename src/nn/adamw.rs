//! AdamW as PyTorch computes it, on slices: for the CPU backend, and for parameters that live on the host anyway.

/// The share of the running mean of the gradient that a step keeps.
pub(super) const BETA_1: f64 = 0.9;
/// The share of the running mean of the squared gradient that a step keeps.
pub(super) const BETA_2: f64 = 0.999;
/// Added to the root of the latter.
pub(super) const EPSILON: f64 = 1e-8;

/// One step of AdamW (Loshchilov and Hutter 2019) for one parameter; betas 0.9 and 0.999 and epsilon 1e-8 are
/// PyTorch's defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// The rate, already multiplied by the schedule.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Each element of the gradient is clamped to `-clip..=clip`; infinite for none.
    pub clip: f32,
    /// 1 for the first step.
    pub step: u32,
}

impl AdamWStep {
    /// What is left of a parameter after its decay.
    pub(super) fn keep(self) -> f32 {
        (1.0 - self.learning_rate * self.weight_decay) as f32
    }

    /// The rate over the first moment's correction for its start at zero.
    pub(super) fn rate(self) -> f32 {
        (self.learning_rate / (1.0 - BETA_1.powf(f64::from(self.step)))) as f32
    }

    /// The root of the second moment's correction for its start at zero.
    pub(super) fn root(self) -> f32 {
        (1.0 - BETA_2.powf(f64::from(self.step))).sqrt() as f32
    }
}

/// Applies `step` to `values`; `mean` and `square` are the running means of the gradient and of its square, zero at
/// first. All four slices have the same length.
pub fn adamw(step: AdamWStep, values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
    let (keep, rate, root, epsilon) = (step.keep(), step.rate(), step.root(), EPSILON as f32);
    let (beta_1, beta_2) = (BETA_1 as f32, BETA_2 as f32);
    let (rest_1, rest_2) = ((1.0 - BETA_1) as f32, (1.0 - BETA_2) as f32);
    for (((value, &gradient), mean), square) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
        let gradient = gradient.clamp(-step.clip, step.clip);
        *mean = beta_1 * *mean + rest_1 * gradient;
        *square = beta_2 * *square + rest_2 * gradient * gradient;
        *value = keep * *value - rate * *mean / (square.sqrt() / root + epsilon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torch.optim.AdamW's documented algorithm, line by line, in double precision.
    fn reference(rate: f64, decay: f64, clip: f64, start: f64, gradients: &[f64]) -> f64 {
        let (mut theta, mut m, mut v) = (start, 0.0, 0.0);
        for (t, gradient) in gradients.iter().enumerate() {
            let gradient = gradient.max(-clip).min(clip);
            theta -= rate * decay * theta;
            m = 0.9 * m + 0.1 * gradient;
            v = 0.999 * v + 0.001 * gradient * gradient;
            let m_hat = m / (1.0 - 0.9f64.powi(t as i32 + 1));
            let v_hat: f64 = v / (1.0 - 0.999f64.powi(t as i32 + 1));
            theta -= rate * m_hat / (v_hat.sqrt() + 1e-8);
        }
        theta
    }

    #[test]
    fn ten_steps_follow_the_published_algorithm() {
        for (rate, decay, clip) in [(1e-3, 1e-4, 10.0), (0.1, 0.5, f64::INFINITY), (1e-2, 0.0, 0.3)] {
            for start in [0.7, -2.0, 0.0] {
                let gradients: Vec<f64> =
                    (0..10).map(|t| (1.7 * f64::from(t) + start).sin() * 20.0f64.powi(t % 3 - 1)).collect();
                let (mut value, mut mean, mut square) = ([start as f32], [0.0], [0.0]);
                for (t, &gradient) in gradients.iter().enumerate() {
                    let step =
                        AdamWStep { learning_rate: rate, weight_decay: decay, clip: clip as f32, step: t as u32 + 1 };
                    adamw(step, &mut value, &[gradient as f32], &mut mean, &mut square);
                }
                let expected = reference(rate, decay, clip, start, &gradients);
                let difference = (f64::from(value[0]) - expected).abs();
                assert!(difference <= 2e-6, "{value:?} {expected}");
                assert!((expected - start).abs() > 20.0 * 2e-6, "the case moves its parameter");
            }
        }
    }
}
