//! The formats of a table: one row each.

use super::error::ReportError;
use super::table::Table;
use super::text::{self, Style};
use super::{csv, frame, html, json, markdown, parquet};

/// A format of tables.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Its name for `meanfield table --format`.
    pub name: &'static str,
    /// The file of a report that holds it.
    pub file: &'static str,
    /// The bytes of a table; only text for a terminal has a style.
    pub render: fn(&Table, Style) -> Result<Vec<u8>, ReportError>,
}

/// The format of a terminal.
pub const TEXT: Format =
    Format { name: "text", file: "table.txt", render: |table, style| Ok(text::render(table, style).into_bytes()) };
/// The format from which every other can be rendered.
pub const JSON: Format =
    Format { name: "json", file: "table.json", render: |table, _| Ok(json::render(table)?.into_bytes()) };

/// Every format.
pub const FORMATS: [Format; 7] = [
    TEXT,
    Format { name: "md", file: "table.md", render: |table, _| Ok(markdown::render(table).into_bytes()) },
    // One row per cell of the table.
    Format { name: "csv", file: "table.csv", render: |table, _| Ok(csv::render(&frame::cells(table)?)?.into_bytes()) },
    // One row per run.
    Format {
        name: "scores",
        file: "scores.csv",
        render: |table, _| Ok(csv::render(&frame::runs(table)?)?.into_bytes()),
    },
    // The same with types.
    Format { name: "parquet", file: "scores.parquet", render: |table, _| parquet::render(frame::runs(table)?) },
    JSON,
    Format { name: "html", file: "index.html", render: |table, _| Ok(html::render(table).into_bytes()) },
];

impl Format {
    /// The format of that name.
    pub fn named(name: &str) -> Option<Format> {
        FORMATS.into_iter().find(|format| format.name == name)
    }
}
