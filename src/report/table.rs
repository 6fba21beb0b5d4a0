//! A finished comparison table: every number, test and footnote, ready to be rendered in any format.

use serde::{Deserialize, Serialize};

use crate::text::escaped;

/// A comparison table. Its JSON form is `table.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The heading, if one was given.
    pub title: Option<String>,
    /// Axes whose values are the labels of a row.
    pub row_axes: Vec<String>,
    /// Axes whose values are the labels of a column, outermost first; `metric` is one of them.
    pub column_axes: Vec<String>,
    /// Axes over which a cell is averaged.
    pub over: Vec<String>,
    /// Probability with which an interval covers the true mean.
    pub interval: f64,
    /// Digits after the decimal point at which scores are shown.
    pub digits: usize,
    /// The usual number of runs per cell.
    pub runs: usize,
    /// The columns, left to right.
    pub columns: Vec<Column>,
    /// The rows, top to bottom, baselines first.
    pub rows: Vec<Row>,
    /// What the numbers are.
    pub caption: String,
    /// The meaning of the marks, and what is missing.
    pub footnotes: Vec<Footnote>,
}

/// One column: one metric under one value of each axis of [`Table::column_axes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// One for each of [`Table::column_axes`].
    pub labels: Vec<String>,
    /// The metric among the labels.
    pub metric: String,
    /// Whether more of it is better.
    pub higher_is_better: bool,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// One for each of [`Table::row_axes`]; a baseline has the name of its input in place of the first that it lacks.
    pub labels: Vec<String>,
    /// Whether it lacks an axis of the rows: a reference that is not compared.
    pub baseline: bool,
    /// One per column.
    pub cells: Vec<Cell>,
}

/// All runs of one row under one column. The statistics are absent unless every run gave a finite number.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// The gathered input that the values are from; none if there are no values.
    pub input: Option<String>,
    /// Number of runs.
    pub n: usize,
    /// Their arithmetic mean.
    pub mean: Option<f64>,
    /// Unbiased standard deviation; needs two runs.
    pub standard_deviation: Option<f64>,
    /// Half the width of the t-interval of the mean; needs two runs.
    pub half_width: Option<f64>,
    /// The least value.
    pub min: Option<f64>,
    /// The greatest value.
    pub max: Option<f64>,
    /// The best mean of its column.
    pub best: bool,
    /// Not the best, and not separable from it by the test.
    pub tied: bool,
    /// The test against the best; none for the best itself, baselines, and cells with fewer than two runs.
    pub comparison: Option<Comparison>,
    /// The values of the runs, in the order of the pipeline.
    pub samples: Vec<Sample>,
    /// Remarks on the runs, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// One run's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// One for each of [`Table::over`], empty where the run does not have the axis.
    pub labels: Vec<String>,
    /// The value; none if it was not finite.
    pub value: Option<f64>,
}

/// The test of a cell against the best of its column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Index of the row that has the best mean.
    pub row: usize,
    /// Which test.
    pub test: Test,
    /// This mean minus the best, over the runs that were tested.
    pub difference: f64,
    /// Half the width of the t-interval of `difference`, not corrected for the other comparisons.
    pub half_width: f64,
    /// Degrees of freedom of the test.
    pub degrees_of_freedom: f64,
    /// Two-sided p value.
    pub p: f64,
    /// The p value after Holm's correction over the comparisons of the column.
    pub p_holm: f64,
}

/// A test of equal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Paired over the runs that both rows share.
    PairedT,
    /// Of independent runs with unequal variances.
    WelchT,
}

/// A remark below the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footnote {
    /// What the cells that it is about carry or show.
    pub mark: String,
    /// The remark.
    pub text: String,
}

/// Mark of a cell that is not separable from the best by the test.
pub(super) const TIED: &str = "†";
/// Mark of a cell that could not be tested.
pub(super) const UNTESTED: &str = "‡";
/// Mark of a remark on the runs.
pub(super) const REMARK: &str = "§";
/// Shown in a cell without values.
pub(super) const MISSING: &str = "—";
/// Shown instead of the mean of a cell with a run without a finite value.
pub(super) const NOT_FINITE: &str = "NaN";

impl Table {
    /// The same table with control characters, bidirectional marks and line breaks in its texts replaced by escapes. Names and
    /// remarks may be from untrusted files.
    pub(super) fn shown(&self) -> Table {
        let text = |text: &String| escaped(text).into_owned();
        let texts = |all: &[String]| all.iter().map(text).collect::<Vec<_>>();
        let mut table = self.clone();
        table.title = self.title.as_ref().map(text);
        table.caption = text(&self.caption);
        for axes in [&mut table.row_axes, &mut table.column_axes, &mut table.over] {
            *axes = texts(axes);
        }
        for column in &mut table.columns {
            column.labels = texts(&column.labels);
            column.metric = text(&column.metric);
        }
        for row in &mut table.rows {
            row.labels = texts(&row.labels);
            for cell in &mut row.cells {
                cell.input = cell.input.as_ref().map(text);
                cell.samples.iter_mut().for_each(|sample| sample.labels = texts(&sample.labels));
            }
        }
        table.footnotes.iter_mut().for_each(|note| note.text = text(&note.text));
        table
    }

    /// Whether the best of each column is marked.
    pub(super) fn marks_best(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.best)
    }

    /// Whether `cell` took no part in the test although its column has a best.
    pub(super) fn is_untested(&self, row: &Row, column: usize) -> bool {
        let cell = &row.cells[column];
        let contested = self.rows.iter().any(|row| row.cells[column].best);
        contested && !row.baseline && cell.mean.is_some() && !cell.best && cell.comparison.is_none()
    }

    /// The mark after a cell's number, or nothing.
    pub(super) fn mark(&self, row: &Row, column: usize) -> &'static str {
        if row.cells[column].tied {
            TIED
        } else if self.tests() && self.is_untested(row, column) {
            UNTESTED
        } else {
            ""
        }
    }

    /// Whether any test was possible.
    pub(super) fn tests(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.comparison.is_some())
    }

    /// The number of runs of a cell if it is not the usual one.
    pub(super) fn odd_runs(&self, row: &Row, cell: &Cell) -> Option<usize> {
        let expected = if row.baseline { [1, self.runs] } else { [self.runs; 2] };
        (cell.n > 0 && !expected.contains(&cell.n)).then_some(cell.n)
    }
}
