//! The best row of each column, and which of the others it can be told from.

use super::table::{Cell, Column, Comparison, Row, Test};
use crate::eval::statistics::{self, TTest};

/// Level of the tests: the chance of even one false difference in a column stays below it.
pub(super) const LEVEL: f64 = 0.05;

/// Marks the best mean of every column in which at least two rows compete, and tests the others against it.
///
/// Two rows that share at least two runs (such as seeds) are compared over those, in pairs; others by Welch's test.
pub(super) fn mark_best(rows: &mut [Row], columns: &[Column], interval: f64) {
    for (column, header) in columns.iter().enumerate() {
        let sign = if header.higher_is_better { 1.0 } else { -1.0 };
        let means: Vec<(usize, f64)> = (rows.iter().enumerate().filter(|(_, row)| !row.baseline))
            .filter_map(|(index, row)| Some((index, sign * row.cells[column].mean?)))
            .collect();
        let Some(&(best, highest)) = means.iter().rev().max_by(|(_, a), (_, b)| a.total_cmp(b)) else { continue };
        if means.len() < 2 {
            continue;
        }
        let mut comparisons: Vec<(usize, Comparison)> = Vec::new();
        for &(index, mean) in &means {
            rows[index].cells[column].best = mean == highest;
            if index != best {
                let comparison = compare(&rows[index].cells[column], &rows[best].cells[column], best, interval);
                comparisons.extend(comparison.map(|comparison| (index, comparison)));
            }
        }
        let p: Vec<f64> = comparisons.iter().map(|(_, comparison)| comparison.p).collect();
        for ((index, mut comparison), p_holm) in comparisons.into_iter().zip(statistics::holm(&p)) {
            let cell = &mut rows[index].cells[column];
            comparison.p_holm = p_holm;
            cell.tied = !cell.best && p_holm >= LEVEL;
            cell.comparison = Some(comparison);
        }
    }
}

fn compare(cell: &Cell, best: &Cell, row: usize, interval: f64) -> Option<Comparison> {
    let mut pairs: (Vec<f64>, Vec<f64>) = Default::default();
    for sample in cell.samples.iter().filter(|sample| sample.labels.iter().any(|label| !label.is_empty())) {
        let other = best.samples.iter().find(|other| other.labels == sample.labels);
        if let (Some(value), Some(other)) = (sample.value, other.and_then(|other| other.value)) {
            pairs.0.push(value);
            pairs.1.push(other);
        }
    }
    let (test, result) = if pairs.0.len() >= 2 {
        (Test::PairedT, statistics::paired_t(&pairs.0, &pairs.1)?)
    } else {
        (Test::WelchT, statistics::welch_t(&values(cell), &values(best))?)
    };
    let TTest { difference, degrees_of_freedom, p, .. } = result;
    let half_width = result.half_width(interval)?;
    Some(Comparison { row, test, difference, half_width, degrees_of_freedom, p, p_holm: p })
}

fn values(cell: &Cell) -> Vec<f64> {
    cell.samples.iter().filter_map(|sample| sample.value).collect()
}
