//! The campaign's own tools, tried on a running system.

mod faults;
mod schedule;
