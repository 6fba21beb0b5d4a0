//! Exact nearest neighbours by cosine similarity.
//!
//! Blocks of 32-bit products propose candidates; only rows that the bound of the rounding error rules out are dropped, and
//! the rest is scored again in 64 bits, which decides the ranks. So the result is that of a plain 64-bit computation: by
//! similarity, then by index, whatever the number of threads and the block sizes.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::index::Index;
use super::retrieval::{EvalError, Labelled, index};
use crate::math::product::{Onto, serial_product};
use crate::math::real::Real;

/// Rows of the query and gallery blocks whose similarities are in memory at a time on one thread.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    queries: usize,
    gallery: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { queries: 128, gallery: 1024 }
    }
}

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its position in the gallery.
    pub row: usize,
    /// Its cosine with the query.
    pub similarity: f64,
}

/// The `depth` nearest rows of `gallery` for each of `queries`, both `N x dim`, nearest first; fewer where there are fewer.
/// The row `own[query]` is left out: the query itself, where it is in the gallery.
///
/// # Errors
/// [`EvalError`], as [`retrieval`](super::retrieval()).
pub fn neighbours<T: Real>(
    queries: &[T],
    gallery: &[T],
    dim: usize,
    own: &[Option<usize>],
    depth: usize,
) -> Result<Vec<Vec<Neighbour>>, EvalError> {
    let labels = vec![0; gallery.len() / dim.max(1)];
    let gallery = index("gallery", Labelled { vectors: gallery, labels: &labels, dim })?;
    let labels = vec![0; own.len()];
    let queries = index("queries", Labelled { vectors: queries, labels: &labels, dim })?;
    Ok(nearest(&queries, &gallery, |query| own[query], Blocks::default(), depth))
}

/// For each query, the `depth` nearest rows of the gallery (or as many as there are), nearest first, without its `own`.
///
/// Memory per thread: one block of similarities and `O(depth)` candidates per query of the block.
fn nearest<T: Real>(
    queries: &Index<'_, T>,
    gallery: &Index<'_, T>,
    own: impl Fn(usize) -> Option<usize> + Sync,
    blocks: Blocks,
    depth: usize,
) -> Vec<Vec<Neighbour>> {
    let slack = queries.slack();
    let search = |first: usize| {
        let rows = blocks.queries.min(queries.len() - first);
        let mut nearest: Vec<Nearest> = (0..rows)
            .map(|row| Nearest::new(depth.min(gallery.len() - usize::from(own(first + row).is_some()))))
            .collect();
        let mut similarities = Vec::new();
        for start in (0..gallery.len()).step_by(blocks.gallery) {
            let width = blocks.gallery.min(gallery.len() - start);
            similarities.resize(rows * width, 0.0f32);
            serial_product(
                queries.block(first, rows),
                gallery.block(start, width).transposed(),
                Onto::Replace,
                &mut similarities,
            );
            for (row, similarities) in similarities.chunks(width).enumerate() {
                let (nearest, own) = (&mut nearest[row], own(first + row));
                for (at, &similarity) in similarities.iter().enumerate() {
                    if similarity >= nearest.cut && own != Some(start + at) {
                        nearest.candidates.push((similarity, start + at));
                        if nearest.candidates.len() == nearest.capacity {
                            nearest.prune(slack, |i| queries.similarity(first + row, gallery, i));
                        }
                    }
                }
            }
        }
        let finish = |(row, nearest): (usize, Nearest)| nearest.ranked(|i| queries.similarity(first + row, gallery, i));
        nearest.into_iter().enumerate().map(finish).collect::<Vec<_>>()
    };
    let firsts: Vec<usize> = (0..queries.len()).step_by(blocks.queries).collect();
    firsts.into_par_iter().flat_map_iter(search).collect()
}

