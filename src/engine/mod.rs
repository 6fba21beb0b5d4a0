//! Cells to results: which are up to date, why the others are not, and running those.
//!
//! | file | holds |
//! | --- | --- |
//! | [`fingerprint`] | the fields of a cell's key, read by the hasher and by the explainer |
//! | [`folders`] | which files of a changed folder changed |
//! | [`sources`] | digests of the user's own files |
//! | [`leftovers`] | which of them are not part of an input |
//! | `disturbed` | what a command did to them |
//! | [`plan`] | cells -> what `run` will do, and why; the same decision serves both |
//! | [`run`], [`outcome`] | runs a plan; the options of a run and its result |
//! | `scheduler` | starts ready cells, takes their ends |
//! | `cells` | the state of every cell of a run |
//! | `worker` | a thread that executes cells |
//! | `ending` | how a command ended, for people |
//! | [`execute`] | one cell: inputs laid out, attempt, outputs published |
//! | [`executor`] | the four verbs behind which a cell runs; [`local`] is the one for this machine |
//! | [`guard`] | the process that ends commands if this one is killed |
//! | `publish` | outputs that people look at, below the reports folder |
//! | `scratch` | where an output is made ready to be published, and what killed runs left of that |
//! | `spare` | the copy that a cell was given to read, published instead of another one |
//! | [`secrets`] | variables that cells see and that are never written to disk |
//! | [`resources`] | cpu, gpu, memory and whatever else a cell may hold |
//! | [`journal`] | one append-only file per run |
//! | [`event`] | what a run reports while it runs |
//!
//! Nothing here knows what a stage kind does: a kind is a name, a version, parameters, and a program that is started.

mod cells;
#[cfg(test)]
mod damage;
mod disturbed;
mod ending;
pub mod event;
pub mod execute;
pub mod executor;
pub mod fingerprint;
pub mod folders;
pub mod guard;
pub mod journal;
pub mod leftovers;
pub mod local;
pub mod outcome;
pub mod plan;
mod publish;
pub mod resources;
pub mod run;
mod scheduler;
mod scratch;
pub mod secrets;
pub mod sources;
mod spare;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;

use thiserror::Error;

use crate::store::StoreError;

/// Why a plan or a run had to end; the failure of a cell is not among these.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal could not be written.
    #[error("cannot write the journal {}", path.display())]
    Journal { path: PathBuf, source: std::io::Error },
    /// An output could not be put below the reports folder.
    #[error("cannot publish {}", target.display())]
    Publish { target: PathBuf, source: StoreError },
    /// A stage asks for more than is available.
    #[error("stage `{stage}` asks for {asked} of `{resource}`, but this run has {capacity}; {advice}")]
    Resource { stage: String, resource: String, asked: u64, capacity: u64, advice: String },
    /// Not even one thread for the work.
    #[error("cannot start a thread")]
    Threads(#[source] std::io::Error),
}
