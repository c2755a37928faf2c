//! Erasing what is told to one user. Numbers of the stream go with the last notice: nobody reads on from them.

use common::api::erasure::EventsErased;
use common::ids::UserId;
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use serde_json::json;
use uuid::Uuid;

use super::{DbError, Lock, audit_log, lock};

/// Order-service may tell the same news again for a day; a notice that is known is the only way to know it.
const EVENTS: &str = "
    DELETE FROM events WHERE user_id = $1 AND stored_at < now() - interval '25 hours'";

const NUMBERS: &str = "
    DELETE FROM user_sequences WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM events WHERE user_id = $1)";

const LEFT: &str = "
    SELECT (SELECT count(*) FROM events WHERE user_id = $1) AS events,
           (SELECT count(*) FROM webhook_messages
             WHERE strpos(body, '\"user_id\":\"' || $1 || '\"') > 0) AS messages";

#[derive(QueryableByName)]
struct Left {
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = BigInt)]
    messages: i64,
}

/// Erases what can be erased of `user`, and writes down that it was done, not for whom.
///
/// # Errors
/// The query failed; nothing is erased.
pub async fn erase(
    connection: &mut AsyncPgConnection,
    actor: &UserId,
    (erasure, user): (Uuid, &UserId),
) -> Result<EventsErased, DbError> {
    connection
        .transaction(async |connection| {
            lock(connection, Lock::Ingest).await?;
            let events = sql_query(EVENTS).bind::<Text, _>(user.as_str()).execute(connection).await?;
            sql_query(NUMBERS).bind::<Text, _>(user.as_str()).execute(connection).await?;
            let left: Left = sql_query(LEFT).bind::<Text, _>(user.as_str()).get_result(connection).await?;
            let erased = EventsErased {
                events_erased: u64::try_from(events).unwrap_or(u64::MAX),
                events_kept: left.events.unsigned_abs(),
                webhook_messages_kept: left.messages.unsigned_abs(),
            };
            let after = Some(json!(erased));
            let entry = audit_log::Entry { action: "user.erase", subject: erasure, before: None, after };
            audit_log::record(connection, actor, entry).await?;
            Ok(erased)
        })
        .await
}
