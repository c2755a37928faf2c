//! One attempt to load one item.

use std::collections::HashMap;
use std::time::Duration;

use common::amqp::PublishError;
use common::api::inventory::{EpochGranted, ItemDefinition, ItemStock};
use common::failpoint::{Injected, planted};
use common::ids::OrderId;
use common::messages::order::Units;
use common::messages::stock::FenceV1;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use tokio::time::{Instant, sleep, sleep_until};

use super::steps::Steps;
use crate::announce::{Announcer, Asked, Grant};
use crate::behind::{self, Behind};
use crate::crash_points::{
    REBUILD_CLAIM, REBUILD_FENCE, REBUILD_GATE, REBUILD_READ, REBUILD_RENAME, REBUILD_REPUBLISH,
    REBUILD_STAGE,
};
use crate::inventory::{Begun, Commit, Committed, Inventory, Owner, StoreError};
use crate::items::{Item, Items};
use crate::keys::{Purpose, lock};
use crate::orders::{Orders, OrdersError, StockAnswer};
use crate::planted::{REBUILD_IGNORES_ORDERS, REBUILD_WITHOUT_TOMBSTONES};
use crate::settings::{CatalogueSettings, RetireSettings};
use crate::stock::{ORDERS_PER_CALL_MAX, Offer, OrderState, REQUESTS_PER_CALL_MAX};
use crate::upkeep::UpkeepError;

/// How long a lock outlives a loader that died.
const LOCK_TIME: Duration = Duration::from_secs(2);
/// How often it is renewed.
const LOCK_RENEWAL: Duration = Duration::from_millis(500);
/// What a reply may be late beside the time-outs, before its reservation is published.
const STRAGGLER_SLACK: Duration = Duration::from_millis(100);
/// Reservations that survived in `unsettled` and are read together.
const SURVIVORS_PAGE: usize = SURVIVORS_FLIGHTS * REQUESTS_PER_CALL_MAX;
/// Messages with them that are in flight together.
const SURVIVORS_FLIGHTS: usize = 4;
/// How often one load asks for the stock while its fence is on its way; each answer may take 10 s.
const STOCK_QUESTIONS_MAX: usize = 6;
/// Pause between two questions, for the case that they are answered at once.
const STOCK_QUESTION_PAUSE: Duration = Duration::from_millis(250);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// The gate is open, by us.
    Opened,
    /// It was open already.
    AlreadyOpen,
    /// Another replica is at it.
    Elsewhere,
    /// order-service knows no such item.
    Gone,
    /// The sale is long over and at rest: it needs no keys.
    Over,
    /// Its books were wrong too often: an operator has to look, see [`crate::check`].
    KeptClosed,
}

