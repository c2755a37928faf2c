//! How many machines a load takes.
//!
//! Two halves that check each other: a discrete-event simulation of the write path on one machine, held against what was
//! measured there, and the arithmetic of many machines, which uses the same costs. `docs/capacity.toml` has the figures.

mod plan;
mod simulation;

use std::collections::HashMap;

use common::settings::SettingsError;
use serde::Deserialize;

pub use plan::{Load, Plan};
pub use simulation::{Found, Machine, simulate};

/// The figures that are embedded.
const FIGURES: &str = include_str!("../../docs/capacity.toml");

/// Everything the model is fed with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// CPU milliseconds for 1,000 orders.
    pub costs: Costs,
    /// Milliseconds of waiting.
    pub delays: Delays,
    /// Bounds of batches.
    pub batches: Batches,
    /// What is left free.
    pub headroom: Headroom,
    /// What was measured.
    pub measured: Vec<Measured>,
}

/// CPU milliseconds for 1,000 accepted orders, or refusals.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "named after what they cost")]
pub struct Costs {
    pub gateway: f64,
    pub stock_service: f64,
    pub redis: f64,
    pub rabbitmq: f64,
    pub order_service: f64,
    pub postgres: f64,
    pub generator: f64,
    pub refusal_gateway: f64,
    pub refusal_generator: f64,
}

/// Milliseconds in which nobody computes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delays {
    /// Until a publish is confirmed.
    pub confirm: f64,
    /// Until a transaction is committed.
    pub commit: f64,
    /// Least time between two batches of order-service.
    pub consume_interval: f64,
}

/// Bounds of batches.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batches {
    /// Most orders of a batch.
    pub orders: usize,
    /// Most batches of one item at a time.
    pub in_flight: usize,
    /// Most orders of one transaction.
    pub transaction: usize,
}

/// What is left free.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headroom {
    /// Share of a machine that is planned for.
    pub busy: f64,
}

/// A case that was measured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What was measured.
    pub name: String,
    /// Cores of the machine.
    pub cores: usize,
    /// Clients, each of which waits for its answer.
    pub connections: usize,
    /// Accepted orders a second.
    pub orders_per_s: f64,
    /// How much dearer an order was than the costs.
    pub cost_factor: f64,
    /// Half of the answers took less, in milliseconds.
    pub p50_ms: Option<f64>,
}

impl Figures {
    /// Those of `docs/capacity.toml`.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub fn embedded() -> Result<Self, SettingsError> {
        common::settings::load_from("CAPACITY", FIGURES, HashMap::new())
    }
}
