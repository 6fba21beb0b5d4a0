//! Retrieval metrics of embeddings: vectors in, numbers out.
//!
//! [`neighbours`] finds exact nearest neighbours, [`retrieval`](mod@retrieval) turns them into metrics, [`vectors`] reads
//! the files of other tools.

pub mod neighbours;
pub mod retrieval;
pub mod vectors;

pub use retrieval::{EvalError, Labelled, Options, Retrieval, Scores, retrieval};
