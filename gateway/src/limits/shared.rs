//! The buckets of placing orders that all replicas share. What waits travels together: one script call takes for each
//! request from all of its buckets, or from none.

use std::time::Duration;

use common::batcher::{BatchError, Batcher, BatcherSettings, Pending};
use common::ids::UserId;
use common::shutdown::Tasks;
use redis::Value;
use tokio::time::Instant;

use super::bucket::Left;
use crate::settings::Bucket;
use crate::store::{Script, Store, StoreError};

/// The braces put all of them into one slot of a cluster, so that one script can take from many.
const KEY_PREFIX: &str = "limit:{order}";
/// Most requests in one call, which is some hundred microseconds of Redis' time.
const BATCH_MAX: usize = 64;
/// Most calls at a time.
const FLIGHTS_MAX: usize = 2;
/// Most requests that wait for their call.
const QUEUE_MAX: usize = 4096;

/// What the shared buckets say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// A token was taken of each; this is left in the user's.
    Taken(Left),
    /// The user's bucket is empty, for so long.
    UserEmpty(Duration),
    /// The address' bucket is empty, for so long.
    AddressEmpty(Duration),
}

/// Whose tokens an order takes; an address that is exempt is left out.
struct Payers {
    user: UserId,
    address: Option<u128>,
}

type Asked = Pending<Payers, Shared>;

/// The shared buckets.
pub struct SharedBuckets {
    calls: Batcher<Payers, Shared>,
    timeout: Duration,
}

/// The way to them.
#[derive(Clone)]
struct Caller {
    store: Store,
    user: Bucket,
    address: Bucket,
}

impl SharedBuckets {
    /// In `store`; the calls end with `tasks`.
    pub fn new(store: Store, user: Bucket, address: Bucket, tasks: &Tasks) -> Self {
        let settings = BatcherSettings {
            name: "limits",
            queue_max: QUEUE_MAX,
            batch_max: BATCH_MAX,
            flights_max: FLIGHTS_MAX,
            min_interval: Duration::ZERO,
        };
        let timeout = store.timeout();
        let (script, caller) = (script(), Caller { store, user, address });
        let calls = Batcher::start(settings, tasks, move |batch| {
            let (script, caller) = (script.clone(), caller.clone());
            async move { caller.ask(&script, batch).await }
        });
        Self { calls, timeout }
    }

    /// Takes a token of the user, and one of the address unless it is exempt.
    ///
    /// # Errors
    /// Redis does not say.
    pub async fn take(&self, user: &UserId, address: Option<u128>) -> Result<Shared, BatchError> {
        self.calls.submit(Payers { user: user.clone(), address }, Instant::now() + self.timeout).await
    }
}

fn script() -> std::sync::Arc<Script> {
    std::sync::Arc::new(Script::new("limit", include_str!("../../lua/limit.lua")))
}

impl Caller {
    /// Asks for all of them at once. Who is dropped unanswered learns that Redis does not say.
    async fn ask(&self, script: &Script, batch: Vec<Asked>) {
        let (mut keys, mut kinds) = (Vec::with_capacity(2 * batch.len()), String::new());
        for asked in &batch {
            let Payers { user, address } = &asked.request;
            keys.push(format!("{KEY_PREFIX}:user:{}", user.as_str()));
            kinds.push('u');
            if let Some(address) = address {
                keys.push(format!("{KEY_PREFIX}:ip:{address:032x}"));
                kinds.push('a');
            }
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let answer = self.store.run(script, &keys, |call| {
            call.arg(kinds);
            for bucket in [self.user, self.address] {
                let period_us = 1_000_000.0 / f64::from(bucket.per_second.get());
                call.arg(format!("{period_us:.3}")).arg(bucket.burst.get());
            }
        });
        match answer.await.and_then(|answer| decode(answer, batch.len())) {
            Ok(answers) => batch.into_iter().zip(answers).for_each(|(asked, answer)| asked.answer(answer)),
            Err(error) => tracing::debug!(%error, requests = batch.len(), "no shared limit"),
        }
    }
}

/// One answer for each of `requests`.
fn decode(answer: Value, requests: usize) -> Result<Vec<Shared>, StoreError> {
    let garbled = || StoreError::Garbled("limit");
    let numbers: Vec<u64> = redis::from_redis_value(answer).map_err(|_| garbled())?;
    let (answers, rest) = numbers.as_chunks::<4>();
    if answers.len() != requests || !rest.is_empty() {
        return Err(garbled());
    }
    let shared = answers.iter().map(|[refused_by, wait_us, left, full_us]| {
        let wait = Duration::from_micros(*wait_us);
        match refused_by {
            0 => {
                let tokens = u32::try_from(*left).map_err(|_| garbled())?;
                Ok(Shared::Taken(Left { tokens, full_in: Duration::from_micros(*full_us) }))
            }
            1 => Ok(Shared::UserEmpty(wait)),
            2 => Ok(Shared::AddressEmpty(wait)),
            _ => Err(garbled()),
        }
    });
    shared.collect()
}
