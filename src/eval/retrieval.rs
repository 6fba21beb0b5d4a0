//! Retrieval metrics over exact nearest neighbours.

use rustc_hash::FxHashMap;
use serde::Serialize;
use thiserror::Error;

use super::neighbours::{Blocks, Index, nearest};
use crate::loss::real::Real;

/// Vectors and what they show.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a, T> {
    /// `N x dim`, row-major; only directions count.
    pub vectors: &'a [T],
    /// `N` classes.
    pub labels: &'a [u32],
    /// Length of a vector.
    pub dim: usize,
}

/// What to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The K of each Recall@K, each at least 1.
    pub recall_at: Vec<usize>,
}

/// The metrics of one set of queries: means over the queries whose class occurs among what they search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieval {
    /// Share of queries whose nearest neighbour is of their class.
    pub precision_at_1: f64,
    /// Share of the own class among the `R` nearest, `R` being the number of samples of that class to be found.
    pub r_precision: f64,
    /// `1/R sum_{k <= R} (precision at k if the k-th neighbour is of the class, else 0)`.
    pub map_at_r: f64,
    /// `(K, share of queries with at least one of their class among the K nearest)`, as asked for.
    pub recall_at: Vec<(usize, f64)>,
    /// All queries.
    pub queries: usize,
    /// Queries left out, for their class has no other sample.
    pub without_match: usize,
    /// Each query's own values, in order; none for those left out.
    #[serde(skip)]
    pub per_query: Vec<Option<Scores>>,
}

/// The values of one query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// 1 or 0.
    pub precision_at_1: f64,
    /// In [0, 1].
    pub r_precision: f64,
    /// In [0, 1].
    pub map_at_r: f64,
    /// Rank, from 1, of the nearest of the class; none if it lies beyond `R` and every K.
    pub first_match: Option<usize>,
}

