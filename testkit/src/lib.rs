//! Real servers for tests: one isolated world per test.
//!
//! | world | what a test gets | how it is kept apart |
//! |---|---|---|
//! | [`Redis`] | its own server process | port and data folder |
//! | [`Vhost`] | a virtual host of the test run's RabbitMQ | name, own user |
//! | [`Database`] | a database of the test run's Postgres | name |
//! | [`RabbitNode`], [`PostgresServer`] | a broker or a Postgres of its own, to kill, stop and wipe | ports and data folders |
//! | [`RedisCluster`], [`RabbitCluster`] | three primaries with a replica each; three nodes with one broker's data | as above |
//! | [`RedisSentinels`] | a primary, two replicas and three sentinels | as above |
//! | [`Services`] | the four service binaries as processes | a Redis, a virtual host and databases of their own |
//!
//! `./dev test` starts RabbitMQ and Postgres once per run and says where they are by `STAMPEDE_TEST_*` variables;
//! nothing else sets those. Everything here panics on failure: in a test there is nobody to return an error to.
//! Each value removes what it made when it is dropped, and processes also die with the test binary, however it ends.

mod cleanup;
mod database;
mod environment;
mod pgbouncer;
mod port;
mod postgres;
mod process;
mod rabbitmq;
mod rabbitmq_cluster;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod services;
mod vhost;
mod wait;

pub use database::Database;
pub use environment::schemathesis;
pub use pgbouncer::Pgbouncer;
pub use postgres::PostgresServer;
pub use rabbitmq::RabbitNode;
pub use rabbitmq_cluster::RabbitCluster;
pub use redis::{Redis, RedisCopy};
pub use redis_cluster::RedisCluster;
pub use redis_sentinel::RedisSentinels;
pub use services::{Services, Stores};
pub use vhost::Vhost;
pub use wait::eventually;

/// Makes ring the process-wide TLS provider, which every `reqwest` client needs before it can be built.
///
/// Call it as often as you like.
pub fn init() {
    // An error means that it has been done already.
    rustls::crypto::ring::default_provider().install_default().ok();
}
