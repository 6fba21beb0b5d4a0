//! How stages are run: `resources:`, `retry:` and `timeout:`. None of it enters a key.

use std::collections::BTreeMap;
use std::time::Duration;

use super::problem::{Problem, Report, suggest};
use super::schema::mismatch;
use super::spelling::{Wanted, instead};
use super::yaml::{Data, Node};

/// Resources that need no declaration; the engine finds out how much of them there is.
const KNOWN: [&str; 3] = ["cpu", "gpu", "memory"];

/// Most GPUs that a stage can ask for: each is named in the environment of its cells.
const MAX_GPUS: u64 = 1024;

/// Most retries that a stage can ask for.
const MAX_RETRY: u64 = 100;

/// Reads `resources:`, of the pipeline or of a stage: amounts by name, `memory` in bytes.
pub(super) fn read_resources(node: Option<&Node>, report: &mut Report) -> BTreeMap<String, u64> {
    let Some(node) = node else { return BTreeMap::new() };
    if !matches!(node.data, Data::Map(_) | Data::Null) {
        report.add(mismatch(node, "resources", "a mapping from names to amounts"));
    }
    let read = |entry: &super::yaml::Entry| {
        let amount = match &entry.value.data {
            Data::Number(number) => number.as_u64(),
            Data::Text(text) if entry.key == "memory" => parse_size::parse_size(text).ok(),
            _ => None,
        };
        if amount.is_none() {
            let expected =
                if entry.key == "memory" { "a size such as `8GiB` or `500MB`" } else { "a whole number, 0 or more" };
            let problem = mismatch(&entry.value, &entry.key, expected);
            report.add(problem.help(instead(&entry.value, Wanted::Int)));
        }
        Some((entry.key.clone(), amount?))
    };
    node.entries().iter().filter_map(read).collect()
}

/// Refuses a request of a stage for a resource that does not exist, or for more than the pipeline has of it.
pub(super) fn check_demand(
    node: &Node,
    wanted: &BTreeMap<String, u64>,
    capacity: &BTreeMap<String, u64>,
    report: &mut Report,
) {
    for entry in node.entries() {
        if entry.key == "gpu" && wanted.get("gpu").is_some_and(|&gpus| gpus > MAX_GPUS) {
            let title = format!("a cell cannot ask for more than {MAX_GPUS} of `gpu`");
            report.add(Problem::new("out_of_range", entry.value.span, title));
        }
        match (wanted.get(&entry.key), capacity.get(&entry.key)) {
            (Some(wanted), Some(capacity)) if wanted > capacity => {
                let title = format!("a cell would need {wanted} of `{}`, the pipeline has {capacity}", entry.key);
                report.add(Problem::new("out_of_range", entry.value.span, title));
            }
            (_, None) if !KNOWN.contains(&entry.key.as_str()) => {
                let problem =
                    Problem::new("unknown_resource", entry.key_span, format!("there is no resource `{}`", entry.key));
                let problem =
                    problem.label("expected `cpu`, `gpu`, `memory` or a name of `resources:` at the top level");
                let known = KNOWN.into_iter().chain(capacity.keys().map(String::as_str));
                report.add(problem.help(suggest(&entry.key, known)));
            }
            _ => {}
        }
    }
}

/// Reads `retry:`.
pub(super) fn read_retry(node: Option<&Node>, report: &mut Report) -> u32 {
    let Some(node) = node else { return 0 };
    match &node.data {
        Data::Number(number) if number.as_u64().is_some_and(|count| count <= MAX_RETRY) => {
            number.as_u64().unwrap_or_default() as u32
        }
        Data::Number(number) if !number.is_f64() => {
            let problem = Problem::new("out_of_range", node.span, format!("`retry` is {number}, out of its range"));
            report.add(problem.label(format!("expected a whole number from 0 to {MAX_RETRY}")));
            0
        }
        _ => {
            let problem = mismatch(node, "retry", &format!("a whole number from 0 to {MAX_RETRY}"));
            report.add(problem.help(instead(node, Wanted::Int)));
            0
        }
    }
}

/// Reads `timeout:`.
pub(super) fn read_timeout(node: Option<&Node>, report: &mut Report) -> Option<Duration> {
    let node = node?;
    let time = node.scalar().and_then(|text| humantime::parse_duration(&text).ok()).filter(|time| !time.is_zero());
    if time.is_none() {
        let unit = matches!(node.data, Data::Number(_));
        let problem = mismatch(node, "timeout", "a duration such as `90s` or `2h`, longer than nothing");
        report.add(problem.help(unit.then(|| "add a unit: `s`, `m`, `h`".to_owned())));
    }
    time
}
