//! The reconciler: checks the books of each item ([`crate::check`]), compares holds with order-service's orders, order by
//! order, and repairs through `apply_order.lua`.
//!
//! Needed only where an event was lost: one that was parked, say. It goes both ways: for the holds here order-service is
//! asked, and its orders, those that have been quiet for a while, are applied here, so that one that Redis lacks is
//! adopted. A hold that is settled here and unknown there means that the source of truth has lost an order: nothing is
//! repaired, the gate is closed until somebody has looked ([`crate::behind`]).

use std::collections::HashMap;
use std::time::Duration;

use common::api::inventory::StockOrder;
use common::ids::{ItemId, OrderId};
use common::shutdown::Tasks;
use tokio::time::sleep;

use crate::behind::{Behind, keep_closed};
use crate::check::check;
use crate::inventory::{BOOKS_ATOMIC_MAX, StoreError};
use crate::items::Item;
use crate::keys::{Purpose, lock};
use crate::load::Loader;
use crate::orders::LOOKUP_MAX;
use crate::rest::rested;
use crate::settings::ReconcileSettings;
use crate::stock::{Applied, Hold, OrderState};
use crate::upkeep::UpkeepError;

/// How many rounds one replica keeps an item to itself, so that its place in the item is not lost.
const LOCK_ROUNDS: u32 = 3;
/// The books of an item with many orders are read by pages, which is no light work: they are checked every so many rounds.
const BIG_CHECK_ROUNDS: u32 = 6;

/// Starts the reconciler, as one of `tasks`.
pub fn start(loader: Loader, settings: ReconcileSettings, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn("reconciler", async move {
        let mut reconciler =
            Reconciler { loader, settings, places: HashMap::new(), ends: HashMap::new(), rounds: 0 };
        let rounds = async {
            loop {
                sleep(Duration::from_millis(settings.interval_ms)).await;
                reconciler.round().await;
            }
        };
        stop.run_until_cancelled(rounds).await;
        Ok(())
    });
}

struct Reconciler {
    loader: Loader,
    settings: ReconcileSettings,
    /// Where the last round ended in each item, and the epoch that the place is of.
    places: HashMap<ItemId, (i64, u64)>,
    /// The last order of the last page of order-service's list, while a sweep over it is not at its end.
    ends: HashMap<ItemId, StockOrder>,
    rounds: u32,
}

