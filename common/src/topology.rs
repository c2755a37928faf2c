//! Exchanges, queues and routing keys: one table, declared by whoever uses them.

use crate::ids::ItemId;

/// Partition queues that reservations are spread over. Fixed: changing it needs a drained broker.
pub const PARTITIONS: u32 = 8;

/// Deliveries after which the broker itself dead-letters a message. Only the net for a message that
/// kills its consumer: what cannot work is parked in code, an outage is waited for.
pub const DELIVERY_LIMIT: i64 = 100;

/// A durable topic exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// What stock-service decided.
    Stock,
    /// What order-service changed about sales.
    Sale,
    /// What became of orders.
    Order,
}

impl Exchange {
    /// The name on the broker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Sale => "sale",
            Self::Order => "order",
        }
    }
}

/// A durable quorum queue with its binding; its dead letters go to [`Queue::dead_name`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Queue {
    /// The name on the broker.
    pub name: String,
    /// The exchange it is bound to.
    pub exchange: Exchange,
    /// The topic pattern it is bound with.
    pub pattern: String,
    /// Whether the broker feeds one consumer at a time, so that order is kept across replicas.
    pub single_active_consumer: bool,
}

impl Queue {
    /// order-service: reservations and fences of one partition, in order.
    pub fn reservations(partition: u32) -> Self {
        Self {
            name: format!("order-service.reservations.{partition}"),
            exchange: Exchange::Stock,
            pattern: format!("stock.*.*.{partition}"),
            single_active_consumer: true,
        }
    }

    /// stock-service: items that changed.
    pub fn stock_sales() -> Self {
        Self {
            name: "stock-service.sales".to_owned(),
            exchange: Exchange::Sale,
            pattern: "sale.#".to_owned(),
            single_active_consumer: false,
        }
    }

    /// stock-service: what became of orders.
    pub fn stock_orders() -> Self {
        Self {
            name: "stock-service.orders".to_owned(),
            exchange: Exchange::Order,
            pattern: "order.#".to_owned(),
            single_active_consumer: false,
        }
    }

    /// notify-service: what to tell people; one consumer at a time, so that a user's events keep their order.
    pub fn notify_orders() -> Self {
        Self {
            name: "notify-service.orders".to_owned(),
            exchange: Exchange::Order,
            pattern: "order.#".to_owned(),
            single_active_consumer: true,
        }
    }

    /// Every queue of the system, the reservations first.
    pub fn all() -> Vec<Self> {
        let mut queues: Vec<Self> = (0..PARTITIONS).map(Self::reservations).collect();
        queues.extend([Self::stock_sales(), Self::stock_orders(), Self::notify_orders()]);
        queues
    }

    /// Where messages of this queue are parked that can never work.
    pub fn dead_name(&self) -> String {
        format!("{}.dead", self.name)
    }
}

/// The routing key of a message on the `stock` exchange: its type, then the item's partition.
pub fn stock_routing_key(kind: &str, item: ItemId) -> String {
    format!("{kind}.{}", item.partition())
}
