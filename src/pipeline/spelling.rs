//! Values that are nearly what was expected, and what to write instead: what YAML 1.1 or a spreadsheet would have read.

use super::quoting::look_alike;
use super::yaml::{Data, Node};

/// What a place takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Bool,
    Int,
    Float,
    Text,
}

/// What to write where `node` was found and something else was wanted.
pub(super) fn instead(node: &Node, wanted: Wanted) -> Option<String> {
    match (&node.data, wanted) {
        (Data::Text(text), _) if text.chars().any(|c| look_alike(c).is_some()) => {
            let c = text.chars().find(|&c| look_alike(c).is_some())?;
            let (what, instead) = look_alike(c)?;
            Some(format!("it holds {what} (U+{:04X}): write {instead} instead", c as u32))
        }
        (Data::Text(text), Wanted::Bool) => match text.to_ascii_lowercase().as_str() {
            "true" | "false" => Some(format!("write {} without quotes", text.to_ascii_lowercase())),
            "yes" | "on" | "y" | "t" => Some("write true".to_owned()),
            "no" | "off" | "n" | "f" | "none" => Some("write false".to_owned()),
            _ => None,
        },
        (Data::Number(number), Wanted::Bool) => match number.as_f64() {
            Some(1.0) => Some("write true".to_owned()),
            Some(0.0) => Some("write false".to_owned()),
            _ => None,
        },
        (Data::Number(number), Wanted::Int) => {
            let value = number.as_f64()?;
            // Above this a float cannot represent every whole number.
            let whole = value.fract() == 0.0 && value.abs() < (1u64 << 53) as f64;
            whole.then(|| format!("write {}", value as i64))
        }
        (Data::Text(text), Wanted::Int | Wanted::Float) => number(text.trim(), wanted),
        (Data::Number(_) | Data::Bool(_), Wanted::Text) => Some("put it in quotes".to_owned()),
        (Data::Null, Wanted::Text) => Some("put it in quotes if it is a text".to_owned()),
        _ => None,
    }
}

fn number(text: &str, wanted: Wanted) -> Option<String> {
    let parses = |text: &str| match wanted {
        Wanted::Int => text.parse::<i64>().is_ok(),
        _ => text.parse::<f64>().is_ok_and(f64::is_finite),
    };
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits && digits.len() > 1 && digits.starts_with('0') {
        let plain = digits.trim_start_matches('0');
        let plain = if plain.is_empty() { "0" } else { plain };
        return Some(format!("write {sign}{plain} without the leading zero (or 0o{plain} for an octal number)"));
    }
    if parses(text) {
        return Some(format!("write {text} without quotes"));
    }
    if let Ok(value) = text.parse::<f64>()
        && wanted == Wanted::Int
        && value.fract() == 0.0
        && value.abs() < 1e15
    {
        return Some(format!("write {} without quotes", value as i64));
    }
    for (mark, name) in [('_', "underscores"), (',', "commas"), ('\'', "apostrophes"), (' ', "blanks")] {
        let thousands = text.split(mark).skip(1).all(|part| part.len() == 3 || mark == '_');
        let plain = text.replace(mark, "");
        if text.contains(mark) && thousands && parses(&plain) {
            return Some(format!("write {plain} without the {name}"));
        }
    }
    let point = text.replace(',', ".");
    if text.matches(',').count() == 1 && parses(&point) {
        return Some(format!("write {point}, with a point"));
    }
    let minus = text.replace(['\u{2212}', '\u{2013}'], "-");
    if minus != text && parses(&minus) {
        return Some(format!("write {minus} with a hyphen for the minus"));
    }
    if let Some(percent) = text.strip_suffix('%').and_then(|part| part.trim().parse::<f64>().ok()) {
        return (wanted == Wanted::Float).then(|| format!("write {}", percent / 100.0));
    }
    if text.contains(':') && text.split(':').all(|part| part.parse::<u32>().is_ok()) {
        let seconds = text
            .split(':')
            .try_fold(0u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse::<u32>().ok()?.into()))?;
        return Some(format!("write one number: in base 60, as YAML 1.1 read it, this is {seconds}"));
    }
    match text.to_ascii_lowercase().as_str() {
        "none" | "nil" | "na" | "n/a" => Some("write null for nothing, where nothing is allowed".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::Span;
    use super::*;

    #[test]
    fn what_is_nearly_right_is_told_as_it_should_be() {
        let of = |data, wanted| instead(&Node::new(Span::default(), data), wanted).unwrap_or_default();
        for (text, wanted, part) in [
            ("yes", Wanted::Bool, "write true"),
            ("Off", Wanted::Bool, "write false"),
            ("true", Wanted::Bool, "write true without quotes"),
            ("010", Wanted::Int, "write 10 without the leading zero"),
            ("-007", Wanted::Int, "write -7 without the leading zero"),
            ("1_000", Wanted::Int, "write 1000 without the underscores"),
            ("1,000,000", Wanted::Int, "write 1000000 without the commas"),
            ("7", Wanted::Int, "write 7 without quotes"),
            ("1e3", Wanted::Int, "write 1000 without quotes"),
            ("1:30", Wanted::Int, "this is 90"),
            ("0,5", Wanted::Float, "write 0.5, with a point"),
            ("50%", Wanted::Float, "write 0.5"),
            ("\u{2212}5", Wanted::Int, "write -5 with a hyphen"),
            ("None", Wanted::Int, "write null"),
            ("7\u{a0}", Wanted::Int, "a no-break space (U+00A0)"),
        ] {
            let told = of(Data::Text(text.to_owned()), wanted);
            assert!(told.contains(part), "{text}: {told}");
        }
        let float = |x: f64| Data::Number(serde_json::Number::from_f64(x).unwrap());
        assert_eq!(of(float(7.0), Wanted::Int), "write 7");
        assert_eq!(of(float(100.0), Wanted::Int), "write 100");
        assert_eq!(of(float(7.5), Wanted::Int), "");
        assert_eq!(of(float(1.0), Wanted::Bool), "write true");
        assert_eq!(of(Data::Text("many".into()), Wanted::Int), "");
    }
}
