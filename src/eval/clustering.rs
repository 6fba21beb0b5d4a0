//! How well clusters of vectors agree with their classes: k-means, NMI, AMI and F1.
//!
//! k-means decides in 64 bits, as the search does: 32-bit products propose the nearest centre, and where they cannot decide,
//! 64-bit ones do. Sums run in a fixed order. So the clusters are the same for any number of threads.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;
use statrs::function::factorial::ln_factorial;

use super::index::Index;
use super::retrieval::{EvalError, Labelled, index};
use crate::math::product::{Onto, View, serial_product};
use crate::math::random::stream;
use crate::math::real::Real;

/// Passes over the vectors, at most.
const PASSES: usize = 20;
/// Vectors per task.
const BLOCK: usize = 512;

/// Agreement of clusters with classes: 1 if they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// `I(classes, clusters) / ((H(classes) + H(clusters)) / 2)`: mutual information over the mean of the entropies (Manning,
    /// Raghavan and Schuetze, *Introduction to Information Retrieval*, 2008, section 16.3). In [0, 1], and the larger the more
    /// clusters there are.
    pub nmi: f64,
    /// `(I - E) / ((H(classes) + H(clusters)) / 2 - E)`, E being the mutual information to be expected of clusters of these
    /// sizes by chance (Vinh, Epps and Bailey, *Information Theoretic Measures for Clusterings Comparison*, JMLR 2010). 0 on
    /// average for random clusters.
    pub ami: f64,
    /// `2 P R / (P + R)` over pairs of vectors, P being the share of the pairs within clusters that are of one class, R that
    /// of the pairs within classes that are in one cluster (Manning, Raghavan and Schuetze, section 16.3). In [0, 1].
    pub f1: f64,
}

/// The agreement of the classes with k-means clusters of the vectors, as many as there are classes.
///
/// The vectors are normalised to unit length; k-means is initialised by k-means++ (Arthur and Vassilvitskii, SODA
/// 2007), drawn from `seed`, and ends when no vector changes its cluster, or after 20 passes. Time: `21 N k dim`
/// multiplications.
///
/// # Errors
/// [`EvalError`], as [`retrieval`](super::retrieval()).
pub fn clustering<T: Real>(set: Labelled<'_, T>, seed: u64) -> Result<Agreement, EvalError> {
    let rows = index("queries", set)?;
    let mut classes = set.labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    Ok(agreement(set.labels, &k_means(&rows, classes.len(), seed)))
}

/// The agreement of two ways to divide the same items.
pub fn agreement(classes: &[u32], clusters: &[u32]) -> Agreement {
    let total = classes.len() as f64;
    let mut cells = BTreeMap::<(u32, u32), u64>::new();
    classes.iter().zip(clusters).for_each(|pair| *cells.entry((*pair.0, *pair.1)).or_default() += 1);
    let [a, b] = [classes, clusters].map(|set| {
        let mut sizes = BTreeMap::<u32, u64>::new();
        set.iter().for_each(|group| *sizes.entry(*group).or_default() += 1);
        sizes
    });
    let share = |count: u64| count as f64 / total;
    let entropy = |sizes: &BTreeMap<u32, u64>| sizes.values().map(|&n| -share(n) * share(n).ln()).sum::<f64>();
    let information: f64 = cells
        .iter()
        .map(|((class, cluster), &n)| share(n) * (share(n) / (share(a[class]) * share(b[cluster]))).ln())
        .sum();
    let mean = 0.5 * (entropy(&a) + entropy(&b));
    let both = pairs(cells.values());
    let either = pairs(a.values()) + pairs(b.values());
    if a.len() == 1 && b.len() == 1 {
        return Agreement { nmi: 1.0, ami: 1.0, f1: 1.0 };
    }
    let chance = by_chance(&a, &b, classes.len() as u64);
    Agreement {
        nmi: (information / mean).clamp(0.0, 1.0),
        // Both sides vanish where there is no other way to divide into groups of these sizes.
        ami: if mean - chance > 1e-12 { (information - chance) / (mean - chance) } else { 1.0 },
        f1: if either > 0.0 { 2.0 * both / either } else { 1.0 },
    }
}

