//! The whole system on real servers: four services as processes, one private Redis, virtual host and pair of
//! databases for each test.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod crashes;
mod door;
mod fuzz_api;
mod idempotency;
mod input;
mod lifecycle;
mod line;
mod observe;
mod one_trace;
mod privileges;
mod races;
mod redis_cluster;
mod redis_sentinel;
mod storm;
mod support;
mod told;
mod weak_secrets;
