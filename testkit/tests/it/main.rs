//! The test kit, tested with itself.

mod database;
mod own_servers;
mod redis;
mod services;
mod vhost;
