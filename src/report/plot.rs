//! Dots and intervals as inline SVG: one panel per column, one line per row, one small dot per run.
//!
//! Each panel has its own scale, since the question is which row is ahead within a column. Baselines are usually far
//! off and would compress the rest, so they are a dashed line if in range, and a note below otherwise.
//! Colours come from the style sheet of the page ([`super::html`]).

use std::fmt::Write;

use super::caption::{row_name, run_name};
use super::markup::escape;
use super::number::{column_label, in_unit, number, plus_minus};
use super::table::{Cell, Table};

/// Panels per row.
const PANELS: usize = 3;
/// Width of every drawing, so that text has the same size in all of them.
const WIDTH: f64 = 1120.0;
const GAP: f64 = 28.0;
const LINE: f64 = 28.0;
const TOP: f64 = 26.0;
/// Height of the numbers below a panel.
const TICKS: f64 = 22.0;
const NOTE: f64 = 16.0;
/// Upper bound of the mean width of a character in a row's name.
const CHARACTER: f64 = 7.0;
/// Longer names are shortened in the middle.
const NAME: usize = 44;

/// One heading and drawing for each group of columns with equal outer labels.
pub(super) fn figures(table: &Table) -> String {
    let outer = table.column_axes.len() - 1;
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let mut out = String::new();
    for group in all.chunk_by(|&a, &b| table.columns[a].labels[..outer] == table.columns[b].labels[..outer]) {
        let heading: Vec<String> =
            (0..outer).map(|level| escape(&column_label(table, &table.columns[group[0]], level))).collect();
        if !heading.is_empty() {
            let _ = writeln!(out, "<h3>{}</h3>", heading.join(" · "));
        }
        for columns in group.chunks(PANELS) {
            out += &figure(table, columns, &heading.join(" "));
        }
    }
    out
}

fn figure(table: &Table, columns: &[usize], heading: &str) -> String {
    let names: Vec<String> =
        table.rows.iter().filter(|row| !row.baseline).map(|row| shortened(&row_name(&row.labels))).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let gutter = longest as f64 * CHARACTER + 16.0;
    let baselines = table.rows.len() - names.len();
    let bottom = TOP + LINE * names.len() as f64;
    let height = bottom + TICKS + NOTE * baselines as f64;
    let width = (WIDTH - gutter) / columns.len() as f64;
    let mut svg = format!(
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" role=\"img\" \
         aria-label=\"Means, intervals and runs{}\">\n",
        if heading.is_empty() { String::new() } else { format!(", {heading}") }
    );
    for (line, name) in names.iter().enumerate() {
        let y = TOP + LINE * (line as f64 + 0.5);
        let _ = writeln!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            gutter - 12.0,
            y + 4.0,
            escape(name)
        );
    }
    for (place, &column) in columns.iter().enumerate() {
        svg += &panel(table, column, gutter + place as f64 * width, width - GAP, bottom);
    }
    svg + "</svg></div>\n"
}

fn panel(table: &Table, column: usize, left: f64, width: f64, bottom: f64) -> String {
    let header = &table.columns[column];
    let metric = header.metric.as_str();
    let title = escape(&column_label(table, header, table.column_axes.len() - 1));
    let mut svg = format!("<text class=\"title\" x=\"{left:.1}\" y=\"14\">{title}</text>\n");
    let cells = || table.rows.iter().filter(|row| !row.baseline).map(|row| &row.cells[column]);
    let Some(scale) = Scale::around(cells().flat_map(extent).map(|value| in_unit(value, metric)), left, width) else {
        return svg;
    };
    for (tick, text) in scale.ticks() {
        let x = scale.x(tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom:.1}\"/>");
        let _ = writeln!(svg, "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{text}</text>", bottom + 15.0);
    }
    let _ = writeln!(svg, "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}h{width:.1}\"/>");
    let baselines = table.rows.iter().filter(|row| row.baseline);
    for (index, row) in baselines.enumerate() {
        let Some(mean) = row.cells[column].mean else { continue };
        let value = in_unit(mean, metric);
        let (arrow, tail) = match (value < scale.low, value > scale.high) {
            (true, _) => ("◂ ", ""),
            (_, true) => ("", " ▸"),
            _ => ("┆ ", ""),
        };
        if arrow == "┆ " {
            let _ = writeln!(svg, "<path class=\"base\" d=\"M{:.1} {TOP}V{bottom:.1}\"/>", scale.x(value));
        }
        let (x, end) = if tail.is_empty() { (left, "") } else { (left + width, " end") };
        let y = bottom + TICKS + NOTE * (index as f64 + 0.6);
        let text = format!("{} {}", escape(&row_name(&row.labels)), number(mean, metric, table.digits));
        let _ = writeln!(svg, "<text class=\"note{end}\" x=\"{x:.1}\" y=\"{y:.1}\">{arrow}{text}{tail}</text>");
    }
    for (line, cell) in cells().enumerate() {
        svg += &dots(table, cell, metric, &scale, TOP + LINE * (line as f64 + 0.5));
    }
    svg
}

