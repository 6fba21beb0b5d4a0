//! Clipping by the length of all gradients together (`torch.nn.utils.clip_grad_norm_`). Clipping by value is part of a
//! step.

/// What shortens gradients of length `norm` to `limit`: `limit / (norm + 1e-6)`, at most 1. NaN where `norm` is NaN,
/// and 0 where it is infinite.
pub fn norm_factor(norm: f64, limit: f64) -> f64 {
    let factor = limit / (norm + 1e-6);
    // Not `min`, which would make 1 of NaN.
    if factor > 1.0 { 1.0 } else { factor }
}
