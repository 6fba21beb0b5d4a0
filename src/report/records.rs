//! The measured values of a table as they are gathered: a frame with one row per value.

use polars::prelude::*;

use super::ReportError;

/// What one cell of a pipeline measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Name of the gathered input, such as `scores` or `raw_pixels`.
    pub input: String,
    /// (axis, value); an axis that the cell does not have is absent.
    pub labels: Vec<(String, String)>,
    /// (metric, value); a value that is not finite is a failed run, and is reported as such.
    pub metrics: Vec<(String, f64)>,
    /// Remarks for the reader of the table, each half a sentence: "selected on the test split by its best MAP@R epoch". They
    /// become footnotes.
    pub remarks: Vec<String>,
}

/// One axis and its values, in the order in which they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// Such as `loss`.
    pub name: String,
    /// Such as `contrastive`, `proxy_anchor`.
    pub values: Vec<String>,
}

/// Everything that was gathered for a table, with the orders in which to show it.
///
/// The orders, not the order of the frame, decide what a table looks like.
#[derive(Debug, Clone)]
pub struct Records {
    /// Names of the gathered inputs.
    pub(super) inputs: Vec<String>,
    /// Every axis of every record, outermost first, with all its values.
    pub(super) axes: Vec<Axis>,
    /// Every metric of every record.
    pub(super) metrics: Vec<String>,
    /// One row per value: `record` (u32), `input`, a text per axis ([`axis_column`], null without the axis), `metric`, `value`.
    /// A record without values has one row without a metric.
    pub(super) frame: DataFrame,
    /// The remarks of each record.
    pub(super) remarks: Vec<Vec<String>>,
}

/// The column of an axis in [`Records::frame`]: a name that no other column has.
pub(super) fn axis_column(axis: &str) -> String {
    format!("axis {axis}")
}

impl Records {
    /// Gathers records. Inputs, axes, axis values and metrics are shown in the order in which they first appear, and costs after
    /// every score.
    pub fn new(records: &[Record]) -> Result<Records, ReportError> {
        let (mut inputs, mut axes, mut metrics) = (Vec::new(), Vec::<Axis>::new(), Vec::new());
        for record in records {
            append_new(&mut inputs, &record.input);
            for (name, value) in &record.labels {
                match axes.iter_mut().find(|axis| axis.name == *name) {
                    Some(axis) => append_new(&mut axis.values, value),
                    None => axes.push(Axis { name: name.clone(), values: vec![value.clone()] }),
                }
            }
            record.metrics.iter().for_each(|(metric, _)| append_new(&mut metrics, metric));
        }
        metrics.sort_by_key(|metric| metric == "seconds" || metric == "peak_bytes");
        // Number of the record, record, its metric and value.
        type Measured<'a> = (u32, &'a Record, Option<&'a (String, f64)>);
        let rows: Vec<Measured> = (0..)
            .zip(records)
            .flat_map(|(number, record)| {
                let values = (0..record.metrics.len().max(1)).map(|at| record.metrics.get(at));
                values.map(move |value| (number, record, value))
            })
            .collect();
        let mut columns = vec![
            column("record", rows.iter().map(|(number, ..)| *number).collect::<Vec<u32>>()),
            column("input", rows.iter().map(|(_, record, _)| record.input.as_str()).collect::<Vec<&str>>()),
        ];
        for axis in &axes {
            let labels: Vec<Option<&str>> = rows.iter().map(|(_, record, _)| record.label(&axis.name)).collect();
            columns.push(column(&axis_column(&axis.name), labels));
        }
        let metric = |value: &Option<&'_ (String, f64)>| value.map(|(metric, _)| metric.clone());
        columns.push(column("metric", rows.iter().map(|(.., value)| metric(value)).collect::<Vec<Option<String>>>()));
        columns.push(column("value", rows.iter().map(|(.., value)| value.map(|(_, x)| *x)).collect::<Vec<_>>()));
        let frame = DataFrame::new_infer_height(columns)?;
        let remarks = records.iter().map(|record| record.remarks.clone()).collect();
        Ok(Records { inputs, axes, metrics, frame, remarks })
    }

    /// Averages over `axes`: one record instead of all that differ only in these, with the means of their metrics; NaN if one of
    /// them lacks a metric.
    pub fn averaged(mut self, axes: &[String]) -> Result<Records, ReportError> {
        if axes.is_empty() {
            return Ok(self);
        }
        self.axes.retain(|axis| !axes.contains(&axis.name));
        let group: Vec<Expr> =
            [col("input")].into_iter().chain(self.axes.iter().map(|axis| col(axis_column(&axis.name)))).collect();
        let groups = self
            .frame
            .lazy()
            .with_columns([
                col("record").min().over(&group)?.alias("first"),
                col("record").n_unique().over(&group)?.alias("members"),
            ])
            .collect()?;
        let (record, first) = (groups.column("record")?.u32()?, groups.column("first")?.u32()?);
        for (record, first) in record.iter().zip(first.iter()) {
            if let (Some(record), Some(first)) = (record, first)
                && record != first
            {
                let moved = std::mem::take(&mut self.remarks[record as usize]);
                let target = &mut self.remarks[first as usize];
                moved.iter().for_each(|remark| append_new(target, remark));
            }
        }
        let keys: Vec<Expr> = group.into_iter().chain([col("metric")]).collect();
        let mut frame = groups
            .lazy()
            .group_by_stable(&keys)
            .agg([col("first").first().alias("record"), col("members").first(), col("value")])
            .collect()?;
        let members = frame.column("members")?.u32()?.clone();
        let mut means = Vec::with_capacity(frame.height());
        // Summed in the order of the records: polars adds in an order of its own, which may change the last digit.
        let lists = frame.column("value")?.list()?;
        for at in 0..frame.height() {
            let (Some(values), Some(members)) = (lists.get_as_series(at), members.get(at)) else { continue };
            let complete = values.len() == members as usize;
            let sum: f64 = values.f64()?.iter().map(|value| value.unwrap_or(f64::NAN)).sum();
            means.push(if complete { sum / f64::from(members) } else { f64::NAN });
        }
        frame.with_column(Column::new("value".into(), means))?;
        self.frame = frame.drop("members")?;
        Ok(self)
    }
}