/// Mean and interval on the line, the runs just below it.
fn dots(table: &Table, cell: &Cell, metric: &str, scale: &Scale, y: f64) -> String {
    let class = match (cell.best, cell.tied) {
        (true, _) => "best",
        (_, true) => "tied",
        _ => "other",
    };
    let mut svg = format!("<g class=\"{class}\">");
    for sample in &cell.samples {
        let Some(value) = sample.value else { continue };
        let tip = format!("{}: {}", run_name(&table.over, &sample.labels), number(value, metric, table.digits));
        let x = scale.x(in_unit(value, metric));
        let _ = write!(
            svg,
            "<circle class=\"run\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"2.4\"><title>{}</title></circle>",
            y + 7.0,
            escape(&tip)
        );
    }
    if let Some(mean) = cell.mean {
        if let Some(half) = cell.half_width {
            let ends = [mean - half, mean + half].map(|end| scale.x(in_unit(end, metric)));
            let _ = write!(svg, "<path class=\"interval\" d=\"M{:.1} {:.1}H{:.1}\"/>", ends[0], y - 2.0, ends[1]);
        }
        let tip = number(mean, metric, table.digits) + &plus_minus(cell, metric, table.digits);
        let x = scale.x(in_unit(mean, metric));
        let _ = write!(
            svg,
            "<circle class=\"mean\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4.5\"><title>{tip}</title></circle>",
            y - 2.0
        );
    }
    svg + "</g>\n"
}

/// The values of a cell that must be visible.
fn extent(cell: &Cell) -> Vec<f64> {
    let ends = cell.mean.zip(cell.half_width).map(|(mean, half)| [mean - half, mean + half]);
    ends.into_iter().flatten().chain(cell.samples.iter().filter_map(|sample| sample.value)).collect()
}

/// Values to pixels.
struct Scale {
    low: f64,
    high: f64,
    left: f64,
    width: f64,
}

impl Scale {
    /// A scale with a margin around `values`; none if there are none.
    fn around(values: impl Iterator<Item = f64>, left: f64, width: f64) -> Option<Scale> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        if !(low.is_finite() && high.is_finite()) {
            return None;
        }
        let air = if high > low { (high - low) * 0.06 } else { (low.abs() * 0.05).max(0.01) };
        Some(Scale { low: low - air, high: high + air, left, width })
    }

    fn x(&self, value: f64) -> f64 {
        self.left + (value - self.low) / (self.high - self.low) * self.width
    }

    /// Round values in range, two to six of them, with the digits that they need.
    fn ticks(&self) -> Vec<(f64, String)> {
        let rough = (self.high - self.low) / 5.5;
        let power = rough.log10().floor() as i32;
        let (factor, extra) = [(1.0, 0), (2.0, 0), (2.5, 1), (5.0, 0)]
            .into_iter()
            .find(|(factor, _)| factor * 10f64.powi(power) >= rough)
            .unwrap_or((10.0, -1));
        let step = factor * 10f64.powi(power);
        let digits = (extra - power).max(0) as usize;
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|index| (index as f64 * step, format!("{:.digits$}", index as f64 * step))).collect()
    }
}

fn shortened(name: &str) -> String {
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= NAME {
        return name.to_owned();
    }
    let half = (NAME - 1) / 2;
    let (head, tail) = (&characters[..half], &characters[characters.len() - half..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let texts = |low, high| {
            let scale = Scale { low, high, left: 0.0, width: 100.0 };
            scale.ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(0.553, 0.688), "0.575 0.600 0.625 0.650 0.675");
        assert_eq!(texts(-0.001, 0.011), "0.0000 0.0025 0.0050 0.0075 0.0100");
        assert_eq!(texts(103.0, 870.0), "200 400 600 800");
    }

    #[test]
    fn a_single_value_has_a_scale_and_none_has_not() {
        let scale = Scale::around([0.5].into_iter(), 10.0, 200.0).unwrap();
        assert!((scale.x(0.5) - 110.0).abs() < 1e-9);
        assert!(Scale::around([].into_iter(), 0.0, 200.0).is_none());
    }

    #[test]
    fn long_names_keep_both_ends() {
        let name = "a".repeat(40) + &"b".repeat(40);
        let short = shortened(&name);
        assert_eq!(short, "a".repeat(21) + "…" + &"b".repeat(21));
        assert_eq!(shortened("proxy_anchor"), "proxy_anchor");
    }
}
