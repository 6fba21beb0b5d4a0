//! How a loss describes its parameters: one table for the checks, the schema and `meanfield loss list`.

use std::fmt;

/// One parameter of a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// Its name in a pipeline.
    pub name: &'static str,
    /// Its value when not given.
    pub default: Value,
    /// What it may be.
    pub range: Range,
    /// What it does, and the values that publications use.
    pub about: &'static str,
}

/// The value of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A real number.
    Number(f64),
    /// A whole number.
    Count(u64),
    /// One of a few words.
    Word(&'static str),
    /// Another loss, with its defaults.
    Loss(&'static str),
}

/// The values that a parameter may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// A real number between the two, both included.
    Between(f64, f64),
    /// A whole number between the two, both included.
    Counts(u64, u64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// One of these losses, with parameters of its own.
    Losses(&'static [&'static str]),
}

/// Factors and temperatures: wide, yet far from overflow in 32 bits.
pub const SCALE: Range = Range::Between(1e-6, 1e6);
/// Margins and thresholds on distances of unit vectors and on cosines.
pub const MARGIN: Range = Range::Between(-2.0, 4.0);
/// Weights of regularisers; 0 leaves them out.
pub const WEIGHT: Range = Range::Between(0.0, 1e6);

impl Field {
    pub(super) const fn number(name: &'static str, default: f64, range: Range, about: &'static str) -> Self {
        Self { name, default: Value::Number(default), range, about }
    }
}

impl Range {
    /// What is wrong with `value`, if anything. A NaN, which JSON writes as null, is outside every range.
    pub fn fault(&self, value: &serde_json::Value) -> Option<String> {
        let (value, inside) = match self {
            Self::Between(low, high) => (value, value.as_f64().is_some_and(|x| *low <= x && x <= *high)),
            Self::Counts(low, high) => (value, value.as_u64().is_some_and(|x| *low <= x && x <= *high)),
            Self::Words(words) => (value, value.as_str().is_some_and(|x| words.contains(&x))),
            Self::Losses(names) => (&value["kind"], value["kind"].as_str().is_some_and(|x| names.contains(&x))),
        };
        (!inside).then(|| {
            format!("is {}, expected {self}", if value.is_null() { "not finite".into() } else { value.to_string() })
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(x) => write!(f, "{x}"),
            Self::Count(x) => write!(f, "{x}"),
            Self::Word(x) | Self::Loss(x) => f.write_str(x),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between(low, high) => write!(f, "a number in [{low:?}, {high:?}]"),
            Self::Counts(low, high) => write!(f, "a whole number in [{low}, {high}]"),
            Self::Words(words) => write!(f, "one of {}", words.join(", ")),
            Self::Losses(names) => write!(f, "one of the losses {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_range_refuses_what_lies_outside_and_what_is_not_a_number() {
        assert_eq!(MARGIN.fault(&json!(-2.0)), None);
        assert_eq!(MARGIN.fault(&json!(f64::NAN)).unwrap(), "is not finite, expected a number in [-2.0, 4.0]");
        assert_eq!(MARGIN.fault(&json!(4.1)).unwrap(), "is 4.1, expected a number in [-2.0, 4.0]");
        assert_eq!(Range::Counts(1, 9).fault(&json!(0)).unwrap(), "is 0, expected a whole number in [1, 9]");
        assert_eq!(Range::Words(&["a", "b"]).fault(&json!("c")).unwrap(), "is \"c\", expected one of a, b");
    }
}
