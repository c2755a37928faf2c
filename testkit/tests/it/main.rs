//! The test kit, tested with itself.

mod database;
mod redis;
mod services;
mod vhost;
