//! The one check of a single value, over values of any notation, and the wording of what is wrong.

use std::fmt;

use serde_json::{Number, Value};

use super::{Setting, SettingType, Settings, TAG};

/// A value that can be checked: JSON, or YAML whose nodes have positions.
pub trait Readable: Sized {
    /// What it is, one level deep.
    fn look(&self) -> Look<'_, Self>;

    /// The keys of a mapping with their values; none of anything else.
    fn pairs(&self) -> impl Iterator<Item = (&str, &Self)>;
}

/// A value, one level deep.
#[derive(Debug)]
pub enum Look<'a, V> {
    /// Null, which JSON also writes for a number that is not finite.
    Null,
    /// True or false.
    Bool(bool),
    /// A number.
    Number(&'a Number),
    /// Text.
    Text(&'a str),
    /// A list.
    List(&'a [V]),
    /// A mapping.
    Map,
}

/// One value that is not what its setting takes.
#[derive(Debug)]
pub struct Fault<'a, V> {
    /// Names and indices from the top, joined by dots, such as `loss.margin`.
    pub path: String,
    /// The value at fault; where a setting is unknown or missing, the mapping.
    pub at: &'a V,
    /// What is wrong.
    pub wrong: Wrong<'a, V>,
}

/// What is wrong with a value.
#[derive(Debug)]
pub enum Wrong<'a, V> {
    /// No setting has the name `key`.
    Unknown { key: &'a str, known: Vec<&'a str> },
    /// A setting that must be given is not.
    Missing(&'a Setting<V>),
    /// It has another type.
    Type(&'a Setting<V>),
    /// It is a number that is not finite.
    NotFinite(&'a Setting<V>),
    /// It is out of its range.
    Range(&'a Setting<V>),
    /// It is not one of those allowed.
    NotOneOf(&'a Setting<V>),
    /// A union does not name its variant.
    NoTag { known: Vec<&'a str> },
    /// A union names a variant that does not exist.
    UnknownTag { tag: &'a str, known: Vec<&'a str> },
}

/// What a check has found so far.
struct Found<'a, V> {
    faults: Vec<Fault<'a, V>>,
    /// Whether nothing is left out of the values, so that a null is a number that is not finite.
    complete: bool,
}

impl<'a, V> Found<'a, V> {
    fn add(&mut self, path: &str, at: &'a V, wrong: Wrong<'a, V>) {
        self.faults.push(Fault { path: path.to_owned(), at, wrong });
    }
}

impl<V: Readable> Settings<V> {
    /// Everything that is wrong with a mapping, in the order of the settings. A null is a setting that is not given.
    pub fn check<'a>(&'a self, values: &'a V) -> Vec<Fault<'a, V>> {
        let mut found = Found { faults: Vec::new(), complete: false };
        self.walk("", values, "", &mut found);
        found.faults
    }

    /// Checks `values`, in which the key `tag` is not a setting. `path` is empty or ends in a dot.
    fn walk<'a>(&'a self, tag: &str, values: &'a V, path: &str, found: &mut Found<'a, V>) {
        for (key, _) in values.pairs().filter(|(key, _)| *key != tag) {
            if self.get(key).is_none() {
                let known = self.names().collect();
                found.add(&format!("{path}{key}"), values, Wrong::Unknown { key, known });
            }
        }
        for (name, setting) in &self.0 {
            let path = format!("{path}{name}");
            let given = values.pairs().find(|(key, _)| key == name).map(|(_, value)| value);
            match given.map(|value| (value, value.look())) {
                Some((value, Look::Null)) if found.complete && setting.default.is_some() => {
                    found.add(&path, value, Wrong::NotFinite(setting));
                }
                Some((_, Look::Null)) if !setting.required => {}
                Some((value, _)) => setting.walk(value, &path, found),
                None if setting.required && setting.default.is_none() => {
                    found.add(&path, values, Wrong::Missing(setting));
                }
                None => {}
            }
        }
    }
}

impl<V: Readable> Setting<V> {
    /// Everything that is wrong with one value, which `path` names.
    pub fn check<'a>(&'a self, value: &'a V, path: &str) -> Vec<Fault<'a, V>> {
        let mut found = Found { faults: Vec::new(), complete: false };
        self.walk(value, path, &mut found);
        found.faults
    }

    /// The same of a typed value that was turned into JSON: all defaults are filled in, and a null where there is one is a
    /// number that is not finite.
    pub(super) fn check_complete<'a>(&'a self, value: &'a V, path: &str) -> Vec<Fault<'a, V>> {
        let mut found = Found { faults: Vec::new(), complete: true };
        self.walk(value, path, &mut found);
        found.faults
    }

    fn walk<'a>(&'a self, value: &'a V, path: &str, found: &mut Found<'a, V>) {
        let before = found.faults.len();
        match (&self.of, value.look()) {
            (SettingType::Any, _)
            | (SettingType::Bool, Look::Bool(_))
            | (SettingType::String, Look::Text(_))
            | (SettingType::Float, Look::Number(_)) => {}
            (SettingType::Int, Look::Number(number)) if !number.is_f64() => {}
            (SettingType::Size | SettingType::Seed, Look::Number(number)) if number.is_u64() => {}
            (SettingType::Size, Look::Text(text)) if parse_size::parse_size(text).is_ok() => {}
            (SettingType::Duration, Look::Text(text)) if humantime::parse_duration(text).is_ok() => {}
            (SettingType::Seed, Look::List(items)) if !items.is_empty() => {
                let whole = |item: &V| matches!(item.look(), Look::Number(number) if number.is_u64());
                if let Some(index) = items.iter().position(|item| !whole(item)) {
                    found.add(&format!("{path}.{index}"), &items[index], Wrong::Type(self));
                }
            }
            (SettingType::List(of), Look::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    of.walk(item, &format!("{path}.{index}"), found);
                }
            }
            (SettingType::Map(settings), Look::Map) => settings.walk("", value, &below(path), found),
            (SettingType::Union(variants), Look::Map | Look::Text(_)) => {
                let given = value.pairs().find(|(key, _)| *key == TAG).map(|(_, tag)| tag);
                let place = if matches!(value.look(), Look::Text(_)) { Some(value) } else { given };
                let known = variants.iter().map(|(name, _)| name.as_str()).collect();
                match place.map(|place| (place, place.look())) {
                    Some((place, Look::Text(tag))) => match variants.iter().find(|(name, _)| name == tag) {
                        Some((_, settings)) => settings.walk(TAG, value, &below(path), found),
                        None => found.add(path, place, Wrong::UnknownTag { tag, known }),
                    },
                    _ => found.add(path, place.unwrap_or(value), Wrong::NoTag { known }),
                }
            }
            _ => found.add(path, value, Wrong::Type(self)),
        }
        if found.faults.len() > before {
            return;
        }
        if let Look::Number(number) = value.look()
            && !number.as_f64().is_some_and(|number| self.bounds.contain(number))
        {
            found.add(path, value, Wrong::Range(self));
        } else if !self.one_of.is_empty() && !self.one_of.iter().any(|allowed| same(allowed, value)) {
            found.add(path, value, Wrong::NotOneOf(self));
        }
    }

    /// What a value must be: "a number from 0 to 2".
    pub fn expected(&self) -> String {
        if self.one_of.is_empty() { self.noun() } else { format!("one of {}", listed(self.words())) }
    }

    /// The type and range of a value.
    fn noun(&self) -> String {
        let noun = match &self.of {
            SettingType::Any => "any value",
            SettingType::Bool => "true or false",
            SettingType::Int => "a whole number",
            SettingType::Float => "a number",
            SettingType::String => "a text",
            SettingType::Size => "a size such as 8GiB",
            SettingType::Duration => "a duration such as 90s or 2h",
            SettingType::Seed => "a whole number from 0 upwards, or a list of such numbers",
            SettingType::List(_) => "a list",
            SettingType::Map(_) => "a mapping",
            SettingType::Union(variants) => {
                let names: Vec<&str> = variants.iter().map(|(name, _)| name.as_str()).collect();
                return format!("one of the kinds {}", listed(names));
            }
        };
        let unit = self.unit.as_ref().map_or(String::new(), |unit| format!(" of {unit}"));
        format!("{noun}{unit}{}", self.bounds)
    }

    /// The values that it may have, where these are listed, as text.
    pub fn words(&self) -> Vec<String> {
        self.one_of.iter().filter_map(shown).collect()
    }
}

/// What the paths of the settings of a mapping at `path` begin with.
fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}.") }
}

