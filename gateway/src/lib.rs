//! The public HTTP edge of Stampede: identity, limits, admission, order ids, API composition. Stateless.
//!
//! Reading order: [`http`] lists the routes, [`answer`] takes a request through the gate ([`endpoint`]) to its
//! handler, `http::place_order` is the path that all else makes way for, [`catalogue`] says what can be refused
//! without asking, [`admission`] makes batches of the rest.

pub mod admission;
pub mod answer;
mod app;
pub mod attempts;
pub mod blocks;
pub mod body;
pub mod catalogue;
pub mod challenge;
pub mod client_ip;
pub mod crash_points;
pub mod downstream;
pub mod edge;
pub mod endpoint;
pub mod error;
pub mod forward;
pub mod http;
pub mod known_ids;
pub mod language;
pub mod limits;
pub mod line;
pub mod listing;
pub mod measures;
pub mod newer_problem;
pub mod openapi;
pub mod order_status;
pub mod places;
pub mod planted;
pub mod poll;
pub mod refusals;
pub mod retries;
pub mod routes;
pub mod sale_cache;
pub mod settings;
pub mod state;
pub mod store;
pub mod token;
pub mod velocity;
pub mod wechat;

pub use app::App;
pub use measures::METRICS;
pub use settings::Settings;
