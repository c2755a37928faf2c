//! The buckets of placing orders that all replicas share: one script call takes from all of them, or from none.

use std::time::Duration;

use common::ids::UserId;
use redis::{Cmd, Value};

use super::bucket::Left;
use crate::settings::Bucket;
use crate::store::{Script, Store, StoreError};

/// The braces put all of them into one slot of a cluster, so that one script can take from two.
const KEY_PREFIX: &str = "limit:{order}";

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

/// The shared buckets.
pub struct SharedBuckets {
    store: Store,
    script: Script,
    user: Bucket,
    address: Bucket,
}

impl SharedBuckets {
    /// In `store`.
    pub fn new(store: Store, user: Bucket, address: Bucket) -> Self {
        let script = Script::new("limit", include_str!("../../lua/limit.lua"));
        Self { store, script, user, address }
    }

    /// Takes a token of the user, and one of the address unless it is exempt.
    ///
    /// # Errors
    /// Redis does not say.
    pub async fn take(&self, user: &UserId, address: Option<u128>) -> Result<Shared, StoreError> {
        let user_key = format!("{KEY_PREFIX}:user:{}", user.as_str());
        let address_key = address.map(|address| format!("{KEY_PREFIX}:ip:{address:032x}"));
        let keys: Vec<&str> =
            [Some(user_key.as_str()), address_key.as_deref()].into_iter().flatten().collect();
        let answer = self.store.run(&self.script, &keys, |call| {
            argue(call, self.user);
            if address.is_some() {
                argue(call, self.address);
            }
        });
        decode(answer.await?)
    }
}

fn argue(call: &mut Cmd, bucket: Bucket) {
    let period_us = 1_000_000.0 / f64::from(bucket.per_second.get());
    call.arg(format!("{period_us:.3}")).arg(bucket.burst.get());
}

fn decode(answer: Value) -> Result<Shared, StoreError> {
    let garbled = || StoreError::Garbled("limit");
    let (refused_by, wait_us, left, full_us): (u8, u64, u32, u64) =
        redis::from_redis_value(answer).map_err(|_| garbled())?;
    let wait = Duration::from_micros(wait_us);
    match refused_by {
        0 => Ok(Shared::Taken(Left { tokens: left, full_in: Duration::from_micros(full_us) })),
        1 => Ok(Shared::UserEmpty(wait)),
        2 => Ok(Shared::AddressEmpty(wait)),
        _ => Err(garbled()),
    }
}