/// A scalar as text; nothing for null, lists and mappings.
fn shown<V: Readable>(value: &V) -> Option<String> {
    match value.look() {
        Look::Bool(value) => Some(value.to_string()),
        Look::Number(number) => Some(number.to_string()),
        Look::Text(text) => Some(text.to_owned()),
        Look::Null | Look::List(_) | Look::Map => None,
    }
}

/// Equality that does not distinguish `1` from `1.0`.
fn same<V: Readable>(a: &V, b: &V) -> bool {
    match (a.look(), b.look()) {
        (Look::Number(a), Look::Number(b)) => a.as_f64() == b.as_f64(),
        (Look::Bool(a), Look::Bool(b)) => a == b,
        (Look::Text(a), Look::Text(b)) => a == b,
        _ => false,
    }
}

/// Names in backquotes, the first twelve of them.
fn listed<S: AsRef<str>>(names: Vec<S>) -> String {
    let mut text = names.iter().take(12).map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > 12 {
        text.push_str(&format!(" and {} more", names.len() - 12));
    }
    text
}

impl<V: Readable> Fault<'_, V> {
    /// What is wrong, for a title: "`loss.margin` is 9, out of its range".
    pub fn title(&self) -> String {
        let Self { path, at, wrong } = self;
        match wrong {
            Wrong::Unknown { .. } => format!("there is no parameter `{path}`"),
            Wrong::Missing(_) => format!("parameter `{path}` is missing"),
            _ => format!("`{path}` {}", Self::predicate(wrong, at)),
        }
    }

    /// The same as half a sentence, for a title that has the path already.
    pub fn half(&self) -> String {
        match &self.wrong {
            Wrong::Unknown { .. } => "is not a parameter".to_owned(),
            Wrong::Missing(_) => "is missing".to_owned(),
            wrong => Self::predicate(wrong, self.at),
        }
    }

    fn predicate(wrong: &Wrong<'_, V>, at: &V) -> String {
        match wrong {
            Wrong::Unknown { .. } | Wrong::Missing(_) => String::new(),
            Wrong::Type(setting) => format!("must be {}", setting.noun()),
            Wrong::NotFinite(_) => "is not a finite number".to_owned(),
            Wrong::Range(_) => format!("is {}, out of its range", shown(at).unwrap_or_default()),
            Wrong::NotOneOf(_) => format!("cannot be {}", described(at)),
            Wrong::NoTag { .. } => format!("does not say its `{TAG}`"),
            Wrong::UnknownTag { tag, .. } => format!("has no kind `{tag}`"),
        }
    }

    /// What was expected, or what was found where the title says what was expected; nothing where the title says all.
    pub fn label(&self) -> Option<String> {
        match &self.wrong {
            Wrong::Unknown { .. } | Wrong::UnknownTag { .. } => None,
            Wrong::Missing(setting) => Some(format!("expected `{}`, {}", self.path, setting.expected())),
            Wrong::Type(_) => Some(format!("found {}", described(self.at))),
            Wrong::NotFinite(setting) | Wrong::Range(setting) | Wrong::NotOneOf(setting) => {
                Some(format!("expected {}", setting.expected()))
            }
            Wrong::NoTag { known } => Some(format!("expected `{TAG}`, one of {}", listed(known.clone()))),
        }
    }

    /// The names that were possible, for a suggestion.
    pub fn known(&self) -> Vec<String> {
        match &self.wrong {
            Wrong::Unknown { known, .. } | Wrong::NoTag { known } | Wrong::UnknownTag { known, .. } => {
                known.iter().map(|name| (*name).to_owned()).collect()
            }
            Wrong::NotOneOf(setting) => setting.words(),
            Wrong::Missing(_) | Wrong::Type(_) | Wrong::NotFinite(_) | Wrong::Range(_) => Vec::new(),
        }
    }

    /// (path, half a sentence), for those who have no excerpt to show.
    pub fn message(&self) -> (String, String) {
        let known = match &self.wrong {
            Wrong::Unknown { known, .. } | Wrong::UnknownTag { known, .. } => {
                Some(format!("expected one of {}", listed(known.clone())))
            }
            _ => None,
        };
        let label = self.label().or(known).map_or(String::new(), |label| format!("; {label}"));
        (self.path.clone(), format!("{}{label}", self.half()))
    }
}

impl<V: Readable> fmt::Display for Fault<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
        self.label().map_or(Ok(()), |label| write!(f, "; {label}"))
    }
}

/// What a value is, for messages: "the number 3", "a list".
pub fn described<V: Readable>(value: &V) -> String {
    match value.look() {
        Look::Null => "nothing".into(),
        Look::Bool(value) => format!("the boolean {value}"),
        Look::Number(number) => format!("the number {number}"),
        Look::Text(text) if text.chars().count() > 40 => "a text".into(),
        Look::Text(text) => format!("the text `{text}`"),
        Look::List(_) => "a list".into(),
        Look::Map => "a mapping".into(),
    }
}

impl Readable for Value {
    fn look(&self) -> Look<'_, Self> {
        match self {
            Value::Null => Look::Null,
            Value::Bool(value) => Look::Bool(*value),
            Value::Number(number) => Look::Number(number),
            Value::String(text) => Look::Text(text),
            Value::Array(items) => Look::List(items),
            Value::Object(_) => Look::Map,
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }
}
