//! (room not yet furnished)

pub mod statistics;
