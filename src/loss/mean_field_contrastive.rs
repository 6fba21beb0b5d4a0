//! Mean-field contrastive loss: samples compared with one learned mean field per class.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::class_wise_contrastive::ClassWiseContrastive;
use super::geometry::{UnitGradient, class_vectors, embeddings, from_scores};
use super::penalty::closeness;
use super::{Batch, Gradients, Init, Loss, LossError, Parameter};
use crate::math::real::Real;
use crate::math::rows;
use crate::math::simd::vectorise;

/// Mean-field contrastive loss.
///
/// ```text
/// L = 1/B sum_i { [D_{i,y_i} - pos_margin]_+ + sum_{c != y_i} [neg_margin - D_ic]_+ }
///   + mf_reg / C sum_c sum_{d != c} ([neg_margin - (1 - m_c . m_d)]_+)^mf_power
/// ```
///
/// `D_ic = 1 - e_i . m_c`, `e` unit embeddings, `m` unit mean fields. The negative sum runs over all classes, present in
/// the batch or not. A term at its kink has gradient 0.
///
/// # Shapes
/// Embeddings `B x D`; `mean_fields` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `D_ic`: `1/B` for the own class if `D > pos_margin`, `-1/B` for another if `D < neg_margin`; then
/// `-m_c` and `-e_i`, through both norms.
///
/// # Cost
/// O(B C D) time, O(B C) memory; with `mf_reg > 0` also O(C^2 D) time in tiles of 256 classes.
///
/// # Source
/// Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024, and its code, which computes the `C x C` cosines even
/// with `mf_reg = 0`.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MeanFieldContrastive {
    /// Positive margin: samples closer than this cosine distance to their own mean field incur no loss (official code:
    /// 0.02).
    #[default = 0.02]
    #[schemars(range(min = -2, max = 4))]
    pub pos_margin: f64,
    /// Negative margin: samples farther than this cosine distance from another mean field incur no loss (official code:
    /// 0.3).
    #[default = 0.3]
    #[schemars(range(min = -2, max = 4))]
    pub neg_margin: f64,
    /// Weight of the penalty on mean fields that are close to each other (released commands: 0).
    #[schemars(range(min = 0, max = 1000000))]
    pub mf_reg: f64,
    /// Exponent of that penalty (official code: 2).
    #[default = 2.0]
    #[schemars(range(min = 1, max = 16))]
    pub mf_power: f64,
}

impl<T: Real> Loss<T> for MeanFieldContrastive {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        vec![Parameter { name: "mean_fields", rows: classes, cols: dim, init: Init::Normal }]
    }

    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        Some(Box::new(ClassWiseContrastive { pos_margin: self.pos_margin, neg_margin: self.neg_margin }))
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        let units = embeddings(batch, classes)?;
        let fields = class_vectors("mean_fields", parameters, classes, batch.dim)?;
        let (pos_margin, neg_margin) = (T::from_f64(self.pos_margin), T::from_f64(self.neg_margin));
        let each = T::from_f64(1.0 / units.count as f64);

        // Overwrites the cosines by the gradient with respect to them.
        let mut scores = units.scores(&fields);
        let sums: Vec<f64> = scores
            .par_chunks_mut(classes)
            .zip(batch.labels)
            .map(|(row, &label)| {
                let label = label as usize;
                let pull = T::ONE - row[label] - pos_margin;
                // Far from every margin: the own class is not a negative.
                row[label] = T::from_f64(-100.0);
                let mut sum = 0.0;
                vectorise(
                    #[inline(always)]
                    || {
                        let excess = |score: T| neg_margin - (T::ONE - score);
                        sum = rows::sum(
                            row,
                            #[inline(always)]
                            |score| excess(score).max(T::ZERO).to_f64(),
                        );
                        row.iter_mut().for_each(|s| *s = if excess(*s) > T::ZERO { each } else { T::ZERO });
                    },
                );
                row[label] = if pull > T::ZERO { -each } else { T::ZERO };
                sum + pull.max(T::ZERO).to_f64()
            })
            .collect();
        let mut value = sums.iter().sum::<f64>() / units.count as f64;

        let mut unit_gradient = UnitGradient::none(gradients);
        if self.mf_reg > 0.0 {
            value += closeness(
                &fields,
                self.mf_reg,
                self.mf_power,
                #[inline(always)]
                |cosine| ((neg_margin - (T::ONE - cosine)).max(T::ZERO), T::ONE),
                &mut unit_gradient,
            );
        }
        from_scores(&units, &fields, &scores, unit_gradient, gradients);
        Ok(T::from_f64(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing;

    #[test]
    fn it_equals_the_reference_with_and_without_the_penalty() {
        testing::equals_reference("mean_field_contrastive", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&MeanFieldContrastive { neg_margin: 0.9, ..Default::default() });
        testing::slopes(&MeanFieldContrastive { neg_margin: 0.9, mf_reg: 0.7, mf_power: 3.0, ..Default::default() });
    }

    #[test]
    fn classes_absent_from_the_batch_repel_it() {
        let loss = MeanFieldContrastive { pos_margin: 0.0, neg_margin: 0.5, ..Default::default() };
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let mut gradients = Gradients::default();
        let fields = [0.0, 1.0, 4.0, 3.0];
        let value: f64 = loss.evaluate(batch, 2, &[&fields], &mut gradients).unwrap();
        // Own field at distance 1; the absent class at distance 0.2 costs 0.3.
        assert!((value - 1.3).abs() <= 1e-15, "{value}");
        assert!(gradients.parameters[0][2..].iter().any(|&g| g != 0.0), "{gradients:?}");
    }
}
