//! Proxy-anchor loss: each class proxy as an anchor over the samples of a batch.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Init;
use super::formula::{Against, Formula, Table};
use super::smooth::log_1p_sum_exp;
use crate::math::real::Real;

/// Proxy-anchor loss.
///
/// ```text
/// L = 1/K sum_{c in batch} log(1 + sum_{i: y_i = c}  exp(-alpha (q_ic - margin)))
///   + 1/C sum_c            log(1 + sum_{i: y_i != c} exp( alpha (q_ic + margin)))
/// ```
///
/// `q_ic = e_i . w_c`, `e` unit embeddings, `w` unit proxies, `K` the classes present. An empty sum is 0.
///
/// # Shapes
/// Embeddings `B x D`; `proxies` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to `q_ic`: own class `-alpha exp(-alpha (q - margin)) / (K (1 + sum))`, another
/// `alpha exp(alpha (q + margin)) / (C (1 + sum))`.
///
/// # Cost
/// O(B C D) time, O(B C + C D) memory.
///
/// # Source
/// Kim et al., *Proxy Anchor Loss for Deep Metric Learning*, CVPR 2020. Equal to its code and to pytorch-metric-learning,
/// but in log-sum-exp form. That code also clips the gradient of the proxies by value at 10, which here belongs to the
/// optimiser.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyAnchor {
    /// Margin around a cosine of 0 (paper: 0.1).
    #[default = 0.1]
    #[schemars(range(min = -2, max = 4))]
    pub margin: f64,
    /// Scale (inverse temperature) (paper: 32).
    #[default = 32.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub alpha: f64,
}

impl Formula for ProxyAnchor {
    fn against(&self) -> Against {
        Against::ClassVectors("proxies", Init::KaimingNormalFanOut)
    }

    fn value<T: Real>(&self, Table { cells: scores, labels, width: classes, .. }: &mut Table<'_, T>) -> f64 {
        let (labels, classes) = (*labels, *classes);
        let (alpha, margin) = (T::from_f64(self.alpha), T::from_f64(self.margin));

        // For each class: log(1 + sum) over its own samples, if it has any, and over the others.
        let logs: Vec<(Option<T>, T)> = (0..classes)
            .into_par_iter()
            .map(|c| {
                let of = |own: bool| (0..labels.len()).filter(move |&i| (labels[i] as usize == c) == own);
                let score = |i: usize| scores[i * classes + c];
                let pull = log_1p_sum_exp(of(true).map(|i| -alpha * (score(i) - margin)));
                let push = log_1p_sum_exp(of(false).map(|i| alpha * (score(i) + margin)));
                (of(true).next().is_some().then_some(pull), push)
            })
            .collect();
        let present = logs.iter().filter(|(pull, _)| pull.is_some()).count();
        let (per_present, per_class) = (1.0 / present as f64, 1.0 / classes as f64);

        scores.par_chunks_mut(classes).zip(labels).for_each(|(row, &label)| {
            for (c, (cell, &(pull, push))) in row.iter_mut().zip(&logs).enumerate() {
                *cell = match pull {
                    Some(log) if label as usize == c => {
                        -T::from_f64(self.alpha * per_present) * (-alpha * (*cell - margin) - log).exp()
                    }
                    _ => T::from_f64(self.alpha * per_class) * (alpha * (*cell + margin) - push).exp(),
                };
            }
        });
        let class = |(pull, push): &(Option<T>, T)| {
            pull.map_or(0.0, |log| log.to_f64() * per_present) + push.to_f64() * per_class
        };
        logs.iter().map(class).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("proxy_anchor", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&ProxyAnchor { margin: 0.1, alpha: 6.0 });
    }

    #[test]
    fn an_absent_class_has_only_its_negative_part() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let loss = ProxyAnchor { margin: 0.5, alpha: 2.0 };
        let value: f64 = loss.evaluate(batch, 2, &[&[2.0, 0.0, 0.0, 1.0]], &mut Gradients::default()).unwrap();
        let expected = (1.0 + (-1f64).exp()).ln() + (1.0 + 1f64.exp()).ln() / 2.0;
        assert!((value - expected).abs() <= 1e-15, "{value} {expected}");
    }
}