/// Why an attempt failed. The next one begins from the beginning, with a new epoch.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Redis did not play along.
    #[error("loading: Redis")]
    Store(#[from] StoreError),
    /// order-service did not.
    #[error("loading: order-service")]
    Orders(#[from] OrdersError),
    /// The broker did not.
    #[error("loading: RabbitMQ")]
    Broker(#[from] PublishError),
    /// A newer epoch was handed out: another loader is at it.
    #[error("loading: superseded by another loader")]
    Superseded,
    /// Redis lost what was staged, or is another process now.
    #[error("loading: what was staged is gone")]
    Lost,
    /// The lock ran out: another loader may be at it.
    #[error("loading: the lock was lost")]
    LockLost,
    /// A campaign let it fail.
    #[error("loading: a planted failure")]
    Injected(#[from] Injected),
}

impl From<UpkeepError> for LoadError {
    fn from(error: UpkeepError) -> Self {
        match error {
            UpkeepError::Store(error) => Self::Store(error),
            UpkeepError::Orders(error) => Self::Orders(error),
        }
    }
}

/// Loads items. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    /// The inventory.
    pub inventory: Inventory,
    /// order-service.
    pub orders: Orders,
    /// The broker.
    pub announcer: Announcer,
    /// The items.
    pub items: Items,
    /// How long units that come back stay off offer.
    pub catalogue: CatalogueSettings,
    /// How long items that are over keep their keys.
    pub retire: RetireSettings,
    /// Who holds the locks.
    pub owner: Owner,
}

impl Loader {
    /// Opens the item's gate, unless somebody else does or did.
    ///
    /// # Errors
    /// See [`LoadError`]; the gate stays closed.
    pub async fn load(&self, item: &Item) -> Result<Loaded, LoadError> {
        let lock = lock(item.id, Purpose::Load);
        if !self.inventory.lock(&lock, self.owner, LOCK_TIME).await? {
            return Ok(Loaded::Elsewhere);
        }
        let result = tokio::select! {
            result = self.load_locked(item) => result,
            error = self.keep_lock(&lock) => Err(error),
        };
        if let Err(error) = self.inventory.unlock(&lock, self.owner).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a lock was not given back, it will run out"
            );
        }
        result
    }

    /// Renews the lock for ever; ends only when it is lost.
    async fn keep_lock(&self, lock: &str) -> LoadError {
        loop {
            sleep(LOCK_RENEWAL).await;
            match self.inventory.lock(lock, self.owner, LOCK_TIME).await {
                Ok(true) => {}
                Ok(false) => return LoadError::LockLost,
                Err(error) => return LoadError::Store(error),
            }
        }
    }

    async fn load_locked(&self, item: &Item) -> Result<Loaded, LoadError> {
        let mut steps = Steps::begin();
        let look = self.inventory.look(&item.keys).await?;
        if item.looked(&look) {
            return Ok(Loaded::AlreadyOpen);
        }
        if let Some(figures) = &look.figures {
            // Handed out once, whatever became of the gate.
            item.raise_epoch(figures.epoch);
        }
        let known_epoch = item.epoch();
        if item.is_kept_closed() {
            return Ok(Loaded::KeptClosed);
        }
        let definition = match self.orders.definition(item.id).await? {
            Some(definition) if self.is_over(item, &definition) => {
                return self.unlisted(item, Loaded::Over).await;
            }
            Some(definition) => definition,
            None => return self.unlisted(item, Loaded::Gone).await,
        };
        // Then it is loaded with what order-service has, whatever is known here.
        let somebody_has_looked = self.inventory.was_kept_closed(&item.keys).await?;
        if !somebody_has_looked && definition.epoch.is_some_and(|epoch| epoch < known_epoch) {
            return self.kept_closed(item, Behind::Epoch).await;
        }
        REBUILD_CLAIM.begins().await?;
        let Some(granted) = self.orders.grant_epoch(item.id, known_epoch).await? else {
            return self.unlisted(item, Loaded::Gone).await;
        };
        REBUILD_CLAIM.ended().await?;
        item.raise_epoch(granted.epoch);
        let earlier = match self.inventory.begin_load(&item.keys, granted.epoch).await? {
            Begun::Yes { earlier } => earlier,
            Begun::AlreadyOpen => return Ok(Loaded::AlreadyOpen),
            Begun::Superseded => return Err(LoadError::Superseded),
        };
        // Nothing is granted from here on. A brand-new item has no past to wait for.
        let recovering = earlier || granted.epoch > 1;
        let sealed_at = Instant::now();
        let reported = if somebody_has_looked { HashMap::new() } else { self.reported(item).await? };
        steps.done("claim");
        if recovering {
            REBUILD_REPUBLISH.begins().await?;
            self.announce_survivors(item, &definition, granted.epoch).await?;
            REBUILD_REPUBLISH.ended().await?;
            steps.done("republish");
            sleep_until(sealed_at + self.announcer.longest() + STRAGGLER_SLACK).await;
            steps.done("stragglers");
        }
        REBUILD_FENCE.begins().await?;
        self.send_fence(item, &granted).await?;
        REBUILD_FENCE.ended().await?;
        REBUILD_READ.begins().await?;
        let stock = match self.fenced_stock(item, &granted).await? {
            StockAnswer::Stock(stock) => stock,
            StockAnswer::Superseded => return Err(LoadError::Superseded),
        };
        REBUILD_READ.ended().await?;
        if behind::lost(&reported, &stock.orders) > 0 {
            return self.kept_closed(item, Behind::Order).await;
        }
        steps.done("fence and read");
        let (orders, available, merged) = self.fill(item, &granted, &stock, recovering).await?;
        steps.done("fill");
        tracing::info!(item.id = %item.id, epoch = granted.epoch, orders, available, merged, %steps, "gate open");
        REBUILD_GATE.begins().await?;
        item.opened(granted.epoch);
        REBUILD_GATE.ended().await?;
        self.catch_up(item).await;
        Ok(Loaded::Opened)
    }

    /// What Redis has from order-service. A hold that cannot be read proves nothing, and the load replaces it.
    async fn reported(&self, item: &Item) -> Result<HashMap<OrderId, i64>, StoreError> {
        match behind::reported(&self.inventory, item).await {
            Err(StoreError::Garbled(_)) => Ok(HashMap::new()),
            reported => reported,
        }
    }

    /// order-service is behind of what is known here.
    async fn kept_closed(&self, item: &Item, behind: Behind) -> Result<Loaded, LoadError> {
        behind::keep_closed(&self.inventory, &self.orders, &self.items, item, behind).await?;
        Ok(Loaded::KeptClosed)
    }

    /// Otherwise the list of items would bring it back at once.
    async fn unlisted(&self, item: &Item, loaded: Loaded) -> Result<Loaded, LoadError> {
        self.inventory.unlist_item(item.id).await?;
        Ok(loaded)
    }

    /// The old epoch's reservations that no message may have carried to order-service.
    async fn announce_survivors(
        &self,
        item: &Item,
        definition: &ItemDefinition,
        epoch: i64,
    ) -> Result<(), LoadError> {
        let offer = Offer {
            epoch,
            sale_id: definition.sale_id,
            unit_price_cents: definition.unit_price_cents,
            currency: definition.currency.clone(),
        };
        let mut seen = 0;
        loop {
            let at = Instant::now();
            let (redis_ms, page) = self.inventory.unsettled(&item.keys, 0, seen, SURVIVORS_PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            seen += page.len();
            let grants = page.into_iter().filter_map(|(id, hold)| Some(Grant::of(id, hold?)));
            let grants: Vec<_> = grants.collect();
            metrics::counter!("stock_republished_total").increment(grants.len() as u64);
            let asked = Asked { at, redis_ms };
            let messages = grants.chunks(REQUESTS_PER_CALL_MAX);
            let messages =
                messages.map(|grants| self.announcer.reserved(item.id, &offer, asked, grants.to_vec()));
            let messages: Vec<_> = messages.collect();
            stream::iter(messages).buffer_unordered(SURVIVORS_FLIGHTS).try_collect::<()>().await?;
        }
    }

    async fn send_fence(&self, item: &Item, granted: &EpochGranted) -> Result<(), LoadError> {
        let fence = FenceV1 { item_id: item.id, epoch: granted.epoch, token: granted.token };
        let now_ms = self.inventory.redis_ms(&item.keys, Instant::now());
        Ok(self.announcer.fence(fence, now_ms).await?)
    }

    /// Asks until the fence has come through. With a long queue before it that takes more than one answer; a new
    /// attempt would put one more fence behind it.
    async fn fenced_stock(&self, item: &Item, granted: &EpochGranted) -> Result<StockAnswer, OrdersError> {
        for _ in 1..STOCK_QUESTIONS_MAX {
            match self.orders.stock(item.id, granted).await {
                Err(OrdersError::Status(StatusCode::SERVICE_UNAVAILABLE)) => {
                    sleep(STOCK_QUESTION_PAUSE).await
                }
                answer => return answer,
            }
        }
        self.orders.stock(item.id, granted).await
    }

    /// How many orders were staged, and what the commit says: units available, reservations merged.
    async fn fill(
        &self,
        item: &Item,
        granted: &EpochGranted,
        stock: &ItemStock,
        recovering: bool,
    ) -> Result<(usize, i64, i64), LoadError> {
        let orders: Vec<OrderState> =
            stock.orders.iter().map(OrderState::from).filter(|order| !is_left_out(order)).collect();
        for chunk in orders.chunks(ORDERS_PER_CALL_MAX) {
            REBUILD_STAGE.begins().await?;
            if !self.inventory.stage_orders(&item.keys, granted.epoch, chunk).await? {
                return Err(LoadError::Lost);
            }
            REBUILD_STAGE.ended().await?;
        }
        if !self.inventory.merge_unsettled(&item.keys, granted.epoch).await? {
            return Err(LoadError::Lost);
        }
        let lease_ms = if recovering { self.catalogue.script_lease_ms() } else { 0 };
        let commit = Commit { epoch: granted.epoch, staged: orders.len(), lease_ms };
        REBUILD_RENAME.begins().await?;
        let committed = self.inventory.commit_load(&item.keys, commit, &stock.item).await?;
        REBUILD_RENAME.ended().await?;
        match committed {
            Committed::Opened { available, merged } => Ok((orders.len(), available, merged)),
            Committed::NotReady => Err(LoadError::Lost),
        }
    }

    /// What happened during the load. None of it is needed for the gate to be open, and what fails here is tried
    /// again by the tasks that look after open items.
    async fn catch_up(&self, item: &Item) {
        if let Err(error) = self.inventory.list_items(&[item.id]).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a loaded item was not listed");
        }
        match self.orders.definition(item.id).await {
            Ok(Some(definition)) => {
                let lease_ms = self.catalogue.script_lease_ms();
                if let Err(error) =
                    self.inventory.update_item(&item.keys, item.epoch(), lease_ms, &definition).await
                {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a loaded item was not updated");
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a loaded item was not asked for")
            }
        }
        if let Err(error) = self.apply_late(item).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "late orders were not applied");
        }
    }

    /// Applies the orders that were kept during a load.
    ///
    /// # Errors
    /// See [`StoreError`]; those not applied are kept.
    pub async fn apply_late(&self, item: &Item) -> Result<(), StoreError> {
        let lease_ms = self.catalogue.script_lease_ms();
        loop {
            let late = self.inventory.late_orders(&item.keys).await?;
            if late.is_empty() {
                return Ok(());
            }
            // What an open gate applies leaves `late`, so this comes to an end.
            if let (Some(_), _) =
                self.inventory.apply_orders(&item.keys, item.epoch(), lease_ms, &late).await?
            {
                return Ok(());
            }
        }
    }

    /// Whether the item would be retired as soon as it is loaded. When an admin ended it is not known here; such an item
    /// is loaded, and retired after its time.
    fn is_over(&self, item: &Item, definition: &ItemDefinition) -> bool {
        let now_ms = self.inventory.redis_ms(&item.keys, Instant::now());
        let keep_ms = i64::try_from(self.retire.keep_ms).unwrap_or(i64::MAX);
        definition.settled && now_ms >= definition.ends_at.timestamp_millis().saturating_add(keep_ms)
    }
}

/// None is, unless a mistake is planted.
fn is_left_out(order: &OrderState) -> bool {
    planted(REBUILD_IGNORES_ORDERS) || planted(REBUILD_WITHOUT_TOMBSTONES) && order.units == Units::Returned
}
