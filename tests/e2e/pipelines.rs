//! The pipelines that come with the program: each plans as it is, and runs at its tiny scale without a network.

use crate::space::Space;

fn shipped(name: &str) -> Space {
    let path = format!("{}/pipelines/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    Space::new(&std::fs::read_to_string(path).unwrap())
}

/// What a plan ends with: how many cells there are to run.
fn planned(name: &str, flags: &[&str]) -> String {
    let ran = shipped(name).run(&[&["plan"], flags].concat());
    assert_eq!(ran.code, 0, "{name}: {}", ran.err);
    ran.out.lines().last().unwrap_or_default().to_owned()
}

/// Runs a pipeline at its tiny scale; every table must have a number in every place.
fn tiny(name: &str, flags: &[&str]) {
    let space = shipped(name);
    let ran = space.run(&[&["run", "--set", "scale=tiny"], flags].concat());
    assert_eq!(ran.code, 0, "{name}: {}\n{}", ran.out, ran.err);
    let cells = space.last_journal("executed");
    let tables: Vec<&String> =
        cells.iter().filter(|cell| ["table", "time", "memory", "cost"].iter().any(|end| cell.ends_with(end))).collect();
    assert!(!tables.is_empty(), "{cells:?}");
    for table in tables {
        let csv = std::fs::read_to_string(space.blob(table, "report").join("table.csv")).unwrap();
        let mut lines = csv.lines();
        let heads = lines.next().unwrap().split(',').count();
        for line in lines {
            assert!(line.split(',').count() == heads && !line.contains(",,"), "{name}, {table}: {csv}");
        }
    }
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
    tiny("mlrc", &["--set", "axes.dataset=[cars196]"]);
}

#[test]
fn losses_lengths_batches_and_costs_are_compared() {
    for name in ["losses", "dims", "batch", "cost"] {
        tiny(name, &[]);
    }
}

#[test]
fn emoji_runs_under_both_protocols() {
    for protocol in ["own", "traditional", "mlrc"] {
        tiny("emoji", &["--set", &format!("protocol={protocol}")]);
    }
}
