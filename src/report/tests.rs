//! Whole outputs in every format from one fixed set of records.

use polars::prelude::IdxCa;
use proptest::prelude::*;

use super::*;

/// Two data sets, three losses, three seeds, raw pixels as baseline; one loss lacks a seed on one data set and all of
/// them on the other.
fn records() -> Vec<Record> {
    let scores = [
        ("glyphs", "contrastive", [0.4312, 0.4405, 0.4278], [0.7120, 0.7204, 0.7051]),
        ("glyphs", "mean_field_class_wise_multi_similarity", [0.4718, 0.4820, 0.4689], [0.7533, 0.7610, 0.7490]),
        ("glyphs", "proxy_anchor", [0.4702, 0.4871, 0.4655], [0.7401, 0.7422, 0.7380]),
        ("textures", "contrastive", [0.6120, 0.6203, 0.6011], [0.8811, 0.8790, 0.8842]),
        ("textures", "mean_field_class_wise_multi_similarity", [0.6402, 0.6477, 0.6351], [0.8903, 0.8921, 0.8877]),
    ];
    let mut records = Vec::new();
    for (dataset, loss, map, p1) in scores {
        for seed in 0..3 {
            if (dataset, loss, seed) != ("textures", "contrastive", 2) {
                let labels = [("dataset", dataset), ("loss", loss), ("seed", &seed.to_string())];
                records.push(record("scores", &labels, &[("map_at_r", map[seed]), ("p1", p1[seed])]));
            }
        }
    }
    for (dataset, map, p1) in [("glyphs", 0.1034, 0.3127), ("textures", 0.6049, 0.4088)] {
        records.push(record("raw_pixels", &[("dataset", dataset)], &[("map_at_r", map), ("p1", p1)]));
    }
    records
}

fn record(input: &str, labels: &[(&str, &str)], metrics: &[(&str, f64)]) -> Record {
    Record {
        input: input.into(),
        labels: labels.iter().map(|(axis, value)| (axis.to_string(), value.to_string())).collect(),
        metrics: metrics.iter().map(|(metric, value)| (metric.to_string(), *value)).collect(),
        remarks: vec![],
    }
}

fn config(extra: serde_json::Value) -> Config {
    let mut fields = serde_json::json!({
        "rows": "loss", "columns": ["dataset", "metric"], "over": "seed", "interval": "95%",
    });
    let (Some(fields), serde_json::Value::Object(extra)) = (fields.as_object_mut(), extra) else { panic!() };
    fields.extend(extra);
    serde_json::from_value(serde_json::Value::Object(fields.clone())).unwrap()
}

fn table() -> Table {
    build(&config(serde_json::json!({ "title": "Losses on glyphs & textures" })), &Records::new(&records()).unwrap())
        .unwrap()
}

#[test]
fn every_format_of_one_table() {
    let table = table();
    insta::assert_snapshot!("text", text::render(&table, text::Style::default()));
    insta::assert_snapshot!("cells_csv", csv::render(&frame::cells(&table).unwrap()).unwrap());
    insta::assert_snapshot!("runs_csv", csv::render(&frame::runs(&table).unwrap()).unwrap());
    insta::assert_snapshot!("markdown", markdown::render(&table));
    insta::assert_snapshot!("json", json::render(&table).unwrap());
    insta::assert_snapshot!("html", html::render(&table));
}

#[test]
fn a_narrow_terminal_gets_the_columns_in_blocks() {
    let style = text::Style { ansi: true, width: Some(80) };
    let text = text::render(&table(), style);
    assert!(
        text.lines().all(|line| line.replace("\x1b[1m", "").replace("\x1b[0m", "").chars().count() <= 80),
        "{text}"
    );
    insta::assert_snapshot!("narrow_text", text.replace('\x1b', "ESC"));
}

