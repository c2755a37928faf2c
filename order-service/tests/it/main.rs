//! Tests of order-service on a real Postgres and RabbitMQ: one database and one virtual host per test.

mod api;
mod dead_letters;
mod expiry;
mod inventory;
mod outage;
mod outbox;
mod placing;
mod support;
