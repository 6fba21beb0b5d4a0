//! The decision on a cell, as JSON and in words: the same in every command that shows one.

use serde_json::{Value, json};

use super::project::Project;
use crate::engine::plan::{Decision, Reason};
use crate::pipeline::model::CellId;

/// A cell and its decision as JSON.
pub fn to_json(project: &Project, cell: CellId, decision: &Decision) -> Value {
    let mut shown = json!({
        "cell": project.pipeline.cell_name(cell),
        "stage": &*project.pipeline.stage_of(cell).name,
    });
    let more = match decision {
        Decision::Cached { key, .. } => json!({ "decision": "cached", "key": key }),
        Decision::Run { key, reason } => json!({ "decision": "run", "key": key, "reason": reason }),
        Decision::May { upstream } => {
            let names: Vec<String> = upstream.iter().map(|&cell| project.pipeline.cell_name(cell)).collect();
            json!({ "decision": "may", "upstream": names })
        }
        Decision::Blocked { message } => json!({ "decision": "blocked", "message": message }),
    };
    if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
        shown.extend(more);
    }
    shown
}

/// Half a sentence: the cells whose outputs a cell waits for.
pub fn waits_for(project: &Project, upstream: &[CellId]) -> String {
    let first = upstream.first().map(|&cell| project.pipeline.cell_name(cell)).unwrap_or_default();
    match upstream.len() {
        0 | 1 => format!("unless the output of {first} stays the same"),
        n => format!("unless the outputs of {first} and {} more stay the same", n - 1),
    }
}

/// A sentence about why a cell runs, before the lines of what changed.
pub fn heading(reason: &Reason) -> String {
    match reason {
        Reason::New => "no cell of this name has run before".to_owned(),
        Reason::Changed { changes } if changes.is_empty() => "the way keys are computed has changed".to_owned(),
        Reason::Changed { .. } => "these changed since it last ran:".to_owned(),
        other => other.lines().join("; "),
    }
}
