//! `lua/look.lua`, the ids for filters, the list of items, and `lua/pending.lua`.

use std::collections::HashSet;

use common::ids::{Currency, ItemId, OrderId, SaleId};
use redis::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::reply::Reply;
use super::scan::{Pace, Scan};
use super::{Inventory, Lane, StoreError};
use crate::keys::{ITEMS, ItemKeys};
use crate::stock::{Hold, Shut};

/// One look at an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Why the books cannot be used; `None`: the gate is open.
    pub shut: Option<Shut>,
    /// Redis' clock, in ms.
    pub now_ms: i64,
    /// How often the books were found wrong lately, see [`crate::check`].
    pub alarms: i64,
    /// The figures, unless there are none or they make no sense.
    pub figures: Option<Figures>,
}

/// What Redis says about an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// The epoch that it was loaded with.
    pub epoch: i64,
    /// The version of its definition.
    pub version: i64,
    /// Its sale.
    pub sale_id: SaleId,
    /// `none`, `paused` or `ended`, as an admin said.
    pub state: String,
    /// First moment at which orders are taken, in ms.
    pub starts_ms: i64,
    /// First moment at which orders are no longer taken, in ms.
    pub ends_ms: i64,
    /// Most units of one user.
    pub limit: u32,
    /// Units in the sale.
    pub total: i64,
    /// Units on offer; below zero after adoptions.
    pub available: i64,
    /// Units that the source of truth said were never there, see `lua/apply_order.lua`.
    pub withheld: i64,
    /// Price of one unit in minor units.
    pub unit_price_cents: i64,
    /// Currency of the price.
    pub currency: Currency,
    /// When an admin ended it, in ms; 0: no admin did.
    pub ended_ms: i64,
    /// Orders known, tombstones counted.
    pub holds: usize,
    /// Orders not reported yet.
    pub unsettled: usize,
    /// When the oldest of these was granted, in ms; 0: there is none.
    pub oldest_unsettled_ms: i64,
    /// Orders kept for after a load.
    pub late: usize,
    /// Whether an order needs a place in line first.
    pub waiting_room: bool,
    /// Whether a place or an order needs a solved challenge.
    pub challenge: bool,
}

/// An order that is not reported yet; without a hold if that is gone.
pub type Unsettled = (OrderId, Option<Hold>);

