//! Messages that are written by the transaction that they tell of, and published afterwards by [`relay`].

pub mod keeper;
pub mod relay;

use chrono::{DateTime, Utc};
use common::ids::{EventId, OrderId};
use common::messages::order::OrderV1;
use common::messages::sale::{self, ChangedV1};
use common::messages::{ENVELOPE_EVENTS_MAX, Envelope, Event};
use common::telemetry::trace::current_traceparent;
use common::topology::Exchange;
use diesel::sql_types::{Array, Bytea, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::db::DbError;
use crate::db::statement::Kept;

/// The `producer` of every envelope.
const PRODUCER: &str = "order-service";

/// The routing key is the type.
const INSERT: &str = "
INSERT INTO outbox (message_id, body, exchange, routing_key, kind, traceparent)
SELECT m.id, m.body, $3, $4, $4, $5 FROM unnest($1, $2) AS m (id, body)";

/// Puts `events` of one type into the outbox, at most [`ENVELOPE_EVENTS_MAX`] to a row. `at` is the database's clock.
///
/// Call it in the transaction that makes it true.
///
/// # Errors
/// The database's.
pub async fn push<E: Serialize + Clone + Send + Sync>(
    conn: &mut AsyncPgConnection,
    exchange: Exchange,
    kind: &str,
    at: DateTime<Utc>,
    events: &[Event<E>],
) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    let (mut ids, mut bodies) = (Vec::new(), Vec::new());
    for events in events.chunks(ENVELOPE_EVENTS_MAX) {
        let envelope = Envelope {
            id: Uuid::now_v7(),
            kind: kind.to_owned(),
            occurred_at: at,
            producer: PRODUCER.to_owned(),
            events: events.to_vec(),
        };
        ids.push(envelope.id);
        bodies.push(serde_json::to_vec(&envelope).map_err(|error| DbError::Broken(error.to_string()))?);
    }
    let statement = diesel::sql_query(INSERT)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Bytea>, _>(bodies)
        .bind::<Text, _>(exchange.name())
        .bind::<Text, _>(kind)
        .bind::<Nullable<Text>, _>(current_traceparent());
    Kept(statement).execute(conn).await?;
    Ok(())
}

/// Tells of orders, all by the same event type; see [`push`].
///
/// # Errors
/// The database's.
pub async fn push_orders(
    conn: &mut AsyncPgConnection,
    kind: &str,
    at: DateTime<Utc>,
    orders: &[OrderV1],
) -> Result<(), DbError> {
    let events: Vec<Event<&OrderV1>> = orders
        .iter()
        .map(|order| Event { event_id: order_event_id(order.order.id, order.order.version), data: order })
        .collect();
    push(conn, Exchange::Order, kind, at, &events).await
}

/// Tells that an item changed; see [`push`].
///
/// # Errors
/// The database's.
pub async fn push_changed_items(
    conn: &mut AsyncPgConnection,
    at: DateTime<Utc>,
    changed: Vec<ChangedV1>,
) -> Result<(), DbError> {
    let events: Vec<Event<ChangedV1>> =
        changed.into_iter().map(|data| Event { event_id: EventId(Uuid::now_v7()), data }).collect();
    push(conn, Exchange::Sale, sale::CHANGED_V1, at, &events).await
}

/// The id of the event that tells of one version of one order: telling it again is the same event, so that
/// consumers which deduplicate by it tell nobody twice.
pub fn order_event_id(order: OrderId, version: i64) -> EventId {
    let mut hash = Sha256::new();
    hash.update(order.0.as_bytes());
    hash.update(version.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    EventId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}
