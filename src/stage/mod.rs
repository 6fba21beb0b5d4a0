//! The stage kinds: the only interface between the engine and the learning half.
//!
//! A kind is a thin adapter, and one row of `STAGES`. [`kinds`] declares them to the pipeline, [`run_job`] runs one in
//! a process of its own: it reads the job that the engine wrote, calls one module of the other half, and writes the
//! outputs. What a kind writes depends only on its parameters and inputs: not on the clock, the host or the number of
//! threads.

mod concat;
#[cfg(test)]
mod definitions;
mod device;
mod download;
mod embed;
mod evaluate;
mod files;
mod groups;
mod job;
mod loss_cost;
mod neighbours;
mod preprocess;
mod pretrained;
mod report;
mod search;
mod suggestion;
mod train;
mod vectors;
mod work;

use std::path::Path;

pub use self::files::FileChecks;
use self::job::JobMismatch;
pub use self::job::{JobError, Report};
pub use self::report::{makes_tables, render_table};
pub use self::work::Works;
use crate::engine::execute::KindJob;
use crate::pipeline::kinds::{Kind, Kinds};

/// A stage kind.
struct Stage {
    /// What it declares to the pipeline.
    kind: Kind,
    /// Runs one of its jobs.
    run: fn(&KindJob, Report<'_>) -> Result<(), JobError>,
    /// The stage definition of the same name.
    definition: &'static str,
}

/// Every stage kind, one row each.
const STAGES: &[Stage] = &[
    Stage { kind: download::KIND, run: download::run, definition: include_str!("../../stages/download.yaml") },
    Stage { kind: preprocess::KIND, run: preprocess::run, definition: include_str!("../../stages/preprocess.yaml") },
    Stage { kind: train::KIND, run: train::run, definition: include_str!("../../stages/train.yaml") },
    Stage { kind: embed::KIND, run: embed::run, definition: include_str!("../../stages/embed.yaml") },
    Stage {
        kind: evaluate::KIND,
        run: |job, _| evaluate::run(job),
        definition: include_str!("../../stages/evaluate.yaml"),
    },
    Stage {
        kind: neighbours::KIND,
        run: |job, _| neighbours::run(job),
        definition: include_str!("../../stages/neighbours.yaml"),
    },
    Stage {
        kind: loss_cost::KIND,
        run: |job, _| loss_cost::run(job),
        definition: include_str!("../../stages/loss_cost.yaml"),
    },
    Stage { kind: concat::KIND, run: |job, _| concat::run(job), definition: include_str!("../../stages/concat.yaml") },
    Stage { kind: search::KIND, run: |job, _| search::run(job), definition: include_str!("../../stages/search.yaml") },
    Stage { kind: report::KIND, run: |job, _| report::run(job), definition: include_str!("../../stages/report.yaml") },
];

/// The other stage definitions that come with the program, as (name, text): a kind with other defaults.
const VARIANTS: &[(&str, &str)] = &[
    ("download/glyphs", include_str!("../../stages/download/glyphs.yaml")),
    ("download/textures", include_str!("../../stages/download/textures.yaml")),
    ("download/miniature", include_str!("../../stages/download/miniature.yaml")),
    ("download/cub", include_str!("../../stages/download/cub.yaml")),
    ("download/cars196", include_str!("../../stages/download/cars196.yaml")),
    ("download/sop", include_str!("../../stages/download/sop.yaml")),
    ("download/inshop", include_str!("../../stages/download/inshop.yaml")),
    ("train/traditional", include_str!("../../stages/train/traditional.yaml")),
    ("train/traditional/cub", include_str!("../../stages/train/traditional/cub.yaml")),
    ("train/traditional/cub_resnet50", include_str!("../../stages/train/traditional/cub_resnet50.yaml")),
    ("train/traditional/cars196", include_str!("../../stages/train/traditional/cars196.yaml")),
    ("train/traditional/cars196_resnet50", include_str!("../../stages/train/traditional/cars196_resnet50.yaml")),
    ("train/traditional/sop", include_str!("../../stages/train/traditional/sop.yaml")),
    ("train/traditional/inshop", include_str!("../../stages/train/traditional/inshop.yaml")),
    ("train/mlrc", include_str!("../../stages/train/mlrc.yaml")),
    ("weights/bn_inception", include_str!("../../stages/weights/bn_inception.yaml")),
    ("weights/resnet50", include_str!("../../stages/weights/resnet50.yaml")),
    ("weights/vit_small_16_augreg", include_str!("../../stages/weights/vit_small_16_augreg.yaml")),
    ("weights/vit_small_16_deit", include_str!("../../stages/weights/vit_small_16_deit.yaml")),
    ("weights/vit_small_16_dino", include_str!("../../stages/weights/vit_small_16_dino.yaml")),
    ("search/mlrc", include_str!("../../stages/search/mlrc.yaml")),
    ("search/mlrc/cub", include_str!("../../stages/search/mlrc/cub.yaml")),
    ("search/mlrc/cars196", include_str!("../../stages/search/mlrc/cars196.yaml")),
    ("search/mlrc/sop", include_str!("../../stages/search/mlrc/sop.yaml")),
];

/// Every kind.
pub fn kinds() -> Kinds {
    Kinds(STAGES.iter().map(|stage| stage.kind).collect())
}

/// Every stage definition that comes with the program, as (name, text). A user's file of the same name takes precedence.
pub fn definitions() -> Vec<(&'static str, &'static str)> {
    STAGES.iter().map(|stage| (stage.kind.name, stage.definition)).chain(VARIANTS.iter().copied()).collect()
}

/// Runs the job in the file at `path`.
pub fn run_job(path: &Path, report: Report<'_>) -> Result<(), JobError> {
    let text = fs_err::read(path)?;
    let malformed = |source| JobMismatch::Malformed { path: path.to_owned(), source };
    let job: KindJob = serde_json::from_slice(&text).map_err(malformed)?;
    match STAGES.iter().find(|stage| stage.kind.name == job.kind) {
        Some(stage) => (stage.run)(&job, report),
        None => Err(JobMismatch::Kind(job.kind).into()),
    }
}

#[cfg(test)]
mod protocols;
#[cfg(test)]
mod schema_tests;
