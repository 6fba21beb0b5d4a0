//! From records to a table: find each value its cell, aggregate the cells in polars, compare the rows.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::*;

use super::table::{Cell, Row, Sample};
use super::{Best, Config, METRIC, Record, Records, ReportError, Table, caption, compare};
use crate::eval::statistics;

/// The table that `config` asks for.
///
/// A record that lacks an axis of the rows, such as raw pixels, which have no loss, becomes a baseline row named after
/// its input. Refuses whatever would mix unlike values in one cell: see [`ReportError`].
pub fn build(config: &Config, records: &Records) -> Result<Table, ReportError> {
    let problems = config.check();
    if !problems.is_empty() {
        return Err(ReportError::Config { problems });
    }
    if records.records.iter().all(|record| record.values().next().is_none()) {
        return Err(ReportError::NoRecords);
    }
    check_axes(config, records)?;
    let layout = Layout::new(config, records)?;
    let mut rows = layout.aggregate(config.interval)?;
    let columns = layout.columns(config);
    if config.best == Best::Bold {
        compare::mark_best(&mut rows, &columns, config.interval);
    }
    let mut table = Table {
        title: config.title.clone(),
        row_axes: config.rows.clone(),
        column_axes: layout.column_axes,
        over: config.over.clone(),
        interval: config.interval,
        digits: config.digits,
        runs: rows.iter().filter(|row| !row.baseline).flat_map(|row| &row.cells).map(|cell| cell.n).max().unwrap_or(1),
        columns,
        rows,
        caption: String::new(),
        footnotes: Vec::new(),
    };
    table.caption = caption::caption(&table);
    table.footnotes = caption::footnotes(&table);
    Ok(table)
}

/// Every axis that the configuration names exists, and every one that exists has a place.
fn check_axes(config: &Config, records: &Records) -> Result<(), ReportError> {
    let fields = [("rows", &config.rows), ("columns", &config.columns), ("over", &config.over)];
    for (field, names) in fields {
        for axis in names.iter().filter(|name| *name != METRIC) {
            if !records.axes.iter().any(|known| known.name == *axis) {
                let choices = records.axes.iter().map(|known| known.name.clone()).collect();
                return Err(ReportError::UnknownAxis { field, axis: axis.clone(), choices });
            }
        }
    }
    match records.axes.iter().find(|axis| !fields.iter().any(|(_, names)| names.contains(&axis.name))) {
        Some(axis) => Err(ReportError::UnplacedAxis { axis: axis.name.clone(), values: axis.values.clone() }),
        None => Ok(()),
    }
}

/// A label and its place among its like; labels sort by place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    place: usize,
    text: String,
}

/// What tells a row from the others, in the order of the rows: baselines first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    contender: bool,
    input: usize,
    labels: Vec<Label>,
}

type ColumnKey = Vec<Label>;
type RunKey = Vec<Label>;

/// Every value in its place. The sorted maps make the order of records immaterial.
struct Layout<'a> {
    column_axes: Vec<String>,
    rows: Vec<RowKey>,
    columns: Vec<ColumnKey>,
    /// (row, column, run) to the value and the record that it is from.
    values: BTreeMap<(usize, usize, RunKey), (f64, &'a Record)>,
}

