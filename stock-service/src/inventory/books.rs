//! `lua/books.lua` and `lua/find.lua`.

use std::collections::{HashMap, HashSet};

use chrono::DateTime;
use common::api::inventory::{BookedOrder, Books, Reservation};
use common::ids::{Currency, ItemId, OrderId, SaleId};
use common::messages::order::Units;
use uuid::Uuid;

use super::reply::Reply;
use super::scan::Scan;
use super::{Inventory, Lane, StoreError};
use crate::keys::ItemKeys;
use crate::stock::{Hold, Shut};

/// Most entries of one key that books are read from in one go: some milliseconds of Redis' time, in which no buyer is
/// answered. An audit must not disturb a sale.
pub const BOOKS_ATOMIC_MAX: u32 = 10_000;
/// How often books are read by pages until nothing has moved meanwhile.
const PAGED_READS_MAX: usize = 3;
/// Makes `lua/books.lua` answer the totals alone.
const NO_ENTRIES: i64 = -1;

/// An item's books, or why they cannot be read.
pub type BooksView = Result<Books, Shut>;

/// The hold of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Hold(Box<Reservation>),
    /// The open gate has none.
    Nothing,
    /// The books cannot be used.
    Shut(Shut),
}

/// What says whether units have moved: every grant adds a hold, every return changes what is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Totals {
    epoch: i64,
    total: i64,
    available: i64,
    holds: i64,
}

/// What the books are added up from.
#[derive(Debug, Default)]
struct Entries {
    holds: HashMap<OrderId, Hold>,
    /// Units of all buyers.
    buyers: i64,
    unsettled: HashSet<OrderId>,
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
        atomic_max: u32,
    ) -> Result<BooksView, StoreError> {
        match self.look_at_books(keys, i64::from(atomic_max)).await? {
            Ok((totals, Some(entries))) => Ok(Ok(added_up(item_id, totals, entries))),
            Ok((totals, None)) => self.books_by_pages(item_id, keys, totals).await,
            Err(shut) => Ok(Err(shut)),
        }
    }

    async fn books_by_pages(
        &self,
        item_id: ItemId,
        keys: &ItemKeys,
        mut before: Totals,
    ) -> Result<BooksView, StoreError> {
        let mut reads = 1;
        loop {
            let entries = self.entries(keys).await?;
            let after = match self.look_at_books(keys, NO_ENTRIES).await? {
                Ok((totals, _)) => totals,
                Err(shut) => return Ok(Err(shut)),
            };
            if after == before || (reads == PAGED_READS_MAX && after.epoch == before.epoch) {
                return Ok(Ok(added_up(item_id, after, entries)));
            }
            if reads == PAGED_READS_MAX {
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
        most: i64,
    ) -> Result<Result<(Totals, Option<Entries>), Shut>, StoreError> {
        let script = &self.shared.scripts.books;
        let item_keys = [&*keys.item, &*keys.holds, &*keys.buyers, &*keys.unsettled];
        let value = self
            .run(Lane::Bulk, script, &item_keys, |call| {
                call.arg(most);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        if let Some(shut) = reply.gate()? {
            return Ok(Err(shut));
        }
        let (epoch, total, available) = (reply.int()?, reply.int()?, reply.int()?);
        let totals = Totals { epoch, total, available, holds: reply.int()? };
        if reply.is_empty() {
            return Ok(Ok((totals, None)));
        }
        let (mut holds, mut buyers, mut unsettled) = (reply.array()?, reply.array()?, reply.array()?);
        let mut entries = Entries::default();
        while !holds.is_empty() {
            entries.take_hold(&mut holds)?;
        }
        while !buyers.is_empty() {
            entries.buyers += buyers.parsed(|text| text.parse::<i64>())?;
        }
        while !unsettled.is_empty() {
            entries.take_unsettled(&mut unsettled)?;
        }
        Ok(Ok((totals, Some(entries))))
    }

    /// What [`Inventory::look_at_books`] does not read of a big item.
    async fn entries(&self, keys: &ItemKeys) -> Result<Entries, StoreError> {
        let mut entries = Entries::default();
        // Before the holds: an order that is unsettled then still has its hold when these are read.
        self.scan(Scan::SortedSet, &keys.unsettled, |pairs| {
            entries.take_unsettled(pairs)?;
            pairs.text().map(|_granted_ms| ())
        })
        .await?;
        self.scan(Scan::Hash, &keys.holds, |pairs| entries.take_hold(pairs)).await?;
        let mut buyers = HashMap::new();
        self.scan(Scan::Hash, &keys.buyers, |pairs| {
            let user = pairs.text()?;
            buyers.insert(user, pairs.parsed(|text| text.parse::<i64>())?);
            Ok(())
        })
        .await?;
        entries.buyers = buyers.values().sum();
        Ok(entries)
    }

    /// Finds the hold of one order of `item_id`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(
        &self,
        item_id: ItemId,
        keys: &ItemKeys,
        order_id: OrderId,
    ) -> Result<Found, StoreError> {
        let script = &self.shared.scripts.find;
        let value = self
            .run(Lane::Hot, script, &[&keys.item, &keys.holds], |call| {
                call.arg(order_id.to_string());
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        if let Some(shut) = reply.gate()? {
            return Ok(Found::Shut(shut));
        }
        if reply.is_empty() {
            return Ok(Found::Nothing);
        }
        let hold: Hold = reply.parsed(|text| text.parse())?;
        let sale_id = SaleId(reply.parsed(|text| Uuid::parse_str(&text))?);
        let unit_price_cents = reply.int()?;
        let currency = reply.parsed(Currency::try_from)?;
        let reserved_at = DateTime::from_timestamp_millis(hold.reserved_ms).ok_or_else(|| reply.garbled())?;
        Ok(Found::Hold(Box::new(Reservation {
            order_id,
            item_id,
            sale_id,
            user_id: hold.user_id,
            quantity: hold.quantity,
            units: hold.units,
            version: hold.version,
            unit_price_cents,
            currency,
            reserved_at,
        })))
    }
}

impl Entries {
    fn take_hold(&mut self, pairs: &mut Reply) -> Result<(), StoreError> {
        let id = OrderId(pairs.parsed(|text| Uuid::parse_str(&text))?);
        self.holds.insert(id, pairs.parsed(|text| text.parse())?);
        Ok(())
    }

    fn take_unsettled(&mut self, ids: &mut Reply) -> Result<(), StoreError> {
        self.unsettled.insert(OrderId(ids.parsed(|text| Uuid::parse_str(&text))?));
        Ok(())
    }

    fn units(&self, of: impl Fn(&OrderId, &Hold) -> bool) -> i64 {
        let counted = self.holds.iter().filter(|(id, hold)| of(id, hold));
        counted.map(|(_, hold)| i64::from(hold.quantity.get())).sum()
    }
}

fn added_up(item_id: ItemId, totals: Totals, entries: Entries) -> Books {
    let Totals { epoch, total, available, holds: _ } = totals;
    let held = entries.units(|_, hold| hold.units == Units::Held);
    let sold = entries.units(|_, hold| hold.units == Units::Sold);
    let unsettled = entries.units(|id, _| entries.unsettled.contains(id));
    let buyers = entries.buyers;
    let orders = entries.holds.into_iter().map(|(order_id, hold)| BookedOrder {
        order_id,
        quantity: hold.quantity,
        units: hold.units,
    });
    let orders = orders.collect();
    Books { item_id, total, available, held, sold, unsettled, buyers, epoch, orders }
}
