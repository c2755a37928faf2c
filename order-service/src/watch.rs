//! Waiting for orders to change, for any number of callers at the price of one query per interval.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::ids::OrderId;
use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::schema::orders;
use crate::db::{Db, DbError};

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(100);
/// Most orders that are waited for at the same time; beyond it callers do not wait.
const ORDERS_MAX: usize = 10_000;

/// The orders that somebody waits for, with the version last seen. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    orders: Arc<Mutex<HashMap<Uuid, watch::Sender<i64>>>>,
    closing: CancellationToken,
}

impl Watch {
    /// Nobody waits yet; from the moment `closing` is cancelled nobody does any more, so that a long wait cannot hold
    /// up the end of the process.
    pub fn new(closing: CancellationToken) -> Self {
        Self { orders: Arc::default(), closing }
    }

    /// Waits until the order's version is above `version`, `deadline` at most. The caller reads it afterwards.
    pub async fn changed(&self, order: OrderId, version: i64, deadline: Instant) {
        let Some(mut seen) = self.subscribe(order, version) else { return };
        let change = timeout_at(deadline, seen.wait_for(|seen| *seen > version));
        // Late, or the service stops: either way the caller answers with what there is.
        let _in_time = self.closing.run_until_cancelled(change).await;
    }

    /// Looks for changes until stopped.
    ///
    /// # Errors
    /// None: a database that is away is waited for.
    pub async fn run(self, db: Db, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let waiting = self.waiting();
            if waiting.is_empty() {
                continue;
            }
            match versions(&db, waiting).await {
                Ok(versions) => self.tell(versions),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "waiting orders not read");
                }
            }
        }
        Ok(())
    }

    fn subscribe(&self, order: OrderId, version: i64) -> Option<watch::Receiver<i64>> {
        let mut orders = self.lock();
        if orders.len() >= ORDERS_MAX && !orders.contains_key(&order.0) {
            return None;
        }
        Some(orders.entry(order.0).or_insert_with(|| watch::channel(version).0).subscribe())
    }

    /// Forgets orders that nobody waits for any more, and names the others.
    fn waiting(&self) -> Vec<Uuid> {
        let mut orders = self.lock();
        orders.retain(|_, seen| seen.receiver_count() > 0);
        metrics::gauge!("watched_orders").set(u32::try_from(orders.len()).unwrap_or(u32::MAX));
        orders.keys().copied().collect()
    }

    fn tell(&self, versions: Vec<(Uuid, i64)>) {
        let orders = self.lock();
        for (id, version) in versions {
            if let Some(seen) = orders.get(&id) {
                seen.send_if_modified(|seen| std::mem::replace(seen, version) != version);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, watch::Sender<i64>>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn versions(db: &Db, ids: Vec<Uuid>) -> Result<Vec<(Uuid, i64)>, DbError> {
    let mut conn = db.get().await?;
    let rows = orders::table.filter(orders::id.eq_any(ids)).select((orders::id, orders::version));
    Ok(rows.load(&mut conn).await?)
}
