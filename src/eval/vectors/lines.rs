//! Labels in text files: one per line, or a column of a table with a header.

use std::path::Path;

use super::{LABELS, Labels, frame, is_usual};
use crate::table::{Table, csv};
use crate::text;

pub(super) fn labels(path: &Path, name: Option<&str>) -> Result<Labels, String> {
    let plain = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"));
    if plain {
        return plain_lines(&text::read_unnamed(path).map_err(|e| e.to_string())?);
    }
    let rows = csv::read(path)?;
    let header = rows.iter().find(|row| !row.is_blank()).map(|row| row.fields.as_slice()).unwrap_or_default();
    let is_header = name.is_some() || header.iter().any(|field| is_usual(field, &LABELS));
    if is_header {
        // In one column, a blank line is a row without a label.
        if let ([_], Some(blank)) = (header, inner_blank(&rows)) {
            return Err(format!("line {blank} is blank, expected a label"));
        }
        return frame::labels(&Table::of_rows(rows)?, name);
    }
    if let Some(row) = rows.iter().find(|row| row.fields.len() > 1) {
        return Err(format!(
            "line {} has {} fields, expected one: a label a line, or a header line with the name \"label\" (or another, which \
             --labels-name names); a label with a separator in it goes in \"quotes\"",
            row.line,
            row.fields.len()
        ));
    }
    match inner_blank(&rows) {
        Some(blank) => Err(format!("line {blank} is blank, expected a label")),
        None => Ok(Labels { texts: rows.into_iter().flat_map(|row| row.fields).collect(), name: None }),
    }
}

/// The line of the first blank row; those at the end are already removed.
fn inner_blank(rows: &[csv::Row]) -> Option<usize> {
    rows.iter().find(|row| row.is_blank()).map(|row| row.line)
}

fn plain_lines(text: &str) -> Result<Labels, String> {
    let text = text.trim_end();
    let lines = || text.lines().map(str::trim);
    match lines().position(str::is_empty) {
        Some(at) if !text.is_empty() => Err(format!("line {} is blank, expected a label", at + 1)),
        _ => Ok(Labels { texts: lines().map(str::to_owned).collect(), name: None }),
    }
}
