//! Statistics of repeated runs: Student-t intervals, t-tests between two methods, Holm's correction.
//!
//! A few seeds per method are all that a comparison of losses can afford, so everything here is exact for small normal
//! samples and nothing relies on n being large. Fewer than two values have no spread: the result is then `None`,
//! never a number that looks like one. Sums run in the order of the slice.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A two-sided t-test of equal means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TTest {
    /// Mean of the first sample minus mean of the second.
    pub difference: f64,
    /// Standard error of `difference`.
    pub standard_error: f64,
    /// Degrees of freedom of its t distribution; a fraction in Welch's test.
    pub degrees_of_freedom: f64,
    /// Probability of a difference at least as far from zero if the two means are equal.
    pub p: f64,
}

impl TTest {
    /// Half the width of the interval around `difference` that contains the true difference with probability `confidence`.
    /// `None` if `confidence` is outside (0, 1).
    pub fn half_width(&self, confidence: f64) -> Option<f64> {
        Some(t_quantile(0.5 + confidence / 2.0, self.degrees_of_freedom)? * self.standard_error)
    }

    fn new(difference: f64, standard_error: f64, degrees_of_freedom: f64) -> Option<TTest> {
        let p = if standard_error > 0.0 {
            let t = StudentsT::new(0.0, 1.0, degrees_of_freedom).ok()?;
            2.0 * t.sf((difference / standard_error).abs())
        } else if difference == 0.0 {
            1.0
        } else {
            0.0
        };
        p.is_finite().then_some(TTest { difference, standard_error, degrees_of_freedom, p })
    }
}

/// The `probability` quantile of Student's t distribution.
///
/// `None` if `probability` is outside (0, 1) or so near an end that the quantile is not finite, or if
/// `degrees_of_freedom` is not above 0.
pub fn t_quantile(probability: f64, degrees_of_freedom: f64) -> Option<f64> {
    let inside = probability > 0.0 && probability < 1.0;
    let t = StudentsT::new(0.0, 1.0, degrees_of_freedom).ok().filter(|_| inside)?;
    Some(t.inverse_cdf(probability)).filter(|quantile| quantile.is_finite())
}

/// Half the width of the t-interval of a mean: the true mean is within `mean ± half_width` with probability
/// `confidence`, given `n` independent normal values of sample standard deviation `standard_deviation`.
///
/// `None` for fewer than two values, or if `confidence` is outside (0, 1).
pub fn half_width(standard_deviation: f64, n: usize, confidence: f64) -> Option<f64> {
    let t = t_quantile(0.5 + confidence / 2.0, n.checked_sub(1)? as f64)?;
    Some(t * standard_deviation / (n as f64).sqrt())
}

