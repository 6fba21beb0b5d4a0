//! Clipping by the global gradient norm (`torch.nn.utils.clip_grad_norm_`). Clipping by value is part of a step.

/// The factor that reduces the norm `norm` to `limit`: `limit / (norm + 1e-6)`, at most 1. NaN if `norm` is NaN, 0 if
/// it is infinite.
pub fn norm_factor(norm: f64, limit: f64) -> f64 {
    let factor = limit / (norm + 1e-6);
    // Not `min`, which would return 1 for NaN.
    if factor > 1.0 { 1.0 } else { factor }
}
