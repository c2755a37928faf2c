//! Whether an item's books contradict themselves, and `lua/close.lua`.

use std::time::Duration;

use common::messages::order::Units;
use redis::Value;

use super::books::{ReadBooks, Reading};
use super::{Inventory, Lane, StoreError};
use crate::keys::ItemKeys;

/// After this time without another one, alarms are forgotten.
pub const ALARM_CALM: Duration = Duration::from_secs(600);

/// What is wrong with an item's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// An entry cannot be read.
    Garbled,
    /// Units that cannot be fewer than none are.
    Negative,
    /// What is available, held, sold and withheld is not the total (S2).
    Sum,
    /// A user is counted with other units than their holds have (S6).
    Buyers,
    /// An order waits for its news and has no hold (S5).
    NoHold,
}

impl Fault {
    /// The value of the label `kind` in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Garbled => "garbled",
            Self::Negative => "negative",
            Self::Sum => "sum",
            Self::Buyers => "buyers",
            Self::NoHold => "no_hold",
        }
    }
}

/// What a check of an item's books has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BooksChecked {
    /// Nothing that is wrong.
    Sound,
    /// They contradict themselves.
    Wrong {
        /// The epoch that they are of.
        epoch: i64,
        /// The first thing that is wrong.
        fault: Fault,
    },
    /// Units moved while they were read by pages: nothing can be said.
    Moving,
    /// The gate is closed.
    Shut,
}

impl Inventory {
    /// Reads an item's books, as [`Inventory::books`] does but by pages only once, and adds them up.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn check_books(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        atomic_max: u32,
        reading: Reading,
    ) -> Result<BooksChecked, StoreError> {
        let Ok(read) = self.read_books(keys, epoch_min, atomic_max, reading).await? else {
            return Ok(BooksChecked::Shut);
        };
        let epoch = read.totals.epoch;
        match fault_in(&read) {
            Some(fault @ (Fault::Garbled | Fault::Negative)) => Ok(BooksChecked::Wrong { epoch, fault }),
            _ if !read.exact => Ok(BooksChecked::Moving),
            Some(fault) => Ok(BooksChecked::Wrong { epoch, fault }),
            None => Ok(BooksChecked::Sound),
        }
    }

    /// Closes the gate of an item whose books of `epoch` are wrong; how often that has happened lately, 0 if the books
    /// are others by now.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn close_as_wrong(&self, keys: &ItemKeys, epoch: i64, fault: Fault) -> Result<i64, StoreError> {
        let script = &self.shared.scripts.close;
        let closed = self
            .run(Lane::Bulk, script, &[&keys.item, &keys.alarm], |call| {
                call.arg(epoch).arg(fault.label()).arg(calm_ms());
            })
            .await?;
        if let Value::Int(times) = closed { Ok(times) } else { Err(StoreError::Garbled(script.name)) }
    }
}

impl Inventory {
    /// Closes an item's gate until an operator has removed the key of its alarm; `alarms`: how many keep it closed. Says
    /// whether that is news.
    ///
    /// # Errors
    /// See [`StoreError`]. Repeating is safe.
    pub async fn keep_closed(
        &self,
        keys: &ItemKeys,
        alarms: i64,
        why: &'static str,
    ) -> Result<bool, StoreError> {
        let script = &self.shared.scripts.keep_closed;
        let value = self
            .run(Lane::Bulk, script, &[&keys.item, &keys.alarm], |call| {
                call.arg(alarms).arg(why);
            })
            .await?;
        if let Value::Int(news) = value { Ok(news == 1) } else { Err(StoreError::Garbled(script.name)) }
    }
}

impl Inventory {
    /// Whether [`Inventory::keep_closed`] has closed the item since it was loaded. When the key of its alarm is gone,
    /// then somebody has looked.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn was_kept_closed(&self, keys: &ItemKeys) -> Result<bool, StoreError> {
        let mark = redis::cmd("HGET").arg(&keys.item).arg("behind").to_owned();
        match self.shared.connection.call(Lane::Bulk, &keys.item, &mark).await {
            // A key of another type holds no mark, and the load removes it.
            Err(StoreError::NotDone(error)) if error.code() == Some("WRONGTYPE") => Ok(false),
            mark => mark.map(|mark| mark != Value::Nil),
        }
    }
}

/// [`ALARM_CALM`] as scripts take it.
pub(super) fn calm_ms() -> u64 {
    u64::try_from(ALARM_CALM.as_millis()).unwrap_or(u64::MAX)
}

/// Available units may be fewer than none: an order was adopted that Redis had lost. Nothing else may.
fn fault_in(read: &ReadBooks) -> Option<Fault> {
    let (totals, entries) = (read.totals, &read.entries);
    let taken = entries.units(|_, units| units != Units::Returned);
    if entries.garbled > 0 {
        Some(Fault::Garbled)
    } else if totals.total < 0 || totals.withheld < 0 || entries.has_negative_buyer() {
        Some(Fault::Negative)
    } else if totals.available + taken + totals.withheld != totals.total {
        Some(Fault::Sum)
    } else if !entries.buyers_agree() {
        Some(Fault::Buyers)
    } else if !entries.unsettled_have_holds() {
        Some(Fault::NoHold)
    } else {
        None
    }
}
