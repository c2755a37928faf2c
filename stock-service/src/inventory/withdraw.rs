//! `lua/withdraw.lua` and `lua/reclaim.lua`: units that go off offer before the total is lowered by them.

use std::time::Duration;

use redis::Value;

use super::reply::Reply;
use super::{Inventory, Lane, StoreError};
use crate::crash_points::WITHDRAW;
use crate::keys::ItemKeys;
use crate::stock::Shut;

/// What became of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// The units are off offer, as long as the gate is open with this epoch.
    Done {
        /// The epoch of the books that they were taken from.
        epoch: i64,
    },
    /// Fewer units are on offer; nothing was done.
    NotEnough {
        /// Units on offer; below zero after adoptions.
        available: i64,
    },
    /// The books cannot be used; nothing was done.
    Shut(Shut),
}

/// Units moved, epoch, units available.
type Moved = (i64, i64, i64);

impl Inventory {
    /// Takes `units`, which must be more than 0, off offer, all of them or none.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating withdraws more.
    pub async fn withdraw(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        units: u32,
    ) -> Result<Withdrawn, StoreError> {
        self.begins(WITHDRAW).await?;
        let moved = self.move_units(keys, epoch_min, units.into(), 0).await?;
        self.ended(WITHDRAW).await?;
        Ok(match moved {
            Ok((0, _, available)) => Withdrawn::NotEnough { available },
            Ok((_, epoch, _)) => Withdrawn::Done { epoch },
            Err(shut) => Withdrawn::Shut(shut),
        })
    }

    /// Puts up to `units` that were withdrawn in `epoch` on offer again; how many. None when the books are of another
    /// epoch or the gate is closed: a load forgets withdrawals.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating may give back what somebody else withdrew.
    pub async fn give_back_withdrawn(
        &self,
        keys: &ItemKeys,
        epoch: i64,
        units: u32,
        lease_ms: u64,
    ) -> Result<i64, StoreError> {
        let moved = self.move_units(keys, epoch, -i64::from(units), lease_ms).await?;
        Ok(moved.map_or(0, |(moved, ..)| -moved))
    }

    /// Closes the gate of an item with units that were withdrawn longer than `after` ago and are not claimed; whether
    /// it did.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn reclaim(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        after: Duration,
    ) -> Result<bool, StoreError> {
        let script = &self.shared.scripts.reclaim;
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let value = self
            .run(Lane::Bulk, script, &[&keys.item], |call| {
                call.arg(epoch_min).arg(after_ms);
            })
            .await?;
        if let Value::Int(closed) = value { Ok(closed == 1) } else { Err(StoreError::Garbled(script.name)) }
    }

    async fn move_units(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        units: i64,
        lease_ms: u64,
    ) -> Result<Result<Moved, Shut>, StoreError> {
        let script = &self.shared.scripts.withdraw;
        let value = self
            .run(Lane::Hot, script, &[&keys.item], |call| {
                call.arg(epoch_min).arg(units).arg(lease_ms);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        if let Some(shut) = reply.gate()? {
            return Ok(Err(shut));
        }
        Ok(Ok((reply.int()?, reply.int()?, reply.int()?)))
    }
}
