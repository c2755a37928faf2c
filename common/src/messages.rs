//! What the services say to each other over AMQP.
//!
//! The version is part of a message's type. A released version is frozen by a golden file in
//! `tests/golden`; consumers ignore fields they do not know. To change a shape, add `…V2` beside `…V1`,
//! accept both, publish the new one once every consumer does, and remove the old one when the queues have run dry.

mod event;
pub mod order;
pub mod sale;
pub mod stock;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::EventId;

/// Most events in one envelope.
pub const ENVELOPE_EVENTS_MAX: usize = 256;

/// One AMQP message: 1 to [`ENVELOPE_EVENTS_MAX`] events of one type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope<E> {
    /// Identity of the message; the same on every redelivery.
    pub id: Uuid,
    /// The type with its version, such as `stock.reserved.v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When the producer wrote it, by the clock of the store that it decided in.
    pub occurred_at: DateTime<Utc>,
    /// The service that published it.
    pub producer: String,
    /// What happened, in order.
    pub events: Vec<Event<E>>,
}

/// One thing that happened, with an identity of its own. See `event.rs` for how it is read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event<E> {
    /// What consumers deduplicate by.
    pub event_id: EventId,
    /// The fields of the event's type, beside `event_id`.
    #[serde(flatten)]
    pub data: E,
}
