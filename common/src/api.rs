//! Bodies of HTTP calls: what the public API shows, and what the services ask each other under `/internal/v1`.
//!
//! Public bodies are here because order-service and notify-service write them, the gateway passes them on and
//! describes them in its OpenAPI document, and `order.*` events carry one of them.

pub mod admin;
pub mod blocks;
pub mod erasure;
pub mod filter;
pub mod inventory;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{Currency, ItemId, OrderId, PaymentId, Quantity, SaleId};

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// What the page holds, in the listing's order.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

/// A flash sale as everybody sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sale {
    /// The sale's id.
    pub id: SaleId,
    /// What it is called.
    pub title: String,
    /// Where it is in its life.
    pub state: SaleState,
    /// First moment at which orders are taken.
    pub starts_at: DateTime<Utc>,
    /// First moment at which orders are no longer taken.
    pub ends_at: DateTime<Utc>,
    /// Seconds that a buyer has to pay.
    pub payment_window_seconds: u32,
    /// The server's clock when this was written, for countdowns.
    pub server_time: DateTime<Utc>,
    /// True when the stock figures are the last known ones because the inventory cannot be reached.
    #[serde(default)]
    pub stale: bool,
    /// Whether an order needs a place in line first: `POST /api/v1/items/{item_id}/place`.
    #[serde(default)]
    pub waiting_room: bool,
    /// Whether taking a place, or ordering where there is no waiting room, needs a solved challenge.
    #[serde(default)]
    pub challenge: bool,
    /// What is on sale.
    pub items: Vec<SaleItem>,
}

/// One item of a sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SaleItem {
    /// The item's id.
    pub id: ItemId,
    /// The merchant's own number for it.
    pub sku: String,
    /// What it is called.
    pub name: String,
    /// Where its picture is; empty when there is none.
    pub image_url: String,
    /// Price of one unit in minor units.
    pub price_cents: i64,
    /// Currency of the price.
    pub currency: Currency,
    /// Units in the sale.
    pub total: i64,
    /// Units that can be ordered now.
    pub available: i64,
    /// Most units that one user may hold or own.
    pub per_user_limit: u32,
    /// Whether it can be ordered.
    pub state: ItemState,
}

/// The life of a sale; `active` and `ended` follow the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaleState {
    /// Being prepared; only admins see it.
    Draft,
    /// Published, not open yet.
    Scheduled,
    /// Open.
    Active,
    /// Held by an admin; can be resumed.
    Paused,
    /// Over.
    Ended,
}

/// Whether an item can be ordered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// Its sale is being prepared.
    Draft,
    /// Its sale is not open yet.
    Scheduled,
    /// It can be ordered.
    Active,
    /// Its sale is held by an admin.
    Paused,
    /// No unit is left; turns back when units come back.
    SoldOut,
    /// Its sale is over.
    Ended,
}

/// The answer to an accepted order: it will be made, and can be followed at its URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The order's id; the same for every repetition with the same key.
    pub order_id: OrderId,
    /// Always `queued`.
    pub status: OrderStatus,
}

/// An order as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Order {
    /// The order's id.
    pub id: OrderId,
    /// What was ordered.
    pub item_id: ItemId,
    /// The sale it was ordered in.
    pub sale_id: SaleId,
    /// Units ordered.
    pub quantity: Quantity,
    /// Price of one unit in minor units.
    pub unit_price_cents: i64,
    /// Price of all units in minor units.
    pub total_cents: i64,
    /// Currency of the prices.
    pub currency: Currency,
    /// Where the order is in its life.
    pub status: OrderStatus,
    /// Why, where the status needs a reason.
    pub reason: Option<Reason>,
    /// Whether a payment of this order is on its way back.
    pub refund: Option<RefundState>,
    /// Counts the order's changes; 0 while `queued`. Higher is newer.
    pub version: i64,
    /// When the order was made; while `queued`, when it was accepted.
    pub created_at: DateTime<Utc>,
    /// Until when it can be paid; `null` while `queued` and for rejected orders.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The life of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// Accepted, on its way into the database.
    Queued,
    /// Waits for payment.
    PendingPayment,
    /// Paid.
    Paid,
    /// Cancelled by its owner.
    Cancelled,
    /// Not paid in time.
    Expired,
    /// Refused by a guard of the database.
    Rejected,
    /// An admin takes it back; the money is on its way.
    RefundPending,
    /// Taken back, the money returned.
    Refunded,
}

/// Why an order is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Rejected: no units left in the source of truth.
    SoldOut,
    /// Rejected: the user has as many as one may have.
    LimitExceeded,
}

/// What became of money that goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// Asked of the provider.
    Pending,
    /// Returned.
    Done,
}

/// Body of `POST /api/v1/items/{item_id}/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// Units wanted.
    pub quantity: Quantity,
}

/// Body of `POST /api/v1/orders/{id}/pay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartPayment {
    /// Who collects the money.
    pub provider: Provider,
}

/// A payment provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// The built-in one, for development.
    Sandbox,
}

/// The answer to `POST /api/v1/orders/{id}/pay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentStarted {
    /// The payment's id.
    pub payment_id: PaymentId,
    /// Who collects the money.
    pub provider: Provider,
    /// Where the buyer pays.
    pub checkout_url: String,
}
