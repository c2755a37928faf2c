//! Everything that a checker looks at: what the clients saw, what was sampled meanwhile, and the books at the end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::ids::{ItemId, OrderId, PaymentId};
use common::messages::order::Units;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::client_log::History;
use crate::workload::poison::Injected;

/// One schedule, seen from outside.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What was set up.
    pub facts: Facts,
    /// What the clients saw.
    pub history: History,
    /// What was seen meanwhile, by time.
    pub samples: Vec<Sample>,
    /// What the stores say in the end.
    pub books: Books,
}

/// What was set up, and what happened to the system.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// The items, as they were offered.
    pub items: Vec<ItemFact>,
    /// Seconds to pay.
    pub window_s: u32,
    /// Milliseconds for which a refusal may still be given after units came back.
    pub lease_ms: u64,
    /// Buyers who asked until the end, by item, who never got an order.
    pub unserved: BTreeMap<ItemId, usize>,
    /// Poison that certainly arrived.
    pub poison: Vec<Injected>,
    /// Markers of poison that may have arrived.
    pub poison_unsure: Vec<String>,
    /// The broker lost its data: poison may be gone with it.
    pub broker_lost: bool,
    /// What was still under way when the patience for quiet was over; `None`: it was quiet.
    pub not_quiet: Option<String>,
    /// Processes that ended without an injected cause.
    pub deaths: Vec<String>,
    /// Lines of logs that must not be there.
    pub log_findings: Vec<String>,
    /// Where stock-service found its own books wrong and closed a gate.
    pub books_wrong: Vec<String>,
    /// The users whose streams were followed.
    pub listeners: Vec<String>,
    /// What a webhook's receiver got.
    pub received: Vec<Received>,
}

/// An item as it was offered.
#[derive(Debug, Clone, Serialize)]
pub struct ItemFact {
    /// Its id.
    pub id: ItemId,
    /// Units at first.
    pub stock: i64,
    /// Most units of one user.
    pub limit: i64,
    /// Price of one unit.
    pub price_cents: i64,
}

/// One attempt at a delivery, as its receiver saw it.
#[derive(Debug, Clone, Serialize)]
pub struct Received {
    /// The `webhook-id`.
    pub id: String,
    /// The body.
    pub body: String,
    /// What the receiver answered.
    pub answered: u16,
    /// Whether the signature is the webhook's.
    pub genuine: bool,
}

/// One look at both stores; each half is one snapshot, `None` when its store did not answer.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was asked for and answered, in nanoseconds of the log.
    pub from: u64,
    /// See `from`.
    pub until: u64,
    /// Postgres, by item.
    pub ledger: Option<Vec<LedgerSample>>,
    /// Redis, by item; only items whose gate is open.
    pub inventory: Option<Vec<InventorySample>>,
}

/// An item in Postgres, one snapshot.
#[derive(Debug, Clone, Deserialize)]
pub struct LedgerSample {
    /// The item.
    pub item: ItemId,
    /// Units in the sale.
    pub total: i64,
    /// Units held or sold, as the item says.
    pub taken: i64,
    /// Units held, added up over its orders.
    pub held: i64,
    /// Units sold, added up over its orders.
    pub sold: i64,
    /// Most units that one user holds or owns.
    pub most_of_one_user: i64,
}

/// An item in Redis, one snapshot.
#[derive(Debug, Clone, Deserialize)]
pub struct InventorySample {
    /// The item.
    pub item: ItemId,
    /// The epoch of its gate.
    pub epoch: i64,
    /// Units in the sale.
    pub total: i64,
    /// Units not taken.
    pub available: i64,
    /// Units kept back for orders that are still to come.
    pub withheld: i64,
    /// Units of holds that are held or sold, added up.
    pub active: i64,
    /// Units that the counts per user add up to.
    pub buyers: i64,
    /// The versions of all orders that are known, added up.
    pub versions: i64,
    /// The order ids that are known, for the first sample of an epoch only.
    pub orders: Option<BTreeSet<OrderId>>,
}

