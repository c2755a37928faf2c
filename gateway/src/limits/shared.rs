//! The buckets of placing orders that all replicas share. What waits travels together: one script call takes for each
//! request from all of its buckets, or from none. What was let through on credit is counted some milliseconds later, and
//! nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use common::batcher::{BatchError, Batcher, BatcherSettings, Pending};
use common::ids::UserId;
use common::shutdown::Tasks;
use redis::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bucket::Left;
use crate::settings::Bucket;
use crate::store::{Script, Store, StoreError};

/// The braces put all of them into one slot of a cluster, so that one script can take from many.
const KEY_PREFIX: &str = "limit:{order}";
/// Most requests in one call, which is some hundred microseconds of Redis' time.
const BATCH_MAX: usize = 64;
/// Most calls at a time.
const FLIGHTS_MAX: usize = 2;
/// Most requests that wait for their call, and most debts that wait to be counted.
const QUEUE_MAX: usize = 4096;
/// How long debts are gathered before they are counted.
const DEBTS_INTERVAL: Duration = Duration::from_millis(10);

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
    debts: mpsc::Sender<Payers>,
    store: Store,
}

/// The way to them.
#[derive(Clone)]
struct Caller {
    store: Store,
    script: Arc<Script>,
    user: Bucket,
    address: Bucket,
}

/// What a call does with a bucket that has no token.
#[derive(Clone, Copy)]
enum Empty {
    /// It takes nothing.
    Refuses,
    /// It takes what is to come.
    Owes,
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
        let script = Arc::new(Script::new("limit", include_str!("../../lua/limit.lua")));
        let caller = Caller { store: store.clone(), script, user, address };
        let (debts, receiver) = mpsc::channel(QUEUE_MAX);
        tasks.spawn("limits on credit", caller.clone().settle(receiver, tasks.stop_token()));
        let calls = Batcher::start(settings, tasks, move |batch| {
            let caller = caller.clone();
            async move { caller.ask(batch).await }
        });
        Self { calls, debts, store }
    }

    /// Takes a token of the user, and one of the address unless it is exempt.
    ///
    /// # Errors
    /// Redis does not say.
    pub async fn take(&self, user: &UserId, address: Option<u128>) -> Result<Shared, BatchError> {
        let payers = Payers { user: user.clone(), address };
        self.calls.submit(payers, Instant::now() + self.store.timeout()).await
    }

    /// Whether what [`SharedBuckets::owe`] is told will be counted, as far as is known.
    pub fn give_credit(&self) -> bool {
        self.store.reaches(KEY_PREFIX)
    }

    /// Takes the tokens soon, also of empty buckets, which then owe them. `false`: too much waits to be counted.
    pub fn owe(&self, user: &UserId, address: Option<u128>) -> bool {
        self.debts.try_send(Payers { user: user.clone(), address }).is_ok()
    }
}

impl Caller {
    /// Asks for all of them at once. Who is dropped unanswered learns that Redis does not say.
    async fn ask(&self, batch: Vec<Asked>) {
        match self.call(batch.iter().map(|asked| &asked.request), Empty::Refuses).await {
            Ok(answers) => batch.into_iter().zip(answers).for_each(|(asked, answer)| asked.answer(answer)),
            Err(error) => tracing::debug!(%error, requests = batch.len(), "no shared limit"),
        }
    }

    /// Counts what was let through on credit, until `stop`. What cannot be counted is forgotten: it costs the others a
    /// token that one has had, and there is no more credit until Redis answers again.
    async fn settle(self, mut debts: mpsc::Receiver<Payers>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while stop.run_until_cancelled(tokio::time::sleep(DEBTS_INTERVAL)).await.is_some() {
            while !debts.is_empty() {
                let received = debts.recv_many(&mut batch, BATCH_MAX).await;
                if let Err(error) = self.call(batch.iter(), Empty::Owes).await {
                    tracing::debug!(%error, received, "orders on credit are not counted");
                }
                batch.clear();
            }
        }
        Ok(())
    }

    /// One call for all of `requests`.
    async fn call(
        &self,
        requests: impl ExactSizeIterator<Item = &Payers>,
        empty: Empty,
    ) -> Result<Vec<Shared>, StoreError> {
        let expected = requests.len();
        let (mut keys, mut kinds) = (Vec::with_capacity(2 * expected), String::new());
        for Payers { user, address } in requests {
            keys.push(format!("{KEY_PREFIX}:user:{}", user.as_str()));
            kinds.push('u');
            if let Some(address) = address {
                keys.push(format!("{KEY_PREFIX}:ip:{address:032x}"));
                kinds.push('a');
            }
        }
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let answer = self.store.run(&self.script, &keys, |call| {
            call.arg(kinds);
            for bucket in [self.user, self.address] {
                let period_us = 1_000_000.0 / f64::from(bucket.per_second.get());
                call.arg(format!("{period_us:.3}")).arg(bucket.burst.get());
            }
            call.arg(match empty {
                Empty::Refuses => "refuse",
                Empty::Owes => "owe",
            });
        });
        decode(answer.await?, expected)
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
