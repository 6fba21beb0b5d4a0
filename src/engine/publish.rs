//! Outputs that people look at, put below the reports folder.

use std::collections::HashMap;
use std::path::Path;

use super::event::{Event, Observer};
use super::plan::{Context, Decision, Plan};
use super::sources;
use crate::pipeline::model::CellId;
use crate::store::blobs::Placement;
use crate::store::{Artifact, IoContext, StoreError};

/// Puts the published outputs of the plan's cells below `reports`, those that are not there already. `fresh` holds the
/// outputs that the plan did not know.
pub fn publish(
    context: &Context<'_>,
    plan: &Plan,
    fresh: &HashMap<CellId, Vec<Artifact>>,
    reports: &Path,
    observer: &mut dyn Observer,
) -> Result<(), StoreError> {
    for (id, decision) in plan.cells() {
        let known = match decision {
            Decision::Cached { outputs, .. } => Some(outputs),
            _ => fresh.get(&id),
        };
        let declared = &context.pipeline.cells[id.0 as usize].outputs;
        for (output, artifact) in declared.iter().zip(known.into_iter().flatten()) {
            let Some(path) = &output.publish else { continue };
            let target = reports.join(path);
            if sources::digest_of(&target, &context.store.stat).is_ok_and(|found| found == *artifact) {
                continue;
            }
            replace(context, artifact, &target)?;
            observer.event(&Event::Published { path: &target });
        }
    }
    Ok(())
}

/// Replaces whatever lies at `target`: the new one is complete before the old one goes.
fn replace(context: &Context<'_>, artifact: &Artifact, target: &Path) -> Result<(), StoreError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).at("create", parent)?;
    let scratch =
        tempfile::Builder::new().prefix(".publishing-").tempdir_in(parent).at("create a folder in", parent)?;
    let fresh = scratch.path().join("new");
    context.store.blobs.place(artifact, &fresh, Placement::Writable)?;
    if target.is_dir() {
        std::fs::rename(target, scratch.path().join("old")).at("replace", target)?;
    }
    std::fs::rename(&fresh, target).at("replace", target)
}
