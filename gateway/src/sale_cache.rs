//! Sales that the listing does not have: over for long, or published a moment ago. Read through a cache.
//!
//! People who share an old link expect its page; a link that a million people open must not become a million queries. What
//! the best known caches do (nginx' cache lock, Facebook's leases): one rebuild of a key at a time, here by one reader in
//! this process and one process among the replicas, which then share what it found in Redis. "There is none" is remembered
//! as well. Times to live differ by a fifth, so that what was read together does not run out together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::api::Sale;
use common::ids::SaleId;
use common::problem::Code;
use metrics::Counter;
use parking_lot::Mutex;
use rand::Rng as _;
use redis::Value;
use reqwest::Method;
use tokio::time::{Instant, sleep, timeout_at};

use crate::downstream::Downstream;
use crate::error::ApiError;
use crate::order_status::document;
use crate::store::Store;

/// How long a sale is remembered, give or take a fifth: nothing of it changes any more, or the listing has it soon.
const FOUND_FOR: Duration = Duration::from_secs(5);
/// How long it is remembered that there is none.
const MISSING_FOR: Duration = Duration::from_secs(1);
/// By how much times to live differ.
const JITTER: f64 = 0.2;
/// Most sales that are remembered; ids that are not known at all do not get here.
const SALES_MAX: usize = 4096;
/// How long one replica may take to read a sale before others do it too.
const LOCKED_FOR: Duration = Duration::from_millis(1000);
/// How often the others look whether it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// What is remembered of a sale: the sale, or that there is none.
#[derive(Clone)]
struct Remembered {
    sale: Option<Arc<Sale>>,
    until: Instant,
}

/// The one place in this process where a sale is read.
type Slot = Arc<tokio::sync::Mutex<Option<Remembered>>>;

/// See the module.
pub struct SaleCache {
    orders: Downstream,
    store: Option<Store>,
    slots: Mutex<HashMap<SaleId, Slot>>,
    rebuilds: Counter,
}

impl SaleCache {
    /// Of what `orders` knows, shared through `store`.
    pub fn new(orders: Downstream, store: Option<Store>) -> Self {
        let rebuilds = metrics::counter!("gateway_sale_cache_rebuilds_total");
        Self { orders, store, slots: Mutex::default(), rebuilds }
    }

    /// The sale; `None` if there is none, or it is not published.
    ///
    /// # Errors
    /// order-service cannot say.
    pub async fn get(&self, id: SaleId, deadline: Instant) -> Result<Option<Arc<Sale>>, ApiError> {
        let slot = self.slot(id);
        let Ok(mut remembered) = timeout_at(deadline, slot.lock()).await else {
            return Err(Code::Unavailable.into());
        };
        if let Some(known) = remembered.as_ref().filter(|known| Instant::now() < known.until) {
            return Ok(known.sale.clone());
        }
        let sale = self.shared(id, deadline).await?.map(Arc::new);
        let until = Instant::now() + time_to_live(sale.is_some());
        *remembered = Some(Remembered { sale: sale.clone(), until });
        Ok(sale)
    }

    fn slot(&self, id: SaleId) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= SALES_MAX && !slots.contains_key(&id) {
            let now = Instant::now();
            // Who is being read for, or is fresh, stays; if all are, they make room all the same.
            slots.retain(|_, slot| {
                slot.try_lock().is_ok_and(|known| known.as_ref().is_some_and(|known| now < known.until))
            });
            if slots.len() >= SALES_MAX {
                slots.clear();
            }
        }
        slots.entry(id).or_default().clone()
    }

    /// What a replica has found, or else what is found now.
    async fn shared(&self, id: SaleId, deadline: Instant) -> Result<Option<Sale>, ApiError> {
        let Some(store) = &self.store else { return self.rebuild(id, deadline).await };
        let key = format!("cache:{{sale:{}}}", id.0);
        let lock = format!("{key}:lock");
        let until = deadline.min(Instant::now() + LOCKED_FOR);
        loop {
            match store.command(&key, redis::cmd("GET").arg(&key)).await {
                Ok(Value::BulkString(json)) => {
                    if let Ok(found) = serde_json::from_slice(&json) {
                        return Ok(found);
                    }
                }
                Ok(_) => {}
                Err(_) => return self.rebuild(id, deadline).await,
            }
            let mut acquire = redis::cmd("SET");
            acquire.arg(&lock).arg(1).arg("NX").arg("PX").arg(milliseconds(LOCKED_FOR));
            match store.command(&key, &acquire).await {
                Ok(Value::Nil) if Instant::now() < until => sleep(LOOK_AGAIN).await,
                Ok(_) | Err(_) => break,
            }
        }
        let found = self.rebuild(id, deadline).await;
        let mut done = redis::cmd("DEL");
        done.arg(&lock);
        if let Some(json) = found.as_ref().ok().and_then(|found| serde_json::to_vec(found).ok()) {
            let time_to_live_ms = milliseconds(time_to_live(json != b"null"));
            done = redis::cmd("SET");
            done.arg(&key).arg(json).arg("PX").arg(time_to_live_ms);
        }
        _ = store.command(&key, &done).await; // Without it the others find out for themselves.
        found
    }

    async fn rebuild(&self, id: SaleId, deadline: Instant) -> Result<Option<Sale>, ApiError> {
        self.rebuilds.increment(1);
        let path = format!("/internal/v1/sales/{}", id.0);
        document("order-service", self.orders.request(Method::GET, &path, deadline).send().await).await
    }
}

fn time_to_live(found: bool) -> Duration {
    let usual = if found { FOUND_FOR } else { MISSING_FOR };
    usual.mul_f64(rand::rng().random_range(1.0 - JITTER..1.0 + JITTER))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_together_does_not_run_out_together() {
        // An avalanche would be all of them in one slice of the time in which they run out.
        let mut slices = [0; 20];
        for _ in 0..10_000 {
            let after = time_to_live(true).as_secs_f64() / FOUND_FOR.as_secs_f64();
            let slice = (1..20).filter(|n| after >= 0.8 + 0.02 * f64::from(*n)).count();
            slices[slice] += 1;
        }
        assert!(slices.iter().all(|slice| *slice < 1_000), "{slices:?}");
        assert!(time_to_live(false) < time_to_live(true));
    }
}
