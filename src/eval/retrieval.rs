//! Retrieval metrics over exact ranks.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::index::Index;
use super::ranks::{MOST_MATCHES, Search, TILE, Ties};
use crate::math::real::Real;

/// Vectors and their classes.
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The K of each Recall@K, each at least 1.
    pub recall_at: Vec<usize>,
    /// How rows of equal similarity rank.
    pub ties: Ties,
    /// Over what the values of the queries are averaged.
    pub average: Average,
    /// Also the mean average precision, which alone needs the ranks of all matches.
    pub average_precision: bool,
}

/// Over what the values of queries are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Over the queries: each counts the same.
    #[default]
    Queries,
    /// Over the queries of each class, then over the classes: each class counts the same.
    Classes,
}

/// The metrics of one set of queries: means over the queries whose class occurs in the gallery.
///
/// R is the number of rows of the query's class to be found, itself excluded; its *matches*.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieval {
    /// P@1: share of queries whose nearest neighbour is a match (Musgrave, Belongie and Lim, *A Metric Learning Reality
    /// Check*, ECCV 2020, section 3.2).
    pub precision_at_1: f64,
    /// R-Precision: matches among the R nearest, divided by R (as above).
    pub r_precision: f64,
    /// MAP@R: `1/R sum_{k <= R} (precision at k if the k-th neighbour is a match, else 0)` (as above, equation 9).
    pub map_at_r: f64,
    /// Recall@K: `(K, share of queries with at least one match among the K nearest)`, as asked for (Jegou, Douze and Schmid,
    /// *Product Quantization for Nearest Neighbor Search*, PAMI 2011, section 5.2, with matches in place of the nearest).
    pub recall_at: Vec<(usize, f64)>,
    /// MRR: mean of `1 / rank of the nearest match` (Voorhees, *The TREC-8 Question Answering Track Report*, 1999).
    pub mean_reciprocal_rank: f64,
    /// mAP: mean of `1/R sum over all matches of (precision at its rank)`, none unless asked for (Manning, Raghavan and
    /// Schuetze, *Introduction to Information Retrieval*, 2008, section 8.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_average_precision: Option<f64>,
    /// All queries.
    pub queries: usize,
    /// Queries left out because their class has no other sample.
    pub without_match: usize,
    /// Each query's own values, in order; none for those left out.
    #[serde(skip)]
    pub per_query: Vec<Option<Scores>>,
}

/// The values of one query, whose means are those of [`Retrieval`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// R, at least 1.
    pub matches: usize,
    /// Rank, from 1, of the nearest match.
    pub first_match: usize,
    /// In [0, 1].
    pub r_precision: f64,
    /// In [0, 1].
    pub map_at_r: f64,
    /// In [0, 1]; none unless asked for.
    pub average_precision: Option<f64>,
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
/// Neighbours rank by cosine similarity, computed in 64 bits; equal ones as [`Options::ties`] says. The result is the same
/// for any number of threads. Memory in addition to the vectors: a copy of them in 32 bits, 4 MiB per thread, and 16
/// bytes for each pair of a query and a match, up to 400 MiB. Queries without a match are left out; some
/// implementations count them as misses.
///
/// ```
/// use meanfield::eval::{Labelled, Options, retrieval};
/// let vectors = [1.0f32, 0.0, 0.9, 0.1, 0.0, 1.0, 0.1, 0.9];
/// let queries = Labelled { vectors: &vectors, labels: &[3, 3, 5, 3], dim: 2 };
/// let found = retrieval(queries, None, &Options { recall_at: vec![2], ..Options::default() })?;
/// assert_eq!((found.queries, found.without_match), (4, 1));
/// assert_eq!(found.precision_at_1, 2.0 / 3.0);
/// assert_eq!(found.recall_at, [(2, 1.0)]);
/// # Ok::<(), meanfield::eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError`], each variant saying which row or option is at fault.
pub fn retrieval<T: Real>(
    queries: Labelled<'_, T>,
    gallery: Option<Labelled<'_, T>>,
    options: &Options,
) -> Result<Retrieval, EvalError> {
    if options.recall_at.contains(&0) {
        return Err(EvalError::Recall);
    }
    let query_index = index("queries", queries)?;
    let gallery_index = gallery.map(|gallery| index("gallery", gallery)).transpose()?;
    if let Some(gallery) = gallery.filter(|gallery| gallery.dim != queries.dim) {
        return Err(EvalError::Dimension { queries: queries.dim, gallery: gallery.dim });
    }
    let mut sizes = FxHashMap::<u32, usize>::default();
    for &label in gallery.unwrap_or(queries).labels {
        *sizes.entry(label).or_default() += 1;
    }
    let matches = |query: usize| {
        let size = sizes.get(&queries.labels[query]).copied().unwrap_or(0);
        size.saturating_sub(usize::from(gallery.is_none()))
    };
    let search = Search {
        queries: &query_index,
        query_labels: queries.labels,
        gallery: gallery_index.as_ref().zip(gallery.map(|gallery| gallery.labels)),
        ties: options.ties,
        all: options.average_precision,
        tile: TILE,
        most_matches: MOST_MATCHES,
    };
    let scores = search.ranks(|query, ranks| Scores::new(matches(query), ranks, options.average_precision));
    summarise(scores, queries.labels, options)
}

