//! A source of truth that is behind: Postgres was restored from an older backup, or lost what it had committed.
//!
//! Everything that Redis and this process know of epochs, versions and reported orders came out of Postgres, and there none
//! of it ever falls. So if Postgres, asked *after* that was read, says less, it has lost committed data. That is out of
//! promise; but nothing is sold from it either, since units would be sold again whose orders only the inventory still
//! knows. The item's gate is closed, for all replicas, until somebody has looked and removed the key of its alarm. Then it
//! is loaded with what Postgres has.

use std::collections::HashMap;

use common::api::inventory::{LiveItem, StockOrder};
use common::ids::{ItemId, OrderId};

use crate::check::HEALS_MAX;
use crate::inventory::{Inventory, StoreError};
use crate::items::{Item, Items};
use crate::orders::Orders;
use crate::upkeep::UpkeepError;

/// Holds that are read together.
const PAGE: usize = 2_000;

/// What Postgres says less of than it once did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Behind {
    /// It has handed out lower epochs than the inventory was loaded with.
    Epoch,
    /// It has an older version of the item.
    Version,
    /// It does not know the item.
    Item,
    /// It does not know an order that it had reported, or an older version of one.
    Order,
}

impl Behind {
    /// The value of the label `kind` in metrics, and of `why` in the key of the alarm.
    pub fn label(self) -> &'static str {
        match self {
            Self::Epoch => "epoch_behind",
            Self::Version => "version_behind",
            Self::Item => "item_unknown",
            Self::Order => "order_lost",
        }
    }
}

/// What is known here of an item that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    epoch: i64,
    version: i64,
    ends_ms: i64,
}

/// What is known here of all open items, before Postgres is asked for its list.
#[derive(Debug, Default)]
pub struct Before(HashMap<ItemId, Known>);

impl Before {
    /// Of what was last looked at.
    pub fn of(items: &Items) -> Self {
        let open = items.all().into_iter().filter(|item| item.is_open());
        let known = open.filter_map(|item| {
            let figures = item.figures()?;
            let known = Known { epoch: item.epoch(), version: figures.version, ends_ms: figures.ends_ms };
            (figures.state != "ended").then_some((item.id, known))
        });
        Self(known.collect())
    }

    /// The items that the list, asked for after that, is behind of. What it does not list at all is behind only while
    /// its sale goes on.
    pub fn against(&self, listed: &[LiveItem], now_ms: i64) -> Vec<(ItemId, Behind)> {
        let listed: HashMap<ItemId, &LiveItem> = listed.iter().map(|item| (item.item_id, item)).collect();
        let behind = |(id, known): (&ItemId, &Known)| {
            let behind = match listed.get(id) {
                // A service that lists no epochs says 0.
                Some(item) if item.epoch > 0 && item.epoch < known.epoch => Behind::Epoch,
                Some(item) if item.version < known.version => Behind::Version,
                Some(_) => return None,
                None if now_ms < known.ends_ms => Behind::Item,
                None => return None,
            };
            Some((*id, behind))
        };
        self.0.iter().filter_map(behind).collect()
    }
}

/// The orders that Redis has from Postgres, with their versions.
///
/// # Errors
/// See [`StoreError`].
pub async fn reported(inventory: &Inventory, item: &Item) -> Result<HashMap<OrderId, i64>, StoreError> {
    let (mut cursor, mut reported) = (0, HashMap::new());
    loop {
        let (next, holds) = inventory.scan_holds(&item.keys, cursor, PAGE).await?;
        let versions = holds.into_iter().map(|(id, hold)| (id, hold.version));
        reported.extend(versions.filter(|(_, version)| *version > 0));
        if next == 0 {
            return Ok(reported);
        }
        cursor = next;
    }
}

/// How many orders Postgres lacks, or has older versions of, than were `reported` before it was asked.
pub fn lost(reported: &HashMap<OrderId, i64>, orders: &[StockOrder]) -> usize {
    let known: HashMap<OrderId, i64> = orders.iter().map(|order| (order.order_id, order.version)).collect();
    reported.iter().filter(|(id, version)| known.get(id).is_none_or(|known| known < version)).count()
}

/// Closes the item until somebody has looked; then lifts the epoch in Postgres above what is known here, so that a load is
/// possible once the alarm's key is gone.
///
/// # Errors
/// The gate may not be closed, or the epoch not be lifted; whoever looks next does it again.
pub async fn keep_closed(
    inventory: &Inventory,
    orders: &Orders,
    items: &Items,
    item: &Item,
    behind: Behind,
) -> Result<(), UpkeepError> {
    let why = behind.label();
    let news = inventory.keep_closed(&item.keys, HEALS_MAX + 1, why).await?;
    items.report_closed(item);
    if news {
        metrics::counter!("stock_source_behind_total", "kind" => why).increment(1);
        tracing::error!(
            item.id = %item.id, why, epoch = item.epoch(),
            "order-service has lost what it had committed: gate closed until somebody has looked"
        );
    }
    if let Some(granted) = orders.grant_epoch(item.id, item.epoch()).await? {
        item.raise_epoch(granted.epoch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000;

    fn before(id: ItemId) -> Before {
        Before(HashMap::from([(id, Known { epoch: 3, version: 7, ends_ms: NOW_MS + 1 })]))
    }

    fn listed(item_id: ItemId, epoch: i64, version: i64) -> Vec<LiveItem> {
        vec![LiveItem { item_id, version, epoch, ends_at: None }]
    }

    #[test]
    fn what_falls_is_behind_and_what_rises_is_not() {
        let id = ItemId(uuid::Uuid::from_u128(1));
        let against = |listed: &[LiveItem]| before(id).against(listed, NOW_MS);
        assert_eq!(against(&listed(id, 3, 7)), []);
        assert_eq!(against(&listed(id, 4, 9)), []);
        assert_eq!(against(&listed(id, 2, 9)), [(id, Behind::Epoch)]);
        assert_eq!(against(&listed(id, 3, 6)), [(id, Behind::Version)]);
        assert_eq!(against(&[]), [(id, Behind::Item)]);
        assert_eq!(against(&listed(id, 0, 7)), [], "a service that lists no epochs");
        assert_eq!(before(id).against(&[], NOW_MS + 1), [], "its sale is over");
    }
}
