//! Parked messages of every queue, where an admin sees them and can send them again.

use std::collections::BTreeMap;
use std::time::Duration;

use common::amqp::{AmqpSettings, Outgoing, PublishError, Publisher, Raw, RetryLater, Source, Subscription};
use common::amqp::{Verdict, consume_raw};
use common::api::admin::DeadLetter;
use common::failpoint;
use common::health::Health;
use common::ids::UserId;
use common::shutdown::Tasks;
use common::topology::Queue;
use diesel::upsert::excluded;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use crate::crash_points;
use crate::db::schema::{audit_log, dead_letters};
use crate::db::{Db, DbError};

/// What the broker's own dead-lettering is called: it gives no reason of ours.
const REASON_OF_BROKER: &str = "delivered too often without being handled";
/// Most messages that are stored in one transaction.
const BATCH_MAX: usize = 64;
/// Messages that the broker hands out ahead.
const PREFETCH: u16 = 64;
/// Most bytes of a body that are shown.
const BODY_SHOWN_BYTES_MAX: usize = 16 * 1024;
/// Most time for a message to be confirmed that is sent again.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);

/// One row of `dead_letters`.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = dead_letters, check_for_backend(diesel::pg::Pg))]
pub struct DeadLetterRow {
    /// Its id.
    pub id: Uuid,
    /// The queue that it could not be handled from.
    pub queue: String,
    /// Its type, as far as known.
    pub kind: String,
    /// Why it was parked.
    pub reason: String,
    /// The bytes.
    pub body: Vec<u8>,
    /// When it was seen first.
    pub first_seen_at: chrono::DateTime<chrono::Utc>,
}

impl DeadLetterRow {
    /// As an admin sees it.
    pub fn into_dead_letter(self) -> DeadLetter {
        DeadLetter {
            id: self.id,
            queue: self.queue,
            kind: self.kind,
            reason: self.reason,
            first_seen_at: self.first_seen_at,
            body: shown(&self.body),
        }
    }
}

/// What is shown of a body; all of it is kept, and sent again.
fn shown(body: &[u8]) -> String {
    let Some((shown, _)) = body.split_at_checked(BODY_SHOWN_BYTES_MAX) else {
        return String::from_utf8_lossy(body).into_owned();
    };
    format!("{}… ({} bytes in all)", String::from_utf8_lossy(shown), body.len())
}

/// Starts to move the messages of every dead-letter queue into the table.
pub fn start(
    amqp: &AmqpSettings,
    interval: Duration,
    publisher: &Publisher,
    (db, health): (&Db, &Health),
    tasks: &Tasks,
) {
    let check = health.dependency("dead-letters");
    for queue in Queue::all() {
        let name = queue.name.clone();
        let subscription = Subscription {
            source: Source::Dead(queue),
            prefetch: PREFETCH,
            batch_max: BATCH_MAX,
            min_interval: interval,
            line_up: std::sync::Arc::default(),
            publisher: publisher.clone(),
            health: check.clone(),
        };
        let db = db.clone();
        consume_raw(amqp, subscription, tasks, move |batch| {
            let (db, name) = (db.clone(), name.clone());
            async move {
                let verdicts = vec![Verdict::Done; batch.len()];
                store(&db, name, batch).await.map_err(|error| RetryLater(error.into()))?;
                Ok(verdicts)
            }
        });
    }
}

/// Stores messages; one that is there already stays as it is but for the reason, so that nothing is stored twice
/// after a crash.
async fn store(db: &Db, queue: String, batch: Vec<Raw>) -> Result<(), DbError> {
    let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
    metrics::counter!("dead_letters_total", "queue" => queue.clone()).increment(count);
    failpoint::reach(crash_points::DEAD_LETTER_RECEIVE_AFTER).await?;
    let stored = db.quiet_transaction(move |conn| {
        Box::pin(async move {
            // A statement may touch a row once only; and everybody who locks several does it by rising id.
            let rows: BTreeMap<Uuid, _> = batch
                .into_iter()
                .map(|message| {
                    let from = message.queue.unwrap_or_else(|| queue.clone());
                    let id = dead_letter_id(&from, &message.body);
                    let reason = message.reason.unwrap_or_else(|| REASON_OF_BROKER.to_owned());
                    let row = (
                        dead_letters::id.eq(id),
                        dead_letters::queue.eq(storable(&from)),
                        dead_letters::kind.eq(storable(&message.kind.unwrap_or_default())),
                        dead_letters::reason.eq(storable(&reason)),
                        dead_letters::body.eq(message.body),
                    );
                    (id, row)
                })
                .collect();
            // An update waits for whoever has the row locked. A message that is sent again may be parked again before
            // its row is deleted: doing nothing instead would lose it.
            diesel::insert_into(dead_letters::table)
                .values(rows.into_values().collect::<Vec<_>>())
                .on_conflict(dead_letters::id)
                .do_update()
                .set(dead_letters::reason.eq(excluded(dead_letters::reason)))
                .execute(conn)
                .await?;
            failpoint::reach(crash_points::DEAD_LETTER_COMMIT_BEFORE).await?;
            Ok(())
        })
    });
    stored.await?;
    Ok(failpoint::reach(crash_points::DEAD_LETTER_COMMIT_AFTER).await?)
}