impl Scores {
    /// The values of a query with so many `matches`, by the rising ranks of those that matter; none without a match.
    fn new(matches: usize, ranks: &[usize], average_precision: bool) -> Option<Self> {
        let first_match = *ranks.first()?;
        let precision = |(before, &rank): (usize, &usize)| (before + 1) as f64 / rank as f64;
        let within = ranks.iter().take_while(|rank| **rank <= matches).count();
        let mean = |ranks: &[usize]| ranks.iter().enumerate().map(precision).sum::<f64>() / matches as f64;
        Some(Self {
            matches,
            first_match,
            r_precision: within as f64 / matches as f64,
            map_at_r: mean(&ranks[..within]),
            average_precision: average_precision.then(|| mean(ranks)),
        })
    }

    /// 1 if the nearest neighbour is a match, else 0.
    pub fn precision_at_1(&self) -> f64 {
        self.recall_at(1)
    }

    /// 1 if one of the `k` nearest neighbours is a match, else 0.
    pub fn recall_at(&self, k: usize) -> f64 {
        f64::from(u8::from(self.first_match <= k))
    }
}

fn summarise(per_query: Vec<Option<Scores>>, labels: &[u32], options: &Options) -> Result<Retrieval, EvalError> {
    let answered = per_query.iter().flatten().count();
    if answered == 0 {
        return Err(EvalError::NoMatch { queries: per_query.len() });
    }
    let mean = |value: &dyn Fn(&Scores) -> f64| match options.average {
        Average::Queries => per_query.iter().flatten().map(value).sum::<f64>() / answered as f64,
        Average::Classes => {
            let mut classes = BTreeMap::<u32, (f64, f64)>::new();
            for (scores, &label) in per_query.iter().zip(labels) {
                if let Some(scores) = scores {
                    let (sum, count) = classes.entry(label).or_default();
                    (*sum, *count) = (*sum + value(scores), *count + 1.0);
                }
            }
            classes.values().map(|(sum, count)| sum / count).sum::<f64>() / classes.len() as f64
        }
    };
    Ok(Retrieval {
        precision_at_1: mean(&Scores::precision_at_1),
        r_precision: mean(&|s| s.r_precision),
        map_at_r: mean(&|s| s.map_at_r),
        recall_at: options.recall_at.iter().map(|&k| (k, mean(&|s| s.recall_at(k)))).collect(),
        mean_reciprocal_rank: mean(&|s| 1.0 / s.first_match as f64),
        mean_average_precision: options.average_precision.then(|| mean(&|s| s.average_precision.unwrap_or(0.0))),
        queries: per_query.len(),
        without_match: per_query.len() - answered,
        per_query,
    })
}

