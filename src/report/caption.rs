//! The caption and the footnotes of a table: what the numbers are, what was tested, what is missing.

use std::collections::BTreeSet;

use super::compare::LEVEL;
use super::number::{column_name, percent, place_name};
use super::table::{Cell, Footnote, MISSING, NOT_FINITE, REMARK, Row, TIED, Table, Test, UNTESTED};

/// How many cells a footnote names before it only counts them.
const NAMED_CELLS: usize = 8;

/// What a number is, over which runs, and what the baselines are.
pub(super) fn caption(table: &Table) -> String {
    let contenders = || table.rows.iter().filter(|row| !row.baseline).flat_map(|row| &row.cells);
    let counts: BTreeSet<usize> = contenders().map(|cell| cell.n).filter(|n| *n > 0).collect();
    let mut sentences = Vec::new();
    if table.runs < 2 {
        sentences.push("One run per cell: no intervals, and no test is possible.".to_owned());
    } else {
        let level = percent(table.interval);
        let runs = run_names(table);
        sentences.push(if counts.len() > 1 {
            let n = table.runs;
            format!(
                "Mean ± half-width of the {level} Student-t interval over the runs of a cell{runs}; \
                 n = {n} unless noted in the cell."
            )
        } else {
            format!("Mean ± half-width of the {level} Student-t interval over n = {} runs{runs}.", table.runs)
        });
    }
    let baselines: Vec<String> =
        table.rows.iter().filter(|row| row.baseline).map(|row| row_name(&row.labels)).collect();
    let (axes, names) = (table.row_axes.join(" and "), baselines.join(", "));
    match baselines.len() {
        0 => {}
        1 => sentences.push(format!("The first row ({names}) is a baseline: it has no {axes} and is not compared.")),
        n => sentences
            .push(format!("The first {n} rows ({names}) are baselines: they have no {axes} and are not compared.")),
    }
    if table.runs >= 2 && table.rows.iter().any(|row| row.cells.iter().any(|cell| cell.n == 1)) {
        sentences.push("A number without ± is a single run.".to_owned());
    }
    sentences.join(" ")
}

/// The meaning of every mark and every gap of the table.
pub(super) fn footnotes(table: &Table) -> Vec<Footnote> {
    let mut notes = Vec::new();
    let mut note = |mark: &str, text: String| notes.push(Footnote { mark: mark.to_owned(), text });
    let cells = |chosen: &dyn Fn(&Row, usize) -> bool| name_cells(table, chosen);
    if table.tests() {
        let tests: BTreeSet<Test> = (table.rows.iter().flat_map(|row| &row.cells))
            .filter_map(|cell| Some(cell.comparison.as_ref()?.test))
            .collect();
        let runs = if table.over.is_empty() { "run".to_owned() } else { table.over.join(" and ") };
        let test = match (tests.contains(&Test::PairedT), tests.contains(&Test::WelchT)) {
            (true, false) => format!("a two-sided paired t-test over the runs of equal {runs}"),
            (false, _) => "a two-sided Welch t-test".to_owned(),
            (true, true) => format!(
                "a two-sided t-test, paired over the runs of equal {runs} where two or more are shared, Welch's elsewhere"
            ),
        };
        note(
            TIED,
            format!(
                "Not separable from the best of its column: p ≥ {LEVEL} in {test}, Holm-corrected over the comparisons \
                 of the column. Unmarked cells are significantly worse than the best; baselines are not tested."
            ),
        );
        if let Some(names) = cells(&|row, column| table.is_untested(row, column)) {
            note(UNTESTED, format!("Not tested against the best, which needs a second run: {names}."));
        }
    }
    let has = |row: &Row, column: usize, remark: &String| row.cells[column].remarks.contains(remark);
    let remarks: BTreeSet<&String> =
        table.rows.iter().flat_map(|row| &row.cells).flat_map(|cell| &cell.remarks).collect();
    for remark in remarks {
        let mut contenders = table.rows.iter().filter(|row| !row.baseline);
        let all = contenders
            .all(|row| row.cells.iter().enumerate().all(|(column, cell)| cell.n == 0 || has(row, column, remark)));
        let baselines = table.rows.iter().filter(|row| row.baseline);
        let alone = baselines.flat_map(|row| &row.cells).all(|cell| !cell.remarks.contains(remark));
        let begin: String = remark.chars().take(1).flat_map(char::to_uppercase).chain(remark.chars().skip(1)).collect();
        let names = cells(&|row, column| has(row, column, remark)).unwrap_or_default();
        note(REMARK, if all && alone { format!("{begin}.") } else { format!("{begin}: {names}.") });
    }
    if let Some(names) = cells(&|row, column| row.cells[column].n == 0) {
        note(MISSING, format!("No record: {names}."));
    }
    if let Some(names) = cells(&|row, column| row.cells[column].n > 0 && row.cells[column].mean.is_none()) {
        note(NOT_FINITE, format!("No mean, since a run gave no finite number: {names}."));
    }
    notes
}

