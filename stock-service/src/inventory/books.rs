//! `lua/books.lua`: an item's books, counted afresh.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use common::api::inventory::{BookedOrder, Books};
use common::ids::{ItemId, OrderId, Quantity};
use common::messages::order::Units;
use tokio::time::Instant;
use uuid::Uuid;

use super::reply::Reply;
use super::scan::{Pace, Scan};
use super::{Inventory, Lane, StoreError};
use crate::keys::ItemKeys;
use crate::stock::{Hold, Shut};

/// Most entries of one key that books are read from in one go: some milliseconds of Redis' time, in which no buyer is
/// answered. An audit must not disturb a sale.
pub const BOOKS_ATOMIC_MAX: u32 = 10_000;
/// How often books are read by pages until nothing has moved meanwhile, for whoever asks what they are.
const PAGED_READS_MAX: usize = 3;
/// The same for a check: where everybody buys they would move every time, and cost those who buy the more.
const PAGED_CHECKS_MAX: usize = 1;
/// How long a check rests between pages; then it comes to its end without, since other items wait for theirs.
const RESTS_MAX: Duration = Duration::from_secs(10);
/// Makes `lua/books.lua` answer the totals alone.
const NO_ENTRIES: i64 = -1;

/// An item's books, or why they cannot be read.
pub type BooksView = Result<Books, Shut>;

/// What books are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// To tell somebody, who waits.
    Answer,
    /// To check them, now and then.
    Check,
    /// To see once more what a check has found, before an item is closed for it.
    Confirm,
}

/// What says whether units have moved: every grant adds a hold, every return changes what is available or withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) epoch: i64,
    pub(super) total: i64,
    pub(super) available: i64,
    pub(super) withheld: i64,
    holds: i64,
}

/// What the books are added up from. Users are not kept but by a hash, since an item may have hundreds of thousands.
#[derive(Debug, Default)]
pub(super) struct Entries {
    holds: HashMap<OrderId, (Quantity, Units)>,
    /// Units of each user by holds, less those by `buyers`.
    differences: HashMap<u64, i64>,
    buyers: HashMap<u64, i64>,
    unsettled: HashSet<OrderId>,
    /// Entries that make no sense.
    pub(super) garbled: usize,
}

/// Books as they were read.
#[derive(Debug)]
pub(super) struct ReadBooks {
    pub(super) totals: Totals,
    pub(super) entries: Entries,
    /// Whether all of it is of one moment.
    pub(super) exact: bool,
}

