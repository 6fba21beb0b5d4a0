//! Sums of exponentials in forms that neither overflow nor lose small terms.

use crate::math::real::Real;

/// `ln(sum exp(x))`; minus infinity for no terms.
pub fn log_sum_exp<T: Real>(terms: impl Iterator<Item = T> + Clone) -> T {
    let largest = terms.clone().fold(T::from_f64(f64::NEG_INFINITY), T::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + terms.fold(T::ZERO, |sum, x| sum + (x - largest).exp()).ln()
}

/// `ln(1 + sum exp(x))`; 0 for no terms. Its derivative with respect to a term `x` is `exp(x - result)`.
pub fn log_1p_sum_exp<T: Real>(terms: impl Iterator<Item = T> + Clone) -> T {
    let largest = terms.clone().fold(T::ZERO, T::max);
    let sum = terms.fold(T::ZERO, |sum, x| sum + (x - largest).exp());
    if largest > T::ZERO { largest + ((-largest).exp() + sum).ln() } else { sum.ln_1p() }
}

/// `ln(1 + exp(x))`.
#[inline(always)]
pub fn softplus<T: Real>(x: T) -> T {
    x.max(T::ZERO) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + exp(-x))`, the derivative of [`softplus`].
#[inline(always)]
pub fn sigmoid<T: Real>(x: T) -> T {
    let e = (-x.abs()).exp();
    if x >= T::ZERO { T::ONE / (T::ONE + e) } else { e / (T::ONE + e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_their_plain_forms_where_those_are_exact() {
        let x = [0.3f64, -1.2, 2.5];
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        assert!((log_sum_exp(x.into_iter()) - sum.ln()).abs() <= 1e-15);
        assert!((log_1p_sum_exp(x.into_iter()) - (1.0 + sum).ln()).abs() <= 1e-15);
        assert!((softplus(0.3f64) - (1.0 + 0.3f64.exp()).ln()).abs() <= 1e-15);
        assert!((sigmoid(0.3f64) - 1.0 / (1.0 + (-0.3f64).exp())).abs() <= 1e-15);
    }

    #[test]
    fn sums_hold_at_both_ends() {
        assert_eq!(log_1p_sum_exp([1000.0f32, 2.0].into_iter()), 1000.0);
        assert_eq!(log_1p_sum_exp(std::iter::empty::<f64>()), 0.0);
        assert_eq!(log_1p_sum_exp([-80.0f64].into_iter()), (-80.0f64).exp());
        assert_eq!(log_sum_exp(std::iter::empty::<f64>()), f64::NEG_INFINITY);
        assert_eq!(softplus(-1000.0f32), 0.0);
        assert_eq!(sigmoid(-1000.0f32), 0.0);
        assert_eq!(sigmoid(1000.0f32), 1.0);
    }
}
