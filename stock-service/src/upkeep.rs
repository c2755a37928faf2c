//! Keeping the inventory in line with order-service: its list of items, their definitions, and their end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::api::inventory::ItemDefinition;
use common::ids::ItemId;
use common::shutdown::Tasks;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::behind::{Before, keep_closed};
use crate::inventory::{Inventory, Retired, StoreError, Updated};
use crate::items::{Item, Items};
use crate::orders::{Orders, OrdersError};
use crate::reserve::Reservations;
use crate::settings::{CatalogueSettings, LoadSettings, RetireSettings};

/// Pause before order-service's list is asked for again, until it was read once.
const FIRST_LIST_RETRY: Duration = Duration::from_millis(500);

/// Why something could not be brought in line; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// Redis did not play along.
    #[error("Redis")]
    Store(#[from] StoreError),
    /// order-service did not.
    #[error("order-service")]
    Orders(#[from] OrdersError),
}

/// Looks after the items. Cheap to clone.
#[derive(Clone)]
pub struct Upkeep {
    /// The inventory.
    pub inventory: Inventory,
    /// order-service.
    pub orders: Orders,
    /// The items.
    pub items: Items,
    /// Their queues.
    pub reservations: Reservations,
    /// How long units that come back stay off offer.
    pub catalogue: CatalogueSettings,
    /// How long items that are over keep their keys.
    pub retire: RetireSettings,
}

impl Upkeep {
    /// Compares with order-service now and then, as one of `tasks`.
    pub fn start(self, load: LoadSettings, tasks: &Tasks) {
        let stop = tasks.stop_token();
        tasks.spawn("upkeep", self.run(Duration::from_millis(load.sync_interval_ms), stop));
    }

    async fn run(self, interval: Duration, stop: CancellationToken) -> anyhow::Result<()> {
        let retire_interval = Duration::from_millis(self.retire.interval_ms);
        let mut retired_at = Instant::now();
        let round = async {
            loop {
                let pause = match self.sync().await {
                    Ok(()) => interval,
                    Err(error) => {
                        let cause = &error as &dyn std::error::Error;
                        tracing::warn!(error = cause, "items were not compared with order-service");
                        if self.items.is_complete() { interval } else { FIRST_LIST_RETRY.min(interval) }
                    }
                };
                if retired_at.elapsed() >= retire_interval {
                    retired_at = Instant::now();
                    self.retire_all().await;
                }
                sleep(pause).await;
            }
        };
        stop.run_until_cancelled(round).await;
        Ok(())
    }

    /// Adds what order-service lists and brings older definitions up to date.
    async fn sync(&self) -> Result<(), UpkeepError> {
        let before = Before::of(&self.items);
        let listed = self.orders.items().await?;
        for (id, behind) in before.against(&listed, self.inventory.about_ms(Instant::now())) {
            if let Some(item) = self.items.get(id) {
                keep_closed(&self.inventory, &self.orders, &self.items, &item, behind).await?;
            }
        }
        let ids: HashSet<ItemId> = listed.iter().map(|item| item.item_id).collect();
        self.items.forget_retired(&ids);
        for live in listed {
            let Some(item) = self.items.add(live.item_id) else { continue };
            // A newer one was handed out than this Redis was loaded with: scripts refuse from now on.
            item.raise_epoch(live.epoch);
            if let Some(ends_at) = live.ends_at {
                item.ends(ends_at.timestamp_millis());
            }
            let newer =
                item.is_open() && item.figures().is_some_and(|figures| figures.version < live.version);
            if newer {
                self.refresh(live.item_id).await?;
            }
        }
        self.items.completed();
        let open: Vec<ItemId> =
            self.items.all().iter().filter(|item| item.is_open()).map(|item| item.id).collect();
        Ok(self.inventory.list_items(&open).await?)
    }

    /// Fetches an item's definition and puts it in force; an item that is not loaded yet will be.
    ///
    /// # Errors
    /// See [`UpkeepError`]. Repeating is safe.
    pub async fn refresh(&self, id: ItemId) -> Result<(), UpkeepError> {
        let Some(definition) = self.orders.definition(id).await? else { return Ok(()) };
        let Some(item) = self.items.add(id) else { return Ok(()) };
        let lease_ms = self.catalogue.script_lease_ms();
        match self.inventory.update_item(&item.keys, item.epoch(), lease_ms, &definition).await? {
            Updated::Changed => {
                tracing::info!(item.id = %id, version = definition.version, "definition in force");
            }
            Updated::NotNewer => {}
            // The load that opens the gate fetches the definition once more after it.
            Updated::Shut(_) => self.items.report_closed(&item),
        }
        Ok(())
    }

    async fn retire_all(&self) {
        for item in self.items.all() {
            if let Err(error) = self.retire(&item).await {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, item.id = %item.id, "an item was not retired");
            }
        }
        self.reservations.forget_retired();
    }

    /// Removes the keys of an item that is over, at rest, and kept for long enough.
    async fn retire(&self, item: &Arc<Item>) -> Result<(), UpkeepError> {
        let Some(figures) = item.figures() else { return Ok(()) };
        let ended_ms =
            if figures.ended_ms > 0 { figures.ended_ms.min(figures.ends_ms) } else { figures.ends_ms };
        let keep_ms = i64::try_from(self.retire.keep_ms).unwrap_or(i64::MAX);
        let now_ms = self.inventory.redis_ms(&item.keys, Instant::now());
        if !item.is_open() || figures.unsettled > 0 || now_ms < ended_ms.saturating_add(keep_ms) {
            return Ok(());
        }
        let settled = |definition: &ItemDefinition| definition.settled;
        // An item that order-service does not know has no orders to wait for.
        if !self.orders.definition(item.id).await?.as_ref().is_none_or(settled) {
            return Ok(());
        }
        if self.inventory.retire_item(&item.keys, self.retire.keep()).await? == Retired::Removed {
            self.inventory.unlist_item(item.id).await?;
            self.items.retire(item.id);
            tracing::info!(item.id = %item.id, "retired");
        }
        Ok(())
    }
}
