//! stock-service: owner of the inventory in Redis, and the decision who gets a unit.
//!
//! In reading order: [`stock`] (the words), [`keys`] and [`inventory`] (Redis and the scripts), [`items`], [`announce`]
//! (the broker), [`reserve`] (the way to a unit), [`catalogue`], [`orders`] (order-service), [`load`] (loading and
//! recovery), [`relay`], `rest`, [`check`], [`reconcile`], [`upkeep`], [`consumers`], [`http`], [`app`]. For fault campaigns:
//! [`crash_points`], [`planted`].

pub mod announce;
pub mod app;
pub mod behind;
pub mod catalogue;
pub mod check;
pub mod consumers;
pub mod crash_points;
pub mod error;
pub mod http;
pub mod inventory;
pub mod items;
pub mod keys;
pub mod load;
pub mod measures;
pub mod orders;
pub mod planted;
pub mod reconcile;
pub mod relay;
pub mod reserve;
mod rest;
pub mod settings;
pub mod stock;
pub mod units;
pub mod upkeep;
pub mod watch;

pub use app::App;
pub use measures::METRICS;
pub use settings::Settings;
