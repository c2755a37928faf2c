//! notify-service on a real Postgres and RabbitMQ, one world per test.

#![expect(clippy::unwrap_used, reason = "in a test there is nobody to return an error to")]

mod audit_log;
mod deliveries;
mod endpoints;
mod faults;
mod receiver;
mod retention;
mod sse_client;
mod storing;
mod streams;
mod support;
