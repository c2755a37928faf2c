//! The campaign's own tools, tried on a running system.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod drills;
mod faults;
mod schedule;
