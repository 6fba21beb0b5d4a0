//! Clipping by the length of all gradients together (`torch.nn.utils.clip_grad_norm_`). Clipping by value is part of a
//! step.

use rayon::prelude::*;

use super::CHUNK;
use crate::simd::vectorise;

/// Sums kept side by side, whatever the width of the machine's vectors.
const LANES: usize = 16;

/// The sum of the squares of all elements of all `gradients`, in double precision. The order of the sum follows from
/// the order and lengths of the gradients alone, so the bits do not depend on threads or machine.
pub fn square_sum<'a>(gradients: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let of = |gradient: &[f32]| {
        let chunks: Vec<f64> = gradient.par_chunks(CHUNK).map(chunk_square_sum).collect();
        chunks.iter().sum::<f64>()
    };
    gradients.into_iter().map(of).sum()
}

fn chunk_square_sum(chunk: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (rows, rest) = chunk.as_chunks::<LANES>();
    vectorise(
        #[inline(always)]
        || {
            for row in rows {
                for (sum, &x) in sums.iter_mut().zip(row) {
                    *sum += f64::from(x) * f64::from(x);
                }
            }
        },
    );
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

/// What shortens gradients of length `norm` to `limit`: `limit / (norm + 1e-6)`, at most 1. NaN where `norm` is NaN,
/// and 0 where it is infinite.
pub fn norm_factor(norm: f64, limit: f64) -> f64 {
    let factor = limit / (norm + 1e-6);
    // Not `min`, which would make 1 of NaN.
    if factor > 1.0 { 1.0 } else { factor }
}
