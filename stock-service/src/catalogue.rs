//! The catalogue: what every item's Redis says, read at most every `catalogue.cache_ms`, by one reader at a time.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use chrono::DateTime;
use common::api::ItemState;
use common::api::filter::IdFilter;
use common::api::inventory::{Catalogue, CatalogueItem};
use common::shutdown::Tasks;
use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::inventory::{Figures, Inventory, StoreError};
use crate::items::{Item, Items};
use crate::settings::CatalogueSettings;
use crate::units::Units;

/// Items that are looked at together.
const LOOKS_AT_A_TIME: usize = 64;

/// A catalogue, as it is sent.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// JSON of a [`Catalogue`].
    pub body: Bytes,
    /// Names exactly this body, quotes included.
    pub etag: String,
    /// When Redis was asked; `None`: never.
    read_at: Option<Instant>,
}

/// Reads the catalogue. Cheap to clone.
#[derive(Clone)]
pub struct CatalogueReader {
    shared: Arc<Shared>,
}

struct Shared {
    inventory: Inventory,
    items: Items,
    settings: CatalogueSettings,
    units: Units,
    tasks: Tasks,
    reading: Mutex<()>,
    last: ArcSwap<Snapshot>,
}

impl CatalogueReader {
    /// Nothing is read yet.
    pub fn new(
        (inventory, items): (Inventory, Items),
        settings: CatalogueSettings,
        units: Units,
        tasks: &Tasks,
    ) -> Self {
        let (reading, last, tasks) = (Mutex::default(), ArcSwap::default(), tasks.clone());
        Self { shared: Arc::new(Shared { inventory, items, settings, units, tasks, reading, last }) }
    }

    /// Reads now and then, so that a closed gate is noticed though nobody asks.
    pub fn start(&self, interval: Duration) {
        let (reader, tasks) = (self.clone(), &self.shared.tasks);
        let stop = tasks.stop_token();
        tasks.spawn("catalogue", async move {
            while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
                reader.current().await;
            }
            Ok(())
        });
    }

    /// The catalogue; read from Redis unless one was begun to be read less than `catalogue.cache_ms` ago. If Redis is
    /// away: the last known one, with every gate closed.
    pub async fn current(&self) -> Arc<Snapshot> {
        let asked_at = Instant::now();
        if let Some(fresh) = self.fresh(asked_at) {
            return fresh;
        }
        let _one_at_a_time = self.shared.reading.lock().await;
        // Whoever held the lock may have read after we asked.
        if let Some(fresh) = self.fresh(asked_at) {
            return fresh;
        }
        let snapshot = Arc::new(self.shared.read().await);
        self.shared.last.store(snapshot.clone());
        snapshot
    }

    fn fresh(&self, asked_at: Instant) -> Option<Arc<Snapshot>> {
        let last = self.shared.last.load_full();
        last.read_at.is_some_and(|read_at| read_at + self.shared.settings.cache() > asked_at).then_some(last)
    }
}

impl Shared {
    async fn read(self: &Arc<Self>) -> Snapshot {
        let read_at = Instant::now();
        let items = self.look_at_all().await;
        self.measure();
        self.snapshot(items, read_at)
    }