/// ` (seed 0, 1, 2)`: the runs of all contenders, if a single axis distinguishes them.
fn run_names(table: &Table) -> String {
    let [axis] = &table.over[..] else { return String::new() };
    let mut names: Vec<&str> = Vec::new();
    let mut cells: Vec<&Cell> = table.rows.iter().filter(|row| !row.baseline).flat_map(|row| &row.cells).collect();
    // The cell with the most runs first: they are in the order of the pipeline.
    cells.sort_by_key(|cell| std::cmp::Reverse(cell.n));
    for sample in cells.into_iter().flat_map(|cell| &cell.samples) {
        if !sample.labels[0].is_empty() && !names.contains(&sample.labels[0].as_str()) {
            names.push(&sample.labels[0]);
        }
    }
    match &names[..] {
        [] => String::new(),
        [first, .., last] if names.len() > NAMED_CELLS => format!(" ({axis} {first} to {last})"),
        _ => format!(" ({axis} {})", names.join(", ")),
    }
}

/// `row × column; row × column`, or nothing if no cell is chosen. Columns that differ only in the metric share a name if all of
/// them are chosen and none has a note of its own.
fn name_cells(table: &Table, chosen: &dyn Fn(&Row, usize) -> bool) -> Option<String> {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let place = |column: usize| place_name(table, &table.columns[column]);
    let mut names = Vec::new();
    for row in &table.rows {
        for group in all.chunk_by(|&a, &b| place(a) == place(b)) {
            let notes: Vec<(usize, String)> = (group.iter().filter(|&&column| chosen(row, column)))
                .map(|&column| (column, unfit_runs(table, &row.cells[column])))
                .collect();
            let whole = notes.len() == group.len() && group.len() > 1 && notes.iter().all(|(_, runs)| runs.is_empty());
            let name = row_name(&row.labels);
            if whole {
                let place = place(group[0]);
                names.push(if place.is_empty() { name } else { format!("{name} × {place}") });
            } else {
                let column = |column: usize| column_name(table, &table.columns[column]);
                names.extend(notes.into_iter().map(|(index, runs)| format!("{name} × {}{runs}", column(index))));
            }
        }
    }
    let unnamed = names.len().saturating_sub(NAMED_CELLS);
    names.truncate(NAMED_CELLS);
    if unnamed > 0 {
        names.push(format!("and {unnamed} more"));
    }
    (!names.is_empty()).then(|| names.join("; "))
}

/// ` (seed 2)`: the runs of a cell without a finite value.
fn unfit_runs(table: &Table, cell: &Cell) -> String {
    let unfit = cell.samples.iter().filter(|sample| sample.value.is_none());
    let names: Vec<String> = unfit.map(|sample| run_name(&table.over, &sample.labels)).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// `seed 0`, or `seed 0, fold 1`; `the only run` without labels.
pub(super) fn run_name(over: &[String], labels: &[String]) -> String {
    let named = over.iter().zip(labels).filter(|(_, label)| !label.is_empty());
    let names: Vec<String> = named.map(|(axis, label)| format!("{axis} {label}")).collect();
    if names.is_empty() { "the only run".to_owned() } else { names.join(", ") }
}

/// The labels of a row as one name.
pub(super) fn row_name(labels: &[String]) -> String {
    labels.iter().filter(|label| !label.is_empty()).cloned().collect::<Vec<_>>().join(", ")
}
