//! Measured values as they come in: one record a cell of a gathered input, labelled with its axis values.

/// Everything that was gathered for a table, with the orders in which to show it.
///
/// The orders, not the order of `records`, decide how a table looks.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// Names of the gathered inputs.
    pub inputs: Vec<String>,
    /// Every axis of every record, outermost first, with all its values.
    pub axes: Vec<Axis>,
    /// Every metric of every record.
    pub metrics: Vec<String>,
    /// The records.
    pub records: Vec<Record>,
}

/// (metric, value) pairs.
type Metrics = Vec<(String, f64)>;

/// One axis and its values, in the order of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// Such as `loss`.
    pub name: String,
    /// Such as `contrastive`, `proxy_anchor`.
    pub values: Vec<String>,
}

/// What one cell measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Name of the gathered input that it belongs to, such as `scores` or `raw_pixels`.
    pub input: String,
    /// (axis, value); an axis that the cell does not have is absent.
    pub labels: Vec<(String, String)>,
    /// (metric, value); a value that is not finite is a run that went wrong, and is told as such.
    pub metrics: Vec<(String, f64)>,
    /// What it took, shown as the metrics `seconds` and `peak_bytes`.
    pub cost: Option<Cost>,
    /// What a reader must know of it, as half a sentence: "selected on the test split by its best MAP@R epoch". It becomes
    /// a footnote.
    pub remarks: Vec<String>,
}

/// What it took to make a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Most memory held at once, in bytes.
    pub peak_bytes: u64,
}

impl Records {
    /// One record in the place of all that differ only in `axes`: the means of their metrics, not a number where one lacks a
    /// metric. What they took adds up.
    pub fn averaged(self, axes: &[String]) -> Records {
        if axes.is_empty() {
            return self;
        }
        let mut groups: Vec<(Record, Vec<Metrics>)> = Vec::new();
        for mut record in self.records {
            record.labels.retain(|(axis, _)| !axes.contains(axis));
            let metrics = std::mem::take(&mut record.metrics);
            let same =
                |(group, _): &&mut (Record, Vec<Metrics>)| group.input == record.input && group.labels == record.labels;
            match groups.iter_mut().find(same) {
                Some((group, members)) => {
                    members.push(metrics);
                    let new = record.remarks.into_iter().filter(|remark| !group.remarks.contains(remark));
                    group.remarks.extend(new.collect::<Vec<_>>());
                    group.cost = group.cost.zip(record.cost).map(|(a, b)| Cost {
                        seconds: a.seconds + b.seconds,
                        peak_bytes: a.peak_bytes.max(b.peak_bytes),
                    });
                }
                None => groups.push((record, vec![metrics])),
            }
        }
        let mean = |name: &String, members: &[Metrics]| {
            let of = |metrics: &Metrics| metrics.iter().find(|(other, _)| other == name).map(|(_, x)| *x);
            members.iter().map(|metrics| of(metrics).unwrap_or(f64::NAN)).sum::<f64>() / members.len() as f64
        };
        let averaged = groups.into_iter().map(|(group, members)| {
            let mut names = Vec::new();
            members.iter().flatten().for_each(|(name, _)| append_new(&mut names, name));
            let metrics = names.into_iter().map(|name| (name.clone(), mean(&name, &members))).collect();
            Record { metrics, ..group }
        });
        Records::new(averaged.collect())
    }

    /// Records whose inputs, axes, axis values and metrics are to be shown in the order in which they first appear.
    pub fn new(records: Vec<Record>) -> Records {
        let (mut inputs, mut axes, mut metrics) = (Vec::new(), Vec::<Axis>::new(), Vec::new());
        for record in &records {
            append_new(&mut inputs, &record.input);
            for (name, value) in &record.labels {
                match axes.iter_mut().find(|axis| axis.name == *name) {
                    Some(axis) => append_new(&mut axis.values, value),
                    None => axes.push(Axis { name: name.clone(), values: vec![value.clone()] }),
                }
            }
            for (metric, _) in record.values() {
                append_new(&mut metrics, metric);
            }
        }
        // Costs come after every score, whichever record had them first.
        metrics.sort_by_key(|metric| metric == SECONDS || metric == PEAK_BYTES);
        Records { inputs, axes, metrics, records }
    }
}

const SECONDS: &str = "seconds";
const PEAK_BYTES: &str = "peak_bytes";

impl Record {
    /// The value of one axis.
    pub fn label(&self, axis: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == axis).map(|(_, value)| value.as_str())
    }

    /// Metrics and costs alike.
    pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        let cost = self.cost.map(|cost| [(SECONDS, cost.seconds), (PEAK_BYTES, cost.peak_bytes as f64)]);
        self.metrics.iter().map(|(metric, value)| (metric.as_str(), *value)).chain(cost.into_iter().flatten())
    }
}

fn append_new(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_those_of_first_appearance_and_costs_come_last() {
        let record = |input: &str, labels: &[(&str, &str)], metrics: &[(&str, f64)], cost| Record {
            input: input.into(),
            labels: labels.iter().map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
            metrics: metrics.iter().map(|(metric, value)| (metric.to_string(), *value)).collect(),
            cost,
            remarks: vec![],
        };
        let cost = Some(Cost { seconds: 1.5, peak_bytes: 2 });
        let records = Records::new(vec![
            record("scores", &[("dataset", "b"), ("loss", "y")], &[("p1", 0.5)], cost),
            record("scores", &[("dataset", "b"), ("loss", "x")], &[("p1", 0.5)], None),
            record("raw", &[("dataset", "a")], &[("rp", 0.5), ("p1", 0.5)], None),
        ]);
        assert_eq!(records.inputs, ["scores", "raw"]);
        assert_eq!(records.metrics, ["p1", "rp", "seconds", "peak_bytes"]);
        let axes: Vec<_> = records.axes.iter().map(|axis| (axis.name.as_str(), axis.values.join(" "))).collect();
        assert_eq!(axes, [("dataset", "b a".to_owned()), ("loss", "y x".to_owned())]);
    }

    #[test]
    fn folds_are_averaged_into_one_record_a_run() {
        let record = |run: &str, fold: &str, p1: f64| Record {
            input: "scores".into(),
            labels: vec![("run".into(), run.into()), ("fold".into(), fold.into())],
            metrics: vec![("p1".into(), p1)],
            cost: None,
            remarks: vec!["by four models".into()],
        };
        let mut odd = record("1", "1", 0.5);
        odd.metrics[0].0 = "rp".into();
        let all = vec![record("0", "0", 0.25), record("0", "1", 0.75), record("1", "0", 1.0), odd];
        let found = Records::new(all).averaged(&["fold".to_owned()]);
        assert_eq!(found.axes.iter().map(|axis| axis.name.as_str()).collect::<Vec<_>>(), ["run"]);
        assert_eq!(found.records.len(), 2);
        assert_eq!(found.records[0].metrics, [("p1".to_owned(), 0.5)]);
        assert_eq!(found.records[0].remarks, ["by four models"]);
        assert!(found.records[1].metrics.iter().all(|(_, value)| value.is_nan()), "{found:?}");
    }
}
