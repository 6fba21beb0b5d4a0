use super::*;
use crate::math::random::{Stream, stream};

/// The ranks of all matches by a double loop in 64 bits.
fn plain(
    queries: &Index<'_, f32>,
    query_labels: &[u32],
    gallery: Option<(&Index<'_, f32>, &[u32])>,
    ties: Ties,
) -> Vec<Vec<usize>> {
    let (searched, labels) = gallery.unwrap_or((queries, query_labels));
    let ranks = |query: usize| {
        let others = (0..searched.len()).filter(|&row| gallery.is_some() || row != query);
        let mut all: Vec<(f64, bool, usize)> = others
            .map(|row| (queries.similarity(query, searched, row), labels[row] == query_labels[query], row))
            .collect();
        all.sort_by(|a, b| {
            let favour = if ties == Ties::Optimistic { b.1.cmp(&a.1) } else { std::cmp::Ordering::Equal };
            b.0.total_cmp(&a.0).then(favour).then(a.2.cmp(&b.2))
        });
        (1..).zip(all).filter(|(_, (_, hit, _))| *hit).map(|(rank, _)| rank).collect()
    };
    (0..queries.len()).into_par_iter().map(ranks).collect()
}

/// Without those that no metric but mAP needs.
fn needed(ranks: &[usize]) -> Vec<usize> {
    ranks.iter().enumerate().filter(|(at, rank)| *at == 0 || **rank <= ranks.len()).map(|(_, rank)| *rank).collect()
}

fn within<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// Rows around the centres of their classes, with duplicates (of the same and of another class), rows closer than 32
/// bits can resolve, and classes of one row.
fn rows(count: usize, dim: usize, classes: u64, s: &mut Stream) -> (Vec<f32>, Vec<u32>) {
    let mut centre = stream(1, "ranks test centres", 0, dim as u64);
    let centres: Vec<f64> = (0..classes as usize * dim).map(|_| centre.normal()).collect();
    let (mut rows, mut labels): (Vec<f32>, Vec<u32>) = (Vec::new(), Vec::new());
    for row in 0..count {
        let label = s.below(classes) as usize;
        let own: Vec<f32> =
            centres[label * dim..][..dim].iter().map(|centre| (centre + 1.5 * s.normal()) as f32).collect();
        let earlier = s.below(row as u64 + 1) as usize;
        match s.below(10) {
            0 if earlier < row => rows.extend_from_within(earlier * dim..(earlier + 1) * dim),
            1 if earlier < row => {
                let near = rows[earlier * dim..][..dim].to_vec();
                let scale = (0.5 + s.uniform()) as f32;
                rows.extend(near.iter().map(|x| scale * x * (1.0 + 1e-6 * s.normal() as f32)));
            }
            _ => rows.extend(own),
        }
        labels.push(if s.below(40) == 0 { 1_000_000 + row as u32 } else { label as u32 });
    }
    (rows, labels)
}

#[test]
fn any_tiles_bands_and_threads_rank_as_the_double_loop() {
    for case in 0..60 {
        let mut s = stream(2, "ranks test", 0, case);
        let (dim, classes) = (1 + s.below(20) as usize, 1 + s.below(12));
        let mut count = || 1 + s.below(130) as usize;
        let (asked, searched) = (count(), count());
        let (queries, query_labels) = rows(asked, dim, classes, &mut s);
        let (gallery, gallery_labels) = rows(searched, dim, classes, &mut s);
        let (queries, gallery) = (Index::new(&queries, dim).unwrap(), Index::new(&gallery, dim).unwrap());
        for gallery in [None, Some((&gallery, &gallery_labels[..]))] {
            for ties in [Ties::Index, Ties::Optimistic] {
                let expected = plain(&queries, &query_labels, gallery, ties);
                for all in [false, true] {
                    let tile = 1 + s.below(140) as usize;
                    let most_matches = [0, 40, 1_000_000][s.below(3) as usize];
                    let threads = 1 + s.below(4) as usize;
                    let search = Search {
                        queries: &queries,
                        query_labels: &query_labels,
                        gallery,
                        ties,
                        all,
                        tile,
                        most_matches,
                    };
                    let found = within(threads, || search.ranks(|_, ranks| ranks.to_vec()));
                    let expected: Vec<Vec<usize>> =
                        expected.iter().map(|ranks| if all { ranks.clone() } else { needed(ranks) }).collect();
                    assert_eq!(found, expected, "case {case}: tile {tile}, {most_matches} matches, {ties:?}, {all}");
                }
            }
        }
    }
}

#[test]
fn five_thousand_rows_with_ties_rank_as_the_double_loop_on_any_threads() {
    let (vectors, labels) = rows(5_000, 24, 700, &mut stream(3, "ranks test", 0, 0));
    let queries = Index::new(&vectors, 24).unwrap();
    let expected = plain(&queries, &labels, None, Ties::Index);
    for (threads, all) in [(1, true), (2, false), (4, true)] {
        let search = Search {
            queries: &queries,
            query_labels: &labels,
            gallery: None,
            ties: Ties::Index,
            all,
            tile: TILE,
            most_matches: MOST_MATCHES,
        };
        let found = within(threads, || search.ranks(|_, ranks| ranks.to_vec()));
        for (found, expected) in found.into_iter().zip(&expected) {
            assert_eq!(found, if all { expected.clone() } else { needed(expected) });
        }
    }
}

#[test]
fn rows_that_32_bits_cannot_tell_apart_rank_by_their_64_bit_cosines() {
    let mut s = stream(5, "ranks test", 0, 0);
    let vectors: Vec<f32> = (0..400 * 16).map(|_| 1.0 + 1e-5 * s.normal() as f32).collect();
    let labels: Vec<u32> = (0..400).map(|row| row % 90).collect();
    let queries = Index::new(&vectors, 16).unwrap();
    let search = Search {
        queries: &queries,
        query_labels: &labels,
        gallery: None,
        ties: Ties::Index,
        all: true,
        tile: 64,
        most_matches: MOST_MATCHES,
    };
    assert_eq!(search.ranks(|_, ranks| ranks.to_vec()), plain(&queries, &labels, None, Ties::Index));
}