/// The books at the end.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// Every order.
    pub orders: Vec<OrderRow>,
    /// Every change of an order.
    pub transitions: Vec<TransitionRow>,
    /// Every item.
    pub items: Vec<ItemRow>,
    /// Every payment.
    pub payments: Vec<PaymentRow>,
    /// Every notice that was believed.
    pub notices: Vec<NoticeRow>,
    /// The provider's own books.
    pub provider: Vec<ProviderRow>,
    /// Every parked message.
    pub dead_letters: Vec<DeadLetterRow>,
    /// Messages that are not published.
    pub outbox_unpublished: i64,
    /// What users were told.
    pub told: Vec<ToldRow>,
    /// What webhooks are to be told.
    pub deliveries: Vec<DeliveryRow>,
    /// Messages in each queue.
    pub queues: BTreeMap<String, u64>,
    /// Redis.
    pub inventory: BTreeMap<ItemId, Inventory>,
}

/// A row of `orders`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct OrderRow {
    /// Its id.
    pub id: OrderId,
    /// Of which item.
    pub item_id: ItemId,
    /// Whose.
    pub user_id: String,
    /// Units.
    pub quantity: i64,
    /// Price of one.
    pub unit_price_cents: i64,
    /// Where it is in its life.
    pub status: OrderStatus,
    /// Where its units are.
    pub units: Units,
    /// Why it was rejected.
    pub reason: Option<String>,
    /// What it shows of its refund.
    pub refund: Option<String>,
    /// Counts its changes.
    pub version: i64,
    /// Which epoch granted it.
    pub epoch: i64,
    /// When it was granted, by Redis' clock.
    pub reserved_at: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when it can be paid.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A row of `order_transitions`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct TransitionRow {
    /// Of which order.
    pub order_id: OrderId,
    /// Its number.
    pub version: i64,
    /// The state before; `None`: there was none.
    pub from_status: Option<OrderStatus>,
    /// The state after.
    pub to_status: OrderStatus,
    /// Where the units are after it.
    pub units: Units,
    /// When.
    pub at: DateTime<Utc>,
}

/// A row of `items`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ItemRow {
    /// Its id.
    pub id: ItemId,
    /// Units in the sale.
    pub total: i64,
    /// Units held or sold.
    pub taken: i64,
    /// The newest epoch.
    pub epoch: i64,
}

/// A row of `payments`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct PaymentRow {
    /// Its id.
    pub id: PaymentId,
    /// Of which order.
    pub order_id: OrderId,
    /// How much.
    pub amount_cents: i64,
    /// `started`, `failed`, `kept`, `refund_pending`, `refunded`.
    pub status: String,
}

/// A row of `payment_notices`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NoticeRow {
    /// The notice's own id.
    pub event_id: String,
    /// Of which payment.
    pub payment_id: PaymentId,
}

/// A row of `sandbox_payments`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ProviderRow {
    /// Of which payment.
    pub payment_id: PaymentId,
    /// Of which order.
    pub order_id: OrderId,
    /// How much.
    pub amount_cents: i64,
    /// When the money was taken.
    pub captured_at: Option<DateTime<Utc>>,
    /// When it was given back.
    pub refunded_at: Option<DateTime<Utc>>,
    /// Under which number of ours.
    pub refund_no: Option<Uuid>,
}

/// A row of `dead_letters`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct DeadLetterRow {
    /// From which queue.
    pub queue: String,
    /// Why.
    pub reason: String,
    /// What.
    pub body: String,
}

/// A row of `events` of notify-service.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct ToldRow {
    /// Who.
    pub user_id: String,
    /// The user's own number.
    pub seq: i64,
    /// Of which order.
    pub order_id: OrderId,
    /// The order's version.
    pub version: i64,
    /// The order's state.
    pub status: OrderStatus,
}

/// A row of `deliveries` of notify-service.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct DeliveryRow {
    /// Of which event.
    pub event_id: Uuid,
    /// `pending`, `delivered`, `parked`.
    pub state: String,
}

/// An item in Redis.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Whether its gate is open in this very process.
    pub open: bool,
    /// The epoch of its gate.
    pub epoch: i64,
    /// Units in the sale.
    pub total: i64,
    /// Units not taken.
    pub available: i64,
    /// Units kept back.
    pub withheld: i64,
    /// Every order that is known: units and where they are.
    pub holds: BTreeMap<OrderId, (i64, Units)>,
    /// Units of each user.
    pub buyers: BTreeMap<String, i64>,
    /// Orders that were not reported.
    pub unsettled: BTreeSet<OrderId>,
}
