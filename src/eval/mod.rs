//! Retrieval metrics of embeddings: vectors in, numbers out; and the statistics of many such numbers.
//!
//! [`neighbours`] finds exact nearest neighbours, [`retrieval`](mod@retrieval) turns them into metrics, [`vectors`] reads
//! the files of other tools, [`statistics`] has the intervals and tests of a table.

pub mod neighbours;
pub mod retrieval;
pub mod statistics;
pub mod vectors;

pub use retrieval::{EvalError, Labelled, Options, Retrieval, Scores, retrieval};