impl<'a> Layout<'a> {
    fn new(config: &Config, records: &'a Records) -> Result<Layout<'a>, ReportError> {
        let mut column_axes = config.columns.clone();
        if !column_axes.iter().any(|axis| axis == METRIC) {
            column_axes.push(METRIC.to_owned());
        }
        let metrics = config.metrics.as_ref().unwrap_or(&records.metrics);
        if let Some(metric) = metrics.iter().find(|metric| !records.metrics.contains(metric)) {
            return Err(ReportError::UnknownMetric { metric: metric.clone(), choices: records.metrics.clone() });
        }
        let mut placed = Vec::new();
        for record in &records.records {
            let row = row_key(config, records, record);
            let run: RunKey = config.over.iter().map(|axis| label(records, record, axis).unwrap_or(ABSENT)).collect();
            for (metric, value) in record.values() {
                let Some(place) = metrics.iter().position(|shown| shown == metric) else { continue };
                let mut column: ColumnKey = Vec::new();
                for axis in &column_axes {
                    column.push(if axis == METRIC {
                        Label { place, text: metric.to_owned() }
                    } else {
                        let no_column = || ReportError::NoColumn { input: record.input.clone(), axis: axis.clone() };
                        label(records, record, axis).ok_or_else(no_column)?
                    });
                }
                placed.push((row.clone(), column, run.clone(), value, record));
            }
        }
        let rows: Vec<RowKey> = sorted(placed.iter().map(|(row, ..)| row));
        let columns: Vec<ColumnKey> = sorted(placed.iter().map(|(_, column, ..)| column));
        let mut values = BTreeMap::new();
        let mut inputs: BTreeMap<(usize, usize), &str> = BTreeMap::new();
        for (row, column, run, value, record) in placed {
            let collision = |first: &str| ReportError::Collision {
                place: texts(&row.labels)
                    .into_iter()
                    .chain(texts(&column))
                    .chain(texts(&run))
                    .collect::<Vec<_>>()
                    .join(", "),
                first: first.to_owned().min(record.input.clone()),
                second: first.to_owned().max(record.input.clone()),
            };
            let cell = (rank(&rows, &row), rank(&columns, &column));
            let input = inputs.entry(cell).or_insert(&record.input);
            if *input != record.input {
                return Err(collision(input));
            }
            if let Some((_, first)) = values.insert((cell.0, cell.1, run.clone()), (value, record)) {
                return Err(collision(&first.input));
            }
        }
        Ok(Layout { column_axes, rows, columns, values })
    }

    /// One row a value, in the order of the table; a value that is not finite is null.
    fn frame(&self) -> PolarsResult<DataFrame> {
        let rows: Vec<u32> = self.values.keys().map(|(row, ..)| *row as u32).collect();
        let columns: Vec<u32> = self.values.keys().map(|(_, column, _)| *column as u32).collect();
        let values: Vec<Option<f64>> =
            self.values.values().map(|(value, _)| Some(*value).filter(|value| value.is_finite())).collect();
        df!("row" => rows, "column" => columns, "value" => values)
    }

    /// The rows with their cells. Groups keep the order of the frame, so that sums round alike for any number of threads.
    fn aggregate(&self, interval: f64) -> Result<Vec<Row>, ReportError> {
        let value = || col("value");
        let frame = self
            .frame()?
            .lazy()
            .group_by_stable([col("row"), col("column")])
            .agg([
                len().alias("n"),
                value().null_count().alias("unfit"),
                value().mean().alias("mean"),
                value().std(1).alias("standard_deviation"),
                value().min().alias("min"),
                value().max().alias("max"),
            ])
            .collect()?;
        let mut rows: Vec<Row> = self.rows.iter().map(|key| key.row(self.columns.len())).collect();
        let integers = |name| frame.column(name)?.u32();
        let (row, column, n, unfit) = (integers("row")?, integers("column")?, integers("n")?, integers("unfit")?);
        let numbers = |name| frame.column(name)?.f64();
        let (mean, deviation) = (numbers("mean")?, numbers("standard_deviation")?);
        let (min, max) = (numbers("min")?, numbers("max")?);
        for index in 0..frame.height() {
            let (Some(row), Some(column), Some(n)) = (row.get(index), column.get(index), n.get(index)) else {
                continue;
            };
            let cell = &mut rows[row as usize].cells[column as usize];
            cell.n = n as usize;
            if unfit.get(index) == Some(0) {
                cell.mean = mean.get(index);
                cell.standard_deviation = deviation.get(index);
                cell.half_width = deviation.get(index).and_then(|sd| statistics::half_width(sd, cell.n, interval));
                cell.min = min.get(index);
                cell.max = max.get(index);
            }
        }
        for ((row, column, run), (value, record)) in &self.values {
            let cell = &mut rows[*row].cells[*column];
            cell.input = Some(record.input.clone());
            cell.remarks.extend(
                record.remarks.iter().filter(|remark| !cell.remarks.contains(remark)).cloned().collect::<Vec<_>>(),
            );
            cell.samples.push(Sample { labels: texts(run), value: Some(*value).filter(|value| value.is_finite()) });
        }
        Ok(rows)
    }

    fn columns(&self, config: &Config) -> Vec<super::Column> {
        let level = self.column_axes.iter().position(|axis| axis == METRIC).unwrap_or_default();
        let column = |key: &ColumnKey| {
            let metric = key[level].text.clone();
            super::Column { labels: texts(key), higher_is_better: config.higher_is_better(&metric), metric }
        };
        self.columns.iter().map(column).collect()
    }
}

impl RowKey {
    fn row(&self, columns: usize) -> Row {
        Row { labels: texts(&self.labels), baseline: !self.contender, cells: vec![Cell::default(); columns] }
    }
}

/// A run without an axis sorts before every run that has it.
const ABSENT: Label = Label { place: 0, text: String::new() };

fn row_key(config: &Config, records: &Records, record: &Record) -> RowKey {
    let mut labels: Vec<Option<Label>> = config.rows.iter().map(|axis| label(records, record, axis)).collect();
    let lacking = labels.iter_mut().find(|label| label.is_none());
    let contender = lacking.is_none();
    let mut input = 0;
    if let Some(name) = lacking {
        input = records.inputs.iter().position(|known| *known == record.input).unwrap_or(records.inputs.len());
        *name = Some(Label { place: 0, text: record.input.replace('_', " ") });
    }
    RowKey { contender, input, labels: labels.into_iter().map(|label| label.unwrap_or(ABSENT)).collect() }
}

/// The record's value of `axis`; values that the axis does not list come last, by name.
fn label(records: &Records, record: &Record, axis: &str) -> Option<Label> {
    let text = record.label(axis)?;
    let values = records.axes.iter().find(|known| known.name == axis).map_or(&[][..], |known| &known.values);
    let place = values.iter().position(|value| value == text).unwrap_or(values.len());
    Some(Label { place: place + 1, text: text.to_owned() })
}

fn texts(labels: &[Label]) -> Vec<String> {
    labels.iter().map(|label| label.text.clone()).collect()
}

fn sorted<'k, K: Ord + Clone + 'k>(keys: impl Iterator<Item = &'k K>) -> Vec<K> {
    keys.collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// Where `key` stands among `keys`, which are sorted and hold it.
fn rank<K: Ord>(keys: &[K], key: &K) -> usize {
    keys.partition_point(|other| other < key)
}
