//! Margin loss over all triplets of a batch, with a fixed or learned boundary between near and far.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::formula::{Against, Anchor, Formula, Table};
use super::measure::Measure;
use super::{Init, Parameter};
use crate::math::real::Real;

/// Margin loss.
///
/// ```text
/// L = 1/n sum over triplets (a, p, n) of [|e_a - e_p| - beta_a + margin]_+ + [beta_a - |e_a - e_n| + margin]_+
///   + nu beta                              (boundary: learned)
///   + nu/n sum over triplets of beta_a     (boundary: per_class)
/// ```
///
/// `e` unit embeddings; `p` shares the class of `a`, `n` does not; the divisor `n` is the number of terms of the first line that
/// are positive. `beta_a` is one number, or that of the class of `a`. Without a positive term the sums are 0, as for batches of
/// one class or of one sample per class; `nu beta` counts if there is a triplet. A term at its kink is 0 and has gradient
/// 0, as has a distance of 0.
///
/// # Shapes
/// Embeddings `B x D`; with a learned boundary `beta`, `1 x 1` or `C x 1`, initialised to the parameter `beta`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to an active distance: `+-` the number of triplets that it occurs in / `n`; with respect to `beta_a` the
/// negative of the sum of those, and the factor of the regulariser. `n` is treated as constant.
///
/// # Cost
/// O(B^2 D) time, O(B^2) memory, free of `C`: terms depend on pairs, and are weighted by the triplets they occur in.
///
/// # Source
/// Wu et al., *Sampling Matters in Deep Embedding Learning*, ICCV 2017, which samples by distance. Here all triplets are used,
/// as in MLRC, and the values equal those of pytorch-metric-learning, which stores an index for each triplet. MLRC applies weight
/// decay to the network, not to `beta`: set `loss_weight_decay: 0` for that.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Margin {
    /// Half the width of the band around the boundary (paper: 0.2).
    #[default = 0.2]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
    /// Boundary between near and far distances, or its initial value (paper: 1.2).
    #[default = 1.2]
    #[schemars(range(min = -2, max = 4))]
    pub beta: f64,
    /// Whether `beta` is fixed, learned once, or learned for each class (MLRC: learned, per_class).
    pub boundary: Boundary,
    /// Weight of the regulariser on a learned `beta`; no effect on a fixed one.
    #[schemars(range(min = 0, max = 1000000))]
    pub nu: f64,
}

/// The boundary between near and far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// One fixed number.
    #[default]
    Fixed,
    /// One learned number.
    Learned,
    /// A learned number for each class.
    PerClass,
}

impl Formula for Margin {
    fn against(&self) -> Against {
        Against::Samples(Measure::Euclidean)
    }

    fn learned(&self, classes: usize) -> Option<Parameter> {
        let rows = match self.boundary {
            Boundary::Fixed => return None,
            Boundary::Learned => 1,
            Boundary::PerClass => classes,
        };
        Some(Parameter { name: "beta", rows, cols: 1, init: Init::Constant(self.beta) })
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let (betas, labels, width) = (table.learned, table.labels, table.width);
        let place = |label: usize| if self.boundary == Boundary::PerClass { label } else { 0 };
        let margin = T::from_f64(self.margin);
        let row = |Anchor { label, cells, positives, negatives }: Anchor<'_, T>| {
            let beta = betas.get(place(label)).copied().unwrap_or(T::from_f64(self.beta));
            let (mut sum, mut terms) = (0.0, 0.0);
            // A pair occurs in as many triplets as its anchor has pairs of the other kind.
            for (own, others, bound, sign) in
                [(&positives, &negatives, beta - margin, T::ONE), (&negatives, &positives, beta + margin, -T::ONE)]
            {
                let triplets = others.len() as f64;
                for &j in own {
                    let term = sign * (cells[j] - bound);
                    cells[j] = T::ZERO;
                    if term > T::ZERO {
                        sum += triplets * term.to_f64();
                        terms += triplets;
                        cells[j] = sign * T::from_f64(triplets);
                    }
                }
            }
            (sum, terms)
        };
        let mean = table.mean(row);
        if self.boundary == Boundary::Fixed {
            return mean.value;
        }
        // Pairs of each distance and its negative beta.
        let mut slopes = vec![0.0; betas.len()];
        for (cells, &label) in table.cells.chunks(width).zip(labels) {
            slopes[place(label as usize)] -= cells.iter().map(|g| g.to_f64()).sum::<f64>();
        }
        let triplets = table.anchors(|anchor| (anchor.positives.len() * anchor.negatives.len()) as f64);
        let divisor = if self.boundary == Boundary::PerClass { mean.terms } else { triplets.iter().sum() };
        let each = if divisor > 0.0 { self.nu / divisor } else { 0.0 };
        let mut regulariser = 0.0;
        for (&label, triplets) in labels.iter().zip(triplets) {
            let place = place(label as usize);
            regulariser += each * triplets * betas[place].to_f64();
            slopes[place] += each * triplets;
        }
        table.learned_gradient = slopes.into_iter().map(T::from_f64).collect();
        mean.value + regulariser
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("margin", 3);
        testing::equals_more_reference("margin", 6);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        for boundary in [Boundary::Fixed, Boundary::Learned, Boundary::PerClass] {
            testing::slopes(&Margin { margin: 0.3, beta: 1.1, boundary, nu: 0.4 });
        }
    }

    #[test]
    fn each_side_of_the_boundary_costs_what_it_does_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0], labels: &[0, 0, 1], dim: 2 };
        let loss = Margin { margin: 0.5, beta: 1.0, nu: 0.25, ..Default::default() };
        let value: f64 = loss.evaluate(batch, 2, &[], &mut Gradients::default()).unwrap();
        // Both anchors: sqrt 2 - 0.5. Anchor 0: 1.5 - 2 < 0. Anchor 1: 1.5 - sqrt 2.
        let root = 2f64.sqrt();
        let expected = (2.0 * (root - 0.5) + 1.5 - root) / 3.0;
        assert!((value - expected).abs() <= 1e-15, "{value}");

        // Two triplets, both of class 0, and three terms; beta falls with the first two and rises with the third.
        let mut gradients = Gradients::default();
        let loss = Margin { boundary: Boundary::PerClass, ..loss };
        let value = loss.evaluate(batch, 2, &[&[1.0, 7.0]], &mut gradients).unwrap();
        assert!((value - expected - 0.25 * 2.0 / 3.0).abs() <= 1e-15, "{value}");
        assert!((gradients.parameters[0][0] - (-1.0 / 3.0 + 0.25 * 2.0 / 3.0)).abs() <= 1e-15, "{gradients:?}");
        assert_eq!(gradients.parameters[0][1], 0.0);
        let loss = Margin { boundary: Boundary::Learned, ..loss };
        let value = loss.evaluate(batch, 2, &[&[1.0]], &mut gradients).unwrap();
        assert!((value - expected - 0.25).abs() <= 1e-15, "{value}");
    }
}