    /// What Redis says of each item; of those that are on a server that does not answer, what was last known, closed.
    async fn look_at_all(self: &Arc<Self>) -> Vec<CatalogueItem> {
        if self.inventory.is_up() {
            match self.inventory.listed_items().await {
                Ok(listed) => listed.into_iter().for_each(|id| {
                    self.items.add(id);
                }),
                // Only a hint, and in a cluster perhaps on the one server that is away.
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::debug!(error = cause, "the list of items cannot be read");
                }
            }
        }
        let looks = stream::iter(self.items.all()).map(|item| async move {
            let seen = if self.inventory.has(&item.keys) { self.look_at(item.clone()).await } else { Ok(None) };
            match seen {
                Ok(Some(shown)) => Some(shown),
                Ok(None) => self.last_known(&item),
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(error = cause, item.id = %item.id, "an item cannot be read, it is shown closed");
                    self.last_known(&item)
                }
            }
        });
        let looks: Vec<_> = looks.buffer_unordered(LOOKS_AT_A_TIME).collect().await;
        looks.into_iter().flatten().collect()
    }

    async fn look_at(self: &Arc<Self>, item: Arc<Item>) -> Result<Option<CatalogueItem>, StoreError> {
        let look = self.inventory.look(&item.keys).await?;
        let open = item.looked(&look);
        if !open {
            self.items.report_closed(&item);
        }
        let Some(figures) = look.figures.clone().or_else(|| item.figures()) else { return Ok(None) };
        let mut shown = shown(&item, &figures, open, look.now_ms);
        if open && refuses_everybody(shown.state) {
            shown.granted = self.filter(&item, &figures).await?;
        }
        Ok(Some(shown))
    }

    /// All ids of the item, which are those of everybody who had a unit when the figures were read. `None`: nobody is to
    /// be refused from this snapshot, because the item was loaded meanwhile, or has so many orders that its filter is
    /// still being built.
    async fn filter(
        self: &Arc<Self>,
        item: &Arc<Item>,
        figures: &Figures,
    ) -> Result<Option<IdFilter>, StoreError> {
        if let Some(known) = item.filter(figures.epoch, figures.holds) {
            return Ok(Some(known));
        }
        if figures.holds > self.settings.filter_at_once_max {
            self.build_in_background(item, figures.epoch);
            return Ok(None);
        }
        let ids = self.inventory.order_ids(&item.keys, figures.epoch).await?;
        Ok(ids.map(|ids| item.keep_filter(figures.epoch, &ids)))
    }

    /// Reading hundreds of thousands of ids takes seconds, in which everybody else would wait for the catalogue.
    fn build_in_background(self: &Arc<Self>, item: &Arc<Item>, epoch: i64) {
        let Some(building) = item.begin_filter() else { return };
        let (inventory, item) = (self.inventory.clone(), item.clone());
        self.tasks.spawn_finite("filter", async move {
            let _building = building;
            match inventory.order_ids(&item.keys, epoch).await {
                Ok(Some(ids)) => {
                    item.keep_filter(epoch, &ids);
                    tracing::info!(item.id = %item.id, ids = ids.len(), "filter of a big item built");
                }
                // Begun again by the next reading.
                Ok(None) => {}
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(error = cause, item.id = %item.id, "a filter was not built");
                }
            }
            Ok(())
        });
    }

    /// Its server is away, or has never had it: its gate is as good as closed.
    fn last_known(&self, item: &Item) -> Option<CatalogueItem> {
        let now_ms = self.inventory.redis_ms(&item.keys, Instant::now());
        Some(shown(item, &item.figures()?, false, now_ms))
    }

    fn snapshot(&self, mut items: Vec<CatalogueItem>, read_at: Instant) -> Snapshot {
        items.sort_unstable_by_key(|item| item.item_id);
        let catalogue = Catalogue { lease_ms: self.settings.lease_ms, items };
        // Nothing in these types can fail to become JSON.
        let body = serde_json::to_vec(&catalogue).unwrap_or_default();
        // The same content has the same name on every replica.
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = format!("\"{:016x}\"", hasher.finish());
        Snapshot { body: body.into(), etag, read_at: Some(read_at) }
    }

    fn measure(&self) {
        let items = self.items.all();
        let closed = items.iter().filter(|item| !item.is_open()).count();
        let (mut unsettled, mut age_ms, mut withheld) = (0, 0, 0);
        let known: Vec<_> = items.iter().filter_map(|item| Some((&**item, item.figures()?))).collect();
        self.units.show(known.iter().map(|(item, figures)| (*item, figures)));
        for (item, figures) in &known {
            unsettled += figures.unsettled;
            withheld += figures.withheld;
            if figures.oldest_unsettled_ms > 0 {
                let now_ms = self.inventory.redis_ms(&item.keys, Instant::now());
                age_ms = age_ms.max(now_ms - figures.oldest_unsettled_ms);
            }
        }
        metrics::gauge!("stock_items").set(items.len() as f64);
        let kept_closed = items.iter().filter(|item| item.is_kept_closed()).count();
        metrics::gauge!("stock_gates_closed").set(closed as f64);
        metrics::gauge!("stock_gates_kept_closed").set(kept_closed as f64);
        metrics::gauge!("stock_unsettled").set(unsettled as f64);
        metrics::gauge!("stock_unsettled_age_seconds").set(age_ms as f64 / 1000.0);
        metrics::gauge!("stock_withheld_units").set(withheld as f64);
    }
}

fn shown(item: &Item, figures: &Figures, open: bool, now_ms: i64) -> CatalogueItem {
    CatalogueItem {
        item_id: item.id,
        sale_id: figures.sale_id,
        state: state_at(figures, now_ms),
        starts_at: DateTime::from_timestamp_millis(figures.starts_ms).unwrap_or_default(),
        ends_at: DateTime::from_timestamp_millis(figures.ends_ms).unwrap_or_default(),
        total: figures.total,
        available: figures.available.max(0),
        per_user_limit: figures.limit,
        open,
        waiting_room: figures.waiting_room,
        challenge: figures.challenge,
        granted: None,
    }
}

fn state_at(figures: &Figures, now_ms: i64) -> ItemState {
    if figures.state == "ended" || now_ms >= figures.ends_ms {
        ItemState::Ended
    } else if now_ms < figures.starts_ms {
        ItemState::Scheduled
    } else if figures.state == "paused" {
        ItemState::Paused
    } else if figures.available <= 0 {
        ItemState::SoldOut
    } else {
        ItemState::Active
    }
}

fn refuses_everybody(state: ItemState) -> bool {
    match state {
        ItemState::SoldOut | ItemState::Paused | ItemState::Ended => true,
        ItemState::Draft | ItemState::Scheduled | ItemState::Active => false,
    }
}
