//! order-service: owner of the orders database, the source of truth.
//!
//! Reading order: [`machine`] (what may follow what), [`place_orders`] (reservations become orders), [`transitions`]
//! (the one way in which an order changes), [`outbox`] (telling the others), then [`http`].

pub mod app;
pub mod archive;
pub mod audit;
pub mod audit_log;
pub mod blocks;
pub mod crash_points;
pub mod db;
pub mod dead_letters;
pub mod erasure;
pub mod error;
pub mod expiry;
pub mod gauges;
pub mod http;
pub mod inventory;
pub mod machine;
pub mod measures;
pub mod once;
pub mod orders;
pub mod outbox;
pub mod payments;
pub mod place_orders;
pub mod planted;
pub mod sales;
pub mod sandbox;
pub mod settings;
pub mod transitions;
pub mod watch;

pub use app::App;
pub use measures::METRICS;
pub use settings::Settings;
