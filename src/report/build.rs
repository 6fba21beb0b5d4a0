//! From records to a table: a query places each value in its cell, one aggregates the cells, and the rows are compared.

use polars::prelude::*;

use super::compare::run;
use super::records::axis_column;
use super::table::{Cell, Row, Sample};
use super::{Best, Config, METRIC, Records, ReportError, Table, caption, compare};
use crate::eval::statistics;

/// The table that `config` asks for.
///
/// A record that lacks an axis of the rows, such as raw pixels, which have no loss, becomes a baseline row named after its
/// input. Refuses whatever would mix unlike values in one cell: see [`ReportError`].
pub fn build(config: &Config, records: &Records) -> Result<Table, ReportError> {
    let problems = config.check();
    if !problems.is_empty() {
        return Err(ReportError::Config { problems });
    }
    if records.metrics.is_empty() {
        return Err(ReportError::NoRecords);
    }
    check_axes(config, records)?;
    let layout = Layout::new(config, records)?;
    let mut rows = layout.rows(records, config.interval)?;
    if config.best == Best::Bold {
        compare::mark_best(&mut rows, &layout.columns, &layout.values, config.over.len(), config.interval)?;
    }
    let mut table = Table {
        title: config.title.clone(),
        row_axes: config.rows.clone(),
        column_axes: layout.column_axes,
        over: config.over.clone(),
        interval: config.interval,
        digits: config.digits,
        runs: rows.iter().filter(|row| !row.baseline).flat_map(|row| &row.cells).map(|cell| cell.n).max().unwrap_or(1),
        columns: layout.columns,
        rows,
        caption: String::new(),
        footnotes: Vec::new(),
    };
    table.caption = caption::caption(&table);
    table.footnotes = caption::footnotes(&table);
    Ok(table)
}

/// Every axis that the configuration names exists, and every existing axis has a place.
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

/// Every value in its place.
struct Layout {
    column_axes: Vec<String>,
    /// (labels, whether it is a baseline), in order.
    rows: Vec<(Vec<String>, bool)>,
    columns: Vec<super::Column>,
    /// One row per value, sorted by row, column and run: `record`, `input`, `row` and `column` (indices), the labels of the run
    /// ([`run`]), and `value`, null if it is not finite. This order does not depend on that of the records, and sums
    /// round the same way on any number of threads.
    values: DataFrame,
}

/// The column of a row's label on the level of one axis, and of that label's place in the order of the axis.
fn row(level: usize) -> [String; 2] {
    [format!("row {level}"), format!("row {level} place")]
}

/// The same for the columns of the table.
fn head(level: usize) -> [String; 2] {
    [format!("head {level}"), format!("head {level} place")]
}

/// The names of the columns of `levels` levels: of the labels, and of their places.
fn names(level: fn(usize) -> [String; 2], levels: usize) -> [Vec<String>; 2] {
    let all: Vec<[String; 2]> = (0..levels).map(level).collect();
    [0, 1].map(|index| all.iter().map(|names| names[index].clone()).collect())
}

fn cols(names: &[String]) -> Vec<Expr> {
    names.iter().map(|name| col(name.as_str())).collect()
}

impl Layout {
    fn new(config: &Config, records: &Records) -> Result<Layout, ReportError> {
        let mut column_axes = config.columns.clone();
        if !column_axes.iter().any(|axis| axis == METRIC) {
            column_axes.push(METRIC.to_owned());
        }
        let metrics = config.metrics.as_ref().unwrap_or(&records.metrics);
        if let Some(metric) = metrics.iter().find(|metric| !records.metrics.contains(metric)) {
            return Err(ReportError::UnknownMetric { metric: metric.clone(), choices: records.metrics.clone() });
        }
        let labelled = labelled(config, &column_axes, metrics, records)?;
        refuse_lacking_columns(&labelled, &column_axes)?;
        let [row_texts, row_places] = names(row, config.rows.len());
        let [head_texts, head_places] = names(head, column_axes.len());
        let [run_texts, run_places] = names(run, config.over.len());
        let row_keys = [&["contender".to_owned(), "baseline place".to_owned()], &row_places[..]].concat();
        // A baseline is named after its input, so its place among the labels is not all of its key.
        let rows = index(&labelled, &row_keys, &row_texts, "row")?;
        let heads = index(&labelled, &head_places, &head_texts, "column")?;
        let run_columns = || cols(&run_texts).into_iter().chain(cols(&run_places));
        let finite = when(col("value").is_finite()).then(col("value")).otherwise(lit(NULL));
        let sorted: Vec<Expr> = [col("row"), col("column")].into_iter().chain(cols(&run_places)).collect();
        let values = labelled
            .lazy()
            .join(rows.clone().lazy(), cols(&row_keys), cols(&row_keys), JoinArgs::new(JoinType::Left))
            .join(heads.clone().lazy(), cols(&head_places), cols(&head_places), JoinArgs::new(JoinType::Left))
            .select(
                ["id", "record", "input", "row", "column"]
                    .map(col)
                    .into_iter()
                    .chain(run_columns())
                    .chain([finite.alias("value")])
                    .collect::<Vec<_>>(),
            )
            .sort_by_exprs(sorted, SortMultipleOptions::default().with_maintain_order(true))
            .collect()?;
        let labels = |frame: &DataFrame, names: &[String]| -> PolarsResult<Vec<Vec<String>>> {
            (0..frame.height()).map(|at| names.iter().map(|name| text(frame, name, at)).collect()).collect()
        };
        let contender = rows.column("contender")?.bool()?;
        let row_labels = labels(&rows, &row_texts)?;
        let rows = row_labels.into_iter().zip(contender.iter()).map(|(labels, c)| (labels, c == Some(false))).collect();
        let level = column_axes.iter().position(|axis| axis == METRIC).unwrap_or_default();
        let columns = labels(&heads, &head_texts)?.into_iter().map(|labels| {
            let metric = labels[level].clone();
            super::Column { higher_is_better: config.higher_is_better(&metric), metric, labels }
        });
        let layout = Layout { column_axes, rows, columns: columns.collect(), values };
        layout.refuse_collisions(&run_texts, &run_places)?;
        Ok(layout)
    }

