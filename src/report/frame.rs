//! The numbers of a table as frames: tidy, at full precision, every label in a column of its own.
//!
//! An axis with the name of one of the table's own columns, such as `n` or `test`, has the heading `axis_n`, `axis_test`.

use polars::prelude::*;

use super::Table;
use super::table::{Cell, Comparison, Row, Test};

/// The columns of [`cells`] and [`runs`] that are not axes.
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

/// One row per cell of the table: its labels, statistics, and test against the best of its column.
pub fn cells(table: &Table) -> PolarsResult<DataFrame> {
    let lines: Vec<Line> = lines(table).collect();
    let compared = |line: &Line, field: fn(&Comparison) -> f64| line.cell.comparison.as_ref().map(field);
    let mut columns = labels(table, &lines);
    columns.extend([
        column("input", &lines, |line| line.cell.input.as_deref()),
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
    DataFrame::new_infer_height(columns)
}

/// One row per run of each cell: its labels and its value, null if that is not finite.
pub fn runs(table: &Table) -> PolarsResult<DataFrame> {
    let lines: Vec<(Line, usize)> =
        lines(table).flat_map(|line| (0..line.cell.samples.len()).map(move |run| (line, run))).collect();
    let cells: Vec<Line> = lines.iter().map(|(line, _)| *line).collect();
    let mut columns = labels(table, &cells);
    for (level, axis) in table.over.iter().enumerate() {
        columns
            .push(column(&heading(table, axis), &lines, |(line, run)| present(&line.cell.samples[*run].labels[level])));
    }
    columns.push(column("input", &cells, |line| line.cell.input.as_deref()));
    columns.push(column("value", &lines, |(line, run)| line.cell.samples[*run].value));
    DataFrame::new_infer_height(columns)
}

/// A cell with its labels.
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
    rows.map(|(level, axis)| column(&heading(table, axis), lines, |line| present(&line.row.labels[level])))
        .chain(
            columns.map(|(level, axis)| {
                column(&heading(table, axis), lines, |line| Some(line.header.labels[level].as_str()))
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
    name
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

fn test_name(test: Test) -> &'static str {
    match test {
        Test::PairedT => "paired_t",
        Test::WelchT => "welch_t",
    }
}
