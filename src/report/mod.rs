//! Comparison tables: which loss is better, by how much, whether that is more than seed noise, and what it cost.
//!
//! [`build()`] turns measured [`Records`] into a [`Table`], a plain value that holds every number, test and footnote.
//! One file per format then only renders it, and one row of [`FORMATS`] names it. So all formats agree, and a stored
//! `table.json` is enough to render any of them again. Equal records give equal bytes: nothing here reads a clock, a host name
//! or the order of a hash map.
//!
//! The records are a polars frame with one row per value; placing, grouping, averaging and pairing the runs are queries on it.

mod build;
mod caption;
mod compare;
mod config;
pub mod csv;
mod error;
mod format;
pub mod frame;
pub mod html;
pub mod json;
pub mod markdown;
mod markup;
mod number;
pub mod parquet;
mod plot;
mod records;
mod table;
pub mod text;

use std::path::Path;

pub use build::build;
pub use config::{Best, Config, METRIC};
pub use error::ReportError;
pub use format::{FORMATS, Format, JSON, TEXT};
pub use records::{Axis, Record, Records};
pub use table::{Cell, Column, Comparison, Footnote, Row, Sample, Table, Test};

/// Writes `table` into `directory`, created if absent, in every one of [`FORMATS`].
pub fn write(table: &Table, directory: &Path) -> Result<(), ReportError> {
    let io = |path: &Path, source| ReportError::Write { path: path.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(|error| io(directory, error))?;
    for format in FORMATS {
        let path = directory.join(format.file);
        let content = (format.render)(table, text::Style::default())?;
        std::fs::write(&path, content).map_err(|error| io(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
