//! What this service hears: `sale.changed.v1` and every `order.*.v1`.
//!
//! Both may repeat and reorder; absolute states and versions make that harmless. While a store is away the consumer
//! keeps its messages. An item whose gate is closed does not hold up the others: its order events are acknowledged,
//! because the script keeps them for after a load that is in progress, and a load that has not begun yet will read the
//! source of truth, where each event was committed before it was published, later than now.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use common::amqp::{Accepts, Incoming, RetryLater, Verdict};
use common::ids::ItemId;
use common::messages::order::{ALL_V1, OrderV1};
use common::messages::sale::{CHANGED_V1, ChangedV1};

use crate::inventory::Inventory;
use crate::items::Items;
use crate::keys::ItemKeys;
use crate::settings::CatalogueSettings;
use crate::stock::{ORDERS_PER_CALL_MAX, OrderState};
use crate::upkeep::Upkeep;

/// The types that `stock-service.sales` carries.
pub fn sale_events() -> Accepts<ChangedV1> {
    Accepts::new().kind(CHANGED_V1, |event: ChangedV1| event)
}

/// The types that `stock-service.orders` carries.
pub fn order_events() -> Accepts<OrderV1> {
    ALL_V1.into_iter().fold(Accepts::new(), |accepts, kind| accepts.kind(kind, |event: OrderV1| event))
}

/// Brings every item up to date that changed.
///
/// # Errors
/// Redis or order-service is away.
pub async fn on_sales(upkeep: Upkeep, batch: Vec<Incoming<ChangedV1>>) -> Result<Vec<Verdict>, RetryLater> {
    let items: HashSet<ItemId> = batch.iter().map(|incoming| incoming.event.data.item_id).collect();
    for item in items {
        upkeep.refresh(item).await.map_err(|error| RetryLater(error.into()))?;
    }
    Ok(vec![Verdict::Done; batch.len()])
}

/// Makes the books follow orders.
#[derive(Clone)]
pub struct OrderFollower {
    /// The inventory.
    pub inventory: Inventory,
    /// The items.
    pub items: Items,
    /// How long units that come back stay off offer.
    pub catalogue: CatalogueSettings,
}

impl OrderFollower {
    /// Applies a batch, item by item.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn on_orders(
        self: Arc<Self>,
        batch: Vec<Incoming<OrderV1>>,
    ) -> Result<Vec<Verdict>, RetryLater> {
        let mut orders: HashMap<ItemId, Vec<OrderState>> = HashMap::new();
        for incoming in &batch {
            let event = &incoming.event.data;
            if let Some(item) = self.items.get(event.order.item_id) {
                // A gate with an older epoch is that of a Redis that should not be in use any more.
                item.raise_epoch(event.epoch);
            }
            orders.entry(event.order.item_id).or_default().push(OrderState::from(event));
        }
        for (item, orders) in &orders {
            self.apply(*item, orders).await?;
        }
        Ok(vec![Verdict::Done; batch.len()])
    }

    async fn apply(&self, id: ItemId, orders: &[OrderState]) -> Result<(), RetryLater> {
        let known = self.items.get(id);
        let keys = known.as_ref().map_or_else(|| ItemKeys::of(id), |item| item.keys.clone());
        let epoch_min = known.as_ref().map_or(0, |item| item.epoch());
        let lease_ms = self.catalogue.script_lease_ms();
        for orders in orders.chunks(ORDERS_PER_CALL_MAX) {
            let applied = self.inventory.apply_orders(&keys, epoch_min, lease_ms, orders).await;
            let (shut, _) = applied.map_err(|error| RetryLater(error.into()))?;
            if let (Some(_), Some(item)) = (shut, &known) {
                self.items.report_closed(item);
            }
        }
        Ok(())
    }
}
