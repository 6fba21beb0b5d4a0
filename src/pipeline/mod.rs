//! YAML to checked cells: what a pipeline says, and nothing about how it is run.
//!
//! [`load`] reads a file and gives a [`model::Pipeline`] or all its [`problem::Problems`]; [`select`] picks cells of it.
//! [`model`] holds the values that the engine receives; [`kinds`] what a stage kind declares of itself.

mod axes;
mod cell_map;
mod command;
mod definition;
mod expand;
#[cfg(test)]
mod fixture;
mod grid;
mod interpolate;
mod json_schema;
pub mod kinds;
mod link;
mod load;
#[cfg(test)]
mod mistakes;
pub mod model;
mod overrides;
mod params;
mod policy;
mod presets;
pub mod problem;
mod quoting;
mod read;
mod schema;
mod script;
pub mod select;
pub(crate) mod shell;
mod spelling;
mod stages;
pub mod trust;
mod yaml;

pub use json_schema::{definition_schema, pipeline_schema};
pub use load::load;
