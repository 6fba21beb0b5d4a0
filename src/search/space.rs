//! The search space, and its map from the unit cube.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Values by name.
pub type Values = BTreeMap<String, f64>;

/// A point in the unit cube: a coordinate per dimension, in the order of their names.
pub(super) type Point = Vec<f64>;

/// How a range is divided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Equal differences count the same.
    #[default]
    Linear,
    /// Equal ratios count the same.
    Log,
    /// Whole numbers, both ends included.
    Integer,
}

/// One value that is searched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dimension {
    /// Least and greatest value.
    pub range: [f64; 2],
    /// How it is divided.
    #[serde(default)]
    pub scale: Scale,
}

/// What is searched: dimensions by name. Their order is that of the names, so that of the file has no part in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Space(pub BTreeMap<String, Dimension>);

impl Dimension {
    /// The value at `unit` in `[0, 1]`. Rounded to six digits: values are readable, and
    /// independent of the last bits of a logarithm, which differ between machines.
    fn value(&self, unit: f64) -> f64 {
        let [low, high] = self.range;
        let value = match self.scale {
            Scale::Linear => low + unit * (high - low),
            Scale::Log => (low.ln() + unit * (high.ln() - low.ln())).exp(),
            Scale::Integer => return (low + (unit * (high - low + 1.0)).floor()).min(high),
        };
        format!("{value:.5e}").parse().unwrap_or(value).clamp(low, high)
    }

    fn unit(&self, value: f64) -> f64 {
        let [low, high] = self.range;
        let unit = match self.scale {
            Scale::Linear => (value - low) / (high - low),
            Scale::Log => (value.ln() - low.ln()) / (high.ln() - low.ln()),
            // The middle of the integer's interval.
            Scale::Integer => (value - low + 0.5) / (high - low + 1.0),
        };
        unit.clamp(0.0, 1.0)
    }

    fn fault(&self) -> Option<String> {
        let [low, high] = self.range;
        let shown = format!("is [{low}, {high}]");
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Some(format!("{shown}, expected two finite numbers, the smaller one first"));
        }
        match self.scale {
            Scale::Log if low <= 0.0 => Some(format!("{shown}, expected numbers above 0 on a log scale")),
            Scale::Integer if low.fract() != 0.0 || high.fract() != 0.0 => {
                Some(format!("{shown}, expected whole numbers on an integer scale"))
            }
            _ => None,
        }
    }
}

impl Space {
    /// The number of dimensions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to search.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the values are integers.
    pub fn is_integer(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|dimension| dimension.scale == Scale::Integer)
    }

    pub(super) fn check(&self) -> Vec<(String, String)> {
        if self.is_empty() {
            return vec![("space".into(), "is empty, expected at least one parameter with its range".into())];
        }
        // A name may hold dots, which end a path.
        let fault = |(name, dimension): (&String, &Dimension)| {
            Some(("space".to_owned(), format!("has a range for `{name}` that {}", dimension.fault()?)))
        };
        self.0.iter().filter_map(fault).collect()
    }

    pub(super) fn values(&self, point: &[f64]) -> Values {
        let value = |((name, dimension), &unit): ((&String, &Dimension), &f64)| (name.clone(), dimension.value(unit));
        self.0.iter().zip(point).map(value).collect()
    }

    /// The point of these values; none if one is missing.
    pub(super) fn point(&self, values: &Values) -> Option<Point> {
        self.0.iter().map(|(name, dimension)| Some(dimension.unit(*values.get(name)?))).collect()
    }
}
