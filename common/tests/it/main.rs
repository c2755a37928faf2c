//! The plumbing, against real time, real sockets and a real broker.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod amqp_consume;
mod amqp_publish;
mod amqp_reconnect;
mod batcher;
mod batcher_property;
mod http;
mod proxy;
mod settings;
mod shutdown;
mod support;