impl Record {
    /// The value of one axis.
    pub fn label(&self, axis: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == axis).map(|(_, value)| value.as_str())
    }
}

fn column<T, P: ?Sized>(name: &str, values: T) -> Column
where
    Series: NamedFrom<T, P>,
{
    Column::new(name.into(), values)
}

fn append_new(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::stream;

    fn record(input: &str, labels: &[(&str, &str)], metrics: &[(&str, f64)]) -> Record {
        Record {
            input: input.into(),
            labels: labels.iter().map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
            metrics: metrics.iter().map(|(metric, value)| (metric.to_string(), *value)).collect(),
            remarks: vec![],
        }
    }

    fn values(records: &Records) -> Vec<(u32, String, Option<f64>)> {
        let frame = &records.frame;
        let numbers = frame.column("record").unwrap().u32().unwrap().iter();
        let metrics = frame.column("metric").unwrap().str().unwrap().iter();
        let values = frame.column("value").unwrap().f64().unwrap().iter();
        let row = |((number, metric), value): ((Option<u32>, Option<&str>), _)| {
            (number.unwrap(), metric.unwrap_or("none").to_owned(), value)
        };
        numbers.zip(metrics).zip(values).map(row).collect()
    }

    #[test]
    fn orders_are_those_of_first_appearance_and_costs_come_last() {
        let records = Records::new(&[
            record("scores", &[("dataset", "b"), ("loss", "y")], &[("seconds", 1.5), ("p1", 0.5), ("peak_bytes", 2.0)]),
            record("scores", &[("dataset", "b"), ("loss", "x")], &[("p1", 0.5)]),
            record("raw", &[("dataset", "a")], &[("rp", 0.5), ("p1", 0.5)]),
            record("raw", &[("dataset", "a")], &[]),
        ])
        .unwrap();
        assert_eq!(records.inputs, ["scores", "raw"]);
        assert_eq!(records.metrics, ["p1", "rp", "seconds", "peak_bytes"]);
        let axes: Vec<_> = records.axes.iter().map(|axis| (axis.name.as_str(), axis.values.join(" "))).collect();
        assert_eq!(axes, [("dataset", "b a".to_owned()), ("loss", "y x".to_owned())]);
        assert_eq!(values(&records).len(), 7);
        assert_eq!(values(&records)[6], (3, "none".to_owned(), None));
    }

    #[test]
    fn folds_are_averaged_into_one_record_per_run() {
        let record = |run: &str, fold: &str, metrics: &[(&str, f64)]| Record {
            remarks: vec!["by four models".into()],
            ..record("scores", &[("run", run), ("fold", fold)], metrics)
        };
        let all = [
            record("0", "0", &[("p1", 0.25)]),
            record("1", "0", &[("p1", 1.0)]),
            record("0", "1", &[("p1", 0.75)]),
            record("1", "1", &[("rp", 0.5)]),
            record("2", "0", &[("p1", 0.5)]),
            record("2", "1", &[]),
        ];
        let found = Records::new(&all).unwrap().averaged(&["fold".to_owned()]).unwrap();
        assert_eq!(found.axes.iter().map(|axis| axis.name.as_str()).collect::<Vec<_>>(), ["run"]);
        let shown: Vec<String> =
            values(&found).iter().map(|(record, metric, value)| format!("{record} {metric} {value:?}")).collect();
        // A run whose folds do not all have a metric has no mean of it.
        let expected = ["0 p1 Some(0.5)", "1 p1 Some(NaN)", "1 rp Some(NaN)", "4 p1 Some(NaN)", "4 none Some(NaN)"];
        assert_eq!(shown, expected);
        assert_eq!(found.remarks[0], ["by four models"]);
        assert!(found.remarks[2].is_empty());
    }

    /// Tables must not change in the last digit with the version of polars.
    #[test]
    fn a_mean_is_the_sum_in_the_order_of_the_records_divided_by_their_number() {
        let mut random = stream(3, "means", 0, 0);
        for folds in [1, 2, 3, 4, 5, 7, 10, 33, 100] {
            let values: Vec<f64> = (0..folds).map(|_| random.uniform()).collect();
            let all: Vec<Record> = (0..folds)
                .map(|fold| record("scores", &[("fold", &fold.to_string())], &[("p1", values[fold])]))
                .collect();
            let found = Records::new(&all).unwrap().averaged(&["fold".to_owned()]).unwrap();
            let mean = found.frame.column("value").unwrap().f64().unwrap().get(0).unwrap();
            assert_eq!(mean.to_bits(), (values.iter().sum::<f64>() / folds as f64).to_bits(), "{folds}");
        }
    }
}
