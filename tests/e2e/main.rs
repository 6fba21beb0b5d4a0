//! The real binary on real files: what users do, what goes wrong, and what must remain afterwards.

mod commands;
mod damage;
mod datasets;
mod errors;
mod examples;
mod faults;
mod freshness;
mod images;
mod learning;
mod liars;
mod metrics;
mod names;
mod network;
mod pipelines;
mod places;
#[path = "../support/random.rs"]
mod random;
mod running;
mod safety;
mod search;
mod space;
mod terminal;
mod trust;
mod waits;
mod weights;
mod yaml;
