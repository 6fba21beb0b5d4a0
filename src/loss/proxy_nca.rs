//! ProxyNCA: soft nearest proxy by squared distance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::Init;
use super::formula::{Against, Formula, Table};
use super::softmax::cross_entropy;
use crate::math::real::Real;

/// ProxyNCA loss.
///
/// ```text
/// L = mean_i -log softmax_c(-softmax_scale |e_i - w_c|^2)[y_i]
/// ```
///
/// `e` unit embeddings, `w` unit proxies, so that `|e - w|^2 = 2 - 2 e . w` and the 2 cancels in the softmax. With one class
/// it is 0.
///
/// # Shapes
/// Embeddings `B x D`; `proxies` `C x D`.
///
/// # Parameters
/// The fields below.
///
/// # Gradient
/// With respect to a logit: `(probability - [c = y_i]) / B`.
///
/// # Cost
/// O(B C D) time, O(B C + C D) memory.
///
/// # Source
/// Movshovitz-Attias et al., *No Fuss Distance Metric Learning using Proxies*, ICCV 2017, which excludes the own proxy from the
/// denominator; here it is included, as in pytorch-metric-learning, whose default scale is used.
#[derive(Debug, Clone, PartialEq, SmartDefault, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyNca {
    /// Scale of the squared distances (Proxy-Anchor code: 32; MLRC found 8 to 14).
    #[default = 1.0]
    #[schemars(range(min = 1e-6, max = 1000000))]
    pub softmax_scale: f64,
}

impl Formula for ProxyNca {
    fn against(&self) -> Against {
        Against::ClassVectors("proxies", Init::Normal)
    }

    fn value<T: Real>(&self, table: &mut Table<'_, T>) -> f64 {
        let scale = 2.0 * self.softmax_scale;
        cross_entropy(table.cells, table.labels, table.width, scale, |q| (T::from_f64(scale) * q, T::from_f64(scale)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{Batch, Gradients, Loss, testing};

    #[test]
    fn it_equals_the_reference() {
        testing::equals_reference("proxy_nca", 3);
    }

    #[test]
    fn its_gradient_is_the_slope_of_its_value() {
        testing::slopes(&ProxyNca { softmax_scale: 3.0 });
    }

    #[test]
    fn two_proxies_give_the_logistic_loss_of_their_squared_distances() {
        let batch = Batch { embeddings: &[1.0, 0.0], labels: &[0], dim: 2 };
        let loss = ProxyNca { softmax_scale: 1.5 };
        let value: f64 = loss.evaluate(batch, 2, &[&[0.0, 1.0, -2.0, 0.0]], &mut Gradients::default()).unwrap();
        // Squared distances 2 and 4.
        assert!((value - (1.0 + (1.5f64 * (2.0 - 4.0)).exp()).ln()).abs() <= 1e-15, "{value}");
    }
}
