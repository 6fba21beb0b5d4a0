//! The table as one self-contained web page: the table, a plot of every run, and the distance of each row from the best.
//!
//! No scripts, fonts or external resources: the page looks the same from a disk, in a mail, or on paper.

use std::fmt::Write;

use super::caption::{row_name, run_name};
use super::markup::escape;
use super::number::{column_label, mean, number, p_value, percent, plus_minus, signed};
use super::plot;
use super::table::{Cell, MISSING, Row, Table, Test};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn render(table: &Table) -> String {
    let table = &table.shown();
    let title = escape(table.title.as_deref().unwrap_or("Comparison"));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>\n"
    );
    out += &grid(table, |_| true, |row, column| score(table, row, column));
    let best = if table.marks_best() { " <b>Bold</b>: the best mean of its column." } else { "" };
    let _ = writeln!(out, "<p class=\"caption\">{}{best}</p>", escape(&table.caption));
    if !table.footnotes.is_empty() {
        out += "<dl class=\"notes\">\n";
        for note in &table.footnotes {
            let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(&note.mark), escape(&note.text));
        }
        out += "</dl>\n";
    }
    out += &runs(table);
    if table.tests() {
        out += &distances(table);
    }
    out + "</main>\n</body>\n</html>\n"
}

/// A table of the chosen rows below the common heads, with `cell` making each `<td>`.
fn grid(table: &Table, chosen: impl Fn(&Row) -> bool, cell: impl Fn(&Row, usize) -> String) -> String {
    let mut out = String::from("<div class=\"scroll\"><table>\n<thead>\n");
    let levels = table.column_axes.len();
    let all: Vec<usize> = (0..table.columns.len()).collect();
    for level in 0..levels {
        out += "<tr>";
        let innermost = level + 1 == levels;
        for axis in &table.row_axes {
            let axis = if innermost {
                format!("<th class=\"stub\" scope=\"col\">{}</th>", escape(axis))
            } else {
                "<td></td>".into()
            };
            out += &axis;
        }
        let same = |a: usize, b: usize| table.columns[a].labels[..=level] == table.columns[b].labels[..=level];
        for span in all.chunk_by(|&a, &b| !innermost && same(a, b)) {
            let label = escape(&column_label(table, &table.columns[span[0]], level));
            let class = class(&[(!innermost, "group"), (starts_group(table, span[0]), "start")]);
            let scope = if innermost {
                "scope=\"col\"".to_owned()
            } else {
                format!("scope=\"colgroup\" colspan=\"{}\"", span.len())
            };
            let _ = write!(out, "<th{class} {scope}><span>{label}</span></th>");
        }
        out += "</tr>\n";
    }
    out += "</thead>\n<tbody>\n";
    let rows: Vec<&Row> = table.rows.iter().filter(|row| chosen(row)).collect();
    for (index, row) in rows.iter().enumerate() {
        let ends_baselines = row.baseline && rows.get(index + 1).is_some_and(|next| !next.baseline);
        let _ = write!(out, "<tr{}>", class(&[(row.baseline, "baseline"), (ends_baselines, "last")]));
        for label in &row.labels {
            let _ = write!(out, "<th class=\"stub\" scope=\"row\">{}</th>", escape(label));
        }
        for column in 0..table.columns.len() {
            out += &cell(row, column);
        }
        out += "</tr>\n";
    }
    out + "</tbody>\n</table></div>\n"
}

fn score(table: &Table, row: &Row, column: usize) -> String {
    let (cell, metric) = (&row.cells[column], table.columns[column].metric.as_str());
    let class = class(&[(cell.best, "best"), (cell.tied, "tied"), (starts_group(table, column), "start")]);
    let tip = tip(table, cell, metric);
    let tip = if tip.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&tip)) };
    let half = plus_minus(cell, metric, table.digits);
    let half = if half.is_empty() { half } else { format!("<span class=\"half\">{half}</span>") };
    let runs = table.odd_runs(row, cell).map(|n| format!("<small>n = {n}</small>")).unwrap_or_default();
    let number = mean(cell, metric, table.digits);
    let mark = table.mark(row, column);
    format!("<td{class}{tip}>{number}{half}<span class=\"mark\">{mark}</span>{runs}</td>")
}

