//! Tells people what becomes of orders: buyers by server-sent events, other systems by signed webhooks.
//!
//! Owner of the database `notify`. Everything is stored before it is told: [`consumer`] takes events from the broker
//! into the database, [`sse`] and [`webhook`] tell from there.

pub mod app;
pub mod consumer;
pub mod crash_points;
pub mod db;
pub mod error;
pub mod http;
pub mod measures;
pub mod planted;
pub mod retention;
pub mod settings;
pub mod sse;
pub mod watch;
pub mod webhook;

pub use app::App;
pub use measures::METRICS;
pub use settings::Settings;
