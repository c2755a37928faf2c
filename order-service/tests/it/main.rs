//! Tests of order-service on a real Postgres and RabbitMQ: one database and one virtual host per test.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod api;
mod archiving;
mod asking;
mod audit;
mod blocks;
mod dead_letters;
mod desk;
mod expiry;
mod inventory;
mod lowering;
mod outage;
mod outbox;
mod payments;
mod placing;
mod pooler;
mod proxy;
mod refunds;
mod releasing;
mod replica;
mod sales;
mod sandbox;
mod support;