impl Inventory {
    /// Looks at one item.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn look(&self, keys: &ItemKeys) -> Result<Look, StoreError> {
        let script = &self.shared.scripts.look;
        let item_keys = [
            &*keys.item,
            &*keys.holds,
            &*keys.buyers,
            &*keys.unsettled,
            &*keys.attempts,
            &*keys.late,
            &*keys.alarm,
            &*keys.places,
        ];
        let sent = Instant::now();
        // What waits for this waits for the catalogue: a Redis that hangs must be noticed soon.
        let (value, node) = self.shared.connection.run(Lane::Hot, script, &item_keys, |_| ()).await?;
        let mut reply = Reply::of(value, script.name)?;
        let shut = reply.gate()?;
        let now_ms = reply.int()?;
        node.clock().heard(now_ms, sent);
        let alarms = reply.int()?;
        let figures = if reply.is_empty() { None } else { Some(figures(reply.array()?)?) };
        Ok(Look { shut, now_ms, alarms, figures })
    }

    /// Every order id of an item, tombstones too, read page by page; `None` if the gate was not open with `epoch` all
    /// the time, since then the pages may be of different books, or if ids came in meanwhile.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn order_ids(&self, keys: &ItemKeys, epoch: i64) -> Result<Option<Vec<OrderId>>, StoreError> {
        let mut ids = HashSet::new();
        self.scan(Scan::Hash, Pace::Brisk, &keys.holds, |pairs| {
            ids.insert(OrderId(pairs.parsed(|text| Uuid::parse_str(&text))?));
            pairs.text().map(|_hold| ())
        })
        .await?;
        let look = self.look(keys).await?;
        let same = look.shut.is_none()
            && look.figures.is_some_and(|figures| figures.epoch == epoch && figures.holds == ids.len());
        Ok(same.then(|| ids.into_iter().collect()))
    }

    /// About `most` holds of an item, from `cursor` on, and the cursor to go on with: 0 at the end. In no order; what
    /// is written meanwhile may be missing or come twice.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn scan_holds(
        &self,
        keys: &ItemKeys,
        cursor: u64,
        most: usize,
    ) -> Result<(u64, Vec<(OrderId, Hold)>), StoreError> {
        let (cursor, mut fields) = self.page(Scan::Hash, &keys.holds, cursor, most).await?;
        let mut holds = Vec::with_capacity(fields.len() / 2);
        while !fields.is_empty() {
            let id = OrderId(fields.parsed(|text| Uuid::parse_str(&text))?);
            holds.push((id, fields.parsed(|text| text.parse())?));
        }
        Ok((cursor, holds))
    }

    /// The items that [`ITEMS`] lists; what is not an id is passed over.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn listed_items(&self) -> Result<Vec<ItemId>, StoreError> {
        let value =
            match self.shared.connection.call(Lane::Hot, ITEMS, redis::cmd("SMEMBERS").arg(ITEMS)).await {
                Err(StoreError::NotDone(error)) if error.code() == Some("WRONGTYPE") => {
                    tracing::error!(
                        key = ITEMS,
                        "somebody wrote at the key of the list of items, it is made anew"
                    );
                    self.shared.connection.call(Lane::Hot, ITEMS, redis::cmd("UNLINK").arg(ITEMS)).await?;
                    return Ok(Vec::new());
                }
                answer => answer?,
            };
        let (Value::Array(members) | Value::Set(members)) = value else {
            return Err(StoreError::Garbled("SMEMBERS"));
        };
        let ids = members.into_iter().filter_map(|member| redis::from_redis_value::<String>(member).ok());
        Ok(ids.filter_map(|text| Uuid::parse_str(&text).ok()).map(ItemId).collect())
    }

    /// A page of the orders that are not reported yet, those older than `age_ms`, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn unsettled(
        &self,
        keys: &ItemKeys,
        age_ms: u64,
        skip: usize,
        most: usize,
    ) -> Result<(i64, Vec<Unsettled>), StoreError> {
        let script = &self.shared.scripts.pending;
        let value = self
            .run(Lane::Bulk, script, &[&keys.holds, &keys.unsettled], |call| {
                call.arg(age_ms).arg(skip).arg(most);
            })
            .await?;
        let mut reply = Reply::of(value, script.name)?;
        let now_ms = reply.int()?;
        let mut found = Vec::with_capacity(reply.len() / 2);
        while !reply.is_empty() {
            let id = reply.text()?;
            let hold = reply.text()?.parse().ok();
            match Uuid::parse_str(&id) {
                Ok(id) => found.push((OrderId(id), hold)),
                Err(_) => tracing::error!(id, "not an order id in `unsettled`"),
            }
        }
        Ok((now_ms, found))
    }
}

fn figures(mut reply: Reply) -> Result<Figures, StoreError> {
    let garbled = |_| StoreError::Garbled("look");
    Ok(Figures {
        epoch: reply.int()?,
        version: reply.int()?,
        sale_id: SaleId(reply.parsed(|text| Uuid::parse_str(&text))?),
        state: reply.text()?,
        starts_ms: reply.int()?,
        ends_ms: reply.int()?,
        limit: u32::try_from(reply.int()?).map_err(garbled)?,
        total: reply.int()?,
        available: reply.int()?,
        withheld: reply.int()?,
        unit_price_cents: reply.int()?,
        currency: reply.parsed(Currency::try_from)?,
        ended_ms: reply.int()?,
        holds: usize::try_from(reply.int()?).map_err(garbled)?,
        unsettled: usize::try_from(reply.int()?).map_err(garbled)?,
        oldest_unsettled_ms: reply.int()?,
        late: usize::try_from(reply.int()?).map_err(garbled)?,
        waiting_room: reply.int()? == 1,
        challenge: reply.int()? == 1,
    })
}
