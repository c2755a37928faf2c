//! What the gateway, stock-service and order-service ask each other about the inventory.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::filter::IdFilter;
use super::{OrderStatus, Reason};
use crate::ids::{Currency, ItemId, OrderId, Quantity, SaleId, UserId};
use crate::messages::order::Units;

/// Most requests in one [`ReserveBatch`].
pub const RESERVE_BATCH_MAX: usize = 256;

/// `POST /internal/v1/items/{item_id}/reservations` of stock-service: who wants units of one item.
///
/// The answer is a stream of [`ReserveLine`]s as newline-delimited JSON: refusals first, grants when they are
/// confirmed. A request without an answer at the end of the stream has an unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveBatch {
    /// In order of arrival.
    pub requests: Vec<ReserveRequest>,
}

/// One buyer's wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRequest {
    /// The order to be.
    pub order_id: OrderId,
    /// Who buys.
    pub user_id: UserId,
    /// Units wanted.
    pub quantity: Quantity,
    /// Milliseconds left, from the moment of sending, until nobody waits for the answer any more.
    pub deadline_ms: u64,
    /// When the waiting room admitted the buyer, in ms of its clock, as a valid purchase token says; good for one
    /// order. Without one an item with a waiting room grants nothing new, but known orders are still accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted_ms: Option<i64>,
}

/// One line of the answer to a [`ReserveBatch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveLine {
    /// Some of the answers.
    pub answers: Vec<ReserveAnswer>,
}

/// What became of one request of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveAnswer {
    /// The request's place in the batch, from 0.
    pub index: usize,
    /// The decision.
    pub outcome: ReserveOutcome,
}

/// The decision about one request. Everything but `Accepted` and `Unknown` means: no effect, for sure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ReserveOutcome {
    /// Granted now or before; stands in Redis and in a durable queue.
    Accepted,
    /// Not enough units left.
    SoldOut,
    /// The user would have more than the limit, or has tried too often.
    LimitExceeded,
    /// The sale is not open yet.
    NotStarted {
        /// When it opens.
        starts_at: DateTime<Utc>,
    },
    /// The sale is over.
    Ended,
    /// The sale is held by an admin.
    Paused,
    /// The item has a waiting room, and the buyer was not admitted, or has used the admission for another order.
    PlaceRequired,
    /// No such item.
    UnknownItem,
    /// The order id is known with another quantity.
    IdempotencyMismatch,
    /// The deadline had passed before anything was done.
    DeadlinePassed,
    /// Too much is waiting already.
    TooBusy,
    /// The gate is closed, or a store cannot be reached; nothing was done.
    Unavailable,
    /// Something was sent and no answer came: ask again with the same key.
    Unknown,
}

/// `GET /internal/v1/catalogue` of stock-service (ETag): every item that it knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Milliseconds, from the moment of *asking* for this snapshot, for which a refusal drawn from it is true:
    /// units that come back are not offered earlier (see `reopen_ms` in stock-service's scripts).
    pub lease_ms: u64,
    /// Every item, in no order.
    pub items: Vec<CatalogueItem>,
}

/// What an item's Redis says about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CatalogueItem {
    /// The item.
    pub item_id: ItemId,
    /// Its sale.
    pub sale_id: SaleId,
    /// Whether it can be ordered, by Redis' clock; never `draft`.
    pub state: super::ItemState,
    /// First moment at which orders are taken.
    pub starts_at: DateTime<Utc>,
    /// First moment at which orders are no longer taken.
    pub ends_at: DateTime<Utc>,
    /// Units in the sale.
    pub total: i64,
    /// Units on offer; never below zero here.
    pub available: i64,
    /// Most units that one user may hold or own.
    pub per_user_limit: u32,
    /// Whether the gate is open. While it is closed the figures are the last known ones.
    pub open: bool,
    /// Whether an order needs a place in line first.
    #[serde(default)]
    pub waiting_room: bool,
    /// Whether a place, or an order where there is no waiting room, needs a solved challenge.
    #[serde(default)]
    pub challenge: bool,
    /// The granted order ids of an item that refuses everybody else (sold out, paused, ended): an id that may be
    /// in it must be asked for, all others can be refused on the spot.
    pub granted: Option<IdFilter>,
}

/// `GET /internal/v1/reservations/{order_id}` of stock-service: the hold of one order. 404 when the open gate has
/// none, 503 while the gate is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The order.
    pub order_id: OrderId,
    /// What was bought.
    pub item_id: ItemId,
    /// Its sale.
    pub sale_id: SaleId,
    /// Who bought.
    pub user_id: UserId,
    /// How many units.
    pub quantity: Quantity,
    /// Where the units are.
    pub units: Units,
    /// The order's version as far as the inventory knows; 0 means that the order is still queued.
    pub version: i64,
    /// Price of one unit in minor units.
    pub unit_price_cents: i64,
    /// Currency of the price.
    pub currency: Currency,
    /// When it was granted, by Redis' clock.
    pub reserved_at: DateTime<Utc>,
}