/// Higher similarity first, then lower index: a total order, as no similarity is NaN or -0.
fn closer(a: &(f64, usize), b: &(f64, usize)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The rows that may be among the nearest `wanted` of one query.
#[derive(Debug)]
struct Nearest {
    wanted: usize,
    /// Similarities in 32 bits, and rows; fewer than `capacity`.
    candidates: Vec<(f32, usize)>,
    capacity: usize,
    /// A 32-bit similarity below this cannot be among the nearest.
    cut: f32,
}

impl Nearest {
    fn new(wanted: usize) -> Self {
        let cut = if wanted == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { wanted, candidates: Vec::new(), capacity: 2 * wanted + 32, cut }
    }

    /// Drops candidates that cannot be among the nearest, at least a quarter of `capacity`.
    fn prune(&mut self, slack: f64, exact: impl Fn(usize) -> f64) {
        // `wanted` rows are above the last similarity less the slack, and no row is higher than its own plus the slack.
        let (_, &mut (last, _), _) =
            self.candidates.select_nth_unstable_by(self.wanted - 1, |a, b| b.0.total_cmp(&a.0));
        self.raise((f64::from(last) - 2.0 * slack) as f32);
        if self.candidates.len() > self.capacity * 3 / 4 {
            // Too many within the slack of each other, such as duplicates: only their exact similarities decide.
            let mut scored: Vec<_> = self.candidates.iter().map(|&(near, i)| ((exact(i), i), near)).collect();
            let (_, &mut ((worst, _), _), _) =
                scored.select_nth_unstable_by(self.wanted - 1, |a, b| closer(&a.0, &b.0));
            scored.truncate(self.wanted);
            self.candidates = scored.into_iter().map(|((_, i), near)| (near, i)).collect();
            self.raise((worst - slack) as f32);
        }
    }

    fn raise(&mut self, cut: f32) {
        let cut = self.cut.max(cut.next_down());
        self.cut = cut;
        self.candidates.retain(|&(near, _)| near >= cut);
    }

    /// The nearest, in order.
    fn ranked(self, exact: impl Fn(usize) -> f64) -> Vec<Neighbour> {
        let mut scored: Vec<_> = self.candidates.into_iter().map(|(_, i)| (exact(i), i)).collect();
        scored.sort_unstable_by(closer);
        scored.truncate(self.wanted);
        scored.into_iter().map(|(similarity, row)| Neighbour { row, similarity }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::stream;

    /// All rows by a double loop in 64 bits.
    fn plain(queries: &Index<'_, f32>, gallery: &Index<'_, f32>, skip_self: bool, depth: usize) -> Vec<Vec<usize>> {
        (0..queries.len())
            .map(|q| {
                let others = (0..gallery.len()).filter(|&i| !(skip_self && i == q));
                let mut all: Vec<_> = others.map(|i| (queries.similarity(q, gallery, i), i)).collect();
                all.sort_by(closer);
                all.truncate(depth);
                all.into_iter().map(|(_, i)| i).collect()
            })
            .collect()
    }

    fn places(found: Vec<Vec<Neighbour>>) -> Vec<Vec<usize>> {
        found.into_iter().map(|found| found.into_iter().map(|neighbour| neighbour.row).collect()).collect()
    }

    fn rows(count: usize, dim: usize, item: u64) -> Vec<f32> {
        let mut s = stream(11, "neighbours test", 0, item);
        (0..count * dim).map(|_| s.normal() as f32).collect()
    }

    #[test]
    fn any_blocks_and_threads_rank_as_the_double_loop() {
        let mut gallery = rows(83, 7, 1);
        // Exact duplicates, and rows closer to each other than 32 bits can resolve.
        gallery.copy_within(0..70, 7 * 40);
        for row in 60..80 {
            for k in 0..7 {
                gallery[row * 7 + k] = 1.0 + if k == row % 7 { (row as f32) * 6e-8 } else { 0.0 };
            }
        }
        let queries = rows(29, 7, 2);
        let (gallery, queries) = (Index::new(&gallery, 7).unwrap(), Index::new(&queries, 7).unwrap());
        for depth in [0, 1, 5, 40, 83, 200] {
            let across = plain(&queries, &gallery, false, depth);
            let within = plain(&gallery, &gallery, true, depth);
            for (threads, blocks) in [(1, (128, 1024)), (2, (3, 5)), (4, (1, 1)), (3, (7, 83))] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let blocks = Blocks { queries: blocks.0, gallery: blocks.1 };
                let found = pool.install(|| nearest(&queries, &gallery, |_| None, blocks, depth));
                assert_eq!(places(found), across);
                assert_eq!(places(pool.install(|| nearest(&gallery, &gallery, Some, blocks, depth))), within);
            }
        }
    }

    #[test]
    fn rows_that_32_bits_cannot_tell_apart_rank_by_their_64_bit_cosines() {
        let mut gallery = rows(700, 16, 3);
        gallery.iter_mut().for_each(|x| *x = 1.0 + 1e-4 * *x);
        let query = vec![1.0f32; 16];
        let (gallery, query) = (Index::new(&gallery, 16).unwrap(), Index::new(&query, 16).unwrap());
        let found = nearest(&query, &gallery, |_| None, Blocks::default(), 9);
        assert_eq!(places(found), plain(&query, &gallery, false, 9));
    }

    #[test]
    fn a_gallery_of_twins_is_ranked_by_index_within_bounded_memory() {
        let rows: Vec<f32> = [0.3, -0.5, 0.7].repeat(5_000);
        let gallery = Index::new(&rows, 3).unwrap();
        let query = Index::new(&rows[..3], 3).unwrap();
        let found = nearest(&query, &gallery, |_| None, Blocks::default(), 100);
        assert_eq!(places(found), [(0..100).collect::<Vec<_>>()]);
        let mut kept = Nearest::new(4);
        for i in (0..1_000).rev() {
            kept.candidates.push((0.5, i));
            if kept.candidates.len() == kept.capacity {
                kept.prune(1e-6, |i| 0.5 - i as f64 * 1e-12);
            }
            assert!(kept.candidates.len() < kept.capacity);
        }
        assert_eq!(places(vec![kept.ranked(|i| 0.5 - i as f64 * 1e-12)]), [[0, 1, 2, 3]]);
    }

    #[test]
    fn twins_rank_by_index() {
        let gallery = [0.0f32, 1.0, 2.0, 0.0, 1.0, 0.0, 4.0, 0.0];
        let found = neighbours(&gallery, &gallery, 2, &[Some(0), Some(1), Some(2), Some(3)], 3).unwrap();
        assert_eq!(found[0][2], Neighbour { row: 3, similarity: 0.0 });
        assert_eq!(places(found), [[1, 2, 3], [2, 3, 0], [1, 3, 0], [1, 2, 0]]);
    }
}