    /// Refuses two values for one run of a cell, and values of two inputs in one cell. Reports the first of the records.
    fn refuse_collisions(&self, run_texts: &[String], run_places: &[String]) -> Result<(), ReportError> {
        let cell = [col("row"), col("column")];
        let place: Vec<Expr> = cell.iter().cloned().chain(cols(run_places)).collect();
        let first_of =
            |name: &str, by: &[Expr]| col(name).sort_by([col("id")], SortMultipleOptions::default()).first().over(by);
        let found = self
            .values
            .clone()
            .lazy()
            .with_columns([first_of("input", &cell)?.alias("other"), first_of("id", &place)?.alias("first")])
            .filter(col("input").neq(col("other")).or(col("id").neq(col("first"))))
            .sort(["id"], SortMultipleOptions::default())
            .collect()?;
        if found.height() == 0 {
            return Ok(());
        }
        let index = |name: &str| PolarsResult::Ok(found.column(name)?.u32()?.get(0).unwrap_or_default() as usize);
        let (row, column) = (&self.rows[index("row")?].0, &self.columns[index("column")?].labels);
        let run = run_texts.iter().map(|name| text(&found, name, 0)).collect::<PolarsResult<Vec<_>>>()?;
        let (input, other) = (text(&found, "input", 0)?, text(&found, "other", 0)?);
        Err(ReportError::Collision {
            place: [row, column, &run[..]].concat().join(", "),
            first: input.clone().min(other.clone()),
            second: input.max(other),
        })
    }

    /// The rows with their cells.
    fn rows(&self, records: &Records, interval: f64) -> Result<Vec<Row>, ReportError> {
        let value = || col("value");
        let cells = self
            .values
            .clone()
            .lazy()
            .group_by_stable([col("row"), col("column")])
            .agg([
                len().alias("n"),
                value().null_count().alias("not finite"),
                value().mean().alias("mean"),
                value().std(1).alias("standard_deviation"),
                value().min().alias("min"),
                value().max().alias("max"),
            ])
            .collect()?;
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .map(|(labels, baseline)| {
                let cells = vec![Cell::default(); self.columns.len()];
                Row { labels: labels.clone(), baseline: *baseline, cells }
            })
            .collect();
        let integers = |name| cells.column(name)?.u32();
        let (row, column, n, not_finite) =
            (integers("row")?, integers("column")?, integers("n")?, integers("not finite")?);
        let numbers = |name| cells.column(name)?.f64();
        let (mean, deviation) = (numbers("mean")?, numbers("standard_deviation")?);
        let (min, max) = (numbers("min")?, numbers("max")?);
        for at in 0..cells.height() {
            let (Some(row), Some(column), Some(n)) = (row.get(at), column.get(at), n.get(at)) else { continue };
            let cell = &mut rows[row as usize].cells[column as usize];
            cell.n = n as usize;
            if not_finite.get(at) == Some(0) {
                cell.mean = mean.get(at);
                cell.standard_deviation = deviation.get(at);
                cell.half_width = deviation.get(at).and_then(|sd| statistics::half_width(sd, cell.n, interval));
                cell.min = min.get(at);
                cell.max = max.get(at);
            }
        }
        self.add_samples(&mut rows, records)?;
        Ok(rows)
    }

    /// Puts the values of the runs and their remarks into the cells.
    fn add_samples(&self, rows: &mut [Row], records: &Records) -> PolarsResult<()> {
        let integers = |name| self.values.column(name)?.u32();
        let (row, column, record) = (integers("row")?, integers("column")?, integers("record")?);
        let value = self.values.column("value")?.f64()?;
        let runs: Vec<String> =
            (0..).map(|level| run(level)[0].clone()).take_while(|name| self.values.column(name).is_ok()).collect();
        for at in 0..self.values.height() {
            let (Some(row), Some(column), Some(record)) = (row.get(at), column.get(at), record.get(at)) else {
                continue;
            };
            let cell = &mut rows[row as usize].cells[column as usize];
            cell.input = Some(text(&self.values, "input", at)?);
            for remark in &records.remarks[record as usize] {
                if !cell.remarks.contains(remark) {
                    cell.remarks.push(remark.clone());
                }
            }
            let labels = runs.iter().map(|name| text(&self.values, name, at)).collect::<PolarsResult<_>>()?;
            cell.samples.push(Sample { labels, value: value.get(at) });
        }
        Ok(())
    }
}

