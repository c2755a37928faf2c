//! Measures a running Stampede from outside, as a crowd of clients would: what `./dev load` and `./dev bench` run.
//!
//! [`wire`], [`requests`] and [`schedule`] say what is sent and when, [`engine`] sends it, [`record`] counts what came back.

pub mod engine;
pub mod record;
pub mod requests;
pub mod schedule;
pub mod token;
pub mod wire;
