//! A frame as Parquet, which polars, pandas, DuckDB, R and Spark read with the types of its columns.

use polars::prelude::*;

use super::ReportError;

/// The bytes of the file. Equal frames have equal bytes.
pub fn render(mut frame: DataFrame) -> Result<Vec<u8>, ReportError> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).with_compression(ParquetCompression::Snappy).finish(&mut frame)?;
    Ok(bytes)
}
