//! `lua/find.lua`.

use chrono::DateTime;
use common::api::inventory::Reservation;
use common::ids::{Currency, OrderId, SaleId};
use uuid::Uuid;

use super::reply::Reply;
use super::{Inventory, Lane, StoreError};
use crate::items::Item;
use crate::stock::{Hold, Shut};

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
    /// Finds the hold of one order of `item`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find(&self, item: &Item, order_id: OrderId) -> Result<Found, StoreError> {
        let script = &self.shared.scripts.find;
        let value = self
            .run(Lane::Hot, script, &[&item.keys.item, &item.keys.holds], |call| {
                call.arg(item.epoch()).arg(order_id.to_string());
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
            item_id: item.id,
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
