//! `lua/books.lua` and `lua/find.lua`.

use std::collections::HashMap;

use chrono::DateTime;
use common::api::inventory::{BookedOrder, Books, Reservation};
use common::ids::{Currency, ItemId, OrderId, SaleId};
use common::messages::order::Units;
use uuid::Uuid;

use super::reply::Reply;
use super::{Inventory, Lane, StoreError};
use crate::keys::ItemKeys;
use crate::stock::{Hold, Shut};

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

impl Inventory {
    /// Counts an item's books afresh, from one moment.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn books(&self, item_id: ItemId, keys: &ItemKeys) -> Result<BooksView, StoreError> {
        let script = &self.shared.scripts.books;
        let item_keys = [&*keys.item, &*keys.holds, &*keys.buyers, &*keys.unsettled];
        let value = self.run(Lane::Bulk, script, &item_keys, |_| ()).await?;
        let mut reply = Reply::of(value, script.name)?;
        if let Some(shut) = reply.gate()? {
            return Ok(Err(shut));
        }
        let (epoch, total, available) = (reply.int()?, reply.int()?, reply.int()?);
        let holds = holds(reply.array()?)?;
        let buyers = sum_of(reply.array()?)?;
        let mut waiting = reply.array()?;
        let mut unsettled = 0;
        while !waiting.is_empty() {
            let id = OrderId(waiting.parsed(|text| Uuid::parse_str(&text))?);
            unsettled += holds.get(&id).map_or(0, |hold| i64::from(hold.quantity.get()));
        }
        let in_state = |units: Units| {
            let held = holds.values().filter(move |hold| hold.units == units);
            held.map(|hold| i64::from(hold.quantity.get())).sum::<i64>()
        };
        let (held, sold) = (in_state(Units::Held), in_state(Units::Sold));
        let orders = holds.into_iter().map(|(order_id, hold)| BookedOrder {
            order_id,
            quantity: hold.quantity,
            units: hold.units,
        });
        let orders = orders.collect();
        Ok(Ok(Books { item_id, total, available, held, sold, unsettled, buyers, epoch, orders }))
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

fn holds(mut reply: Reply) -> Result<HashMap<OrderId, Hold>, StoreError> {
    let mut holds = HashMap::with_capacity(reply.len() / 2);
    while !reply.is_empty() {
        let id = OrderId(reply.parsed(|text| Uuid::parse_str(&text))?);
        holds.insert(id, reply.parsed(|text| text.parse())?);
    }
    Ok(holds)
}

fn sum_of(mut reply: Reply) -> Result<i64, StoreError> {
    let mut sum = 0;
    while !reply.is_empty() {
        sum += reply.parsed(|text| text.parse::<i64>())?;
    }
    Ok(sum)
}
