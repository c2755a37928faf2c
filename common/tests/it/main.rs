//! The plumbing, against real time, real sockets and a real broker.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod batcher;
mod batcher_property;
mod http;
mod settings;
mod shutdown;
mod support;