/// The same bytes from the same queue are the same dead letter, however often they are delivered.
fn dead_letter_id(queue: &str, body: &[u8]) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(queue.as_bytes());
    hash.update([0]);
    hash.update(body);
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What became of an admin's wish to send a message again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// It is on its queue, and no dead letter any more.
    Sent,
    /// There is no such dead letter.
    NotFound,
    /// The broker did not take it for sure; it is still a dead letter.
    NotSent(PublishError),
}

/// Puts a dead letter back on the queue that it came from, then forgets it. If that is cut off in between, the
/// message is on its queue and still a dead letter: consumers deduplicate.
///
/// # Errors
/// The database's.
pub async fn replay(db: &Db, publisher: &Publisher, id: Uuid, actor: UserId) -> Result<Replayed, DbError> {
    let publisher = publisher.clone();
    db.transaction(move |conn| {
        Box::pin(async move {
            let Some(row) = lock(conn, id).await? else { return Ok(Replayed::NotFound) };
            let outgoing = Outgoing {
                exchange: "",
                routing_key: row.queue.clone(),
                message_id: envelope_id(&row.body).unwrap_or(row.id),
                kind: row.kind.clone(),
                body: row.body.clone(),
            };
            failpoint::reach(crash_points::DEAD_LETTER_REPLAY_BEFORE).await?;
            if let Err(error) = publisher.publish(outgoing, Instant::now() + REPLAY_TIMEOUT).await {
                return Ok(Replayed::NotSent(error));
            }
            failpoint::reach(crash_points::DEAD_LETTER_REPLAY_AFTER).await?;
            forget(conn, row, "dead_letter.replay", &actor).await?;
            Ok(Replayed::Sent)
        })
    })
    .await
}

/// Forgets a dead letter; `false` when there is none.
///
/// # Errors
/// The database's.
pub async fn delete(db: &Db, id: Uuid, actor: UserId) -> Result<bool, DbError> {
    db.transaction(move |conn| {
        Box::pin(async move {
            let Some(row) = lock(conn, id).await? else { return Ok(false) };
            forget(conn, row, "dead_letter.delete", &actor).await?;
            Ok(true)
        })
    })
    .await
}

async fn lock(conn: &mut AsyncPgConnection, id: Uuid) -> Result<Option<DeadLetterRow>, DbError> {
    let row = dead_letters::table.find(id).for_update().select(DeadLetterRow::as_select());
    Ok(row.first(conn).await.optional()?)
}

/// Deletes the row and writes down who did it, and to what.
async fn forget(
    conn: &mut AsyncPgConnection,
    row: DeadLetterRow,
    action: &str,
    actor: &UserId,
) -> Result<(), DbError> {
    diesel::delete(dead_letters::table.find(row.id)).execute(conn).await?;
    let (id, letter) = (row.id, row.into_dead_letter());
    let before =
        json!({ "queue": letter.queue, "type": letter.kind, "reason": letter.reason, "body": letter.body });
    diesel::insert_into(audit_log::table)
        .values((
            audit_log::actor.eq(actor.as_str()),
            audit_log::action.eq(action),
            audit_log::subject.eq(id),
            audit_log::before.eq(without_nul(before)),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// The database's text cannot hold NUL characters, and what was parked may be anything. They become a character of
/// one byte: queue and type have to fit into AMQP's short strings when the message is sent again.
fn storable(text: &str) -> String {
    text.replace('\0', "?")
}

/// Nor can its JSON.
fn without_nul(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) => serde_json::Value::String(storable(&text)),
        serde_json::Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, without_nul(value))).collect()
        }
        other @ (serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Array(_)) => other,
    }
}

/// The id inside the message, if it is an envelope.
fn envelope_id(body: &[u8]) -> Option<Uuid> {
    let envelope: serde_json::Value = serde_json::from_slice(body).ok()?;
    envelope.get("id")?.as_str()?.parse().ok()
}
