//! `lua/load_begin.lua`, `load_stage.lua`, `load_merge.lua`, `load_commit.lua`, `update.lua`, `retire.lua`.

use std::time::Duration;

use common::api::inventory::{AdminHold, ItemDefinition};
use redis::{Cmd, Value};

use super::reply::{Reply, gate_from};
use super::{Inventory, Lane, StoreError};
use crate::keys::{ITEMS, ItemKeys};
use crate::stock::{OrderState, Shut, units_text};

/// Entries of `unsettled` that are merged in one call: some milliseconds of Redis' time.
const MERGE_PAGE: i64 = 500;

/// Whether a load may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The gate is closed until the commit.
    Yes {
        /// Whether the item was loaded here before.
        earlier: bool,
    },
    /// The gate is open with this epoch or a newer one.
    AlreadyOpen,
    /// A load with a newer epoch has begun.
    Superseded,
}

/// What a load is ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The epoch of the load.
    pub epoch: i64,
    /// Orders of the source of truth that must be staged.
    pub staged: usize,
    /// How long nothing is offered, counted from the beginning of the load, in ms; 0 for an item that never was.
    pub lease_ms: u64,
}

/// Whether a load has opened the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The gate is open.
    Opened {
        /// Units on offer.
        available: i64,
        /// Reservations that the source of truth did not know yet.
        merged: i64,
    },
    /// Another load has begun, Redis is another process, staged orders are gone, or `unsettled` was not merged: nothing
    /// was done.
    NotReady,
}

/// What became of a new definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// It is in force.
    Changed,
    /// One as new was in force already.
    NotNewer,
    /// The books cannot be used; nothing was done.
    Shut(Shut),
}

/// Whether an item's keys are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// They are.
    Removed,
    /// They are still needed.
    NotYet,
    /// The books cannot be used; nothing was done.
    Shut(Shut),
}

impl Inventory {
    /// Closes the gate and prepares a load.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn begin_load(&self, keys: &ItemKeys, epoch: i64) -> Result<Begun, StoreError> {
        let script = &self.shared.scripts.load_begin;
        let value = self
            .run(Lane::Bulk, script, &keys.all()[..11], |call| {
                call.arg(epoch);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        match reply.int()? {
            0 => {
                let _now_ms = reply.int()?;
                Ok(Begun::Yes { earlier: reply.int()? == 1 })
            }
            1 => Ok(Begun::AlreadyOpen),
            2 => Ok(Begun::Superseded),
            _ => Err(reply.garbled()),
        }
    }

    /// Stages up to [`crate::stock::ORDERS_PER_CALL_MAX`] orders; `false`: this load is not the one in progress any more.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn stage_orders(
        &self,
        keys: &ItemKeys,
        epoch: i64,
        orders: &[OrderState],
    ) -> Result<bool, StoreError> {
        let script = &self.shared.scripts.load_stage;
        let stage_keys = [&*keys.loading, &*keys.staged_holds, &*keys.staged_buyers, &*keys.staged_attempts];
        let value = self
            .run(Lane::Bulk, script, &stage_keys, |call| {
                call.arg(epoch);
                for order in orders {
                    call.arg(order.order_id.to_string())
                        .arg(order.user_id.as_str())
                        .arg(order.quantity.get())
                        .arg(units_text(order.units))
                        .arg(order.version)
                        .arg(order.created_ms);
                }
            })
            .await?;
        Ok(int(&value, script.name)? >= 0)
    }

