//! The best row of each column, and the rows that a test separates from it.

use std::collections::BTreeMap;

use polars::prelude::*;

use super::table::{Cell, Comparison, Row, Test};
use crate::eval::statistics::{self, TTest};

/// Level of the tests: the chance of even one false difference in a column stays below it.
pub(super) const LEVEL: f64 = 0.05;

/// The columns of a run's label on one of the axes that are averaged over, and of that label's place in the order of the axis.
/// The label is empty without the axis.
pub(super) fn run(level: usize) -> [String; 2] {
    [format!("run {level}"), format!("run {level} place")]
}

/// The values of a cell and of the best of its column, over the runs that both have.
type Pairs = (Vec<f64>, Vec<f64>);

/// Marks the best mean of every column in which at least two rows compete, and tests the others against it.
///
/// Two rows that share at least two runs (such as seeds) are compared over those, in pairs; others by Welch's test. `values` has
/// one row per value: `row`, `column`, the labels of `levels` axes of the run, and `value`.
pub(super) fn mark_best(
    rows: &mut [Row],
    columns: &[super::Column],
    values: &DataFrame,
    levels: usize,
    interval: f64,
) -> PolarsResult<()> {
    let mut competitors: Vec<Vec<(usize, f64)>> = Vec::new();
    let mut best: Vec<(u32, u32)> = Vec::new();
    for (column, header) in columns.iter().enumerate() {
        let sign = if header.higher_is_better { 1.0 } else { -1.0 };
        let means: Vec<(usize, f64)> = (rows.iter().enumerate().filter(|(_, row)| !row.baseline))
            .filter_map(|(index, row)| Some((index, sign * row.cells[column].mean?)))
            .collect();
        // Of equal means the first.
        let highest = means.iter().rev().max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.extend(highest.filter(|_| means.len() >= 2).map(|&(row, _)| (column as u32, row as u32)));
        competitors.push(means);
    }
    let pairs = pairs(values, &best, levels)?;
    for (column, best) in best.into_iter().map(|(column, row)| (column as usize, row as usize)) {
        let highest = competitors[column].iter().find(|(row, _)| *row == best).map(|(_, mean)| *mean);
        let mut comparisons: Vec<(usize, Comparison)> = Vec::new();
        for &(index, mean) in &competitors[column] {
            rows[index].cells[column].best = Some(mean) == highest;
            if index != best {
                let cells = [index, best].map(|row| &rows[row].cells[column]);
                let comparison = compare(cells, pairs.get(&(column, index)), best, interval);
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
    Ok(())
}

/// Joins the values of each cell with those of the best row of its column over the labels of the runs; by (column, row).
/// Runs without any label do not share a seed.
fn pairs(values: &DataFrame, best: &[(u32, u32)], levels: usize) -> PolarsResult<BTreeMap<(usize, usize), Pairs>> {
    let names: Vec<[String; 2]> = (0..levels).map(run).collect();
    let labels: Vec<Expr> = names.iter().map(|[label, _]| col(label.as_str())).collect();
    let labelled = labels.iter().fold(lit(false), |any, label| any.or(label.clone().neq(lit(""))));
    let on: Vec<Expr> = [col("column")].into_iter().chain(labels).collect();
    let places = names.iter().map(|[_, place]| col(place.as_str()));
    let best = df!(
        "column" => best.iter().map(|(column, _)| *column).collect::<Vec<u32>>(),
        "best row" => best.iter().map(|(_, row)| *row).collect::<Vec<u32>>(),
    )?;
    let runs = values.clone().lazy().filter(labelled.and(col("value").is_not_null()));
    let of_best = runs
        .clone()
        .join(best.lazy(), [col("column")], [col("column")], JoinArgs::new(JoinType::Inner))
        .filter(col("row").eq(col("best row")))
        .select(on.iter().cloned().chain([col("value").alias("best value")]).collect::<Vec<_>>());
    let joined = runs
        .join(of_best, on.clone(), on, JoinArgs::new(JoinType::Inner))
        .sort_by_exprs(
            [col("column"), col("row")].into_iter().chain(places).collect::<Vec<_>>(),
            SortMultipleOptions::default(),
        )
        .collect()?;
    let (column, row) = (joined.column("column")?.u32()?, joined.column("row")?.u32()?);
    let (value, other) = (joined.column("value")?.f64()?, joined.column("best value")?.f64()?);
    let mut pairs: BTreeMap<(usize, usize), Pairs> = BTreeMap::new();
    for at in 0..joined.height() {
        if let (Some(column), Some(row), Some(value), Some(other)) =
            (column.get(at), row.get(at), value.get(at), other.get(at))
        {
            let pair = pairs.entry((column as usize, row as usize)).or_default();
            pair.0.push(value);
            pair.1.push(other);
        }
    }
    Ok(pairs)
}

fn compare([cell, best]: [&Cell; 2], pairs: Option<&Pairs>, row: usize, interval: f64) -> Option<Comparison> {
    let (test, result) = match pairs {
        Some((these, those)) if these.len() >= 2 => (Test::PairedT, statistics::paired_t(these, those)?),
        _ => (Test::WelchT, statistics::welch_t(&values(cell), &values(best))?),
    };
    let TTest { difference, degrees_of_freedom, p, .. } = result;
    let half_width = result.half_width(interval)?;
    Some(Comparison { row, test, difference, half_width, degrees_of_freedom, p, p_holm: p })
}

fn values(cell: &Cell) -> Vec<f64> {
    cell.samples.iter().filter_map(|sample| sample.value).collect()
}
