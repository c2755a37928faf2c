//! From a load to replicas, shards and partitions.

use std::fmt;

use super::Figures;

/// What is to be taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Accepted orders a second.
    pub orders_per_s: f64,
    /// Refusals a second.
    pub refusals_per_s: f64,
}

/// What it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Cores of gateways.
    pub gateway_cores: u64,
    /// Cores of stock-service.
    pub stock_cores: u64,
    /// Primaries of Redis: each runs scripts on one core.
    pub redis_shards: u64,
    /// Cores of RabbitMQ, each message counted at each of three nodes.
    pub rabbitmq_cores: u64,
    /// Cores of order-service.
    pub order_cores: u64,
    /// Cores of Postgres.
    pub postgres_cores: u64,
    /// Queues that reservations are spread over: one consumer each, with one transaction at a time.
    pub partitions: u64,
}

/// Nodes of RabbitMQ that each message is written at.
const BROKER_COPIES: f64 = 3.0;

impl Plan {
    /// For `load`, with an order `cost_factor` times as dear as the costs say.
    pub fn of(figures: &Figures, load: Load, cost_factor: f64) -> Self {
        let busy = figures.headroom.busy;
        let costs = figures.costs;
        let cores = |ms_per_thousand: f64| up(load.orders_per_s * ms_per_thousand * cost_factor / 1e6 / busy);
        let refusing = load.refusals_per_s * costs.refusal_gateway / 1e6 / busy;
        // One transaction after the other: what it computes in both places, then its commit.
        let (orders, delays) = (figures.batches.transaction as f64, figures.delays);
        let computing_ms = orders * (costs.order_service + costs.postgres) * cost_factor / 1e3;
        let per_partition_per_s = orders / (computing_ms + delays.commit) * 1e3 * busy;
        Self {
            gateway_cores: cores(costs.gateway) + up(refusing),
            stock_cores: cores(costs.stock_service),
            redis_shards: cores(costs.redis),
            rabbitmq_cores: cores(costs.rabbitmq * BROKER_COPIES),
            order_cores: cores(costs.order_service),
            postgres_cores: cores(costs.postgres),
            partitions: up(load.orders_per_s / per_partition_per_s),
        }
    }
}

/// A row of the table in `docs/SCALING.md`.
impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} | {} | {} | {} | {} | {} | {}",
            self.gateway_cores,
            self.stock_cores,
            self.redis_shards,
            self.rabbitmq_cores,
            self.order_cores,
            self.partitions,
            self.postgres_cores
        )
    }
}

/// The next whole number.
fn up(value: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(value.ceil()).map_or(u64::MAX, |whole| whole.as_secs())
}
