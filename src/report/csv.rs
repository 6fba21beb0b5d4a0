//! The table as tidy CSV at full precision: one observation a line, every label in a column of its own.
//!
//! An axis with the name of one of the table's own columns, such as `n` or `test`, has the heading `axis_n`, `axis_test`.
//! Texts are [for a spreadsheet](for_a_spreadsheet).

use polars::prelude::*;

use super::table::{Cell, Comparison, Row, Test};
use super::{ReportError, Table};
use crate::text::for_a_spreadsheet;

/// The columns of [`cells`] and [`runs`] that are no axes.
const OWN: [&str; 16] = [
    "input",
    "baseline",
    "n",
    "mean",
    "standard_deviation",
    "half_width",
    "min",
    "max",
    "best",
    "tied",
    "test",
    "difference",
    "difference_half_width",
    "p",
    "p_holm",
    "value",
];

/// One line a cell of the table: its labels, statistics, and test against the best of its column.
pub fn cells(table: &Table) -> Result<String, ReportError> {
    let lines: Vec<Line> = lines(table).collect();
    let compared = |line: &Line, field: fn(&Comparison) -> f64| line.cell.comparison.as_ref().map(field);
    let mut columns = labels(table, &lines);
    columns.extend([
        column("input", &lines, |line| safe(line.cell.input.as_deref())),
        column("baseline", &lines, |line| line.row.baseline),
        column("n", &lines, |line| line.cell.n as u64),
        column("mean", &lines, |line| line.cell.mean),
        column("standard_deviation", &lines, |line| line.cell.standard_deviation),
        column("half_width", &lines, |line| line.cell.half_width),
        column("min", &lines, |line| line.cell.min),
        column("max", &lines, |line| line.cell.max),
        column("best", &lines, |line| line.cell.best),
        column("tied", &lines, |line| line.cell.tied),
        column("test", &lines, |line| line.cell.comparison.as_ref().map(|comparison| test_name(comparison.test))),
        column("difference", &lines, |line| compared(line, |comparison| comparison.difference)),
        column("difference_half_width", &lines, |line| compared(line, |comparison| comparison.half_width)),
        column("p", &lines, |line| compared(line, |comparison| comparison.p)),
        column("p_holm", &lines, |line| compared(line, |comparison| comparison.p_holm)),
    ]);
    write(columns)
}

/// One line a run of each cell: its labels and its value, empty if that was not finite.
pub fn runs(table: &Table) -> Result<String, ReportError> {
    let lines: Vec<(Line, usize)> =
        lines(table).flat_map(|line| (0..line.cell.samples.len()).map(move |run| (line, run))).collect();
    let cells: Vec<Line> = lines.iter().map(|(line, _)| *line).collect();
    let mut columns = labels(table, &cells);
    for (level, axis) in table.over.iter().enumerate() {
        let label = |(line, run): &'_ (Line, usize)| safe(present(&line.cell.samples[*run].labels[level]));
        columns.push(column(&heading(table, axis), &lines, label));
    }
    columns.push(column("input", &cells, |line| safe(line.cell.input.as_deref())));
    columns.push(column("value", &lines, |(line, run)| line.cell.samples[*run].value));
    write(columns)
}

/// A cell with what labels it.
#[derive(Clone, Copy)]
struct Line<'a> {
    row: &'a Row,
    header: &'a super::Column,
    cell: &'a Cell,
}

fn lines(table: &Table) -> impl Iterator<Item = Line<'_>> {
    table
        .rows
        .iter()
        .flat_map(|row| table.columns.iter().zip(&row.cells).map(move |(header, cell)| Line { row, header, cell }))
}

fn labels(table: &Table, lines: &[Line]) -> Vec<Column> {
    let rows = table.row_axes.iter().enumerate();
    let columns = table.column_axes.iter().enumerate();
    rows.map(|(level, axis)| column(&heading(table, axis), lines, |line| safe(present(&line.row.labels[level]))))
        .chain(
            columns.map(|(level, axis)| {
                column(&heading(table, axis), lines, |line| safe(Some(&line.header.labels[level])))
            }),
        )
        .collect()
}

/// The heading of an axis: its name, unless another column has that.
fn heading(table: &Table, axis: &str) -> String {
    let axes = || table.row_axes.iter().chain(&table.column_axes).chain(&table.over);
    let mut name = axis.to_owned();
    while OWN.contains(&name.as_str()) || name != axis && axes().any(|other| *other == name) {
        name.insert_str(0, "axis_");
    }
    for_a_spreadsheet(&name).into_owned()
}

fn safe(label: Option<&str>) -> Option<String> {
    label.map(|label| for_a_spreadsheet(label).into_owned())
}

/// A label, or nothing where the axis is absent.
fn present(label: &str) -> Option<&str> {
    Some(label).filter(|label| !label.is_empty())
}

fn column<'a, L, T, P: ?Sized>(name: &str, lines: &'a [L], value: impl Fn(&'a L) -> T) -> Column
where
    Series: NamedFrom<Vec<T>, P>,
{
    Column::new(name.into(), lines.iter().map(value).collect::<Vec<T>>())
}

fn write(columns: Vec<Column>) -> Result<String, ReportError> {
    let mut bytes = Vec::new();
    CsvWriter::new(&mut bytes).finish(&mut DataFrame::new_infer_height(columns)?)?;
    String::from_utf8(bytes).map_err(|error| PolarsError::ComputeError(error.to_string().into()).into())
}

fn test_name(test: Test) -> &'static str {
    match test {
        Test::PairedT => "paired_t",
        Test::WelchT => "welch_t",
    }
}
