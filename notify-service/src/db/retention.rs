//! Deleting what is old, in batches small enough not to be noticed.

use diesel::sql_query;
use diesel::sql_types::{BigInt, Double};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::DbError;

/// Deletes up to `most` events that are older than `age_s` seconds; answers how many.
///
/// # Errors
/// The query failed.
pub async fn delete_events(
    connection: &mut AsyncPgConnection,
    age_s: f64,
    most: i64,
) -> Result<usize, DbError> {
    let deleted = sql_query(
        "DELETE FROM events WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM events WHERE stored_at < now() - make_interval(secs => $1)
              ORDER BY stored_at LIMIT $2))",
    )
    .bind::<Double, _>(age_s)
    .bind::<BigInt, _>(most)
    .execute(connection)
    .await?;
    Ok(deleted)
}

/// Ends a statement of deletions `gone`: messages that no delivery needs any more go with them. Deliveries of `gone`
/// are still seen by the rest of the statement. Needs [`super::Lock::Retention`]: of two of these at a time, each
/// could leave the message to the other.
const MESSAGES_TOO: &str = "
, orphaned AS (
    DELETE FROM webhook_messages AS m
     WHERE m.event_id IN (SELECT event_id FROM gone)
       AND NOT EXISTS (SELECT 1 FROM deliveries AS d
                        WHERE d.event_id = m.event_id AND d.id NOT IN (SELECT id FROM gone))
)
SELECT id FROM gone";

/// Deletes up to `most` deliveries that came into `state` more than `age_s` seconds ago, with their log.
///
/// # Errors
/// The query failed.
pub async fn delete_finished(
    connection: &mut AsyncPgConnection,
    state: &str,
    age_s: f64,
    most: i64,
) -> Result<usize, DbError> {
    let deleted = sql_query(format!(
        "WITH gone AS (
             DELETE FROM deliveries WHERE id = ANY (ARRAY(
                 SELECT id FROM deliveries
                  WHERE state = '{state}' AND finished_at < now() - make_interval(secs => $1)
                  ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))
             RETURNING id, event_id
         ){MESSAGES_TOO}"
    ))
    .bind::<Double, _>(age_s)
    .bind::<BigInt, _>(most)
    .execute(connection)
    .await?;
    Ok(deleted)
}

/// Deletes up to `most` deliveries of deleted webhooks, whatever their state.
///
/// # Errors
/// The query failed.
pub async fn delete_dropped(connection: &mut AsyncPgConnection, most: i64) -> Result<usize, DbError> {
    let deleted = sql_query(format!(
        "WITH gone AS (
             DELETE FROM deliveries WHERE id = ANY (ARRAY(
                 SELECT d.id FROM webhooks AS w JOIN deliveries AS d ON d.webhook_id = w.id
                  WHERE w.deleted_at IS NOT NULL LIMIT $1 FOR UPDATE OF d SKIP LOCKED))
             RETURNING id, event_id
         ){MESSAGES_TOO}"
    ))
    .bind::<BigInt, _>(most)
    .execute(connection)
    .await?;
    Ok(deleted)
}

/// Deletes webhooks that were deleted `age_s` seconds ago and have no deliveries any more.
///
/// # Errors
/// The query failed.
pub async fn delete_webhooks(connection: &mut AsyncPgConnection, age_s: f64) -> Result<usize, DbError> {
    let deleted = sql_query(
        "DELETE FROM webhooks AS w
          WHERE w.deleted_at < now() - make_interval(secs => $1)
            AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.webhook_id = w.id)",
    )
    .bind::<Double, _>(age_s)
    .execute(connection)
    .await?;
    Ok(deleted)
}
