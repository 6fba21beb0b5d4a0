//! Metrics by the names that pipelines give them.

use std::fmt;

use super::clustering::Agreement;
use super::retrieval::Retrieval;

/// A metric; more is better in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// `p1`.
    PrecisionAt1,
    /// `rp`.
    RPrecision,
    /// `map_at_r`.
    MapAtR,
    /// `mrr`.
    MeanReciprocalRank,
    /// `map`.
    MeanAveragePrecision,
    /// `r@K`.
    RecallAt(usize),
    /// `nmi`.
    Nmi,
    /// `ami`.
    Ami,
    /// `f1`.
    F1,
}

impl Metric {
    /// The metric of that name.
    pub fn parse(name: &str) -> Option<Metric> {
        match name {
            "p1" => Some(Metric::PrecisionAt1),
            "rp" => Some(Metric::RPrecision),
            "map_at_r" => Some(Metric::MapAtR),
            "mrr" => Some(Metric::MeanReciprocalRank),
            "map" => Some(Metric::MeanAveragePrecision),
            "nmi" => Some(Metric::Nmi),
            "ami" => Some(Metric::Ami),
            "f1" => Some(Metric::F1),
            _ => name.strip_prefix("r@")?.parse().ok().filter(|&k| k > 0).map(Metric::RecallAt),
        }
    }

    /// Whether it compares classes with clusters.
    pub fn of_clusters(self) -> bool {
        matches!(self, Metric::Nmi | Metric::Ami | Metric::F1)
    }

    /// Its value, in [0, 1] (`ami` may be below); none if the values that it needs were not computed.
    pub fn value(self, found: &Retrieval, clusters: Option<&Agreement>) -> Option<f64> {
        match self {
            Metric::PrecisionAt1 => Some(found.precision_at_1),
            Metric::RPrecision => Some(found.r_precision),
            Metric::MapAtR => Some(found.map_at_r),
            Metric::MeanReciprocalRank => Some(found.mean_reciprocal_rank),
            Metric::MeanAveragePrecision => found.mean_average_precision,
            Metric::RecallAt(k) => found.recall_at.iter().find(|(other, _)| *other == k).map(|(_, value)| *value),
            Metric::Nmi => clusters.map(|clusters| clusters.nmi),
            Metric::Ami => clusters.map(|clusters| clusters.ami),
            Metric::F1 => clusters.map(|clusters| clusters.f1),
        }
    }
}

/// Its name.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::PrecisionAt1 => f.write_str("p1"),
            Metric::RPrecision => f.write_str("rp"),
            Metric::MapAtR => f.write_str("map_at_r"),
            Metric::MeanReciprocalRank => f.write_str("mrr"),
            Metric::MeanAveragePrecision => f.write_str("map"),
            Metric::RecallAt(k) => write!(f, "r@{k}"),
            Metric::Nmi => f.write_str("nmi"),
            Metric::Ami => f.write_str("ami"),
            Metric::F1 => f.write_str("f1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_others_are_none() {
        for name in ["p1", "rp", "map_at_r", "mrr", "map", "r@10", "nmi", "ami", "f1"] {
            assert_eq!(Metric::parse(name).unwrap().to_string(), name);
        }
        for name in ["r@0", "r@", "r@-1", "P1", "nmi "] {
            assert_eq!(Metric::parse(name), None, "{name}");
        }
    }
}
