//! `meanfield` regenerates the comparison tables of a deep-metric-learning paper from one YAML file.
//!
//! Two halves that meet only in [`stage`]:
//!
//! | half | rooms | knows |
//! | --- | --- | --- |
//! | engine | [`pipeline`], [`engine`], [`store`] | YAML, cells, digests, processes; no machine learning |
//! | learning | [`data`], [`nn`], [`loss`], [`train`], [`search`], [`eval`], [`report`] | images, networks, losses, metrics; no YAML, cells or store |
//!
//! [`math`] is the arithmetic under the learning half.
//!
//! Both halves share [`text`], [`mod@format`] and [`regular`], which read other tools' text files, name what a file is by its bytes, and
//! open nothing that blocks; the learning half has [`array`](mod@array) and [`table`] for their numbers and columns.
//!
//! [`settings`] describes parameters, for both.
//!
//! The library never prints and never exits; [`cli`] shows what it returns.

pub mod array;
pub mod cli;
mod contained;
pub mod data;
pub mod engine;
pub mod eval;
pub mod format;
pub mod loss;
pub mod math;
pub mod nn;
pub mod pipeline;
pub mod regular;
pub mod report;
pub mod search;
pub mod settings;
pub mod stage;
pub mod store;
pub mod table;
pub mod text;
pub mod train;
