//! The number trait: code generic over it runs in `f32` for training and in `f64` for reference checks.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// `f32` (training) or `f64` (reference checks).
pub trait Real:
    Copy
    + Default
    + Debug
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The number nearest to `x`.
    fn from_f64(x: f64) -> Self;
    /// This number as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// Its absolute value.
    fn abs(self) -> Self;
    /// Its square root.
    fn sqrt(self) -> Self;
    /// e to its power. In 32 bits within 2 units in the last place, and 0 below e^-69, some 1e-30: its product with a
    /// small number may be subnormal, which takes the processor ten times as long.
    fn exp(self) -> Self;
    /// Its natural logarithm.
    fn ln(self) -> Self;
    /// ln(1 + x), exact for small x; for finite x > -1. In 32 bits within 3 units in the last place.
    fn ln_1p(self) -> Self;
    /// Its `p`th power.
    fn powf(self, p: Self) -> Self;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;

    /// The larger of two numbers; `other` if `self` is NaN.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

macro_rules! real {
    ($t:ty, $exp:path, $ln_1p:path) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            #[inline(always)]
            fn ln_1p(self) -> Self {
                $ln_1p(self)
            }
            #[inline(always)]
            fn powf(self, p: Self) -> Self {
                <$t>::powf(self, p)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }
        }
    };
}
real!(f32, exp, ln_1p);
real!(f64, f64::exp, f64::ln_1p);

/// ln 2 in two parts, the first short enough that its product with any exponent is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `e^x` without branches, so that loops over it vectorise: `2^n e^r` with `|r| <= ln 2 / 2`, and the series of `e^r`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding this rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Below the first the result is flushed to 0, above the second it overflows.
    const ENDS: [f32; 2] = [-69.0, 88.722];
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = series * r + factor;
    }
    let power = 1.0 + (r + r * r * series);
    let scaled = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    let inside = if x < ENDS[0] { 0.0 } else { scaled };
    if x > ENDS[1] { f32::INFINITY } else { inside }
}

/// `ln(1 + x)` without branches: `k ln 2 + ln m` of the rounded `1 + x`, `m` near 1, plus a correction for the
/// rounding.
#[inline(always)]
fn ln_1p(x: f32) -> f32 {
    // The bits of sqrt(1/2): m lies between it and its double.
    const LOWEST: i32 = 0x3f35_04f3;
    let rounded = 1.0 + x;
    let lost = (x - (rounded - 1.0)) / rounded;
    let above = (rounded.to_bits() as i32).wrapping_sub(LOWEST);
    let k = (above >> 23) as f32;
    let m = f32::from_bits(((above & 0x007f_ffff) + LOWEST) as u32);
    // ln m = 2 artanh s
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = 1.0 / 9.0;
    for factor in [1.0 / 7.0, 0.2, 1.0 / 3.0] {
        series = series * z + factor;
    }
    let ln = 2.0 * s + 2.0 * s * z * series;
    k * LN_2[0] + (ln + (k * LN_2[1] + lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_and_the_logarithm_are_within_their_units_in_the_last_place() {
        let far = |found: f32, exact: f64| (f64::from(found) - exact).abs() / (exact.abs() * f64::from(f32::EPSILON));
        let mut worst = [0.0f64; 2];
        for step in -690_000..887_000 {
            let x = step as f32 * 1e-4;
            worst[0] = worst[0].max(far(Real::exp(x), f64::from(x).exp()));
            let small = Real::exp(x).min(1e30);
            worst[1] = worst[1].max(far(Real::ln_1p(small), f64::from(small).ln_1p()));
        }
        assert!(worst[0] <= 2.0 && worst[1] <= 3.0, "{worst:?}");
        assert_eq!(
            [0.0, -1e30, -69.1, 89.0, 1e30].map(<f32 as Real>::exp),
            [1.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]
        );
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY].map(Real::exp), [0.0, f32::INFINITY]);
        assert!(Real::exp(f32::NAN).is_nan());
        assert_eq!(Real::ln_1p(0.0f32), 0.0);
    }
}
