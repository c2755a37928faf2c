//! notify-service on a real Postgres and RabbitMQ, one world per test.

mod deliveries;
mod endpoints;
mod faults;
mod receiver;
mod retention;
mod sse_client;
mod storing;
mod streams;
mod support;