    /// Brings `unsettled` in line with what was staged, page by page; `false`: this load is not the one in progress any
    /// more.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn merge_unsettled(&self, keys: &ItemKeys, epoch: i64) -> Result<bool, StoreError> {
        let script = &self.shared.scripts.load_merge;
        let merge_keys = [
            &*keys.holds,
            &*keys.unsettled,
            &*keys.loading,
            &*keys.staged_holds,
            &*keys.staged_buyers,
            &*keys.staged_attempts,
        ];
        let mut skip = 0;
        loop {
            let value = self
                .run(Lane::Bulk, script, &merge_keys, |call| {
                    call.arg(epoch).arg(skip).arg(MERGE_PAGE);
                })
                .await?;
            let mut reply = Reply::of(value, script.name)?;
            let looked_at = reply.int()?;
            if looked_at < 0 {
                return Ok(false);
            }
            skip += reply.int()?;
            if looked_at < MERGE_PAGE {
                return Ok(true);
            }
        }
    }

    /// Opens the gate with what was staged.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn commit_load(
        &self,
        keys: &ItemKeys,
        Commit { epoch, staged, lease_ms }: Commit,
        item: &ItemDefinition,
    ) -> Result<Committed, StoreError> {
        let script = &self.shared.scripts.load_commit;
        let value = self
            .run(Lane::Bulk, script, &keys.all()[..11], |call| {
                call.arg(epoch).arg(staged).arg(lease_ms);
                definition_args(call, item);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        match reply.int()? {
            0 => {
                let _now_ms = reply.int()?;
                Ok(Committed::Opened { available: reply.int()?, merged: reply.int()? })
            }
            1 => Ok(Committed::NotReady),
            _ => Err(reply.garbled()),
        }
    }

    /// Takes over the absolute state of an item, if it is newer and the gate's epoch is not below `epoch_min`.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn update_item(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        lease_ms: u64,
        item: &ItemDefinition,
    ) -> Result<Updated, StoreError> {
        let script = &self.shared.scripts.update;
        let value = self
            .run(Lane::Bulk, script, &[&keys.item], |call| {
                call.arg(lease_ms);
                definition_args(call, item);
                call.arg(epoch_min);
            })
            .await?;
        match int(&value, script.name)? {
            1 => Ok(Updated::Changed),
            0 => Ok(Updated::NotNewer),
            code => shut(code, script.name).map(Updated::Shut),
        }
    }

    /// Removes the keys of an item that is over since `keep` and at rest.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn retire_item(&self, keys: &ItemKeys, keep: Duration) -> Result<Retired, StoreError> {
        let script = &self.shared.scripts.retire;
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let value = self
            .run(Lane::Bulk, script, &keys.all(), |call| {
                call.arg(keep_ms);
            })
            .await?;
        match int(&value, script.name)? {
            1 => Ok(Retired::Removed),
            0 => Ok(Retired::NotYet),
            code => shut(code, script.name).map(Retired::Shut),
        }
    }

    /// Says in [`ITEMS`] that these items are in this Redis.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn list_items(&self, items: &[common::ids::ItemId]) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("SADD");
        command.arg(ITEMS);
        for item in items {
            command.arg(item.to_string());
        }
        self.shared.connection.call(Lane::Bulk, ITEMS, &command).await.map(|_added| ())
    }

    /// Takes an item out of [`ITEMS`].
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn unlist_item(&self, item: common::ids::ItemId) -> Result<(), StoreError> {
        let mut command = redis::cmd("SREM");
        command.arg(ITEMS).arg(item.to_string());
        self.shared.connection.call(Lane::Bulk, ITEMS, &command).await.map(|_removed| ())
    }
}

/// Sale to challenge, as load_commit.lua and update.lua take them.
fn definition_args(call: &mut Cmd, item: &ItemDefinition) {
    call.arg(item.sale_id.to_string())
        .arg(item.starts_at.timestamp_millis())
        .arg(item.ends_at.timestamp_millis())
        .arg(match item.hold {
            AdminHold::None => "none",
            AdminHold::Paused => "paused",
            AdminHold::Ended => "ended",
        })
        .arg(item.per_user_limit)
        .arg(item.total)
        .arg(item.unit_price_cents)
        .arg(item.currency.as_str())
        .arg(item.version)
        .arg(u8::from(item.waiting_room))
        .arg(u8::from(item.challenge));
}

fn int(value: &Value, script: &'static str) -> Result<i64, StoreError> {
    if let Value::Int(number) = value { Ok(*number) } else { Err(StoreError::Garbled(script)) }
}

fn shut(code: i64, script: &'static str) -> Result<Shut, StoreError> {
    gate_from(code).flatten().ok_or(StoreError::Garbled(script))
}
