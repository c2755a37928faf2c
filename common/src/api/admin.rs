//! Bodies that only admins send and see.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Order;
use crate::ids::{Currency, ItemId, UserId};

/// Body of `POST /api/v1/admin/sales`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSale {
    /// What it is called, 1 to 200 characters.
    pub title: String,
    /// First moment at which orders are taken.
    pub starts_at: DateTime<Utc>,
    /// First moment at which orders are no longer taken; after `starts_at`.
    pub ends_at: DateTime<Utc>,
    /// Seconds that a buyer has to pay, 1 to 86,400.
    pub payment_window_seconds: u32,
    /// Whether an order needs a place in line first. Off unless said.
    #[serde(default)]
    pub waiting_room: bool,
    /// Whether taking a place, or ordering where there is no waiting room, needs a solved challenge. Off unless said.
    #[serde(default)]
    pub challenge: bool,
    /// 1 to 100 items.
    pub items: Vec<NewItem>,
}

/// One item of a [`NewSale`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    /// The merchant's own number for it, 1 to 64 characters.
    pub sku: String,
    /// What it is called, 1 to 200 characters.
    pub name: String,
    /// Where its picture is: empty, or an http(s) address of at most 2,000 characters.
    #[serde(default)]
    pub image_url: String,
    /// Price of one unit in minor units, 0 to 10^10.
    pub price_cents: i64,
    /// Currency of the price.
    pub currency: Currency,
    /// Units in the sale, 0 to 10^7.
    pub stock: i64,
    /// Most units that one user may hold or own, 1 to 100.
    pub per_user_limit: u32,
}

/// Body of `PATCH /api/v1/admin/sales/{id}`: what is absent stays. Items are replaced as a whole. Of a sale that is
/// published only `waiting_room` and `challenge` can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SaleChanges {
    /// See [`NewSale::title`].
    pub title: Option<String>,
    /// See [`NewSale::starts_at`].
    pub starts_at: Option<DateTime<Utc>>,
    /// See [`NewSale::ends_at`].
    pub ends_at: Option<DateTime<Utc>>,
    /// See [`NewSale::payment_window_seconds`].
    pub payment_window_seconds: Option<u32>,
    /// See [`NewSale::waiting_room`].
    pub waiting_room: Option<bool>,
    /// See [`NewSale::challenge`].
    pub challenge: Option<bool>,
    /// See [`NewSale::items`].
    pub items: Option<Vec<NewItem>>,
}

/// Body of `POST /api/v1/admin/items/{id}/restock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restock {
    /// Units to add; may be negative, down to what is taken.
    pub units: i64,
}

/// An order as an admin sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminOrder {
    /// The order as its owner sees it.
    #[serde(flatten)]
    pub order: Order,
    /// Whose it is.
    pub user_id: UserId,
}

/// One entry of `GET /api/v1/admin/audit-log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditLogEntry {
    /// The entry's number, rising.
    pub id: i64,
    /// When, by the database's clock.
    pub at: DateTime<Utc>,
    /// Which admin.
    pub actor: UserId,
    /// What was done, such as `sale.publish`.
    pub action: String,
    /// What it was done to.
    pub subject: Uuid,
    /// How it was before; `null` when it is new.
    pub before: Option<serde_json::Value>,
    /// How it was after; `null` when it is gone.
    pub after: Option<serde_json::Value>,
}

/// The answer to `GET /api/v1/admin/sales/{id}/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// Whether, for every item, `available + held + sold = total` and both stores know the same orders.
    pub consistent: bool,
    /// Every item of the sale.
    pub items: Vec<ItemAudit>,
}

/// The books of one item, in units. `available`, `held`, `sold` and `unsettled` are Redis', the rest Postgres'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemAudit {
    /// The item.
    pub item_id: ItemId,
    /// Units in the sale.
    pub total: i64,
    /// Units not taken.
    pub available: i64,
    /// Units held by unpaid orders.
    pub held: i64,
    /// Units of paid orders.
    pub sold: i64,
    /// Units whose orders are not reported yet.
    pub unsettled: i64,
    /// Units of orders that wait for payment.
    pub pending_payment: i64,
    /// Units of paid orders.
    pub paid: i64,
    /// Units of cancelled orders.
    pub cancelled: i64,
    /// Units of expired orders.
    pub expired: i64,
    /// Units of rejected orders.
    pub rejected: i64,
    /// Units of orders that were taken back.
    pub refunded: i64,
    /// Units of orders that the two stores do not agree about; 0 when all is well.
    pub drift: i64,
}