/// Why there are no metrics.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvalError {
    /// Nothing to search for, or in.
    #[error("{what} are {rows} vectors of length {dim}, expected at least 1 of each")]
    Empty { what: &'static str, rows: usize, dim: usize },
    /// Labels or elements are missing, or too many.
    #[error("{what} have {labels} labels and {elements} elements, expected {labels} x {dim} elements")]
    Shape { what: &'static str, labels: usize, elements: usize, dim: usize },
    /// Queries and gallery come from different spaces.
    #[error("queries have length {queries}, the gallery {gallery}: expected the same")]
    Dimension { queries: usize, gallery: usize },
    /// A NaN or an infinity.
    #[error("{what}: row {row} is not finite at element {element}")]
    NotFinite { what: &'static str, row: usize, element: usize },
    /// A zero vector has no cosine with anything.
    #[error("{what}: row {row} is zero (or too small or large to normalise), expected a vector with a direction")]
    NoDirection { what: &'static str, row: usize },
    /// Recall@0.
    #[error("Recall@0 was asked for, expected K of at least 1")]
    Recall,
    /// No query can be answered.
    #[error("none of the {queries} queries has another sample of its class to find")]
    NoMatch { queries: usize },
}

/// The retrieval metrics of `queries` in `gallery`; without one, in the queries themselves, where a query (by its index)
/// never finds itself.
///
/// Neighbours rank by cosine similarity, computed in 64 bits, then by index. The result is the same for any number of
/// threads. Memory: O(N D) in 32 bits, beside one block of similarities a thread.
///
/// Reference: Musgrave, Belongie and Lim, *A Metric Learning Reality Check*, ECCV 2020 (precision at 1, R-precision,
/// MAP@R). Recall@K leaves out queries without a match, as the others do; some codes count them as misses.
///
/// ```
/// use meanfield::eval::{Labelled, Options, retrieval};
/// let vectors = [1.0f32, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.9];
/// let queries = Labelled { vectors: &vectors, labels: &[3, 3, 5, 3], dim: 2 };
/// let found = retrieval(queries, None, &Options { recall_at: vec![2] })?;
/// assert_eq!((found.queries, found.without_match), (4, 1));
/// assert_eq!(found.precision_at_1, 2.0 / 3.0);
/// assert_eq!(found.recall_at, [(2, 1.0)]);
/// # Ok::<(), meanfield::eval::EvalError>(())
/// ```
pub fn retrieval<T: Real>(
    queries: Labelled<'_, T>,
    gallery: Option<Labelled<'_, T>>,
    options: &Options,
) -> Result<Retrieval, EvalError> {
    let searched = gallery.unwrap_or(queries);
    let skip_self = gallery.is_none();
    if options.recall_at.contains(&0) {
        return Err(EvalError::Recall);
    }
    let query_index = index("queries", queries)?;
    let gallery_index = gallery.map(|gallery| index("gallery", gallery)).transpose()?;
    if queries.dim != searched.dim {
        return Err(EvalError::Dimension { queries: queries.dim, gallery: searched.dim });
    }
    let mut sizes = FxHashMap::<u32, usize>::default();
    for &label in searched.labels {
        *sizes.entry(label).or_default() += 1;
    }
    let relevant =
        |query: usize| sizes.get(&queries.labels[query]).copied().unwrap_or(0).saturating_sub(usize::from(skip_self));
    let deepest = options.recall_at.iter().copied().max().unwrap_or(0);
    let depth = |query: usize| match relevant(query) {
        0 => 0,
        relevant => relevant.max(deepest),
    };
    let scores = |query: usize, ranked: &[usize]| {
        let hits = ranked.iter().map(|&found| searched.labels[found] == queries.labels[query]);
        (relevant(query) > 0).then(|| Scores::new(relevant(query), hits))
    };
    let gallery_index = gallery_index.as_ref().unwrap_or(&query_index);
    summarise(nearest(&query_index, gallery_index, skip_self, Blocks::default(), depth, scores), &options.recall_at)
}

impl Scores {
    /// The values of a query with `relevant > 0` matches to find, its ranked neighbours being `hits` or not.
    fn new(relevant: usize, hits: impl Iterator<Item = bool>) -> Self {
        let mut scores = Self { precision_at_1: 0.0, r_precision: 0.0, map_at_r: 0.0, first_match: None };
        let mut found = 0.0;
        for (rank, _) in hits.enumerate().filter(|&(_, hit)| hit).map(|(at, hit)| (at + 1, hit)) {
            scores.first_match.get_or_insert(rank);
            if rank <= relevant {
                found += 1.0;
                scores.map_at_r += found / rank as f64;
            }
        }
        scores.precision_at_1 = f64::from(u8::from(scores.first_match == Some(1)));
        scores.r_precision = found / relevant as f64;
        scores.map_at_r /= relevant as f64;
        scores
    }
}

fn summarise(per_query: Vec<Option<Scores>>, recall_at: &[usize]) -> Result<Retrieval, EvalError> {
    let answered = per_query.iter().flatten().count();
    if answered == 0 {
        return Err(EvalError::NoMatch { queries: per_query.len() });
    }
    let mean = |value: &dyn Fn(&Scores) -> f64| per_query.iter().flatten().map(value).sum::<f64>() / answered as f64;
    let within = |k: usize| mean(&|s| f64::from(u8::from(s.first_match.is_some_and(|rank| rank <= k))));
    Ok(Retrieval {
        precision_at_1: mean(&|s| s.precision_at_1),
        r_precision: mean(&|s| s.r_precision),
        map_at_r: mean(&|s| s.map_at_r),
        recall_at: recall_at.iter().map(|&k| (k, within(k))).collect(),
        queries: per_query.len(),
        without_match: per_query.len() - answered,
        per_query,
    })
}

fn index<'a, T: Real>(what: &'static str, set: Labelled<'a, T>) -> Result<Index<'a, T>, EvalError> {
    let (labels, dim) = (set.labels.len(), set.dim);
    if labels == 0 || dim == 0 {
        return Err(EvalError::Empty { what, rows: labels, dim });
    }
    if Some(set.vectors.len()) != labels.checked_mul(dim) {
        return Err(EvalError::Shape { what, labels, elements: set.vectors.len(), dim });
    }
    if let Some(at) = set.vectors.iter().position(|x| !x.is_finite()) {
        return Err(EvalError::NotFinite { what, row: at / dim, element: at % dim });
    }
    Index::new(set.vectors, dim).map_err(|fault| EvalError::NoDirection { what, row: fault.row })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const REFERENCE: &str = include_str!("../../tests/data/metrics.json");

    fn vectors(value: &Value) -> (Vec<f64>, usize) {
        let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
        (rows.concat(), rows[0].len())
    }

    fn labels(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn metrics_equal_the_reference_in_both_widths() {
        let reference: Value = serde_json::from_str(REFERENCE).unwrap();
        let cases = reference["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 5);
        for case in cases {
            let own = case["kind"] == "self";
            let (q, dim) = vectors(&case[if own { "embeddings" } else { "query" }]);
            let ql = labels(&case[if own { "labels" } else { "query_labels" }]);
            let (g, gl) =
                if own { (vec![], vec![]) } else { (vectors(&case["gallery"]).0, labels(&case["gallery_labels"])) };
            let expected = &case["expected"];
            let recall: Vec<(usize, f64)> = expected["recall_at_k"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.parse().unwrap(), v.as_f64().unwrap()))
                .collect();
            let options = Options { recall_at: recall.iter().map(|&(k, _)| k).collect() };
            let narrow = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let (q32, g32) = (narrow(&q), narrow(&g));
            let gallery = (!own).then_some(Labelled { vectors: &g[..], labels: &gl, dim });
            let gallery32 = (!own).then_some(Labelled { vectors: &g32[..], labels: &gl, dim });
            for found in [
                retrieval(Labelled { vectors: &q[..], labels: &ql, dim }, gallery, &options).unwrap(),
                retrieval(Labelled { vectors: &q32[..], labels: &ql, dim }, gallery32, &options).unwrap(),
            ] {
                let equal = |found: f64, expected: &Value| (found - expected.as_f64().unwrap()).abs() <= 1e-6;
                assert!(equal(found.precision_at_1, &expected["precision_at_1"]), "{found:?}");
                assert!(equal(found.r_precision, &expected["r_precision"]), "{found:?}");
                assert!(equal(found.map_at_r, &expected["map_at_r"]), "{found:?}");
                assert_eq!(found.queries as u64, expected["queries"]);
                assert_eq!(found.without_match as u64, expected["queries_without_match"]);
                for (found, expected) in found.recall_at.iter().zip(&recall) {
                    assert!(found.0 == expected.0 && (found.1 - expected.1).abs() <= 1e-6, "{found:?} {expected:?}");
                }
            }
        }
    }

    #[test]
    fn a_query_has_the_values_on_paper() {
        // Hits at ranks 1, 3 and 5 of R = 4: precisions 1, 2/3 count, rank 5 lies beyond R.
        let scores = Scores::new(4, [true, false, true, false, true].into_iter());
        assert_eq!(scores.precision_at_1, 1.0);
        assert_eq!(scores.r_precision, 0.5);
        assert!((scores.map_at_r - (1.0 + 2.0 / 3.0) / 4.0).abs() <= 1e-15);
        let late = Scores::new(1, [false, false, true].into_iter());
        assert_eq!((late.precision_at_1, late.map_at_r, late.first_match), (0.0, 0.0, Some(3)));
    }

    #[test]
    fn twins_of_other_classes_do_not_hide_the_query_itself() {
        // The query's exact twin has another class and a lower index.
        let vectors = [1.0f32, 0.0, 1.0, 0.0, 0.8, 0.1];
        let found = retrieval(
            Labelled { vectors: &vectors, labels: &[0, 1, 1], dim: 2 },
            None,
            &Options { recall_at: vec![1, 2] },
        );
        let found = found.unwrap();
        assert_eq!(found.per_query[1].unwrap().first_match, Some(2));
        assert_eq!(found.per_query[0], None);
        assert_eq!(found.recall_at, [(1, 0.0), (2, 1.0)]);
    }

    #[test]
    fn what_has_no_metrics_is_refused_in_words() {
        let run = |vectors: &[f32], labels: &[u32], dim, recall_at: Vec<usize>| {
            retrieval(Labelled { vectors, labels, dim }, None, &Options { recall_at }).unwrap_err().to_string()
        };
        assert_eq!(run(&[1.0, f32::NAN], &[0, 0], 1, vec![]), "queries: row 1 is not finite at element 0");
        assert!(run(&[1.0, 1.0, 0.0, 0.0], &[0, 0], 2, vec![]).starts_with("queries: row 1 is zero"));
        assert_eq!(run(&[1.0], &[0, 0], 1, vec![]), "queries have 2 labels and 1 elements, expected 2 x 1 elements");
        assert_eq!(
            run(&[1.0, 2.0], &[0, 1], 1, vec![]),
            "none of the 2 queries has another sample of its class to find"
        );
        assert_eq!(run(&[], &[], 1, vec![]), "queries are 0 vectors of length 1, expected at least 1 of each");
        assert_eq!(run(&[1.0, 1.0], &[0, 0], 1, vec![0]), "Recall@0 was asked for, expected K of at least 1");
        let queries = Labelled { vectors: &[1.0f32, 1.0], labels: &[0], dim: 2 };
        let gallery = Labelled { vectors: &[1.0f32], labels: &[0], dim: 1 };
        let error = retrieval(queries, Some(gallery), &Options { recall_at: vec![] }).unwrap_err();
        assert_eq!(error.to_string(), "queries have length 2, the gallery 1: expected the same");
    }
}