/// The paired t-test: `first[i]` and `second[i]` belong together, such as two losses trained from the same seed.
///
/// What a seed does to both cancels in the differences, so it sees smaller effects than [`welch_t`].
/// `None` if the lengths differ, there are fewer than two pairs, or a value is not finite.
pub fn paired_t(first: &[f64], second: &[f64]) -> Option<TTest> {
    if first.len() != second.len() {
        return None;
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let (mean, variance) = mean_and_variance(&differences)?;
    let n = differences.len() as f64;
    TTest::new(mean, (variance / n).sqrt(), n - 1.0)
}

/// Welch's t-test of two independent samples, whose sizes and variances may differ.
///
/// Degrees of freedom after Welch and Satterthwaite. `None` if a sample has fewer than two values or one that is not
/// finite.
pub fn welch_t(first: &[f64], second: &[f64]) -> Option<TTest> {
    let ((mean_1, variance_1), (mean_2, variance_2)) = (mean_and_variance(first)?, mean_and_variance(second)?);
    let (n_1, n_2) = (first.len() as f64, second.len() as f64);
    let (error_1, error_2) = (variance_1 / n_1, variance_2 / n_2);
    let squared = error_1 + error_2;
    let degrees_of_freedom = if squared > 0.0 {
        squared * squared / (error_1 * error_1 / (n_1 - 1.0) + error_2 * error_2 / (n_2 - 1.0))
    } else {
        n_1 + n_2 - 2.0
    };
    TTest::new(mean_1 - mean_2, squared.sqrt(), degrees_of_freedom)
}

/// Holm's step-down correction: with these p values in place of the given ones, the chance of even one false
/// rejection among them all stays below the level of the test, whatever their dependence (Holm 1979).
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, &index) in order.iter().enumerate() {
        largest = largest.max((p[index] * (p.len() - rank) as f64).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

/// Mean and unbiased variance of at least two values.
fn mean_and_variance(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean.is_finite() && variance.is_finite()).then_some((mean, variance))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(actual: f64, expected: f64) {
        let difference = (actual - expected).abs();
        assert!(difference <= 1e-9 * expected.abs().max(1e-3), "{actual} is not {expected}");
    }

    const A: [f64; 5] = [0.6123, 0.6200, 0.6051, 0.6310, 0.5999];
    const B: [f64; 5] = [0.6010, 0.6150, 0.5990, 0.6220, 0.6001];
    const C: [f64; 3] = [0.58, 0.61, 0.64];

    /// Expected values of this module's tests: SciPy 1.x, `stats.t`, `ttest_rel`, `ttest_ind(equal_var=False)`.
    #[test]
    fn quantiles_equal_scipy() {
        for (probability, degrees_of_freedom, expected) in [
            (0.975, 1.0, 12.706204736174694),
            (0.975, 2.0, 4.302652729749462),
            (0.975, 4.0, 2.7764451051977934),
            (0.975, 9.0, 2.262157162798205),
            (0.95, 3.0, 2.3533634348018233),
            (0.995, 2.0, 9.924843200918287),
            (0.975, 3.7, 2.8675207071911895),
            (0.975, 1000.0, 1.9623390808264083),
            (0.2, 5.0, -0.9195437802408267),
        ] {
            assert_close(t_quantile(probability, degrees_of_freedom).unwrap(), expected);
        }
    }

    #[test]
    fn interval_of_a_mean_equals_scipy() {
        let (_, variance) = mean_and_variance(&A).unwrap();
        assert_close(half_width(variance.sqrt(), 5, 0.95).unwrap(), 0.015274637411999548);
    }

    #[test]
    fn paired_test_equals_scipy() {
        let test = paired_t(&A, &B).unwrap();
        assert_close(test.difference, 0.00624);
        assert_close(test.p, 0.03303415652352929);
        assert_close(test.degrees_of_freedom, 4.0);
        assert_close(test.difference - test.half_width(0.95).unwrap(), 0.0008187465322315891);
    }

    #[test]
    fn welch_test_equals_scipy() {
        let test = welch_t(&A, &C).unwrap();
        assert_close(test.difference, 0.00366);
        assert_close(test.p, 0.8561354639894131);
        assert_close(test.degrees_of_freedom, 2.4116382549926683);
        assert_close(test.difference + test.half_width(0.95).unwrap(), 0.0703580820114949);
    }

    #[test]
    fn samples_without_spread_are_certain() {
        assert_eq!(paired_t(&[0.5, 0.75], &[0.25, 0.5]).unwrap().p, 0.0);
        assert_eq!(paired_t(&[0.5, 0.75], &[0.5, 0.75]).unwrap().p, 1.0);
        assert_eq!(welch_t(&[0.5, 0.5], &[0.25, 0.25]).unwrap().p, 0.0);
        assert_eq!(welch_t(&[0.5, 0.5], &[0.25, 0.25]).unwrap().half_width(0.95), Some(0.0));
    }

    #[test]
    fn too_few_or_unfit_values_have_no_answer() {
        assert_eq!(half_width(0.1, 1, 0.95), None);
        assert_eq!(half_width(0.1, 0, 0.95), None);
        assert_eq!(half_width(0.1, 3, 1.0), None);
        assert_eq!(t_quantile(0.0, 3.0), None);
        assert_eq!(t_quantile(f64::NAN, 3.0), None);
        assert_eq!(paired_t(&[0.1], &[0.2]), None);
        assert_eq!(paired_t(&A, &C), None);
        assert_eq!(paired_t(&[0.1, f64::NAN], &[0.2, 0.3]), None);
        assert_eq!(welch_t(&[0.1], &C), None);
    }

    #[test]
    fn holm_multiplies_by_rank_and_never_falls() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (actual, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert_close(*actual, expected);
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert_eq!(holm(&[]), [0.0; 0]);
    }
}
