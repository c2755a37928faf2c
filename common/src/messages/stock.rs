//! Events of stock-service, which alone may publish them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{Currency, ItemId, OrderId, Quantity, SaleId, UserId};

/// Type name of [`ReservedV1`].
pub const RESERVED_V1: &str = "stock.reserved.v1";
/// Type name of [`FenceV1`].
pub const FENCE_V1: &str = "stock.fence.v1";

/// A buyer got units; order-service makes the order of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedV1 {
    /// The order to be.
    pub order_id: OrderId,
    /// What was bought.
    pub item_id: ItemId,
    /// The sale that the item belongs to.
    pub sale_id: SaleId,
    /// Who bought.
    pub user_id: UserId,
    /// How many units.
    pub quantity: Quantity,
    /// The price at the time of the reservation, in minor units.
    pub unit_price_cents: i64,
    /// The currency of the price.
    pub currency: Currency,
    /// The epoch of the inventory that granted it.
    pub epoch: i64,
    /// When it was granted, by Redis' clock.
    pub reserved_at: DateTime<Utc>,
}

/// A mark in an item's partition: whoever has processed it has processed everything before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceV1 {
    /// The item that is being loaded.
    pub item_id: ItemId,
    /// The epoch that the load is for.
    pub epoch: i64,
    /// The token that order-service handed out with the epoch.
    pub token: Uuid,
}
