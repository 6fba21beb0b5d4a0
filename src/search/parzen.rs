//! The tree-structured Parzen estimator (Bergstra, Bardenet, Bengio and Kegl, *Algorithms for Hyper-Parameter
//! Optimization*, NeurIPS 2011, section 4), for a space without conditions: a tree of one level.
//!
//! The best 15 % of the trials and the rest give one density each: in every dimension a mixture of a wide normal distribution
//! over the range, the prior, and one at each trial, as wide as the gap to its farther neighbour. Of 64 samples of the good
//! density, the one with the largest ratio of good to other density is tried: expected improvement grows with that ratio.

use statrs::function::erf::erf;

use super::space::Point;
use crate::math::random::{Stream, stream};

/// The fraction of trials that count as good.
const GOOD: f64 = 0.15;
const CANDIDATES: usize = 64;

/// The point of trial number `at` after `known` points with their scores, two or more.
pub(super) fn suggest(known: &[(Point, f64)], seed: u64, at: u32) -> Point {
    let mut order: Vec<&(Point, f64)> = known.iter().collect();
    // A stable sort: of equal scores the earlier trial ranks higher.
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let count = ((GOOD * order.len() as f64).ceil() as usize).clamp(1, order.len() - 1);
    let (good, others) = order.split_at(count);
    let dimensions = known.first().map_or(0, |(point, _)| point.len());
    let density = |trials: &[&(Point, f64)], d: usize| Mixture::new(trials.iter().map(|(point, _)| point[d]).collect());
    let densities: Vec<(Mixture, Mixture)> = (0..dimensions).map(|d| (density(good, d), density(others, d))).collect();
    let mut random = stream(seed, "search candidates", 0, u64::from(at));
    let candidates = (0..CANDIDATES).map(|_| {
        let point: Point = densities.iter().map(|(good, _)| good.sample(&mut random)).collect();
        let ratio: f64 = densities
            .iter()
            .zip(&point)
            .map(|((good, others), &x)| good.density(x).ln() - others.density(x).ln())
            .sum();
        (point, ratio)
    });
    candidates.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(Vec::new(), |(point, _)| point)
}

/// A mixture of normal distributions of equal weight, truncated to [0, 1].
struct Mixture(Vec<Normal>);

struct Normal {
    mean: f64,
    deviation: f64,
    /// Its mass within [0, 1].
    inside: f64,
}

impl Mixture {
    fn new(points: Vec<f64>) -> Mixture {
        let mut means = points;
        means.push(0.5);
        means.sort_by(f64::total_cmp);
        let narrowest = 1.0 / (means.len() as f64 + 1.0).min(100.0);
        let prior = means.iter().position(|&mean| mean == 0.5);
        let normal = |(index, &mean): (usize, &f64)| {
            let before = if index == 0 { 0.0 } else { means[index - 1] };
            let after = means.get(index + 1).copied().unwrap_or(1.0);
            let gap = (mean - before).max(after - mean);
            Normal::new(mean, if Some(index) == prior { 1.0 } else { gap.clamp(narrowest, 1.0) })
        };
        Mixture(means.iter().enumerate().map(normal).collect())
    }

    fn sample(&self, random: &mut Stream) -> f64 {
        let normal = &self.0[random.below(self.0.len() as u64) as usize];
        // At least a third of the samples are inside, for any mean in [0, 1] and any width.
        for _ in 0..1000 {
            let x = normal.mean + normal.deviation * random.normal();
            if (0.0..=1.0).contains(&x) {
                return x;
            }
        }
        normal.mean
    }

    fn density(&self, x: f64) -> f64 {
        self.0.iter().map(|normal| normal.density(x)).sum::<f64>() / self.0.len() as f64
    }
}

impl Normal {
    fn new(mean: f64, deviation: f64) -> Normal {
        let below = |x: f64| 0.5 * (1.0 + erf((x - mean) / (deviation * std::f64::consts::SQRT_2)));
        Normal { mean, deviation, inside: below(1.0) - below(0.0) }
    }

    fn density(&self, x: f64) -> f64 {
        let z = (x - self.mean) / self.deviation;
        (-0.5 * z * z).exp() / (self.deviation * std::f64::consts::TAU.sqrt() * self.inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_density_has_the_area_one_and_its_samples() {
        for points in [vec![], vec![0.0, 1.0], vec![0.2, 0.21, 0.9], vec![0.5; 5]] {
            let mixture = Mixture::new(points.clone());
            let area: f64 = (0..10_000).map(|i| mixture.density((f64::from(i) + 0.5) / 1e4) / 1e4).sum();
            assert!((area - 1.0).abs() < 1e-6, "{points:?}: {area}");
            let mut random = stream(1, "test", 0, 0);
            let below = (0..4000).filter(|_| mixture.sample(&mut random) < 0.3).count() as f64 / 4000.0;
            let expected: f64 = (0..3000).map(|i| mixture.density((f64::from(i) + 0.5) / 1e4) / 1e4).sum();
            assert!((below - expected).abs() < 0.03, "{points:?}: {below} {expected}");
        }
    }

    #[test]
    fn widths_are_gaps_to_the_farther_neighbour() {
        let Mixture(normals) = Mixture::new(vec![0.8, 0.1]);
        let found: Vec<(f64, f64)> = normals.iter().map(|normal| (normal.mean, normal.deviation)).collect();
        for ((mean, deviation), (expected, width)) in found.into_iter().zip([(0.1, 0.4), (0.5, 1.0), (0.8, 0.3)]) {
            assert!((mean - expected).abs() < 1e-12 && (deviation - width).abs() < 1e-12, "{mean}: {deviation}");
        }
    }
}
