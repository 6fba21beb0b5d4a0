//! The errors of making, reading and writing a table.

use std::path::PathBuf;

use polars::error::PolarsError;

/// Why a table cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The configuration is wrong for any records.
    #[error("{}", problems.iter().map(|(path, message)| format!("{path} {message}")).collect::<Vec<_>>().join("; "))]
    Config {
        /// (path of the field, what is wrong).
        problems: Vec<(String, String)>,
    },
    /// No record has a value.
    #[error("no values to tabulate; does an input of the report have cells?")]
    NoRecords,
    /// The configuration names an axis that no record has.
    #[error("{field} names the axis `{axis}`, which no record has; there are: {}", .choices.join(", "))]
    UnknownAxis {
        /// `rows`, `columns` or `over`.
        field: &'static str,
        /// The name.
        axis: String,
        /// The axes of the records.
        choices: Vec<String>,
    },
    /// An axis of the records has no place in the table, so different things would be averaged.
    #[error(
        "the records differ by the axis `{axis}` ({}), which has no place in the table: \
         put it into `rows` or `columns` to show its values, or into `over` to average over them",
        .values.join(", ")
    )]
    UnplacedAxis {
        /// The axis.
        axis: String,
        /// Its values.
        values: Vec<String>,
    },
    /// A record has no value for an axis that heads the columns.
    #[error("a record of `{input}` has no value of `{axis}`, one of `columns`: it cannot be placed in any column")]
    NoColumn {
        /// The gathered input of the record.
        input: String,
        /// The axis that it lacks.
        axis: String,
    },
    /// The configuration names a metric that no record has.
    #[error("metrics names `{metric}`, which no record has; there are: {}", .choices.join(", "))]
    UnknownMetric {
        /// The name.
        metric: String,
        /// The metrics of the records.
        choices: Vec<String>,
    },
    /// Two values claim one place, so one would be lost or both averaged.
    #[error("`{first}` and `{second}` both give a value for {place}; gather only one of them, or rename a metric")]
    Collision {
        /// The cell of the table.
        place: String,
        /// The input of the first value.
        first: String,
        /// The input of the second.
        second: String,
    },
    /// A query failed.
    #[error("polars cannot process the values")]
    Frame(#[from] PolarsError),
    /// A stored table is malformed, or of another version.
    #[error("not a table.json that this version of meanfield can read; run the report again")]
    Json(#[from] serde_json::Error),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
