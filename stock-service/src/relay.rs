//! Publishing again what stays in `unsettled`, and asking order-service about it.
//!
//! A confirmed message may be gone with its broker, and an order's news may be lost on its way back. So: what has waited
//! and is not in the work queue any more is published again, after waits that double; and what has waited longer is asked
//! for, so that an order whose event was lost still settles.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::amqp::PublishError;
use common::failpoint::{Injected, planted};
use common::ids::OrderId;
use common::shutdown::Tasks;
use tokio::time::{Instant, sleep};

use crate::announce::{Announcer, Asked, Grant, PublishPoints};
use crate::crash_points::{RELAY_CONFIRM, RELAY_MARK, RELAY_PUBLISH, RELAY_SELECT};
use crate::inventory::{Figures, StoreError, Unsettled};
use crate::items::Item;
use crate::keys::{Purpose, lock};
use crate::load::Loader;
use crate::orders::{LOOKUP_MAX, OrdersError};
use crate::planted::RELAY_NEVER_PUBLISHES;
use crate::settings::RelaySettings;
use crate::stock::{Offer, OrderState, REQUESTS_PER_CALL_MAX};

/// How many rounds a relay keeps an item to itself, so that the waits of its orders stay in one memory.
const LOCK_ROUNDS: u32 = 5;
/// Longest wait before an order is published once more.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Why a round ended early; the next one goes on.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("Redis")]
    Store(#[from] StoreError),
    #[error("RabbitMQ")]
    Broker(#[from] PublishError),
    #[error("order-service")]
    Orders(#[from] OrdersError),
    #[error("a planted failure")]
    Injected(#[from] Injected),
}

/// Starts the relay, as one of `tasks`.
pub fn start(loader: Loader, settings: RelaySettings, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn("relay", async move {
        let points = PublishPoints { publish: RELAY_PUBLISH, confirm: RELAY_CONFIRM };
        let announcer = loader.announcer.passing(points);
        let mut relay = Relay { loader, announcer, settings, waits: HashMap::new() };
        let rounds = async {
            loop {
                sleep(Duration::from_millis(settings.interval_ms)).await;
                relay.round().await;
            }
        };
        stop.run_until_cancelled(rounds).await;
        Ok(())
    });
}

struct Relay {
    loader: Loader,
    announcer: Announcer,
    settings: RelaySettings,
    waits: HashMap<OrderId, Wait>,
}

/// When an order may be published once more.
struct Wait {
    until: Instant,
    next: Duration,
}

impl Relay {
    async fn round(&mut self) {
        let mut seen = HashSet::new();
        for item in self.loader.items.all() {
            let Some(figures) = item.figures().filter(|_| item.is_open()) else { continue };
            if figures.unsettled == 0 && figures.late == 0 {
                continue;
            }
            if let Err(error) = self.look_after(&item, &figures, &mut seen).await {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, item.id = %item.id, "unsettled reservations were not looked after");
            }
        }
        self.waits.retain(|id, _| seen.contains(id));
    }

    async fn look_after(
        &mut self,
        item: &Item,
        figures: &Figures,
        seen: &mut HashSet<OrderId>,
    ) -> Result<(), RelayError> {
        let inventory = self.loader.inventory.clone();
        let lock_time = Duration::from_millis(self.settings.interval_ms) * LOCK_ROUNDS;
        if !inventory.lock(&lock(item.id, Purpose::Relay), self.loader.owner, lock_time).await? {
            return Ok(());
        }
        if figures.late > 0 {
            self.loader.apply_late(item).await?;
        }
        let (_, old) =
            inventory.unsettled(&item.keys, self.settings.lookup_age_ms, 0, self.settings.page_max).await?;
        self.ask(item, &old).await?;
        RELAY_SELECT.begins().await?;
        let at = Instant::now();
        let (redis_ms, page) =
            inventory.unsettled(&item.keys, self.settings.age_ms, 0, self.settings.page_max).await?;
        RELAY_SELECT.ended().await?;
        seen.extend(page.iter().map(|(id, _)| *id));
        let due = self.due(page);
        if due.is_empty()
            || planted(RELAY_NEVER_PUBLISHES)
            || !self.announcer.partition_is_empty(item.id).await?
        {
            return Ok(());
        }
        let offer = Offer {
            epoch: figures.epoch,
            sale_id: figures.sale_id,
            unit_price_cents: figures.unit_price_cents,
            currency: figures.currency.clone(),
        };
        self.publish(item, &offer, Asked { at, redis_ms }, due).await
    }

    /// Those whose wait is over, with their holds.
    fn due(&self, page: Vec<Unsettled>) -> Vec<Grant> {
        let now = Instant::now();
        let due = page.into_iter().filter(|(id, _)| self.waits.get(id).is_none_or(|wait| now >= wait.until));
        due.filter_map(|(id, hold)| {
            if hold.is_none() {
                tracing::error!(order.id = %id, "an unsettled reservation has no hold");
            }
            Some(Grant::of(id, hold?))
        })
        .collect()
    }

    async fn publish(
        &mut self,
        item: &Item,
        offer: &Offer,
        asked: Asked,
        due: Vec<Grant>,
    ) -> Result<(), RelayError> {
        tracing::warn!(item.id = %item.id, orders = due.len(), "publishing unsettled reservations again");
        for grants in due.chunks(REQUESTS_PER_CALL_MAX) {
            self.announcer.reserved(item.id, offer, asked, grants.to_vec()).await?;
            metrics::counter!("stock_republished_total").increment(grants.len() as u64);
            RELAY_MARK.begins().await?;
            for grant in grants {
                self.wait_longer(grant.order_id);
            }
            RELAY_MARK.ended().await?;
        }
        Ok(())
    }

    fn wait_longer(&mut self, order: OrderId) {
        let first = Duration::from_millis(self.settings.age_ms);
        let wait = self.waits.entry(order).or_insert(Wait { until: Instant::now(), next: first });
        wait.until = Instant::now() + wait.next;
        wait.next = (wait.next * 2).min(WAIT_MAX);
    }

    /// Settles what order-service knows though its news did not arrive.
    async fn ask(&self, item: &Item, old: &[Unsettled]) -> Result<(), RelayError> {
        let ids: Vec<OrderId> = old.iter().map(|(id, _)| *id).collect();
        for ids in ids.chunks(LOOKUP_MAX) {
            let known = self.loader.orders.lookup(item.id, ids).await?;
            let orders: Vec<OrderState> = known.iter().map(OrderState::from).collect();
            if !orders.is_empty() {
                let lease_ms = self.loader.catalogue.script_lease_ms();
                self.loader.inventory.apply_orders(&item.keys, item.epoch(), lease_ms, &orders).await?;
                tracing::warn!(item.id = %item.id, orders = orders.len(), "orders settled by asking for them");
            }
        }
        Ok(())
    }
}
