//! Sales and their items: what is on sale, when, and in which state by Postgres' clock.

pub mod admin;
pub mod listing;
pub mod validate;

use chrono::{DateTime, Utc};
use common::api::{ItemState, Sale, SaleItem, SaleState};
use common::ids::{Currency, ItemId, SaleId};
use diesel::prelude::*;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::schema::{items, sales};

/// A row of `sales`.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = sales)]
pub struct SaleRow {
    id: Uuid,
    title: String,
    published_at: Option<DateTime<Utc>>,
    paused_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    starts_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    payment_window_seconds: i32,
    created_at: DateTime<Utc>,
    waiting_room: bool,
    challenge: bool,
}

/// A row of `items`, as far as people see it.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = items)]
pub struct ItemRow {
    id: Uuid,
    sale_id: Uuid,
    sku: String,
    name: String,
    image_url: String,
    price_cents: i64,
    currency: String,
    total: i64,
    taken: i64,
    per_user_limit: i32,
    epoch: i64,
}

/// A sale with its items, as they were at `now` by Postgres' clock.
#[derive(Debug, Clone)]
pub struct SaleRecord {
    sale: SaleRow,
    items: Vec<ItemRow>,
    now: DateTime<Utc>,
}

impl SaleRecord {
    /// Where the sale is in its life at the time of its record.
    pub fn state(&self) -> SaleState {
        state(&self.sale, self.now)
    }

    /// The sale's id.
    pub fn id(&self) -> Uuid {
        self.sale.id
    }

    /// Its place in the listing of admins.
    pub fn place(&self) -> (DateTime<Utc>, Uuid) {
        (self.sale.created_at, self.sale.id)
    }

    /// Its items, in their order.
    pub fn item_ids(&self) -> Vec<Uuid> {
        self.items.iter().map(|item| item.id).collect()
    }

    /// The sale as the API shows it.
    ///
    /// # Errors
    /// A row is not what this service writes.
    pub fn to_api(&self) -> Result<Sale, DbError> {
        let state = self.state();
        let items = self.items.iter().map(|item| item.to_api(state)).collect::<Result<_, _>>()?;
        Ok(Sale {
            id: SaleId(self.sale.id),
            title: self.sale.title.clone(),
            state,
            starts_at: self.sale.starts_at,
            ends_at: self.sale.ends_at,
            payment_window_seconds: count("payment_window_seconds", self.sale.payment_window_seconds)?,
            server_time: self.now,
            stale: false,
            waiting_room: self.sale.waiting_room,
            challenge: self.sale.challenge,
            items,
        })
    }
}

impl ItemRow {
    fn to_api(&self, sale: SaleState) -> Result<SaleItem, DbError> {
        let broken =
            |error: common::ids::Invalid| DbError::Broken(format!("currency of item {}: {error}", self.id));
        let available = self.total - self.taken;
        Ok(SaleItem {
            id: ItemId(self.id),
            sku: self.sku.clone(),
            name: self.name.clone(),
            image_url: self.image_url.clone(),
            price_cents: self.price_cents,
            currency: Currency::try_from(self.currency.clone()).map_err(broken)?,
            total: self.total,
            available: available.max(0),
            per_user_limit: count("per_user_limit", self.per_user_limit)?,
            state: item_state(sale, available),
        })
    }
}

/// The life of a sale: what an admin did to it, and its window, at `now`.
fn state(sale: &SaleRow, now: DateTime<Utc>) -> SaleState {
    if sale.published_at.is_none() {
        SaleState::Draft
    } else if sale.ended_at.is_some() || now >= sale.ends_at {
        SaleState::Ended
    } else if sale.paused_at.is_some() {
        SaleState::Paused
    } else if now < sale.starts_at {
        SaleState::Scheduled
    } else {
        SaleState::Active
    }
}

fn item_state(sale: SaleState, available: i64) -> ItemState {
    match sale {
        SaleState::Draft => ItemState::Draft,
        SaleState::Scheduled => ItemState::Scheduled,
        SaleState::Active if available <= 0 => ItemState::SoldOut,
        SaleState::Active => ItemState::Active,
        SaleState::Paused => ItemState::Paused,
        SaleState::Ended => ItemState::Ended,
    }
}

fn count(column: &str, value: i32) -> Result<u32, DbError> {
    u32::try_from(value).map_err(|_| DbError::Broken(format!("{column} is {value}")))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn sale() -> SaleRow {
        let starts_at = DateTime::from_timestamp(1_900_000_000, 0).expect("a moment");
        SaleRow {
            id: Uuid::nil(),
            title: "t".into(),
            published_at: Some(starts_at - TimeDelta::days(1)),
            paused_at: None,
            ended_at: None,
            starts_at,
            ends_at: starts_at + TimeDelta::hours(1),
            payment_window_seconds: 60,
            created_at: starts_at - TimeDelta::days(2),
            waiting_room: false,
            challenge: false,
        }
    }

    #[test]
    fn the_window_decides_to_the_microsecond() {
        let sale = sale();
        let tick = TimeDelta::microseconds(1);
        assert_eq!(state(&sale, sale.starts_at - tick), SaleState::Scheduled);
        assert_eq!(state(&sale, sale.starts_at), SaleState::Active);
        assert_eq!(state(&sale, sale.ends_at - tick), SaleState::Active);
        assert_eq!(state(&sale, sale.ends_at), SaleState::Ended);
    }

    #[test]
    fn an_admin_decides_within_the_window() {
        let open = sale().starts_at;
        let paused = SaleRow { paused_at: Some(open), ..sale() };
        assert_eq!(state(&paused, open), SaleState::Paused);
        assert_eq!(state(&paused, paused.ends_at), SaleState::Ended, "a paused sale ends too");
        let ended = SaleRow { ended_at: Some(open), ..paused };
        assert_eq!(state(&ended, open), SaleState::Ended);
        assert_eq!(state(&SaleRow { published_at: None, ..sale() }, open), SaleState::Draft);
    }

    #[test]
    fn sold_out_is_about_an_open_sale() {
        assert_eq!(item_state(SaleState::Active, 0), ItemState::SoldOut);
        assert_eq!(item_state(SaleState::Active, 1), ItemState::Active);
        assert_eq!(item_state(SaleState::Scheduled, 0), ItemState::Scheduled);
        assert_eq!(item_state(SaleState::Ended, 0), ItemState::Ended);
    }
}
