//! The table as GitHub-flavoured Markdown, which has one header line and no rules between rows.

use super::number::{column_label, mean, plus_minus};
use super::table::{Row, Table};

/// The whole table with title, caption and footnotes.
pub fn render(table: &Table) -> String {
    let table = &table.shown();
    let mut out = String::new();
    if let Some(title) = &table.title {
        out += &format!("### {}\n\n", escape(title));
    }
    let heads = table.columns.iter().map(|column| {
        let labels = (0..table.column_axes.len()).map(|level| escape(&column_label(table, column, level)));
        labels.collect::<Vec<_>>().join(" · ")
    });
    line(&mut out, table.row_axes.iter().map(|axis| escape(axis)).chain(heads));
    let stub = table.row_axes.iter().map(|_| ":---".to_owned());
    line(&mut out, stub.chain(table.columns.iter().map(|_| "---:".to_owned())));
    for row in &table.rows {
        let labels = row.labels.iter().map(|label| match (row.baseline, escape(label)) {
            (true, label) if !label.is_empty() => format!("*{label}*"),
            (_, label) => label,
        });
        line(&mut out, labels.chain((0..table.columns.len()).map(|column| cell(table, row, column))));
    }
    let best = if table.marks_best() { " Bold: the best mean of its column." } else { "" };
    out += &format!("\n{}{best}\n", escape(&table.caption));
    for note in &table.footnotes {
        out += &format!("\n{} {}\n", escape(&note.mark), escape(&note.text));
    }
    out
}

fn cell(table: &Table, row: &Row, column: usize) -> String {
    let (cell, metric) = (&row.cells[column], table.columns[column].metric.as_str());
    let number = mean(cell, metric, table.digits) + &plus_minus(cell, metric, table.digits);
    let number = if cell.best { format!("**{number}**") } else { number };
    let runs = table.odd_runs(row, cell).map(|n| format!(" (n = {n})")).unwrap_or_default();
    format!("{number}{}{runs}", table.mark(row, column))
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    *out += &format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
}

/// Text escaped for Markdown and HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '$' => out.extend(['\\', character]),
            _ => out.push(character),
        }
    }
    out
}
