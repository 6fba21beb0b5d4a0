//! Counter-based random streams.
//!
//! Every draw is a function of (seed, purpose, epoch, item) and of its position in that stream. No generator state is
//! carried from one item to the next, so the number of threads, the order of work and resuming a run change nothing.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The random numbers of one (seed, purpose, epoch, item).
#[derive(Debug, Clone)]
pub struct Stream {
    generator: ChaCha8Rng,
}

/// Opens the stream of `(seed, purpose, epoch, item)`.
///
/// `purpose` names the use ("init", "sampler", "flip"), so that two uses of one seed are independent.
pub fn stream(seed: u64, purpose: &str, epoch: u64, item: u64) -> Stream {
    let mut hasher = blake3::Hasher::new_derive_key("meanfield 2026 random stream v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&epoch.to_le_bytes());
    hasher.update(&item.to_le_bytes());
    hasher.update(purpose.as_bytes());
    Stream { generator: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()) }
}

/// One seed from several integers, such as those of a fold and a run: the number itself if it is alone, else a hash
/// that depends on their order. Seeds that differ in one of the numbers are independent.
pub fn seed_of(numbers: &[u64]) -> u64 {
    if let [alone] = numbers {
        return *alone;
    }
    let mut hasher = blake3::Hasher::new_derive_key("meanfield 2026 seed of several numbers v1");
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Stream {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform integer in `0..bound`, without bias (Lemire's multiplication, rejecting the short remainder).
    ///
    /// `bound` must not be zero: a debug build asserts it, a release build returns 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0, "an empty range has no element");
        let threshold = bound.wrapping_neg() % bound.max(1);
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal, by the Box-Muller transform (cosine branch; two uniforms per draw).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles `items` uniformly (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// `count` distinct integers of `0..bound` in random order; all of them, shuffled, if `count >= bound`.
    pub fn distinct(&mut self, bound: usize, count: usize) -> Vec<usize> {
        let mut pool: Vec<usize> = (0..bound).collect();
        let count = count.min(bound);
        for i in 0..count {
            let j = i + self.below((bound - i) as u64) as usize;
            pool.swap(i, j);
        }
        pool.truncate(count);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_its_four_coordinates_alone() {
        let first = |seed, purpose, epoch, item| stream(seed, purpose, epoch, item).bits();
        let reference = first(1, "flip", 2, 3);
        assert_eq!(reference, first(1, "flip", 2, 3));
        for other in [first(2, "flip", 2, 3), first(1, "shift", 2, 3), first(1, "flip", 3, 3), first(1, "flip", 2, 4)] {
            assert_ne!(reference, other);
        }
    }

    #[test]
    fn a_seed_of_several_numbers_depends_on_each_and_on_their_order() {
        assert_eq!([0, 7, u64::MAX].map(|number| seed_of(&[number])), [0, 7, u64::MAX]);
        let mut seeds: Vec<u64> = (0..4).flat_map(|fold| (0..11).map(move |run| seed_of(&[fold, run]))).collect();
        seeds.extend((0..11).chain([seed_of(&[0, 0, 0]), seed_of(&[1, 0, 0])]));
        let all = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), all);
        // Results depend on it.
        assert_eq!(seed_of(&[1, 2]), 4_548_606_461_216_370_660);
    }

    #[test]
    fn moments_are_those_of_the_stated_distributions() {
        let mut s = stream(7, "test", 0, 0);
        let n = 200_000;
        let (mut u, mut g, mut g2) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            u += s.uniform();
            let x = s.normal();
            g += x;
            g2 += x * x;
        }
        let n = f64::from(n);
        // Four standard errors around each mean.
        assert!((u / n - 0.5).abs() < 4.0 * (1.0 / 12.0f64).sqrt() / n.sqrt());
        assert!((g / n).abs() < 4.0 / n.sqrt());
        assert!((g2 / n - 1.0).abs() < 4.0 * 2.0f64.sqrt() / n.sqrt());
    }

    #[test]
    fn distinct_draws_do_not_repeat_and_reach_every_element() {
        let mut seen = [0u32; 10];
        for item in 0..2_000 {
            let drawn = stream(3, "distinct", 0, item).distinct(10, 4);
            assert_eq!(drawn.len(), 4);
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 4, "{drawn:?}");
            drawn.iter().for_each(|&i| seen[i] += 1);
        }
        // 800 expected each, standard deviation 22.
        assert!(seen.iter().all(|&n| (690..910).contains(&n)), "{seen:?}");
    }
}
