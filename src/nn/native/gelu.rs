//! The Gaussian error linear unit, `x P(X <= x)` for a standard normal `X`, in exact form (Hendrycks and Gimpel 2016).
//!
//! The tail probability of the normal distribution is `e^(-t^2 / 2) R(t)`, where `R` is smooth and decreases slowly: a
//! rational function approximates it to the same number of digits everywhere. `1 + erf` loses them below zero, where it
//! is the difference of two numbers near 1.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::map::CHUNK;
use crate::math::real::Real;
use crate::math::simd::vectorise;

/// `R(t) = e^(t^2 / 2) P(X > t)` from 0 to 14: numerator and denominator, the highest power first. A minimax fit of its
/// relative error (6e-9; in single precision the quotient is within 3e-7).
const NUMERATOR: [f32; 5] = [0.004_047_628_7, 0.040_184_955, 0.181_926_55, 0.436_561_54, 0.5];
const DENOMINATOR: [f32; 6] = [0.010_145_769, 0.100_735_69, 0.466_009_57, 1.197_120_8, 1.671_007_9, 1.0];
/// Beyond it the tail is below the smallest positive number.
const END: f32 = 14.0;
/// The normal density at 0.
const PEAK: f32 = 0.398_942_3;

/// `x`, or `END` with its sign. NaN stays NaN.
#[inline(always)]
fn bounded(x: f32) -> f32 {
    let x = if x > END { END } else { x };
    if x < -END { -END } else { x }
}

/// `e^(-t^2 / 2)`, and the tail beyond `t >= 0`.
#[inline(always)]
fn tail(t: f32) -> [f32; 2] {
    let bell = Real::exp(-0.5 * t * t);
    let (mut numerator, mut denominator) = (NUMERATOR[0], DENOMINATOR[0]);
    for factor in &NUMERATOR[1..] {
        numerator = numerator * t + factor;
    }
    for factor in &DENOMINATOR[1..] {
        denominator = denominator * t + factor;
    }
    [bell, bell * numerator / denominator]
}

/// The value of GELU.
#[inline(always)]
fn value(x: f32) -> f32 {
    let t = bounded(x).abs();
    let above = if x < 0.0 { 0.0 } else { x };
    above - t * tail(t)[1]
}

/// The derivative of GELU: the probability below `x`, plus `x` times the density.
#[inline(always)]
fn slope(x: f32) -> f32 {
    let bounded = bounded(x);
    let [bell, tail] = tail(bounded.abs());
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    below + bounded * (PEAK * bell)
}

/// GELU of each element.
pub(super) fn forward(x: &[f32]) -> Buffer {
    let mut y = Buffer::new(x.len());
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorise(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, &x)| *y = value(x)),
        );
    });
    y
}

/// Replaces the gradient of the result by that of `x`.
pub(super) fn backward(x: &[f32], dy: &mut [f32]) {
    dy.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(dy, x)| {
        vectorise(
            #[inline(always)]
            || dy.iter_mut().zip(x).for_each(|(dy, &x)| *dy *= slope(x)),
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(X <= x) by Simpson's rule from 0, and by the asymptotic series where that has no digits left.
    fn probability(x: f64) -> f64 {
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        if x < -6.0 {
            let (mut term, mut sum) = (1.0, 1.0);
            for k in 1..12 {
                term *= -f64::from(2 * k - 1) / (x * x);
                sum += term;
            }
            return density(x) / -x * sum;
        }
        let steps = 2000;
        let step = x / f64::from(2 * steps);
        let ends = density(0.0) + density(x);
        let inner: f64 =
            (1..2 * steps).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * density(step * f64::from(i))).sum();
        0.5 + step / 3.0 * (ends + inner)
    }

    #[test]
    fn values_and_slopes_are_exact_to_single_precision_everywhere() {
        let x: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 / 1000.0).collect();
        let y = forward(&x);
        let mut slopes = vec![1.0; x.len()];
        backward(&x, &mut slopes);
        for ((&x, &y), &slope) in x.iter().zip(y.iter()).zip(&slopes).step_by(7) {
            let (t, p) = (f64::from(x), probability(f64::from(x)));
            let expected = t * p;
            // Below -5 the square of x has too few digits for its exponential.
            let relative = if x < -5.0 { 2e-5 } else { 2e-6 };
            assert!((f64::from(y) - expected).abs() <= relative * expected.abs() + 1e-30, "{x}: {y} for {expected}");
            let expected = p + t * (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
            assert!((f64::from(slope) - expected).abs() <= 5e-7, "slope at {x}: {slope} for {expected}");
        }
    }

    #[test]
    fn ends_and_what_is_not_a_number() {
        let x = [f32::INFINITY, 1e30, 40.0, -40.0, -1e30, f32::NEG_INFINITY, -0.0];
        assert_eq!(forward(&x)[..], [f32::INFINITY, 1e30, 40.0, 0.0, 0.0, 0.0, 0.0]);
        let mut slopes = [1.0; 7];
        backward(&x, &mut slopes);
        assert_eq!(slopes, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5]);
        assert!(forward(&[f32::NAN])[0].is_nan());
        let mut slope = [1.0];
        backward(&[f32::NAN], &mut slope);
        assert!(slope[0].is_nan());
    }
}
