//! YAML to checked cells: what a pipeline says, and nothing about how it is run.
//!
//! [`model`] holds the values that the engine receives; [`kinds`] what a stage kind declares of itself.

pub mod kinds;
pub mod model;