/// Pairs within groups of these sizes.
fn pairs<'a>(sizes: impl Iterator<Item = &'a u64>) -> f64 {
    sizes.map(|&n| (n * n.saturating_sub(1) / 2) as f64).sum()
}

/// The mutual information to be expected of random groups of these sizes.
fn by_chance(a: &BTreeMap<u32, u64>, b: &BTreeMap<u32, u64>, total: u64) -> f64 {
    // Many groups have one size.
    let [a, b] = [a, b].map(|groups| {
        let mut sizes = BTreeMap::<u64, f64>::new();
        groups.values().for_each(|size| *sizes.entry(*size).or_default() += 1.0);
        sizes
    });
    let n = total as f64;
    let term = |a: u64, b: u64| {
        let fixed =
            ln_factorial(a) + ln_factorial(b) + ln_factorial(total - a) + ln_factorial(total - b) - ln_factorial(total);
        let shared = |both: u64| {
            let ways = ln_factorial(both)
                + ln_factorial(a - both)
                + ln_factorial(b - both)
                + ln_factorial(total + both - a - b);
            let both = both as f64;
            both / n * (n * both / (a as f64 * b as f64)).ln() * (fixed - ways).exp()
        };
        ((a + b).saturating_sub(total).max(1)..=a.min(b)).map(shared).sum::<f64>()
    };
    a.iter().map(|(&a, of_a)| b.iter().map(|(&b, of_b)| of_a * of_b * term(a, b)).sum::<f64>()).sum()
}

/// The cluster of each row, in `0..k`.
fn k_means<T: Real>(rows: &Index<'_, T>, k: usize, seed: u64) -> Vec<u32> {
    let mut centres: Vec<f32> = seeds(rows, k, seed).iter().flat_map(|&row| rows.unit(row)).copied().collect();
    let mut clusters = assign(rows, &centres);
    for _ in 1..PASSES {
        move_centres(rows, &clusters, &mut centres);
        let next = assign(rows, &centres);
        if next == clusters {
            break;
        }
        clusters = next;
    }
    clusters
}

/// The initial centres: rows, each drawn with a probability proportional to its squared distance from those before.
///
/// This is rejection sampling: a row is drawn by the distances from an earlier prefix of the centres, and accepted with
/// a probability equal to the share of its squared distance that the later centres leave. The distribution is the same,
/// and the distances of all rows are updated by a product with many centres at a time: when a row is rejected, or after
/// a block of accepted ones.
fn seeds<T: Real>(rows: &Index<'_, T>, k: usize, seed: u64) -> Vec<usize> {
    let mut random = stream(seed, "k-means++", 0, 0);
    let mut chosen = vec![random.below(rows.len() as u64) as usize];
    let mut squares = vec![f64::INFINITY; rows.len()];
    let mut sums = bring_near(rows, &chosen, &mut squares);
    let mut known = 1;
    while chosen.len() < k {
        let drawn = draw(&squares, &sums, random.uniform());
        // Where rounding leaves nothing, and where every row equals a centre.
        let row = drawn.unwrap_or_else(|| random.below(rows.len() as u64) as usize);
        let left =
            chosen[known..].iter().map(|&c| 2.0 - 2.0 * rows.similarity(row, rows, c)).fold(squares[row], f64::min);
        let kept = drawn.is_none() || random.uniform() * squares[row] < left;
        if kept {
            chosen.push(row);
        }
        if !kept || chosen.len() - known == BLOCK {
            sums = bring_near(rows, &chosen[known..], &mut squares);
            known = chosen.len();
        }
    }
    chosen
}

/// The row at a share of the sum of all squares, `sums` being those of its blocks.
fn draw(squares: &[f64], sums: &[f64], share: f64) -> Option<usize> {
    let mut left = share * sums.iter().sum::<f64>();
    let block = sums.iter().position(|sum| {
        let inside = left < *sum;
        left -= if inside { 0.0 } else { *sum };
        inside
    })?;
    let first = block * BLOCK;
    let inside = squares[first..].iter().take(BLOCK).position(|square| {
        left -= square;
        left < 0.0
    });
    inside.map(|at| first + at)
}

