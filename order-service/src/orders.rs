//! Orders as rows, and as what the rest of the system sees of them.

pub mod admin_listing;

use chrono::{DateTime, Utc};
use common::api::Order;
use common::ids::{ItemId, OrderId, Quantity, SaleId};
use common::messages::order::OrderV1;
use diesel::prelude::{Queryable, QueryableByName, Selectable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as TextError, StrDeserializer};
use uuid::Uuid;

use crate::db::DbError;
use crate::db::schema::orders;

/// One row of `orders`.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = orders, check_for_backend(diesel::pg::Pg))]
pub struct OrderRow {
    /// The order's id.
    pub id: Uuid,
    /// What was ordered.
    pub item_id: Uuid,
    /// Its sale.
    pub sale_id: Uuid,
    /// Whose it is.
    pub user_id: String,
    /// Units.
    pub quantity: i32,
    /// Price of one unit, minor units.
    pub unit_price_cents: i64,
    /// Currency of the price.
    pub currency: String,
    /// [`common::api::OrderStatus`] as text.
    pub status: String,
    /// [`common::messages::order::Units`] as text.
    pub units: String,
    /// [`common::api::Reason`] as text.
    pub reason: Option<String>,
    /// [`common::api::RefundState`] as text.
    pub refund: Option<String>,
    /// Counts its changes, from 1.
    pub version: i64,
    /// The inventory epoch that granted it.
    pub epoch: i64,
    /// When it was made, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// Until when it can be paid.
    pub expires_at: Option<DateTime<Utc>>,
}

impl OrderRow {
    /// The order as services see it; `.order` is what its owner sees.
    ///
    /// # Errors
    /// The row is not what this code writes.
    pub fn into_order(self) -> Result<OrderV1, DbError> {
        let broken = |column: &str| DbError::Broken(format!("orders.{column} of {}", self.id));
        let quantity = u32::try_from(self.quantity).ok().and_then(|units| Quantity::try_from(units).ok());
        let total_cents = self.unit_price_cents.checked_mul(i64::from(self.quantity));
        Ok(OrderV1 {
            order: Order {
                id: OrderId(self.id),
                item_id: ItemId(self.item_id),
                sale_id: SaleId(self.sale_id),
                quantity: quantity.ok_or_else(|| broken("quantity"))?,
                unit_price_cents: self.unit_price_cents,
                total_cents: total_cents.ok_or_else(|| broken("unit_price_cents"))?,
                currency: parse("orders.currency", &self.currency)?,
                status: parse("orders.status", &self.status)?,
                reason: self.reason.as_deref().map(|text| parse("orders.reason", text)).transpose()?,
                refund: self.refund.as_deref().map(|text| parse("orders.refund", text)).transpose()?,
                version: self.version,
                created_at: self.created_at,
                expires_at: self.expires_at,
            },
            user_id: parse("orders.user_id", &self.user_id)?,
            units: parse("orders.units", &self.units)?,
            epoch: self.epoch,
        })
    }
}

/// Rows as services see them.
///
/// # Errors
/// A row is not what this code writes.
pub fn into_orders(rows: Vec<OrderRow>) -> Result<Vec<OrderV1>, DbError> {
    rows.into_iter().map(OrderRow::into_order).collect()
}

/// The value of a text column, spelled as on the wire.
///
/// # Errors
/// There is no such value; `column` is named.
pub fn parse<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, DbError> {
    let text: StrDeserializer<'_, TextError> = text.into_deserializer();
    T::deserialize(text).map_err(|error| DbError::Broken(format!("{column}: {error}")))
}

/// How a value is spelled in a text column: as on the wire.
///
/// # Errors
/// It is not spelled as a text.
pub fn text<T: Serialize>(value: &T) -> Result<String, DbError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => Ok(text),
        Ok(other) => Err(DbError::Broken(format!("{other} is not a text"))),
        Err(error) => Err(DbError::Broken(error.to_string())),
    }
}
