//! What admins did, written by the transaction that did it. Append-only.

use chrono::{DateTime, Utc};
use common::api::admin::AuditLogEntry;
use common::ids::UserId;
use diesel::sql_types::{BigInt, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use serde_json::Value;
use uuid::Uuid;

use super::DbError;

/// One line of the audit log, to be written.
pub struct Entry {
    /// What was done, such as `webhook.create`.
    pub action: &'static str,
    /// What it was done to.
    pub subject: Uuid,
    /// How it was before; `None` when it is new.
    pub before: Option<Value>,
    /// How it was after; `None` when it is gone.
    pub after: Option<Value>,
}

/// Writes to the audit log, in the transaction that does what it tells of.
///
/// # Errors
/// The query failed.
pub async fn record(connection: &mut AsyncPgConnection, actor: &UserId, entry: Entry) -> Result<(), DbError> {
    sql_query("INSERT INTO audit_log (actor, action, subject, before, after) VALUES ($1, $2, $3, $4, $5)")
        .bind::<Text, _>(actor.as_str())
        .bind::<Text, _>(entry.action)
        .bind::<SqlUuid, _>(entry.subject)
        .bind::<Nullable<Jsonb>, _>(entry.before)
        .bind::<Nullable<Jsonb>, _>(entry.after)
        .execute(connection)
        .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Timestamptz)]
    at: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    actor: String,
    #[diesel(sql_type = Text)]
    action: String,
    #[diesel(sql_type = SqlUuid)]
    subject: Uuid,
    #[diesel(sql_type = Nullable<Jsonb>)]
    before: Option<Value>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    after: Option<Value>,
}

/// Up to `limit` entries, the newest first, those numbered below `before`.
///
/// # Errors
/// The query failed, or an entry is not one that this service wrote.
pub async fn page(
    connection: &mut AsyncPgConnection,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditLogEntry>, DbError> {
    let query = "SELECT id, at, actor, action, subject, before, after FROM audit_log
                 WHERE id < $1 ORDER BY id DESC LIMIT $2";
    let rows: Vec<Row> = sql_query(query)
        .bind::<BigInt, _>(before.unwrap_or(i64::MAX))
        .bind::<BigInt, _>(limit)
        .load(connection)
        .await?;
    rows.into_iter().map(shown).collect()
}

fn shown(row: Row) -> Result<AuditLogEntry, DbError> {
    let Row { id, at, actor, action, subject, before, after } = row;
    let broken = |error| DbError::Broken(format!("actor of audit log entry {id}: {error}"));
    let actor = UserId::try_from(actor).map_err(broken)?;
    Ok(AuditLogEntry { id, at, actor, action, subject, before, after })
}
