//! The real binary on real files: what a user does, what goes wrong around it, and what must be left afterwards.

mod commands;
mod damage;
mod datasets;
mod errors;
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
mod trust;
mod waits;
mod weights;
mod yaml;
