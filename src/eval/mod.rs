//! Retrieval metrics of embeddings, and statistics over many such numbers.
//!
//! `ranks` finds where the matches of each query rank, [`retrieval`](mod@retrieval) turns that into metrics,
//! [`per_query`] writes it query by query, [`clustering`] compares classes with clusters, [`neighbours`] finds the nearest
//! rows themselves, [`sheet`] shows them as pictures, [`vectors`] reads the files of other tools, [`tensors`]
//! writes them, [`metric`] names what was measured, [`statistics`] has the intervals and tests of a table.

pub mod clustering;
mod index;
pub mod metric;
pub mod neighbours;
pub mod per_query;
mod ranks;
pub mod retrieval;
pub mod sheet;
pub mod statistics;
pub mod tensors;
pub mod vectors;

pub use ranks::Ties;
pub use retrieval::{Average, EvalError, Labelled, Options, Retrieval, Scores, retrieval};
