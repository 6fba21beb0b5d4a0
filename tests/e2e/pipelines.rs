//! The shipped pipelines: each can be planned offline, and runs at its tiny scale without a network.

use crate::space::{Space, text};

fn shipped(name: &str) -> Space {
    let path = format!("{}/pipelines/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    Space::new(&std::fs::read_to_string(path).unwrap())
}

/// The number of cells that a plan would run.
fn planned(name: &str, flags: &[&str]) -> String {
    let ran = shipped(name).run(&[&["plan"], flags].concat());
    assert_eq!(ran.code, 0, "{name}: {}", ran.err);
    let counted = ran.out.lines().find(|line| line.starts_with(&format!("{name}: ")));
    counted.unwrap_or_default().to_owned()
}

/// Runs a pipeline at its tiny scale; every table must have means, and every mean a number.
fn tiny(name: &str, flags: &[&str]) -> Space {
    let space = shipped(name);
    let ran = space.run(&[&["run", "--set", "scale=tiny"], flags].concat());
    assert_eq!(ran.code, 0, "{name}: {}\n{}", ran.out, ran.err);
    let published = std::fs::read_dir(space.path("reports").join(name)).unwrap().map(|table| table.unwrap().path());
    let tables: Vec<_> = published.filter(|path| path.is_dir()).collect();
    assert!(!tables.is_empty(), "{}", ran.err);
    for table in tables {
        let csv = std::fs::read_to_string(table.join("table.csv")).unwrap();
        let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        let mean = rows[0].iter().position(|head| *head == "mean").unwrap();
        assert!(rows.len() > 2, "{name}: {csv}");
        assert!(rows[1..].iter().all(|row| row[mean].parse::<f64>().is_ok_and(f64::is_finite)), "{name}: {csv}");
    }
    space
}

#[test]
fn every_pipeline_plans_without_a_network() {
    let names =
        ["cub", "cars196", "sop", "inshop", "mlrc", "losses", "dims", "batch", "cost", "modes", "quickstart", "search"];
    let lines: Vec<String> = names.iter().map(|name| planned(name, &[])).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_traditional_protocol_runs_on_miniatures_of_all_four_sets() {
    for name in ["cub", "cars196", "sop", "inshop"] {
        tiny(name, &[]);
    }
}

#[test]
fn the_reality_check_searches_and_scores_on_miniatures() {
    let one = ["--set", "axes.dataset=[cars196]"];
    let space = tiny("mlrc", &one);
    let read = |cell: String, output: &str| {
        let shown = space.json(&[&["show", &cell, "--json", "--set", "scale=tiny"][..], &one].concat());
        std::fs::read(text(&shown[&cell]["out"][output]["stored"])).unwrap()
    };
    for loss in ["contrastive", "mean_field_contrastive"] {
        let of = |rest: &str| format!("[dataset=cars196,loss={loss}{rest}]");
        let found = read(format!("best{}", of("")), "suggestion");
        let best =
            (0..3).find(|trial| read(format!("suggest{}", of(&format!(",trial={trial}"))), "suggestion") == found);
        for fold in 0..4 {
            let trial = read(format!("trial{}", of(&format!(",fold={fold},trial={}", best.unwrap()))), "model");
            let [first, second] =
                [0, 1].map(|run| read(format!("model{}", of(&format!(",fold={fold},run={run}"))), "model"));
            assert!(
                first == trial && second != trial,
                "{loss}: run 0 of fold {fold} repeats the best trial, run 1 is new"
            );
        }
    }
}

#[test]
fn losses_lengths_batches_and_costs_are_compared() {
    for name in ["losses", "dims", "batch", "cost"] {
        tiny(name, &[]);
    }
}

#[test]
fn losses_reads_a_folder_of_the_user() {
    let space = shipped("losses");
    space.write("birds/robin/1.png", "");
    let folder = space.path("birds");
    let shown = space.json(&["show", "images", "--json", "--set", &format!("images={}", folder.display())]);
    assert_eq!(text(&shown["images"]["in"]["raw"]), folder.to_str().unwrap());
}

#[test]
fn emoji_runs_under_both_protocols() {
    for protocol in ["own", "traditional", "mlrc"] {
        tiny("emoji", &["--set", &format!("protocol={protocol}")]);
    }
}