/// Number of runs, spread and every value.
fn tip(table: &Table, cell: &Cell, metric: &str) -> String {
    if cell.n == 0 {
        return String::new();
    }
    let digits = table.digits + 2;
    let mut lines = vec![format!("n = {}", cell.n)];
    if let Some(deviation) = cell.standard_deviation {
        lines.push(format!("standard deviation {}", number(deviation, metric, digits)));
    }
    for sample in &cell.samples {
        let value = sample.value.map_or("not finite".to_owned(), |value| number(value, metric, digits));
        lines.push(format!("{}: {value}", run_name(&table.over, &sample.labels)));
    }
    lines.join("\n")
}

fn runs(table: &Table) -> String {
    let level = percent(table.interval);
    let mut legend = vec!["<span class=\"key\">●</span> mean".to_owned()];
    if table.marks_best() {
        legend = vec!["<span class=\"key best\">●</span> best mean".to_owned()];
        if table.tests() {
            legend.push("<span class=\"key best\">○</span> not separable from it".to_owned());
        }
        legend.push("<span class=\"key\">●</span> other means".to_owned());
    }
    if table.runs >= 2 {
        legend.push(format!("<span class=\"key\">━</span> {level} interval"));
        legend.push("<span class=\"key small\">●</span> one run".to_owned());
    }
    if table.rows.iter().any(|row| row.baseline) {
        legend.push("<span class=\"key base\">┆</span> baseline, ◂ ▸ if out of range".to_owned());
    }
    format!(
        "<section>\n<h2>Every run</h2>\n<p class=\"legend\">{}</p>\n{}</section>\n",
        legend.join("<span class=\"sep\"></span>"),
        plot::figures(table)
    )
}

fn distances(table: &Table) -> String {
    let level = percent(table.interval);
    let grid = grid(
        table,
        |row| !row.baseline,
        |row, column| {
            let (cell, metric) = (&row.cells[column], table.columns[column].metric.as_str());
            let start = starts_group(table, column);
            let Some(comparison) = cell.comparison.as_ref().filter(|_| !cell.best) else {
                let text = if cell.best { "best" } else { MISSING };
                return format!(
                    "<td{}>{text}<span class=\"mark\"></span></td>",
                    class(&[(cell.best, "best"), (start, "start")])
                );
            };
            let test = match comparison.test {
                Test::PairedT => "paired t-test",
                Test::WelchT => "Welch's t-test",
            };
            let tip = format!(
                "against {}\n{test}, {:.3} degrees of freedom\n{} uncorrected",
                row_name(&table.rows[comparison.row].labels),
                comparison.degrees_of_freedom,
                p_value(comparison.p)
            );
            format!(
                "<td{} title=\"{}\">{}<span class=\"half\"> ± {}</span><span class=\"mark\">{}</span><small>{}</small></td>",
                class(&[(start, "start")]),
                escape(&tip),
                signed(comparison.difference, metric, table.digits),
                number(comparison.half_width, metric, table.digits),
                table.mark(row, column),
                p_value(comparison.p_holm)
            )
        },
    );
    format!(
        "<section>\n<h2>Distance from the best</h2>\n{grid}<p class=\"caption\">Mean difference from the best row of the \
         column over the runs that were tested ± half-width of its {level} t-interval, which is not corrected; p is, \
         after Holm, over the comparisons of the column.</p>\n</section>\n"
    )
}

/// Whether a gap without a rule separates `column` from the one before it.
fn starts_group(table: &Table, column: usize) -> bool {
    let outer = table.column_axes.len() - 1;
    outer > 0 && column > 0 && table.columns[column].labels[0] != table.columns[column - 1].labels[0]
}

/// A class attribute of the names that apply, or nothing.
fn class(names: &[(bool, &str)]) -> String {
    let names: Vec<&str> = names.iter().filter(|(applies, _)| *applies).map(|(_, name)| *name).collect();
    if names.is_empty() { String::new() } else { format!(" class=\"{}\"", names.join(" ")) }
}
