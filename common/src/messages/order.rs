//! Events about orders, published by order-service alone.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{Order, OrderStatus, Reason, RefundState};
use crate::ids::{Currency, ItemId, OrderId, Quantity, SaleId, UserId};

/// Type name: the order exists and waits for payment.
pub const CREATED_V1: &str = "order.created.v1";
/// Type name: the order is paid.
pub const PAID_V1: &str = "order.paid.v1";
/// Type name: the buyer cancelled.
pub const CANCELLED_V1: &str = "order.cancelled.v1";
/// Type name: nobody paid in time.
pub const EXPIRED_V1: &str = "order.expired.v1";
/// Type name: a guard refused the order.
pub const REJECTED_V1: &str = "order.rejected.v1";
/// Type name: a payment was given back, of a refunded order or of one that was paid too late.
pub const REFUNDED_V1: &str = "order.refunded.v1";

/// Every type of this exchange.
pub const ALL_V1: [&str; 6] = [CREATED_V1, PAID_V1, CANCELLED_V1, EXPIRED_V1, REJECTED_V1, REFUNDED_V1];

/// The body of every `order.*.v1` event: the order as its owner sees it, and what only services need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Flat")]
pub struct OrderV1 {
    /// The order as `GET /api/v1/orders/{id}` shows it.
    #[serde(flatten)]
    pub order: Order,
    /// Whose order it is.
    pub user_id: UserId,
    /// Where its units are now.
    pub units: Units,
    /// The inventory epoch that granted the reservation.
    pub epoch: i64,
}

/// How an [`OrderV1`] is read. `#[serde(flatten)]` would collect all fields in memory before it reads any, which takes
/// several times as long, and every service reads every order.
#[derive(Deserialize)]
struct Flat {
    id: OrderId,
    item_id: ItemId,
    sale_id: SaleId,
    quantity: Quantity,
    unit_price_cents: i64,
    total_cents: i64,
    currency: Currency,
    status: OrderStatus,
    reason: Option<Reason>,
    refund: Option<RefundState>,
    version: i64,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    user_id: UserId,
    units: Units,
    epoch: i64,
}

impl From<Flat> for OrderV1 {
    fn from(flat: Flat) -> Self {
        let order = Order {
            id: flat.id,
            item_id: flat.item_id,
            sale_id: flat.sale_id,
            quantity: flat.quantity,
            unit_price_cents: flat.unit_price_cents,
            total_cents: flat.total_cents,
            currency: flat.currency,
            status: flat.status,
            reason: flat.reason,
            refund: flat.refund,
            version: flat.version,
            created_at: flat.created_at,
            expires_at: flat.expires_at,
        };
        Self { order, user_id: flat.user_id, units: flat.units, epoch: flat.epoch }
    }
}

/// Where the units of an order are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// Taken for an order that is not paid yet.
    Held,
    /// Taken for good.
    Sold,
    /// Back for sale.
    Returned,
}
