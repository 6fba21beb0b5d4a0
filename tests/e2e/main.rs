//! The real binary on real files: what a user does, what goes wrong around it, and what must be left afterwards.

mod faults;
mod freshness;
mod images;
mod learning;
mod network;
mod running;
mod space;
