//! Locks with an owner and an end: they save work, they never protect the books (epochs do).

use std::time::Duration;

use redis::Value;
use uuid::Uuid;

use super::{Inventory, Lane, StoreError};

/// Who holds a lock; every process draws its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(Uuid);

impl Owner {
    /// A new owner.
    pub fn draw() -> Self {
        Self(Uuid::new_v4())
    }
}

impl Inventory {
    /// Takes the lock `key` for `time`, or keeps it for as long if it is ours; `false`: somebody else has it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lock(&self, key: &str, owner: Owner, time: Duration) -> Result<bool, StoreError> {
        let script = &self.shared.scripts.lock_take;
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let taken = self
            .run(Lane::Bulk, script, &[key], |call| {
                call.arg(owner.0.to_string()).arg(time_ms);
            })
            .await?;
        Ok(taken == Value::Int(1))
    }

    /// Gives the lock `key` back if it is ours.
    ///
    /// # Errors
    /// See [`StoreError`]; the lock ends by itself then.
    pub async fn unlock(&self, key: &str, owner: Owner) -> Result<(), StoreError> {
        let script = &self.shared.scripts.lock_release;
        self.run(Lane::Bulk, script, &[key], |call| {
            call.arg(owner.0.to_string());
        })
        .await
        .map(|_released| ())
    }
}
