//! Events about sales, published by order-service alone.

use serde::{Deserialize, Serialize};

use crate::ids::{ItemId, SaleId};

/// Type name of [`ChangedV1`].
pub const CHANGED_V1: &str = "sale.changed.v1";

/// Something about an item changed; whoever keeps a copy asks for the absolute state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedV1 {
    /// The item.
    pub item_id: ItemId,
    /// Its sale.
    pub sale_id: SaleId,
    /// The item's version after the change; higher is newer.
    pub version: i64,
}