/// The values of the wanted metrics with a label and a place for each level of rows, columns and runs; `contender`,
/// whether a row is not a baseline; `baseline place`, the order of the baselines; and `id`, the number of the value.
fn labelled(config: &Config, column_axes: &[String], metrics: &[String], records: &Records) -> PolarsResult<DataFrame> {
    let on = |name: &str| ([col(name)], [col(name)]);
    let mut frame = records.frame.clone().lazy().with_row_index("id", None);
    let (left, right) = on(METRIC);
    frame = frame.join(order(METRIC, metrics)?, left, right, JoinArgs::new(JoinType::Inner));
    let (left, right) = on("input");
    frame = frame.join(order("input", &records.inputs)?, left, right, JoinArgs::new(JoinType::Left));
    for axis in &records.axes {
        let name = axis_column(&axis.name);
        let (left, right) = on(&name);
        frame = frame.join(order(&name, &axis.values)?, left, right, JoinArgs::new(JoinType::Left));
    }
    let column = |axis: &str| if axis == METRIC { METRIC.to_owned() } else { axis_column(axis) };
    let label = |axis: &str| col(column(axis));
    let place = |axis: &str| col(format!("{} place", column(axis)));
    // A baseline lacks an axis of the rows; its input takes the place of the first.
    let mut contender = lit(true);
    let mut levels = Vec::new();
    for (level, axis) in config.rows.iter().enumerate() {
        let named = contender.clone().and(label(axis).is_null());
        let [text, at] = row(level);
        levels.push(when(named.clone()).then(col("input name")).otherwise(label(axis).fill_null(lit(""))).alias(text));
        levels.push(when(named).then(lit(0u32)).otherwise(place(axis).fill_null(lit(0u32))).alias(at));
        contender = contender.and(label(axis).is_not_null());
    }
    for (level, axis) in column_axes.iter().enumerate() {
        let [text, at] = head(level);
        levels.extend([label(axis).alias(text), place(axis).alias(at)]);
    }
    for (level, axis) in config.over.iter().enumerate() {
        let [text, at] = run(level);
        levels.extend([label(axis).fill_null(lit("")).alias(text), place(axis).fill_null(lit(0u32)).alias(at)]);
    }
    levels.push(when(contender.clone()).then(lit(0u32)).otherwise(col("input place")).alias("baseline place"));
    levels.push(contender.alias("contender"));
    frame.with_columns(levels).sort(["id"], SortMultipleOptions::default()).collect()
}

/// The place of each value in the order in which it is shown, from 1, as `<name> place`; of an input also its name as a label.
fn order(name: &str, values: &[String]) -> PolarsResult<LazyFrame> {
    let mut columns = vec![
        Column::new(name.into(), values),
        Column::new(format!("{name} place").into(), (1..=values.len() as u32).collect::<Vec<_>>()),
    ];
    if name == "input" {
        let names: Vec<String> = values.iter().map(|value| value.replace('_', " ")).collect();
        columns.push(Column::new("input name".into(), names));
    }
    Ok(DataFrame::new_infer_height(columns)?.lazy())
}

/// Refuses values without a label for a column.
fn refuse_lacking_columns(labelled: &DataFrame, column_axes: &[String]) -> Result<(), ReportError> {
    let [texts, _] = names(head, column_axes.len());
    let lacks = texts.iter().fold(lit(false), |lacks, text| lacks.or(col(text.as_str()).is_null()));
    let found = labelled.clone().lazy().filter(lacks).collect()?;
    for (axis, text_column) in column_axes.iter().zip(&texts) {
        if found.height() > 0 && found.column(text_column)?.str()?.get(0).is_none() {
            return Err(ReportError::NoColumn { input: text(&found, "input", 0)?, axis: axis.clone() });
        }
    }
    Ok(())
}

/// The distinct `keys`, sorted, with their `labels` and their `index`.
fn index(frame: &DataFrame, keys: &[String], labels: &[String], index: &str) -> PolarsResult<DataFrame> {
    frame
        .clone()
        .lazy()
        .group_by(cols(keys))
        .agg(labels.iter().map(|label| col(label.as_str()).first()).collect::<Vec<_>>())
        .sort_by_exprs(cols(keys), SortMultipleOptions::default())
        .with_row_index(index, None)
        .collect()
}

/// A text of a frame; empty if it is null.
fn text(frame: &DataFrame, name: &str, at: usize) -> PolarsResult<String> {
    Ok(frame.column(name)?.str()?.get(at).unwrap_or_default().to_owned())
}
