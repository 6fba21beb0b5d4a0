//! Mean-field binomial deviance: binomial deviance in the mean-field wrapper.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::binomial_deviance::BinomialDeviance;
use super::pairwise::MeanField;
use super::{Batch, Gradients, Loss, LossError, Parameter};
use crate::math::real::Real;

/// Mean-field binomial deviance loss: [`BinomialDeviance`] in the wrapper [`MeanField`].
///
/// ```text
/// L = 1/B sum_i { log(1 + exp(-alpha (q_{i,y_i} - base))) + sum_{c != y_i} log(1 + exp(beta (q_ic - base))) }
///   + mf_reg / C sum_c sum_{d != c} log(1 + exp(beta (m_c . m_d - base)))^mf_power
///   - mf_dropped { log(1 + exp(-alpha (1 - base))) / 2 + 1/(2C) sum_c sum_{d != c} log(1 + exp(beta (m_c . m_d - base))) }
/// ```
///
/// `q_ic = e_i . m_c`, `e` unit embeddings, `m` unit mean fields. The sums over classes run over all `C`.
///
/// # Shapes
/// Embeddings `B x D`; `mean_fields` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With `g` the logistic function, with respect to `q_ic`: `-alpha g(-alpha (q - base)) / B` for the own class,
/// `beta g(beta (q - base)) / B` for other classes.
///
/// # Cost
/// O(B C D) time, O(B C) memory; with `mf_reg` or `mf_dropped` above 0 also O(C^2 D) time for each.
///
/// # Source
/// The mean-field step of Furusawa, *Mean Field Theory in Deep Metric Learning*, ICLR 2024, applied to binomial deviance;
/// the paper has no such loss.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MeanFieldBinomialDeviance {
    /// Scale (inverse temperature) for the own class (usual: 2).
    #[default = 2.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub alpha: f64,
    /// Scale (inverse temperature) for other classes (usual: 50, a cost of 25).
    #[default = 50.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub beta: f64,
    /// Cosine at which a sample and a mean field are neutral (usual: 0.5).
    #[default = 0.5]
    #[schemars(range(min = -2, max = 4))]
    pub base: f64,
    /// Weight of the penalty on mean fields that are close to each other.
    #[schemars(range(min = 0, max = 1000000))]
    pub mf_reg: f64,
    /// Exponent of that penalty.
    #[default = 2.0]
    #[schemars(range(min = 1, max = 16))]
    pub mf_power: f64,
    /// Weight of the terms that the mean-field approximation drops.
    #[schemars(range(min = 0, max = 1))]
    pub mf_dropped: f64,
}

impl MeanFieldBinomialDeviance {
    fn wrapped(&self) -> MeanField<BinomialDeviance> {
        let Self { alpha, beta, base, mf_reg, mf_power, mf_dropped } = *self;
        MeanField { term: BinomialDeviance { alpha, beta, base }, mf_reg, mf_power, mf_dropped }
    }
}

impl<T: Real> Loss<T> for MeanFieldBinomialDeviance {
    fn parameters(&self, classes: usize, dim: usize) -> Vec<Parameter> {
        Loss::<T>::parameters(&self.wrapped(), classes, dim)
    }

    fn parent(&self) -> Option<Box<dyn Loss<T>>> {
        self.wrapped().parent()
    }

    fn evaluate(
        &self,
        batch: Batch<'_, T>,
        classes: usize,
        parameters: &[&[T]],
        gradients: &mut Gradients<T>,
    ) -> Result<T, LossError> {
        self.wrapped().evaluate(batch, classes, parameters, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::slopes;
    use crate::math::random::stream;

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        let loss = MeanFieldBinomialDeviance { beta: 6.0, base: 0.3, ..Default::default() };
        slopes(&loss);
        slopes(&MeanFieldBinomialDeviance { mf_reg: 0.7, mf_power: 3.0, ..loss.clone() });
        slopes(&MeanFieldBinomialDeviance { mf_reg: 0.2, mf_dropped: 1.0, ..loss });
    }

    #[test]
    fn one_sample_and_two_fields_give_the_value_on_paper() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let fields: [f64; 4] = [3.0, 4.0, 4.0, 3.0];
        let loss = MeanFieldBinomialDeviance { beta: 10.0, mf_reg: 0.5, mf_dropped: 1.0, ..Default::default() };
        let value: f64 = loss.evaluate(batch, 2, &[&fields], &mut Gradients::default()).unwrap();
        // Cosines 0.6 with its own field, 0.8 with the other, 0.96 between the two.
        let cost = |x: f64| (1.0 + x.exp()).ln();
        let between = cost(10.0 * 0.46);
        let expected = cost(-0.2) + cost(3.0) + 0.5 * between.powi(2) - 0.5 * cost(-1.0) - 0.5 * between;
        assert!((value - expected).abs() <= 1e-14, "{value} {expected}");
    }