impl Inventory {
    /// Counts an item's books afresh: from one moment if no key of the item has more than `atomic_max` entries
    /// (usually [`BOOKS_ATOMIC_MAX`]), else page by page. Pages read under traffic are of different moments; they are
    /// read again if units moved meanwhile, at most three times. A quiet item's books are exact.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn books(
        &self,
        item_id: ItemId,
        keys: &ItemKeys,
        epoch_min: i64,
        atomic_max: u32,
    ) -> Result<BooksView, StoreError> {
        match self.read_books(keys, epoch_min, atomic_max, Reading::Answer).await? {
            Ok(read) if read.entries.garbled > 0 => Err(StoreError::Garbled("books")),
            Ok(read) => Ok(Ok(added_up(item_id, read))),
            Err(shut) => Ok(Err(shut)),
        }
    }

    pub(super) async fn read_books(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        atomic_max: u32,
        reading: Reading,
    ) -> Result<Result<ReadBooks, Shut>, StoreError> {
        let (mut before, entries) = match self.look_at_books(keys, epoch_min, i64::from(atomic_max)).await? {
            Ok(seen) => seen,
            Err(shut) => return Ok(Err(shut)),
        };
        if let Some(entries) = entries {
            return Ok(Ok(ReadBooks { totals: before, entries, exact: true }));
        }
        let (paged_reads_max, pace) = match reading {
            Reading::Answer => (PAGED_READS_MAX, Pace::Brisk),
            Reading::Check => (PAGED_CHECKS_MAX, Pace::Rested { until: Instant::now() + RESTS_MAX }),
            Reading::Confirm => (PAGED_CHECKS_MAX, Pace::Brisk),
        };
        let mut reads = 1;
        loop {
            let entries = self.entries(keys, pace).await?;
            let after = match self.look_at_books(keys, epoch_min, NO_ENTRIES).await? {
                Ok((totals, _)) => totals,
                Err(shut) => return Ok(Err(shut)),
            };
            let exact = after == before;
            if exact || (reads == paged_reads_max && after.epoch == before.epoch) {
                return Ok(Ok(ReadBooks { totals: after, entries, exact }));
            }
            if reads == paged_reads_max {
                // Another epoch: the pages are of two loads, and the gate was closed in between.
                return Ok(Err(Shut::Closed));
            }
            (before, reads) = (after, reads + 1);
        }
    }

    /// `lua/books.lua`: the totals, and the entries of the keys unless one has more than `most`.
    async fn look_at_books(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        most: i64,
    ) -> Result<Result<(Totals, Option<Entries>), Shut>, StoreError> {
        let script = &self.shared.scripts.books;
        let item_keys = [&*keys.item, &*keys.holds, &*keys.buyers, &*keys.unsettled];
        let value = self
            .run(Lane::Bulk, script, &item_keys, |call| {
                call.arg(epoch_min).arg(most);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        if let Some(shut) = reply.gate()? {
            return Ok(Err(shut));
        }
        let (epoch, total, available) = (reply.int()?, reply.int()?, reply.int()?);
        let totals = Totals { epoch, total, available, withheld: reply.int()?, holds: reply.int()? };
        if reply.is_empty() {
            return Ok(Ok((totals, None)));
        }
        let (mut holds, mut buyers, mut unsettled) = (reply.array()?, reply.array()?, reply.array()?);
        let mut entries = Entries::default();
        while !holds.is_empty() {
            entries.take_hold(&mut holds)?;
        }
        while !buyers.is_empty() {
            entries.take_buyer(&mut buyers)?;
        }
        while !unsettled.is_empty() {
            entries.take_unsettled(&mut unsettled)?;
        }
        Ok(Ok((totals, Some(entries))))
    }

    /// What [`Inventory::look_at_books`] does not read of a big item.
    async fn entries(&self, keys: &ItemKeys, pace: Pace) -> Result<Entries, StoreError> {
        let mut entries = Entries::default();
        // Before the holds: an order that is unsettled then still has its hold when these are read.
        self.scan(Scan::SortedSet, pace, &keys.unsettled, |pairs| {
            entries.take_unsettled(pairs)?;
            pairs.text().map(|_granted_ms| ())
        })
        .await?;
        self.scan(Scan::Hash, pace, &keys.holds, |pairs| entries.take_hold(pairs)).await?;
        self.scan(Scan::Hash, pace, &keys.buyers, |pairs| entries.take_buyer(pairs)).await?;
        Ok(entries)
    }
}

impl Entries {
    /// An id and its hold; a page may repeat one.
    fn take_hold(&mut self, pairs: &mut Reply) -> Result<(), StoreError> {
        let (id, hold) = (pairs.text()?, pairs.text()?);
        let (Ok(id), Ok(hold)) = (Uuid::parse_str(&id).map(OrderId), hold.parse::<Hold>()) else {
            self.garbled += 1;
            return Ok(());
        };
        if self.holds.insert(id, (hold.quantity, hold.units)).is_none() && hold.units != Units::Returned {
            *self.differences.entry(hash(hold.user_id.as_str())).or_default() +=
                i64::from(hold.quantity.get());
        }
        Ok(())
    }

    /// A user and the units counted as theirs; a page may repeat one.
    fn take_buyer(&mut self, pairs: &mut Reply) -> Result<(), StoreError> {
        let user = hash(&pairs.text()?);
        let Ok(units) = pairs.text()?.parse::<i64>() else {
            self.garbled += 1;
            return Ok(());
        };
        if self.buyers.insert(user, units).is_none() {
            *self.differences.entry(user).or_default() -= units;
        }
        Ok(())
    }

    fn take_unsettled(&mut self, ids: &mut Reply) -> Result<(), StoreError> {
        match Uuid::parse_str(&ids.text()?) {
            Ok(id) => {
                self.unsettled.insert(OrderId(id));
            }
            Err(_) => self.garbled += 1,
        }
        Ok(())
    }

    /// Units of the orders for which `of` holds.
    pub(super) fn units(&self, of: impl Fn(&OrderId, Units) -> bool) -> i64 {
        let counted = self.holds.iter().filter(|(id, (_, units))| of(id, *units));
        counted.map(|(_, (quantity, _))| i64::from(quantity.get())).sum()
    }

    /// Whether each user is counted with the units of their holds.
    pub(super) fn buyers_agree(&self) -> bool {
        self.differences.values().all(|difference| *difference == 0)
    }

    /// Whether somebody is counted with less than nothing.
    pub(super) fn has_negative_buyer(&self) -> bool {
        self.buyers.values().any(|units| *units < 0)
    }

    /// Whether each unsettled order has its hold.
    pub(super) fn unsettled_have_holds(&self) -> bool {
        self.unsettled.iter().all(|id| self.holds.contains_key(id))
    }
}

fn hash(user: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}

fn added_up(item_id: ItemId, read: ReadBooks) -> Books {
    let ReadBooks { totals: Totals { epoch, total, available, .. }, entries, exact: _ } = read;
    let held = entries.units(|_, units| units == Units::Held);
    let sold = entries.units(|_, units| units == Units::Sold);
    let unsettled = entries.units(|id, _| entries.unsettled.contains(id));
    let buyers = entries.buyers.values().sum();
    let orders = entries.holds.into_iter();
    let orders =
        orders.map(|(order_id, (quantity, units))| BookedOrder { order_id, quantity, units }).collect();
    Books { item_id, total, available, held, sold, unsettled, buyers, epoch, orders }
}