/// A parked message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// Its id here.
    pub id: Uuid,
    /// The queue that it could not be handled from.
    pub queue: String,
    /// Its type, as far as known.
    #[serde(rename = "type")]
    pub kind: String,
    /// Why it was parked.
    pub reason: String,
    /// When it was seen first.
    pub first_seen_at: DateTime<Utc>,
    /// The message, as text; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// Body of `POST /api/v1/admin/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where to send.
    pub url: String,
    /// Which types of `order.*` events.
    pub types: Vec<String>,
    /// `whsec_` and base64 of 24 to 64 bytes; made by the server when absent.
    pub secret: Option<String>,
}

/// A registered webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub id: Uuid,
    /// Where it sends.
    pub url: String,
    /// Which types of `order.*` events.
    pub types: Vec<String>,
    /// The signing secret; shown only in the answer that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// One event on its way to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebhookDelivery {
    /// Its id.
    pub id: Uuid,
    /// Which webhook.
    pub webhook_id: Uuid,
    /// The `webhook-id` header; the same for every attempt.
    pub message_id: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How it stands.
    pub state: DeliveryState,
    /// Attempts made so far.
    pub attempts: i32,
    /// When the next attempt is due; `null` when there will be none.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The status of the receiver's last answer; `null` when there was none.
    pub last_status: Option<i32>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When the event was queued for this webhook.
    pub created_at: DateTime<Utc>,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for its next attempt.
    Pending,
    /// The receiver took it.
    Delivered,
    /// Given up after the last attempt; can be sent again.
    Parked,
}

/// What a block is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// An account: takes no place and places no order. What it has it may still see, pay and cancel.
    User,
    /// A device, as its app names it in the header `Device-Id`: as an account.
    Device,
    /// A network: everything is refused but what is for admins, and callbacks of payment providers.
    Network,
}

/// Body of `POST /api/v1/admin/blocks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBlock {
    /// What it is about.
    pub kind: BlockKind,
    /// A user id; a device id of 8 to 128 visible ASCII characters; or a network such as `203.0.113.0/24`, at most an
    /// IPv4 /8 or an IPv6 /16, or one address.
    pub value: String,
    /// Why, 1 to 200 characters.
    pub reason: String,
    /// When it ends; without, it stays until it is lifted.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// One entry of the block list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Block {
    /// Its id.
    pub id: Uuid,
    /// What it is about.
    pub kind: BlockKind,
    /// Who or what is blocked.
    pub value: String,
    /// Why.
    pub reason: String,
    /// Which admin made it.
    pub created_by: UserId,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends; `null`: when it is lifted.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The answer to `POST /api/v1/admin/users/{user_id}/erase`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    /// The number of this erasure in the audit log, which does not say whose data it was.
    pub id: Uuid,
    /// Whether nothing is left that can be tied to the user. If not, ask again when `orders_kept` may be final.
    pub complete: bool,
    /// Orders that are nobody's now; amounts, times and states stay.
    pub orders_erased: u64,
    /// Orders that are not final, or whose messages may still be told again: their user is needed.
    pub orders_kept: u64,
    /// Entries of the audit log from which the user's id was taken.
    pub audit_entries_erased: u64,
    /// Parked messages that name the user: replay or discard them.
    pub dead_letters_kept: u64,
    /// Entries of the block list of this user: lift them, if they are not needed.
    pub blocks_kept: u64,
    /// Notices of the user's event stream that were deleted.
    pub events_erased: u64,
    /// Such notices that are less than a day old: the same news may come again.
    pub events_kept: u64,
    /// Webhook messages that name the user and are still to be delivered or kept for a while.
    pub webhook_messages_kept: u64,
}
