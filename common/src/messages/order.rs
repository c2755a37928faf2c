//! Events about orders, published by order-service alone.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::Order;
use crate::ids::UserId;

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