/// Lowers each row's squared distance to that from the nearest of `centres`; the sum of each block of rows.
fn bring_near<T: Real>(rows: &Index<'_, T>, centres: &[usize], squares: &mut [f64]) -> Vec<f64> {
    let (dim, width) = (rows.dim(), centres.len());
    let units: Vec<f32> = centres.iter().flat_map(|&centre| rows.unit(centre)).copied().collect();
    let lower = |(block, squares): (usize, &mut [f64])| {
        let mut products = vec![0.0f32; squares.len() * width];
        let to = View::new(&units, width, dim).transposed();
        serial_product(rows.block(block * BLOCK, squares.len()), to, Onto::Replace, &mut products);
        for (square, products) in squares.iter_mut().zip(products.chunks(width)) {
            let nearest = products.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            *square = square.min(2.0 - 2.0 * f64::from(nearest)).max(0.0);
        }
    };
    squares.par_chunks_mut(BLOCK).enumerate().for_each(lower);
    // Rounding leaves a centre a little way from itself.
    centres.iter().for_each(|&centre| squares[centre] = 0.0);
    squares.chunks(BLOCK).map(|block| block.iter().sum()).collect()
}

/// The nearest centre of each row; of equally near ones the first.
fn assign<T: Real>(rows: &Index<'_, T>, centres: &[f32]) -> Vec<u32> {
    let dim = rows.dim();
    let k = centres.len() / dim;
    // The nearest has the largest product less half of its squared length.
    let halves: Vec<f64> =
        centres.chunks(dim).map(|c| 0.5 * c.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()).collect();
    // Centres are no longer than 1.
    let slack = 2.0 * rows.slack();
    let firsts: Vec<usize> = (0..rows.len()).step_by(BLOCK).collect();
    let block = |&first: &usize| {
        let count = BLOCK.min(rows.len() - first);
        let mut best = vec![f64::NEG_INFINITY; count];
        let mut near: Vec<Vec<(f64, u32)>> = vec![Vec::new(); count];
        let mut products = Vec::new();
        for start in (0..k).step_by(BLOCK) {
            let width = BLOCK.min(k - start);
            products.resize(count * width, 0.0f32);
            let part = View::new(&centres[start * dim..(start + width) * dim], width, dim);
            serial_product(rows.block(first, count), part.transposed(), Onto::Replace, &mut products);
            for (row, products) in products.chunks(width).enumerate() {
                for (at, &product) in products.iter().enumerate() {
                    let score = f64::from(product) - halves[start + at];
                    if score >= best[row] - slack {
                        if score > best[row] {
                            best[row] = score;
                            near[row].retain(|&(other, _)| other >= score - slack);
                        }
                        near[row].push((score, (start + at) as u32));
                    }
                }
            }
        }
        let decide = |(row, near): (usize, Vec<(f64, u32)>)| match near.as_slice() {
            [(_, only)] => *only,
            _ => {
                let exact = |&(_, c): &(f64, u32)| {
                    let at = c as usize;
                    (rows.dot(first + row, &centres[at * dim..(at + 1) * dim]) - halves[at], c)
                };
                let nearer = |a: (f64, u32), b: (f64, u32)| if b.0 > a.0 { b } else { a };
                near.iter().map(exact).reduce(nearer).map_or(0, |(_, c)| c)
            }
        };
        near.into_iter().enumerate().map(decide).collect::<Vec<u32>>()
    };
    firsts.par_iter().flat_map_iter(block).collect()
}

