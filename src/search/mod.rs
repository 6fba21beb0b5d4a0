//! Hyperparameter search: the values to try next, from the scores of past trials.
//!
//! Everything is a pure function of its arguments, so a search is as reproducible as the trainings that it reads.

mod parzen;
mod quasi_random;
mod space;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use space::{Dimension, Scale, Space, Values};

use self::space::Point;

/// How the next values are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Evenly over the space, whatever the scores are: scrambled Halton points.
    QuasiRandom,
    /// Like the good ones and unlike the others: the tree-structured Parzen estimator, after a start of quasi-random
    /// points.
    #[default]
    Tpe,
}

/// The settings of a search. Every field but the space has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Parameters by name, each with its `range: [low, high]` and a `scale`: linear (default), log or integer.
    #[schemars(with = "serde_json::Value", extend("x-type" = "any"))]
    pub space: Space,
    /// Tree-structured Parzen estimator, or scrambled Halton points.
    #[serde(default)]
    pub method: Method,
    /// Quasi-random trials before scores count.
    #[serde(default = "ten")]
    #[schemars(range(min = 2, max = 1_000_000), extend("x-unit" = "trials"))]
    pub startup: u32,
    /// Random seed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: u64,
}

fn ten() -> u32 {
    10
}

/// A finished trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Its values by the names of the space.
    pub values: Values,
    /// Larger is better.
    pub score: f64,
}

impl Search {
    /// Its mistakes: (path of the field, message) pairs, none if it can run.
    pub fn check(&self) -> Vec<(String, String)> {
        self.space.check()
    }

    /// The values of trial number `at`, counted from 0, after those of `past`, in their order. Past trials without a value for
    /// every dimension are ignored.
    pub fn suggest(&self, at: u32, past: &[Trial]) -> Values {
        let point = |trial: &Trial| Some((self.space.point(&trial.values)?, trial.score));
        let known: Vec<(Point, f64)> = past.iter().filter_map(point).collect();
        let chosen = match self.method {
            Method::Tpe if at >= self.startup && known.len() >= 2 && known.len() as u32 >= self.startup => {
                parzen::suggest(&known, self.seed, at)
            }
            _ => quasi_random::point(self.space.len(), self.seed, at),
        };
        self.space.values(&chosen)
    }
}

/// The position of the trial with the best score; ties go to the earliest.
pub fn best(trials: &[Trial]) -> Option<usize> {
    let better = |best: usize, next: usize| {
        if trials[next].score.total_cmp(&trials[best].score).is_gt() { next } else { best }
    };
    (0..trials.len()).reduce(better)
}

#[cfg(test)]
mod tests;
