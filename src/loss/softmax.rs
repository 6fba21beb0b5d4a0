//! Cross-entropy over class scores, shared by the classification losses.

use rayon::prelude::*;

use crate::math::real::Real;
use crate::math::rows::{exponentials, largest};
use crate::math::simd::vectorise;

/// `mean_i log(1 + sum_{c != y_i} exp(scale q_ic - target(q_{i,y_i})))`, which is the cross-entropy of the logits
/// `scale q_ic` with that of the target replaced.
///
/// `target` maps the target score to its logit and that logit's derivative. The `B x classes` scores are overwritten by the
/// gradient with respect to them.
pub(super) fn cross_entropy<T: Real>(
    scores: &mut [T],
    labels: &[u32],
    classes: usize,
    scale: f64,
    target: impl Fn(T) -> (T, T) + Sync,
) -> f64 {
    let (scale, each) = (T::from_f64(scale), T::from_f64(1.0 / labels.len() as f64));
    let values: Vec<f64> = scores
        .par_chunks_mut(classes)
        .zip(labels)
        .map(|(row, &label)| {
            let label = label as usize;
            let (own, slope) = target(row[label]);
            let mut value = T::ZERO;
            vectorise(
                #[inline(always)]
                || {
                    row.iter_mut().for_each(|score| *score = scale * *score - own);
                    // Its power is 0: the target is not part of the sum.
                    row[label] = T::from_f64(f64::NEG_INFINITY);
                    let top = largest(
                        row,
                        T::ZERO,
                        #[inline(always)]
                        |x| x,
                    );
                    let others = exponentials(row, top);
                    let one = (-top).exp();
                    value = top + (others + (one - T::ONE)).ln_1p();
                    let share = each / (one + others);
                    row.iter_mut().for_each(|score| *score *= scale * share);
                    row[label] = -slope * share * others;
                },
            );
            value.to_f64()
        })
        .collect();
    values.iter().sum::<f64>() / labels.len() as f64
}