    /// Twelve samples, four in each of three classes, scattered by about `spread` around their class; with the class
    /// averages.
    fn clusters(spread: f64) -> (Vec<f64>, Vec<u32>, Vec<f64>) {
        let (dim, mut random) = (6, stream(3, "clusters", 0, 0));
        let centres: Vec<f64> = (0..3 * dim).map(|_| random.normal()).collect();
        let labels: Vec<u32> = (0..12).map(|i| i % 3).collect();
        let mut points = Vec::new();
        let mut averages = vec![0.0; 3 * dim];
        for &label in &labels {
            let centre = &centres[label as usize * dim..][..dim];
            let raw: Vec<f64> = centre.iter().map(|x| x + spread * random.normal()).collect();
            let norm = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
            let unit = raw.iter().map(|x| x / norm);
            averages[label as usize * dim..][..dim].iter_mut().zip(unit.clone()).for_each(|(a, x)| *a += x);
            points.extend(unit);
        }
        (points, labels, averages)
    }

    /// Pair-based loss minus mean-field loss, the mean fields being the class averages, moved by `shift`.
    fn gap(spread: f64, shift: f64, mf_dropped: f64) -> f64 {
        let (points, labels, mut fields) = clusters(spread);
        let mut random = stream(4, "clusters", 0, 0);
        fields.iter_mut().for_each(|x| *x += shift * random.normal());
        let loss = MeanFieldBinomialDeviance { beta: 5.0, base: 0.3, mf_dropped, ..Default::default() };
        let batch = Batch { embeddings: &points, labels: &labels, dim: 6 };
        let parent = Loss::<f64>::parent(&loss).unwrap();
        let pairs = parent.evaluate(batch, 3, &[], &mut Gradients::default()).unwrap();
        pairs - loss.evaluate(batch, 3, &[&fields], &mut Gradients::default()).unwrap()
    }

    #[test]
    fn without_spread_the_pairs_are_the_mean_field_loss_with_its_dropped_terms() {
        assert!(gap(0.0, 0.0, 1.0).abs() <= 1e-14, "{}", gap(0.0, 0.0, 1.0));
        assert!(gap(0.0, 0.0, 0.0).abs() > 0.1, "the dropped terms are not nothing");
    }

    #[test]
    fn the_gap_falls_with_the_fourth_power_of_the_spread_at_class_averages_and_with_the_second_elsewhere() {
        let order = |small: f64, gap: &dyn Fn(f64) -> f64| (gap(2.0 * small) / gap(small)).abs().log2();
        let averages = order(1e-2, &|spread| gap(spread, 0.0, 1.0));
        assert!((averages - 4.0).abs() < 0.2, "{averages}");
        // Fields that deviate as much as the samples.
        let elsewhere = order(1e-4, &|spread| gap(spread, 4.0 * spread, 1.0));
        assert!((elsewhere - 2.0).abs() < 0.1, "{elsewhere}");
    }

    #[test]
    fn the_dropped_term_draws_mean_fields_together_and_the_penalty_drives_them_apart() {
        // One field is far from the sample's, so that pairs of samples and fields contribute little.
        let batch = Batch { embeddings: &[0.0, 0.0, 1.0], labels: &[2], dim: 3 };
        let fields = [1.0, 0.0, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0];
        // The change in cosine of the two close fields by a gradient step.
        let gain = |mf_reg: f64, mf_dropped: f64| {
            let loss = MeanFieldBinomialDeviance { beta: 20.0, mf_reg, mf_dropped, ..Default::default() };
            let mut gradients = Gradients::default();
            loss.evaluate(batch, 3, &[&fields], &mut gradients).unwrap();
            let moved: Vec<f64> = fields.iter().zip(&gradients.parameters[0]).map(|(x, g)| x - 1e-3 * g).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let (a, b) = (&moved[..3], &moved[3..6]);
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt() - 0.8
        };
        assert!(gain(0.0, 1.0) > 1e-3, "{}", gain(0.0, 1.0));
        assert!(gain(1.0, 0.0) < -1e-3, "{}", gain(1.0, 0.0));
        assert!(gain(0.0, 0.0).abs() < 1e-4, "{}", gain(0.0, 0.0));
    }
}
