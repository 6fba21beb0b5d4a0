use std::time::Duration;

use super::*;
use crate::cli::progress::forecast::tests::{cells, forecast};

fn board(count: usize, now: Instant) -> Board {
    let (pipeline, plan) = cells();
    let mut board = Board {
        paint: Paint::new(false),
        total: 117,
        done: 45,
        failed: 1,
        not_run: 2,
        running: Vec::new(),
        forecast: forecast(&pipeline, &plan, &[("model[dataset=glyphs,seed=0]", 80.0), ("table", 1.0)]),
    };
    for (i, values) in [
        ["glyphs", "mean_field_class_wise_multi_similarity", "seed=0"],
        ["textures", "contrastive", "seed=11"],
        ["損失", "proxy_anchor", "seed=2"],
    ]
    .iter()
    .cycle()
    .take(count)
    .enumerate()
    {
        let figures =
            vec![("loss".to_owned(), 0.125), ("rate".to_owned(), 1e-4), ("images_per_second".to_owned(), 312.0)];
        let progress = Progress { done: 3 + i as u64, total: 100, unit: "epoch".into(), figures };
        board.running.push(RunningCell {
            cell: CellId(i as u32 % 4),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            stage: "model".to_owned(),
            start: now - Duration::from_secs(6),
            progress: (i != 1).then_some(progress),
        });
    }
    board
}

#[test]
fn lines_say_as_much_as_fits() {
    let now = Instant::now();
    let mut shown = String::new();
    for columns in [20, 40, 60, 80, 120, 200] {
        let lines = board(3, now).lines(now, Size { columns, rows: 24 });
        shown += &format!("{}\n{}\n\n", "-".repeat(columns), lines.join("\n"));
    }
    insta::assert_snapshot!(shown.trim_end());
}

#[test]
fn no_line_reaches_the_margin_and_all_fit_the_height() {
    let now = Instant::now();
    for columns in 1..240 {
        for (count, rows) in [(0, 24), (3, 24), (40, 24), (3, 4), (3, 1)] {
            let lines = board(count, now).lines(now, Size { columns, rows });
            assert!(lines.len() <= rows.saturating_sub(2).max(2), "{} lines in {rows} rows", lines.len());
            for line in lines {
                assert!(width(&line) < columns, "{columns} columns: {line:?}");
            }
        }
    }
}

#[test]
fn cells_that_do_not_fit_the_height_are_counted() {
    let now = Instant::now();
    let lines = board(40, now).lines(now, Size { columns: 80, rows: 10 });
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[6], "  and 34 more cells");
}