/// Checks a set and prepares it for a search.
pub(super) fn index<'a, T: Real>(what: &'static str, set: Labelled<'a, T>) -> Result<Index<'a, T>, EvalError> {
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
            let options = Options { recall_at: recall.iter().map(|&(k, _)| k).collect(), ..Options::default() };
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
        // Matches at ranks 1, 3, 5 and 8 of R = 4: precisions 1 and 2/3 count, ranks 5 and 8 are beyond R.
        let scores = Scores::new(4, &[1, 3, 5, 8], true).unwrap();
        assert_eq!((scores.precision_at_1(), scores.r_precision, scores.matches), (1.0, 0.5, 4));
        assert!((scores.map_at_r - (1.0 + 2.0 / 3.0) / 4.0).abs() <= 1e-15);
        let all = (1.0 + 2.0 / 3.0 + 3.0 / 5.0 + 4.0 / 8.0) / 4.0;
        assert!((scores.average_precision.unwrap() - all).abs() <= 1e-15);
        let late = Scores::new(1, &[3], false).unwrap();
        assert_eq!((late.precision_at_1(), late.map_at_r, late.first_match), (0.0, 0.0, 3));
        assert_eq!([late.recall_at(2), late.recall_at(3)], [0.0, 1.0]);
        assert_eq!(late.average_precision, None);
    }

    #[test]
    fn twins_of_other_classes_do_not_hide_the_query_itself() {
        // The query's exact duplicate has another class and a lower index.
        let vectors = [1.0f32, 0.0, 1.0, 0.0, 0.8, 0.1];
        let found = retrieval(
            Labelled { vectors: &vectors, labels: &[0, 1, 1], dim: 2 },
            None,
            &Options { recall_at: vec![1, 2], ..Options::default() },
        );
        let found = found.unwrap();
        assert_eq!(found.per_query[1].unwrap().first_match, 2);
        assert_eq!(found.per_query[0], None);
        assert_eq!(found.recall_at, [(1, 0.0), (2, 1.0)]);
    }

    #[test]
    fn averages_over_classes_count_each_class_once() {
        // Class 0 has three queries that find one another, class 1 two that find the others first, class 2 no pair.
        let vectors = [1.0f32, 0.0, 1.0, 0.01, 1.0, 0.02, 0.9, 0.5, 0.5, 0.9, 0.0, 1.0];
        let queries = Labelled { vectors: &vectors, labels: &[0, 0, 0, 1, 1, 2], dim: 2 };
        let of = |average| retrieval(queries, None, &Options { average, ..Options::default() }).unwrap();
        let (queries, classes) = (of(Average::Queries), of(Average::Classes));
        assert_eq!((queries.precision_at_1, classes.precision_at_1), (3.0 / 5.0, 0.5));
        assert_eq!(queries.per_query, classes.per_query);
        // The ranks of their matches: 1, 1, 1, then 4 (behind class 0) and 2 (behind class 2).
        assert!((queries.mean_reciprocal_rank - (3.0 + 1.0 / 4.0 + 1.0 / 2.0) / 5.0).abs() <= 1e-15);
        assert!((classes.mean_reciprocal_rank - (1.0 + (1.0 / 4.0 + 1.0 / 2.0) / 2.0) / 2.0).abs() <= 1e-15);
    }

    #[test]
    fn in_shop_ties_go_to_the_query_where_that_is_asked_for() {
        // Two rows of the gallery are equally near: the wrong class comes first.
        let queries = Labelled { vectors: &[1.0f32, 0.0], labels: &[7], dim: 2 };
        let gallery = Labelled { vectors: &[0.6f32, 0.8, 0.6, -0.8, 0.0, 1.0], labels: &[3, 7, 7], dim: 2 };
        let first = |ties| {
            let found = retrieval(queries, Some(gallery), &Options { ties, ..Options::default() }).unwrap();
            found.per_query[0].unwrap().first_match
        };
        assert_eq!((first(Ties::Index), first(Ties::Optimistic)), (2, 1));
    }

    #[test]
    fn what_has_no_metrics_is_refused_in_words() {
        let run = |vectors: &[f32], labels: &[u32], dim, recall_at: Vec<usize>| {
            retrieval(Labelled { vectors, labels, dim }, None, &Options { recall_at, ..Options::default() })
                .unwrap_err()
                .to_string()
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
        let error = retrieval(queries, Some(gallery), &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), "queries have length 2, the gallery 1: expected the same");
    }
}