#[test]
fn columns_align_under_wide_characters() {
    let records = [("x", 0.5), ("损失", 0.25)].map(|(loss, value)| record("s", &[("loss", loss)], &[("p1", value)]));
    let config = serde_json::from_value(serde_json::json!({ "rows": "loss", "best": "none" })).unwrap();
    let table = build(&config, &Records::new(&records).unwrap()).unwrap();
    insta::assert_snapshot!(text::render(&table, text::Style::default()), @r#"
    ━━━━━━━━━━━━━
    loss    P@1 ↑
    ─────────────
    x      0.5000
    损失   0.2500
    ━━━━━━━━━━━━━

    One run per cell: no intervals, and no test is possible.
    "#);
}

#[test]
fn statistics_of_a_cell_are_those_of_its_runs() {
    let cell = &table().rows[1].cells[0];
    // Of 0.4312, 0.4405, 0.4278, by NumPy and SciPy.
    for (actual, expected) in [
        (cell.mean, 0.4331666666666667),
        (cell.standard_deviation, 0.006574445477250019),
        (cell.half_width, 0.01633182794388317),
        (cell.min, 0.4278),
        (cell.max, 0.4405),
    ] {
        let difference = (actual.unwrap() - expected).abs();
        assert!(difference <= 1e-12, "{actual:?} is not {expected}");
    }
    assert_eq!((cell.n, cell.samples.len()), (3, 3));
}

#[test]
fn rows_are_tested_against_the_best_in_pairs_and_corrected() {
    let table = table();
    let comparison = |row: usize| table.rows[row].cells[0].comparison.clone();
    assert!(table.rows[3].cells[0].best && !table.rows[3].cells[0].tied);
    assert_eq!(comparison(3), None);
    let (contrastive, mean_field) = (comparison(1).unwrap(), comparison(2).unwrap());
    // `scipy.stats.ttest_rel` of each against proxy_anchor, times Holm's factors 2 and 1.
    for (comparison, p, p_holm) in [
        (contrastive, 0.004529357631205189, 0.009058715262410378),
        (mean_field, 0.9908860888002462, 0.9908860888002462),
    ] {
        assert_eq!((comparison.row, comparison.test), (3, Test::PairedT));
        for (actual, expected) in [(comparison.p, p), (comparison.p_holm, p_holm)] {
            assert!((actual - expected).abs() <= 1e-9, "{actual} is not {expected}");
        }
    }
}

#[test]
fn rows_without_a_shared_seed_are_tested_by_welch() {
    let run = |loss: &str, seed: &str, value| record("s", &[("loss", loss), ("seed", seed)], &[("p1", value)]);
    let records = [("a", "0", 0.5), ("a", "1", 0.52), ("b", "2", 0.6), ("b", "3", 0.63), ("c", "2", 0.4)];
    let records = records.map(|(loss, seed, value)| run(loss, seed, value)).to_vec();
    let config = serde_json::from_value(serde_json::json!({ "rows": "loss", "over": "seed" })).unwrap();
    let table = build(&config, &Records::new(&records).unwrap()).unwrap();
    let comparison = table.rows[0].cells[0].comparison.clone().unwrap();
    assert_eq!(comparison.test, Test::WelchT);
    // `scipy.stats.ttest_ind([0.5, 0.52], [0.6, 0.63], equal_var=False)`.
    assert!((comparison.p - 0.038420674099810426).abs() <= 1e-9, "{}", comparison.p);
    assert_eq!(table.mark(&table.rows[2], 0), table::UNTESTED);
}

#[test]
fn the_lowest_loss_is_the_best() {
    let records =
        [("a", 0.5), ("b", 0.25)].map(|(loss, value)| record("s", &[("loss", loss)], &[("train_loss", value)]));
    let config = serde_json::from_value(serde_json::json!({ "rows": "loss" })).unwrap();
    let table = build(&config, &Records::new(&records).unwrap()).unwrap();
    assert_eq!(table.rows.iter().map(|row| row.cells[0].best).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_cell_with_a_run_that_is_not_finite_has_no_mean() {
    let mut records = records();
    records[0].metrics[0].1 = f64::NAN;
    let table = build(&config(serde_json::json!({})), &Records::new(&records).unwrap()).unwrap();
    assert_eq!((table.rows[1].cells[0].n, table.rows[1].cells[0].mean), (3, None));
    let note = table.footnotes.iter().find(|note| note.mark == table::NOT_FINITE).unwrap();
    assert_eq!(note.text, "No mean, since a run gave no finite number: contrastive × glyphs MAP@R (seed 0).");
    let json = json::render(&table).unwrap();
    assert_eq!(Table::from_json(&json).unwrap().rows[1].cells[0].samples[0].value, None);
}

#[test]
fn costs_are_columns_in_their_units() {
    let mut records = records();
    for (index, record) in records.iter_mut().enumerate() {
        let bytes = ((700 + index as u64) << 20) as f64;
        record.metrics.extend([("seconds".to_owned(), 80.0 + index as f64), ("peak_bytes".to_owned(), bytes)]);
    }
    let config = config(serde_json::json!({ "metrics": ["p1", "seconds", "peak_bytes"] }));
    let table = build(&config, &Records::new(&records).unwrap()).unwrap();
    insta::assert_snapshot!("costs", text::render(&table, text::Style::default()));
}

#[test]
fn mixing_unlike_values_is_refused() {
    let refused = |config: serde_json::Value, records: Vec<Record>| {
        build(&serde_json::from_value(config).unwrap(), &Records::new(&records).unwrap()).unwrap_err().to_string()
    };
    let columns = ["dataset"];
    let twice = |extra: Record| records().into_iter().chain([extra]).collect::<Vec<_>>();
    let again = record("more", &[("dataset", "glyphs"), ("loss", "contrastive"), ("seed", "0")], &[("p1", 0.5)]);
    let other = record("more", &[("loss", "contrastive"), ("seed", "0")], &[("p1", 0.5)]);
    let refusals = [
        refused(serde_json::json!({ "rows": "loss", "columns": columns }), records()),
        refused(serde_json::json!({ "rows": "los", "columns": columns, "over": "seed" }), records()),
        refused(
            serde_json::json!({ "rows": "loss", "columns": columns, "over": "seed", "metrics": ["map"] }),
            records(),
        ),
        refused(serde_json::json!({ "rows": "loss", "columns": columns, "over": "seed" }), twice(again)),
        refused(serde_json::json!({ "rows": "loss", "columns": columns, "over": "seed" }), twice(other)),
        refused(serde_json::json!({ "rows": "loss", "over": "loss" }), records()),
        refused(serde_json::json!({ "rows": "loss" }), vec![]),
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    the records differ by the axis `seed` (0, 1, 2), which has no place in the table: put it into `rows` or `columns` to show its values, or into `over` to average over them
    rows names the axis `los`, which no record has; there are: dataset, loss, seed
    metrics names `map`, which no record has; there are: map_at_r, p1
    `more` and `scores` both give a value for contrastive, glyphs, p1, 0; gather only one of them, or rename a metric
    a record of `more` has no value of `dataset`, one of `columns`: it cannot be placed in any column
    over[0] is `loss`, which rows[0] already has; an axis has one place
    no values to tabulate; does an input of the report have cells?
    "#);
}

#[test]
fn names_cannot_break_out_of_a_format() {
    let nasty = "<b>\"x\"|`y`&\n'z'";
    let records = ["0", "1"].map(|seed| record("s", &[("loss", nasty), ("seed", seed)], &[("p|1<", 0.5)])).to_vec();
    let config = serde_json::json!({ "rows": "loss", "over": "seed", "title": "</title><script>" });
    let table = build(&serde_json::from_value(config).unwrap(), &Records::new(&records).unwrap()).unwrap();
    let html = html::render(&table);
    assert!(!html.contains("<b>\"") && !html.contains("<script") && !html.contains("p|1<"), "{html}");
    let markdown = markdown::render(&table);
    assert!(markdown.contains("| &lt;b>\"x\"\\|\\`y\\`&amp;\\\\n'z' |"), "{markdown}");
}

#[test]
fn a_stored_table_renders_the_same() {
    let table = table();
    let stored = Table::from_json(&json::render(&table).unwrap()).unwrap();
    assert_eq!(text::render(&stored, text::Style::default()), text::render(&table, text::Style::default()));
    assert_eq!(markdown::render(&stored), markdown::render(&table));
    assert_eq!(html::render(&stored), html::render(&table));
    assert!(Table::from_json("{}").is_err());
}

#[test]
fn a_stored_table_of_another_shape_is_refused() {
    let stored = serde_json::to_value(table()).unwrap();
    let refused = |pointer: &str, value: serde_json::Value| {
        let mut altered = stored.clone();
        *altered.pointer_mut(pointer).unwrap() = value;
        Table::from_json(&altered.to_string()).is_err()
    };
    assert!(!refused("/title", serde_json::json!("another")));
    for (pointer, value) in [
        ("/digits", serde_json::json!(100_000)),
        ("/column_axes", serde_json::json!([])),
        ("/row_axes", serde_json::json!(["loss", "dim"])),
        ("/over", serde_json::json!(["seed", "fold"])),
        ("/columns", serde_json::json!([])),
        ("/columns/0/labels", serde_json::json!(["glyphs"])),
        ("/rows/0/cells", serde_json::json!([])),
        ("/rows/1/cells/0/comparison/row", serde_json::json!(4)),
    ] {
        assert!(refused(pointer, value), "{pointer}");
    }
}

/// polars reads the file back with the types of the columns, and null where a run has no finite value.
#[test]
fn scores_parquet_holds_the_runs_with_their_types() {
    use polars::prelude::{DataType, ParquetReader, SerReader};
    let mut records = records();
    records[0].metrics[0].1 = f64::NAN;
    let table = build(&config(serde_json::json!({})), &Records::new(&records).unwrap()).unwrap();
    let bytes = parquet::render(frame::runs(&table).unwrap()).unwrap();
    assert_eq!(bytes, parquet::render(frame::runs(&table).unwrap()).unwrap());
    let read = ParquetReader::new(std::io::Cursor::new(bytes)).finish().unwrap();
    assert!(read.equals_missing(&frame::runs(&table).unwrap()), "{read}");
    let schema: Vec<(String, DataType)> =
        read.schema().iter().map(|(name, kind)| (name.to_string(), kind.clone())).collect();
    let texts = ["loss", "dataset", "metric", "seed", "input"].map(|name| (name.to_owned(), DataType::String));
    assert_eq!(schema, [&texts[..], &[("value".to_owned(), DataType::Float64)]].concat());
    assert_eq!((read.height(), read.column("value").unwrap().null_count()), (32, 1));
}

#[test]
fn all_files_are_written() {
    let directory = tempfile::tempdir().unwrap();
    write(&table(), &directory.path().join("reports/table")).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(directory.path().join("reports/table"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["index.html", "scores.csv", "scores.parquet", "table.csv", "table.json", "table.md", "table.txt"]
    );
    std::fs::write(directory.path().join("taken"), "").unwrap();
    assert!(write(&table(), &directory.path().join("taken")).unwrap_err().to_string().contains("taken"));
}

proptest! {
    #[test]
    fn the_order_of_records_is_immaterial(order in Just((0..32).collect::<Vec<u32>>()).prop_shuffle()) {
        let sorted = Records::new(&records()).unwrap();
        prop_assert_eq!(sorted.frame.height(), 32);
        let frame = sorted.frame.take(&IdxCa::from_vec("".into(), order)).unwrap();
        let shuffled = Records { frame, ..sorted.clone() };
        let config = config(serde_json::json!({}));
        prop_assert_eq!(build(&config, &shuffled).unwrap(), build(&config, &sorted).unwrap());
    }
}

#[test]
fn remarks_on_the_runs_are_footnotes() {
    let remark = "selected on the test split by its best MAP@R epoch".to_owned();
    let noted = |chosen: &dyn Fn(&Record) -> bool| {
        let mut records = records();
        records.iter_mut().filter(|record| chosen(record)).for_each(|record| record.remarks.push(remark.clone()));
        let table = build(&config(serde_json::json!({})), &Records::new(&records).unwrap()).unwrap();
        let notes = table.footnotes.iter().filter(|note| note.mark == "§").map(|note| note.text.clone());
        (notes.collect::<Vec<_>>().join("|"), table)
    };
    assert_eq!(noted(&|_| false).0, "");
    let (all, table) = noted(&|record| record.input == "scores");
    assert_eq!(all, "Selected on the test split by its best MAP@R epoch.");
    assert!(text::render(&table, text::Style::default()).contains("§ Selected on the test split"));
    assert_eq!(Table::from_json(&json::render(&table).unwrap()).unwrap(), table);
    let (some, _) =
        noted(&|record| record.label("loss") == Some("contrastive") && record.label("dataset") == Some("glyphs"));
    assert_eq!(some, "Selected on the test split by its best MAP@R epoch: contrastive × glyphs.");
}