/// `POST /internal/v1/items/{item_id}/withdraw` of stock-service: units to take off offer, all or none, before the total
/// is lowered by them.
///
/// The total may then be lowered only while the item's epoch is still [`WithdrawOutcome::Withdrawn::epoch`]: a load
/// forgets withdrawals. Units that no lower total claims come back by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdraw {
    /// How many; more than 0.
    pub units: u32,
}

/// What became of a [`Withdraw`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum WithdrawOutcome {
    /// They are off offer.
    Withdrawn {
        /// The epoch of the books that they were taken from.
        epoch: i64,
    },
    /// Fewer units are on offer; nothing was done.
    NotEnough {
        /// Units on offer.
        available: i64,
    },
    /// The inventory has never heard of the item; nothing was done.
    UnknownItem,
    /// The gate is closed; nothing was done.
    Closed,
}

/// `POST /internal/v1/items/{item_id}/withdraw/return` of stock-service: the total was not lowered, for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveBack {
    /// Units that were withdrawn; more than 0.
    pub units: u32,
    /// The epoch that [`WithdrawOutcome::Withdrawn`] named.
    pub epoch: i64,
}

/// The answer to a [`GiveBack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaveBack {
    /// Units that are on offer again; none if the books are of another epoch.
    pub units: i64,
}

/// `POST /internal/v1/items/{item_id}/epochs` of order-service: the right to load an item, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochGranted {
    /// Higher than every epoch handed out before for this item.
    pub epoch: i64,
    /// Names this grant; carried by the fence.
    pub token: Uuid,
}

/// `GET /internal/v1/items` of order-service: the items that belong into the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveItems {
    /// Published and not retired, with their versions.
    pub items: Vec<LiveItem>,
}

/// One item that belongs into the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveItem {
    /// The item.
    pub item_id: ItemId,
    /// Its version; see [`crate::messages::sale::ChangedV1`].
    pub version: i64,
    /// The newest epoch that was handed out for it; 0: none. A gate with an older one must not sell.
    #[serde(default)]
    pub epoch: i64,
    /// When its sale ends, or when an admin ended it: after that it is loaded last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
}

/// `GET /internal/v1/items/{item_id}` of order-service: the absolute state of one item, without its orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemDefinition {
    /// The item.
    pub item_id: ItemId,
    /// Its sale.
    pub sale_id: SaleId,
    /// Counts the item's changes.
    pub version: i64,
    /// First moment at which orders are taken.
    pub starts_at: DateTime<Utc>,
    /// First moment at which orders are no longer taken.
    pub ends_at: DateTime<Utc>,
    /// What an admin said of it; the window decides the rest.
    pub hold: AdminHold,
    /// Units in the sale.
    pub total: i64,
    /// Most units that one user may hold or own.
    pub per_user_limit: u32,
    /// Price of one unit in minor units.
    pub unit_price_cents: i64,
    /// Currency of the price.
    pub currency: Currency,
    /// True when the sale is over and none of its orders is open: its keys may be retired.
    pub settled: bool,
    /// Whether an order needs a place in line first.
    #[serde(default)]
    pub waiting_room: bool,
    /// Whether a place, or an order where there is no waiting room, needs a solved challenge.
    #[serde(default)]
    pub challenge: bool,
    /// The newest epoch that was handed out for it; `None` from a service that does not say. Epochs never fall, unless the
    /// database was set back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
}

/// What an admin said of a published sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminHold {
    /// Nothing: the window decides.
    None,
    /// Paused.
    Paused,
    /// Ended before its time.
    Ended,
}

/// `GET /internal/v1/items/{item_id}/stock?epoch=&token=` of order-service: waits until the fence with this token
/// was processed, then answers with the item and all its orders. 409 when a newer epoch was handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemStock {
    /// The item.
    pub item: ItemDefinition,
    /// All its orders, finished ones too (they become tombstones).
    pub orders: Vec<StockOrder>,
}

/// What the inventory needs to know of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockOrder {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// Its units.
    pub quantity: Quantity,
    /// Where they are.
    pub units: Units,
    /// The order's version.
    pub version: i64,
    /// Where the order is in its life.
    pub status: OrderStatus,
    /// Why, for rejected orders.
    pub reason: Option<Reason>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// `GET /internal/v1/items/{item_id}/books` of stock-service: one atomic look at an item's Redis, counted afresh,
/// in units. 503 while the gate is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// The item.
    pub item_id: ItemId,
    /// Units in the sale.
    pub total: i64,
    /// Units not taken; below zero only after adopting orders that Redis had lost.
    pub available: i64,
    /// Units of holds in state `held`.
    pub held: i64,
    /// Units of holds in state `sold`.
    pub sold: i64,
    /// Units whose orders are not reported yet.
    pub unsettled: i64,
    /// Units that the per-user counts add up to.
    pub buyers: i64,
    /// The epoch of the open gate.
    pub epoch: i64,
    /// Every order id that Redis knows.
    pub orders: Vec<BookedOrder>,
}

/// One order in Redis' books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookedOrder {
    /// The order.
    pub order_id: OrderId,
    /// Its units.
    pub quantity: Quantity,
    /// Where they are.
    pub units: Units,
}
