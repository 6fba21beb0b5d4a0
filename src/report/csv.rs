//! A frame as CSV. Texts and headings are [for a spreadsheet](for_a_spreadsheet).

use polars::prelude::*;

use super::ReportError;
use crate::text::for_a_spreadsheet;

/// The text of the file.
pub fn render(frame: &DataFrame) -> Result<String, ReportError> {
    let columns = frame.columns().iter().map(|column| {
        let mut column = match column.str() {
            Ok(texts) => {
                let safe = texts.iter().map(|text| text.map(|text| for_a_spreadsheet(text).into_owned()));
                Column::new(column.name().clone(), safe.collect::<Vec<Option<String>>>())
            }
            Err(_) => column.clone(),
        };
        column.rename(for_a_spreadsheet(column.name()).as_ref().into());
        column
    });
    let mut bytes = Vec::new();
    CsvWriter::new(&mut bytes).finish(&mut DataFrame::new_infer_height(columns.collect())?)?;
    String::from_utf8(bytes).map_err(|error| PolarsError::ComputeError(error.to_string().into()).into())
}
