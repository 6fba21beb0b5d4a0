//! What a report is asked for: which axes are rows and columns, over which the mean is taken, and how it is shown.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// The word in `columns` for the metrics, which are not an axis.
pub const METRIC: &str = "metric";

/// The most digits that [`Config::digits`] may ask for: a double has no more.
pub(super) const MAX_DIGITS: usize = 15;

/// The parameters of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The axis, or a list of axes, whose values are the rows.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "Value", extend("x-type" = "any"))]
    pub rows: Vec<String>,
    /// Axes whose values head the columns, outermost first, and `metric`, last if not among them.
    #[serde(default = "metric", deserialize_with = "one_or_many")]
    #[schemars(with = "Value", extend("x-type" = "any"))]
    pub columns: Vec<String>,
    /// Axes over which a cell is averaged, usually seed.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "Value", extend("x-type" = "any"))]
    pub over: Vec<String>,
    /// Axes that are averaged first, such as folds, which are not independent repetitions.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "Value", extend("x-type" = "any"))]
    pub averaged: Vec<String>,
    /// Metrics to show, in this order; all if not given.
    #[serde(default)]
    pub metrics: Option<Vec<String>>,
    /// Coverage of the confidence interval of the mean (Student t), such as 95% or 0.95.
    #[serde(default = "default_interval", deserialize_with = "interval", serialize_with = "percent")]
    #[schemars(with = "Value", extend("x-type" = "any"))]
    pub interval: f64,
    /// Whether the best value of a column is marked and the others are tested against it.
    #[serde(default)]
    pub best: Best,
    /// Heading of the table.
    #[serde(default)]
    pub title: Option<String>,
    /// Digits after the decimal point.
    #[serde(default = "default_digits")]
    #[schemars(range(min = 0, max = MAX_DIGITS))]
    pub digits: usize,
    /// Overrides, by metric, the direction inferred from the metric's name: more is better unless it ends in loss, seconds or bytes.
    #[serde(default)]
    #[schemars(extend("x-type" = "any"))]
    pub higher_is_better: BTreeMap<String, bool>,
}

fn metric() -> Vec<String> {
    vec![METRIC.to_owned()]
}

fn percent<S: Serializer>(level: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{}%", 100.0 * level))
}

/// What becomes of the best value of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Best {
    /// Shown in bold, and the others tested against it.
    #[default]
    Bold,
    /// Neither.
    None,
}

impl Config {
    /// Every mistake that can be seen without records, as (path of the field, what is wrong).
    pub fn check(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut refuse = |path: String, message: String| problems.push((path, message));
        if self.rows.is_empty() {
            refuse("rows".into(), "is empty, expected the axis whose values name the rows, such as `loss`".into());
        }
        let mut places: BTreeMap<&str, String> = BTreeMap::new();
        for (field, axes) in
            [("rows", &self.rows), ("columns", &self.columns), ("over", &self.over), ("averaged", &self.averaged)]
        {
            for (index, axis) in axes.iter().enumerate() {
                let path = format!("{field}[{index}]");
                if axis == METRIC && field != "columns" {
                    refuse(path, "is `metric`, which can only be one of `columns`".into());
                } else if let Some(first) = places.get(axis.as_str()) {
                    refuse(path, format!("is `{axis}`, which {first} already has; an axis has one place"));
                } else {
                    places.insert(axis, path);
                }
            }
        }
        if let Some(metrics) = &self.metrics {
            if metrics.is_empty() {
                refuse("metrics".into(), "is empty; leave it out to show every metric".into());
            }
            for (index, metric) in metrics.iter().enumerate() {
                if metrics[..index].contains(metric) {
                    refuse(format!("metrics[{index}]"), format!("repeats `{metric}`"));
                }
            }
        }
        if !(self.interval > 0.0 && self.interval < 1.0) {
            let given = self.interval;
            refuse("interval".into(), format!("is {given}, expected a level between 0 % and 100 %, such as 95%"));
        }
        problems
    }

    /// Whether more of `metric` is better.
    pub fn higher_is_better(&self, metric: &str) -> bool {
        let cost = ["loss", "seconds", "bytes"].iter().any(|ending| metric.ends_with(ending));
        self.higher_is_better.get(metric).copied().unwrap_or(!cost)
    }
}

fn default_interval() -> f64 {
    0.95
}

fn default_digits() -> usize {
    4
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("the name of an axis or a list of them")
        }
        fn visit_str<E: Error>(self, name: &str) -> Result<Vec<String>, E> {
            Ok(vec![name.to_owned()])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = items.next_element()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    deserializer.deserialize_any(Names)
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Level;
    impl Visitor<'_> for Level {
        type Value = f64;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a level such as 95% or 0.95")
        }
        fn visit_f64<E: Error>(self, level: f64) -> Result<f64, E> {
            Ok(level)
        }
        fn visit_u64<E: Error>(self, level: u64) -> Result<f64, E> {
            Ok(level as f64)
        }
        fn visit_i64<E: Error>(self, level: i64) -> Result<f64, E> {
            Ok(level as f64)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
            let percent = text.strip_suffix('%').map(|number| number.trim().parse::<f64>().map(|level| level / 100.0));
            match percent.unwrap_or_else(|| text.parse()) {
                Ok(level) => Ok(level),
                Err(_) => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
            }
        }
    }
    deserializer.deserialize_any(Level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<Config, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn short_forms_mean_the_long_ones() {
        let short = parse(json!({ "rows": "loss", "over": "seed", "interval": "90%" })).unwrap();
        let long = parse(json!({
            "rows": ["loss"], "columns": ["metric"], "over": ["seed"], "interval": 0.9, "best": "bold", "digits": 4,
        }));
        assert_eq!(short, long.unwrap());
        assert_eq!(short.check(), []);
    }

    #[test]
    fn what_is_better_follows_the_name_unless_said() {
        let config = parse(json!({ "rows": "loss", "higher_is_better": { "odd_loss": true, "rank": false } })).unwrap();
        let answers = ["map_at_r", "train_loss", "seconds", "peak_bytes", "odd_loss", "rank"]
            .map(|metric| config.higher_is_better(metric));
        assert_eq!(answers, [true, false, false, false, true, false]);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let config = parse(json!({
            "rows": [], "columns": ["dataset", "dataset"], "over": ["seed", "metric"], "metrics": ["p1", "p1"],
            "interval": "100%",
        }));
        let told: Vec<String> =
            config.unwrap().check().iter().map(|(path, message)| format!("{path} {message}")).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
    rows is empty, expected the axis whose values name the rows, such as `loss`
    columns[1] is `dataset`, which columns[0] already has; an axis has one place
    over[1] is `metric`, which can only be one of `columns`
    metrics[1] repeats `p1`
    interval is 1, expected a level between 0 % and 100 %, such as 95%
    "#);
    }

    #[test]
    fn unfit_types_and_unknown_fields_are_refused() {
        let refusals = [
            json!({ "rows": 3 }),
            json!({ "rows": "loss", "interval": "wide" }),
            json!({ "rows": "loss", "best": "italic" }),
            json!({ "rows": "loss", "row": "loss" }),
            json!({}),
        ]
        .map(|value| parse(value).unwrap_err());
        insta::assert_snapshot!(refusals.join("\n"), @r#"
    invalid type: integer `3`, expected the name of an axis or a list of them
    invalid value: string "wide", expected a level such as 95% or 0.95
    unknown variant `italic`, expected `bold` or `none`
    unknown field `row`, expected one of `rows`, `columns`, `over`, `averaged`, `metrics`, `interval`, `best`, `title`, `digits`, `higher_is_better`
    missing field `rows`
    "#);
    }
}
