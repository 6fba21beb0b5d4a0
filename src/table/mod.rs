//! Tables in the files of other tools: CSV as spreadsheets write it, and Parquet; columns by name, as text or as numbers.
//!
//! | module | holds |
//! | --- | --- |
//! | here | a table of either kind, and how a column is found |
//! | [`csv`] | rows of text, each with its line; `,`, `;` or a tab between the fields |
//! | [`parquet`] | columns of any type, of which only those asked for are decoded |

pub mod csv;
pub mod parquet;

use std::path::Path;

use crate::array::Matrix;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As in the file.
    pub name: String,
    pub kind: ColumnKind,
    /// Its type in words.
    pub word: String,
    /// Whether it is a pandas index: a number or name of the row, not a property of it.
    pub index: bool,
}

/// What a column can be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Texts.
    Text,
    /// Numbers, which are texts too where they are whole.
    Number,
    /// A list of numbers per row.
    List,
    /// No value in any row.
    Null,
    /// Nothing: dates, structs, lists of lists.
    Other,
}

/// An open table.
#[derive(Debug)]
pub struct Table {
    content: Content,
}

#[derive(Debug)]
enum Content {
    Text { columns: Vec<Column>, rows: Vec<csv::Row> },
    Parquet(Box<parquet::File>),
}

impl Table {
    /// Opens the table at `path`: `.parquet`, or text with a header line, `.csv` or `.tsv`.
    ///
    /// # Errors
    /// It is neither, or damaged; a line with more fields than the header.
    pub fn open(path: &Path) -> Result<Self, String> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "parquet" | "pq" => Ok(Table { content: Content::Parquet(Box::new(parquet::File::open(path)?)) }),
            "csv" | "tsv" => Self::of_rows(csv::read(path)?),
            _ => Err("expected a table whose name ends in .csv, .tsv or .parquet".to_owned()),
        }
    }

    /// The table whose first row is its header.
    ///
    /// # Errors
    /// A row with more fields than the header.
    pub fn of_rows(mut rows: Vec<csv::Row>) -> Result<Self, String> {
        rows.retain(|row| !row.is_blank());
        let mut rows = rows.into_iter();
        let names = rows.next().map(|row| row.fields).unwrap_or_default();
        let columns: Vec<Column> = names
            .into_iter()
            .map(|name| Column { name, kind: ColumnKind::Text, word: "text".to_owned(), index: false })
            .collect();
        let rows: Vec<csv::Row> = rows.collect();
        let filled = |row: &csv::Row| row.fields.iter().rposition(|field| !field.is_empty()).map_or(0, |last| last + 1);
        match rows.iter().find(|row| filled(row) > columns.len()) {
            Some(row) => Err(format!(
                "line {} has {} fields, the header {}; a value with a separator in it goes in \"quotes\"",
                row.line,
                row.fields.len(),
                columns.len()
            )),
            None => Ok(Table { content: Content::Text { columns, rows } }),
        }
    }

    /// The columns in the order of the file.
    pub fn columns(&self) -> &[Column] {
        match &self.content {
            Content::Text { columns, .. } => columns,
            Content::Parquet(file) => file.columns(),
        }
    }

    /// Where the column called `name` is: the one of exactly this name, else the only one that differs in case and in blanks
    /// around it.
    ///
    /// # Errors
    /// Two columns have the name.
    pub fn find(&self, name: &str) -> Result<Option<usize>, String> {
        find(self.columns(), name)
    }

    /// The names of the columns, in words; the first dozen of many.
    pub fn names(&self) -> String {
        names(self.columns().iter().map(|column| column.name.as_str()))
    }

    /// A column as text, `None` where it has no value: integers, and whole numbers, by their digits.
    ///
    /// # Errors
    /// A column or value that is not text, by row; a damaged file.
    pub fn texts(&self, column: usize) -> Result<Vec<Option<String>>, String> {
        match &self.content {
            Content::Text { rows, .. } => {
                let field = |row: &csv::Row| match row.fields.get(column).filter(|field| !field.is_empty()) {
                    Some(field) if field.contains('\n') => {
                        Err(format!("line {} has a value with a line break: a quote is not closed", row.line))
                    }
                    field => Ok(field.cloned()),
                };
                rows.iter().map(field).collect()
            }
            Content::Parquet(file) => file.texts(column),
        }
    }

    /// Several columns of numbers, or one column of lists, as the rows of a matrix.
    ///
    /// # Errors
    /// A row without a value, or of another length; a column that is not numeric; a damaged file.
    pub fn matrix(&self, columns: &[usize]) -> Result<Matrix, String> {
        match &self.content {
            Content::Text { .. } => {
                Err("the columns are text, expected numbers; write the table as .parquet".to_owned())
            }
            Content::Parquet(file) => file.matrix(columns),
        }
    }

    /// The line of a row in a text file, its number from 1 in Parquet.
    pub fn line(&self, row: usize) -> usize {
        match &self.content {
            Content::Text { rows, .. } => rows.get(row).map_or(0, |row| row.line),
            Content::Parquet(_) => row + 1,
        }
    }

    /// Where a row is: by its line in a text file, by its number from 0 in Parquet.
    pub fn place(&self, row: usize) -> String {
        match &self.content {
            Content::Text { .. } => format!("line {}", self.line(row)),
            Content::Parquet(_) => format!("row {row}"),
        }
    }
}

/// [`Table::find`] among `columns`.
fn find(columns: &[Column], name: &str) -> Result<Option<usize>, String> {
    let places = |same: &dyn Fn(&str) -> bool| -> Vec<usize> {
        columns.iter().enumerate().filter(|(_, column)| same(&column.name)).map(|(at, _)| at).collect()
    };
    let exact = places(&|found| found == name);
    let near = || places(&|found| found.trim().to_lowercase() == name.trim().to_lowercase());
    let found = if exact.is_empty() { near() } else { exact };
    match found[..] {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        _ => Err(format!("{} columns are called {name:?}, expected one", found.len())),
    }
}

/// Names for a message: all of a few, the first of many.
pub fn names<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 12;
    let more = all.len().saturating_sub(SHOWN);
    let shown: Vec<&str> = all.take(SHOWN).collect();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests;