/// Moves each centre to the mean of its rows; one without rows stays.
fn move_centres<T: Real>(rows: &Index<'_, T>, clusters: &[u32], centres: &mut [f32]) {
    let dim = rows.dim();
    let mut members = vec![Vec::new(); centres.len() / dim];
    clusters.iter().enumerate().for_each(|(row, &cluster)| members[cluster as usize].push(row));
    centres.par_chunks_mut(dim).zip(members).filter(|(_, members)| !members.is_empty()).for_each(
        |(centre, members)| {
            let mut sum = vec![0.0f64; dim];
            members.iter().for_each(|&row| rows.add_unit(row, &mut sum));
            centre.iter_mut().zip(&sum).for_each(|(c, sum)| *c = (sum / members.len() as f64) as f32);
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labelings and what scikit-learn says of them.
    const REFERENCE: &str = include_str!("../../tests/data/clusterings.json");

    #[test]
    fn agreement_equals_scikit_learn() {
        #[derive(serde::Deserialize)]
        struct Case {
            classes: Vec<u32>,
            clusters: Vec<u32>,
            nmi: f64,
            ami: f64,
            f1: f64,
        }
        let cases: Vec<Case> = serde_json::from_str(REFERENCE).unwrap();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let found = agreement(&case.classes, &case.clusters);
            let near = |found: f64, expected: f64| (found - expected).abs() <= 1e-9;
            assert!(near(found.nmi, case.nmi), "{found:?}, expected {}", case.nmi);
            assert!(near(found.ami, case.ami), "{found:?}, expected {}", case.ami);
            assert!(near(found.f1, case.f1), "{found:?}, expected {}", case.f1);
        }
    }

    #[test]
    fn clusters_that_lie_apart_are_found_on_any_number_of_threads() {
        let mut s = stream(8, "clustering test", 0, 0);
        let labels: Vec<u32> = (0..1_300).map(|row| 100 + row % 13).collect();
        let vectors: Vec<f32> = labels
            .iter()
            .flat_map(|label| (0..16).map(|k| if k == label - 100 { 5.0 } else { 0.0 }).collect::<Vec<f64>>())
            .map(|x| (x + 0.3 * s.normal()) as f32)
            .collect();
        let set = Labelled { vectors: &vectors[..], labels: &labels, dim: 16 };
        // k-means++ may put two centres into one class; a seed that does not.
        let best = (0..20).map(|seed| clustering(set, seed).unwrap().f1).fold(0.0, f64::max);
        assert_eq!(best, 1.0);
        let rows = Index::new(&vectors, 16).unwrap();
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| k_means(&rows, 29, 3))
        };
        let alone = on(1);
        assert_eq!((on(2), on(4)), (alone.clone(), alone.clone()));
        assert_ne!(k_means(&rows, 29, 4), alone);
        // Every row is with the nearest of the centres that its cluster's rows have.
        let mut centres: Vec<f32> = vec![0.0; 29 * 16];
        move_centres(&rows, &alone, &mut centres);
        let exact = |row: usize, c: usize| {
            let centre = &centres[c * 16..][..16];
            rows.dot(row, centre) - 0.5 * centre.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
        };
        let nearest: Vec<u32> = (0..1_300)
            .map(|row| (0..29).max_by(|&a, &b| exact(row, a).total_cmp(&exact(row, b)).then(b.cmp(&a))).unwrap() as u32)
            .collect();
        assert_eq!(assign(&rows, &centres), nearest);
    }

    #[test]
    fn seeds_are_drawn_by_their_squared_distance_from_those_before() {
        // A row on each of three axes, and one close to the first.
        let near = [0.98f32, (1.0f32 - 0.98 * 0.98).sqrt()];
        let vectors = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, near[0], 0.0, near[1]];
        let rows = Index::new(&vectors, 3).unwrap();
        let draws = 40_000;
        let mut found = BTreeMap::<Vec<usize>, f64>::new();
        (0..draws).for_each(|seed| *found.entry(seeds(&rows, 3, seed)).or_default() += 1.0 / draws as f64);
        let square = |a: usize, b: usize| 2.0 - 2.0 * rows.similarity(a, &rows, b);
        for first in 0..4 {
            for second in (0..4).filter(|&row| row != first) {
                let of_second = square(first, second) / (0..4).map(|row| square(first, row)).sum::<f64>();
                let left = |row: usize| square(first, row).min(square(second, row));
                for third in (0..4).filter(|&row| row != first && row != second) {
                    let expected = 0.25 * of_second * left(third) / (0..4).map(left).sum::<f64>();
                    let share = found.get(&vec![first, second, third]).copied().unwrap_or_default();
                    let deviation = (expected * (1.0 - expected) / draws as f64).sqrt();
                    assert!(
                        (share - expected).abs() < 5.0 * deviation,
                        "{first} {second} {third}: {share}, {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn twins_without_number_are_one_cluster() {
        let vectors = [0.6f32, 0.8].repeat(700);
        let rows = Index::new(&vectors, 2).unwrap();
        assert_eq!(k_means(&rows, 5, 0), [0; 700]);
    }
}
