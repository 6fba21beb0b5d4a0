//! The table as JSON, from which every other format can be rendered.

use serde::de::Error;

use super::config::MAX_DIGITS;
use super::{ReportError, Table};

/// The table at full precision, indented, with a final newline.
pub fn render(table: &Table) -> Result<String, ReportError> {
    Ok(serde_json::to_string_pretty(table)? + "\n")
}

impl Table {
    /// The table that [`render`] wrote. Refuses JSON of any other shape, since rendering relies on it.
    ///
    /// Without its feature `float_roundtrip`, serde_json reads about one number in ten with an error of one unit in the last place:
    /// every format that rounds is the same, CSV and JSON agree to 16 digits.
    pub fn from_json(json: &str) -> Result<Table, ReportError> {
        let table: Table = serde_json::from_str(json)?;
        if table.is_well_formed() { Ok(table) } else { Err(serde_json::Error::custom("its parts do not fit").into()) }
    }

    /// Whether the lengths of the lists agree.
    fn is_well_formed(&self) -> bool {
        let cells = || self.rows.iter().flat_map(|row| &row.cells);
        !self.column_axes.is_empty()
            && self.digits <= MAX_DIGITS
            && self.columns.iter().all(|column| column.labels.len() == self.column_axes.len())
            && self.rows.iter().all(|row| row.labels.len() == self.row_axes.len())
            && self.rows.iter().all(|row| row.cells.len() == self.columns.len())
            && cells().flat_map(|cell| &cell.samples).all(|sample| sample.labels.len() == self.over.len())
            && cells().flat_map(|cell| &cell.comparison).all(|comparison| comparison.row < self.rows.len())
    }
}