impl Reconciler {
    async fn round(&mut self) {
        let items = self.loader.items.all();
        self.places.retain(|id, _| items.iter().any(|item| item.id == *id));
        self.ends.retain(|id, _| items.iter().any(|item| item.id == *id));
        self.rounds = self.rounds.wrapping_add(1);
        for item in items.into_iter().filter(|item| item.is_open()) {
            if let Err(error) = self.look_after(&item).await {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, item.id = %item.id, "holds were not compared");
            }
        }
    }

    async fn look_after(&mut self, item: &Item) -> Result<(), UpkeepError> {
        let inventory = self.loader.inventory.clone();
        let lock_time = Duration::from_millis(self.settings.interval_ms) * LOCK_ROUNDS;
        if !inventory.lock(&lock(item.id, Purpose::Reconcile), self.loader.owner, lock_time).await? {
            return Ok(());
        }
        self.reclaim(item).await?;
        let is_big = item.figures().is_some_and(|figures| figures.holds > BOOKS_ATOMIC_MAX as usize);
        if !is_big || self.rounds.is_multiple_of(BIG_CHECK_ROUNDS) {
            check(&self.loader, item).await?;
        }
        self.compare(item).await?;
        self.compare_back(item).await
    }

    /// Units that were withdrawn and never claimed: whoever withdrew them died, or failed, before the total was lowered.
    async fn reclaim(&self, item: &Item) -> Result<(), StoreError> {
        let after = Duration::from_millis(self.settings.withdrawn_ms);
        if self.loader.inventory.reclaim(&item.keys, item.epoch(), after).await? {
            tracing::warn!(item.id = %item.id, "units were withdrawn and never claimed: the item is loaded anew");
            metrics::counter!("stock_reclaims_total").increment(1);
            self.loader.items.report_closed(item);
        }
        Ok(())
    }

    async fn compare(&mut self, item: &Item) -> Result<(), UpkeepError> {
        let inventory = self.loader.inventory.clone();
        let epoch = item.epoch();
        let place = self.places.get(&item.id).filter(|(of, _)| *of == epoch).map_or(0, |(_, place)| *place);
        let (place, holds) = rested(inventory.scan_holds(&item.keys, place, self.settings.page_max)).await?;
        for holds in holds.chunks(LOOKUP_MAX) {
            rested(self.compare_page(item, holds)).await?;
        }
        self.places.insert(item.id, (epoch, place));
        Ok(())
    }

    /// A sweep over the orders of order-service, some pages a round.
    async fn compare_back(&mut self, item: &Item) -> Result<(), UpkeepError> {
        let lease_ms = self.loader.catalogue.script_lease_ms();
        for _ in 0..self.settings.page_max.div_ceil(LOOKUP_MAX) {
            let page = async {
                let page = self.loader.orders.quiet_orders(item.id, self.ends.get(&item.id)).await?;
                let Some(last) = page.last().cloned() else { return Ok(None) };
                let orders: Vec<OrderState> = page.iter().map(OrderState::from).collect();
                let inventory = &self.loader.inventory;
                let (_, applied) =
                    inventory.apply_orders(&item.keys, item.epoch(), lease_ms, &orders).await?;
                Ok::<_, UpkeepError>(Some((last, applied)))
            };
            let Some((last, applied)) = rested(page).await? else {
                self.ends.remove(&item.id);
                break;
            };
            let missing = |outcome: &&Applied| matches!(outcome, Applied::Adopted | Applied::Tombstone);
            let missing = applied.iter().filter(missing).count();
            if missing > 0 {
                metrics::counter!("stock_drift_total", "kind" => "missing_here").increment(missing as u64);
                tracing::warn!(item.id = %item.id, orders = missing, "orders that Redis did not know were adopted");
            }
            self.ends.insert(item.id, last);
        }
        Ok(())
    }

    async fn compare_page(&self, item: &Item, holds: &[(OrderId, Hold)]) -> Result<(), UpkeepError> {
        let ids: Vec<OrderId> = holds.iter().map(|(id, _)| *id).collect();
        let known: HashMap<OrderId, OrderState> = {
            let orders = self.loader.orders.lookup(item.id, &ids).await?;
            orders.iter().map(|order| (order.order_id, OrderState::from(order))).collect()
        };
        let behind =
            |(id, hold): &&(OrderId, Hold)| hold.version > known.get(id).map_or(0, |order| order.version);
        let lost = holds.iter().filter(behind).count();
        if lost > 0 {
            tracing::error!(item.id = %item.id, orders = lost, "order-service does not know orders as it has reported them");
            metrics::counter!("stock_drift_total", "kind" => "lost_there").increment(lost as u64);
            let Loader { inventory, orders, items, .. } = &self.loader;
            return keep_closed(inventory, orders, items, item, Behind::Order).await;
        }
        let newer =
            holds.iter().filter_map(|(id, hold)| known.get(id).filter(|order| order.version > hold.version));
        let newer: Vec<OrderState> = newer.cloned().collect();
        if newer.is_empty() {
            return Ok(());
        }
        let lease_ms = self.loader.catalogue.script_lease_ms();
        let (_, applied) =
            self.loader.inventory.apply_orders(&item.keys, item.epoch(), lease_ms, &newer).await?;
        // An event that is on its way would have done the same.
        let repaired = applied.iter().filter(|outcome| !matches!(outcome, Applied::Unchanged)).count();
        metrics::counter!("stock_drift_total", "kind" => "behind").increment(repaired as u64);
        tracing::info!(item.id = %item.id, orders = repaired, "holds brought up to date by comparing");
        Ok(())
    }
}
