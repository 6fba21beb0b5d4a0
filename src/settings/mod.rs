//! Settings: what a parameter is called, what it may be, and what it is when not given.
//!
//! Both halves use this module, which depends on neither. A type of the learning half declares its parameters once, as
//! a Rust struct with doc comments, defaults and ranges; [`Settings::of`] reads that declaration. The pipeline reads
//! the same description from stage definitions. [`Settings::check`] is the one check of a single value, whatever the
//! value is written in, and its [`Fault`]s have one wording.
//!
//! | file | holds |
//! | --- | --- |
//! | `check` | the check, and the wording of what it finds |
//! | `declared` | settings from the declaration of a Rust type |
//! | `definition` | settings as a stage definition writes them |
//! | `json_schema` | settings as a JSON Schema |

mod check;
mod declared;
mod definition;
mod json_schema;
#[cfg(test)]
mod tests;

use std::fmt;

pub use check::{Fault, Look, Readable, Wrong, described};

/// The key of a union that names the variant.
pub const TAG: &str = "kind";

/// Named settings, in the order in which resolved parameters have them. `V` is what defaults are written in.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings<V>(pub Vec<(String, Setting<V>)>);

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<V> {
    /// Its type.
    pub of: SettingType<V>,
    /// The range of a number.
    pub bounds: Bounds,
    /// The only values that it may have; any if empty.
    pub one_of: Vec<V>,
    /// Its value when not given.
    pub default: Option<V>,
    /// Whether it must be given.
    pub required: bool,
    /// What it does, in a sentence.
    pub doc: Option<String>,
    /// What a number counts or measures, such as `epochs`.
    pub unit: Option<String>,
}

/// The type of a setting.
#[derive(Debug, Clone, PartialEq)]
pub enum SettingType<V> {
    /// Anything.
    Any,
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    String,
    /// A number of bytes, also written as `8GiB`.
    Size,
    /// A time in seconds, written as `90s`.
    Duration,
    /// A whole number from 0 upwards, or a list of such numbers.
    Seed,
    /// A list whose items are all like this.
    List(Box<Setting<V>>),
    /// A mapping with these settings.
    Map(Settings<V>),
    /// A mapping whose key [`TAG`] names the variant whose settings it has.
    Union(Vec<(String, Settings<V>)>),
}

/// The ends of a range; an absent one is open.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bounds {
    /// The least value.
    pub least: Option<f64>,
    /// The greatest value.
    pub most: Option<f64>,
    /// Every value is greater than this.
    pub above: Option<f64>,
    /// Every value is less than this.
    pub below: Option<f64>,
}

impl<V> Default for Settings<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Settings<V> {
    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The setting of that name.
    pub fn get(&self, name: &str) -> Option<&Setting<V>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, setting)| setting)
    }
}

impl<V> Setting<V> {
    /// One of this type that must be given, without anything else.
    pub fn new(of: SettingType<V>) -> Self {
        Self { of, bounds: Bounds::default(), one_of: Vec::new(), default: None, required: true, doc: None, unit: None }
    }
}

impl Bounds {
    /// Whether `value` is within them. NaN never is.
    pub fn contain(&self, value: f64) -> bool {
        !value.is_nan()
            && self.least.is_none_or(|least| value >= least)
            && self.most.is_none_or(|most| value <= most)
            && self.above.is_none_or(|above| value > above)
            && self.below.is_none_or(|below| value < below)
    }
}

/// " from 0 to 2", " above 0", or nothing for a range without ends.
impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.above) {
            (Some(least), _) => write!(f, " from {least}")?,
            (None, Some(above)) => write!(f, " above {above}")?,
            (None, None) => {}
        }
        let low = self.least.is_some() || self.above.is_some();
        match (self.most, self.below) {
            (Some(most), _) if self.least.is_some() => write!(f, " to {most}"),
            (Some(most), _) => write!(f, "{} up to {most}", if low { " and" } else { "" }),
            (None, Some(below)) => write!(f, "{} below {below}", if low { " to" } else { "" }),
            (None, None) => f.write_str(if self.least.is_some() { " upwards" } else { "" }),
        }
    }
}
