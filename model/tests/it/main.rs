//! The model against the protocol: what holds, what each guard is for, and that the scripts are what it says they are.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod capacity;
mod protocol;
mod scripts;
