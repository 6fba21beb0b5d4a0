//! Names of metrics and formats of numbers in a table.

use super::METRIC;
use super::table::{Cell, Column, MISSING, NOT_FINITE, Table};

/// The usual name of a metric: `map_at_r` is MAP@R.
pub(super) fn metric_label(metric: &str) -> String {
    match metric {
        "p1" => "P@1".into(),
        "rp" => "RP".into(),
        "map_at_r" => "MAP@R".into(),
        "seconds" => "time (s)".into(),
        "peak_bytes" => "peak memory (MiB)".into(),
        _ => match metric.strip_prefix("r@") {
            Some(k) => format!("R@{k}"),
            None => metric.replace('_', " "),
        },
    }
}

/// The heading of one level of a column; the metric's has an arrow towards the better.
pub(super) fn column_label(table: &Table, column: &Column, level: usize) -> String {
    if table.column_axes[level] == METRIC {
        format!("{} {}", metric_label(&column.metric), if column.higher_is_better { '↑' } else { '↓' })
    } else {
        column.labels[level].clone()
    }
}

/// All labels of a column as one name.
pub(super) fn column_name(table: &Table, column: &Column) -> String {
    let labels = table.column_axes.iter().zip(&column.labels);
    let names = labels.map(|(axis, label)| if axis == METRIC { metric_label(label) } else { label.clone() });
    names.collect::<Vec<_>>().join(" ")
}

/// All labels of a column but its metric.
pub(super) fn place_name(table: &Table, column: &Column) -> String {
    let labels = table.column_axes.iter().zip(&column.labels).filter(|(axis, _)| *axis != METRIC);
    labels.map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(" ")
}

/// A value of `metric` in the unit in which it is shown: MiB for bytes.
pub(super) fn in_unit(value: f64, metric: &str) -> f64 {
    if metric.ends_with("bytes") { value / (1 << 20) as f64 } else { value }
}

/// A value of `metric`: seconds to a tenth, bytes as whole MiB, all else with `digits` after the point.
pub(super) fn number(value: f64, metric: &str, digits: usize) -> String {
    let digits = match metric {
        _ if metric.ends_with("seconds") => 1,
        _ if metric.ends_with("bytes") => 0,
        _ => digits,
    };
    format!("{:.digits$}", in_unit(value, metric))
}

/// The same with its sign, for differences.
pub(super) fn signed(value: f64, metric: &str, digits: usize) -> String {
    let sign = if value < 0.0 { '−' } else { '+' };
    format!("{sign}{}", number(value.abs(), metric, digits))
}

/// The mean of a cell, or the placeholder for a missing one.
pub(super) fn mean(cell: &Cell, metric: &str, digits: usize) -> String {
    match cell.mean {
        Some(mean) => number(mean, metric, digits),
        None if cell.n > 0 => NOT_FINITE.into(),
        None => MISSING.into(),
    }
}

/// ` ± ` and half the width of the interval, or nothing.
pub(super) fn plus_minus(cell: &Cell, metric: &str, digits: usize) -> String {
    cell.half_width.map(|half| format!(" ± {}", number(half, metric, digits))).unwrap_or_default()
}

/// A fraction as a percentage: 0.95 is `95 %`.
pub(super) fn percent(fraction: f64) -> String {
    // Ten digits hide that 0.57 * 100.0 is 56.99999999999999.
    format!("{} %", (fraction * 1e10).round() / 1e8)
}

/// A p value, as written in papers.
pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".into() } else { format!("p = {p:.3}") }
}
