//! Registered webhooks.

use chrono::{DateTime, Utc};
use common::ids::UserId;
use diesel::sql_types::{Array, BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension as _, QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit_log::{Entry, record};
use super::{DbError, Lock, lock};

/// A webhook that is not deleted.
#[derive(Clone, QueryableByName)]
pub struct Endpoint {
    /// Its id.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// Where it sends.
    #[diesel(sql_type = Text)]
    pub url: String,
    /// Types of events, or [`crate::webhook::ALL_TYPES`].
    #[diesel(sql_type = Array<Text>)]
    pub types: Vec<String>,
    /// The signing secret.
    #[diesel(sql_type = Text)]
    pub secret: String,
    /// When it was registered.
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// A webhook to be registered, already checked.
pub struct NewEndpoint {
    /// Where to send.
    pub url: String,
    /// Which events.
    pub types: Vec<String>,
    /// The signing secret.
    pub secret: String,
}

/// What became of a registration.
pub enum Registration {
    /// It is registered.
    Done(Endpoint),
    /// There are as many as there may be.
    TooMany,
}

/// Registers a webhook unless there are `most` already.
///
/// # Errors
/// The query failed; nothing is registered.
pub async fn register(
    connection: &mut AsyncPgConnection,
    actor: &UserId,
    new: &NewEndpoint,
    most: i64,
) -> Result<Registration, DbError> {
    connection
        .transaction(async |connection| {
            lock(connection, Lock::Webhooks).await?;
            if count(connection).await? >= most {
                return Ok(Registration::TooMany);
            }
            let endpoint: Endpoint = sql_query(
                "INSERT INTO webhooks (id, url, types, secret) VALUES ($1, $2, $3, $4)
                 RETURNING id, url, types, secret, created_at",
            )
            .bind::<SqlUuid, _>(Uuid::now_v7())
            .bind::<Text, _>(&new.url)
            .bind::<Array<Text>, _>(&new.types)
            .bind::<Text, _>(&new.secret)
            .get_result(connection)
            .await?;
            let entry = Entry {
                action: "webhook.create",
                subject: endpoint.id,
                before: None,
                after: Some(shown(&endpoint)),
            };
            record(connection, actor, entry).await?;
            Ok(Registration::Done(endpoint))
        })
        .await
}

/// Every webhook that is not deleted, oldest first.
///
/// # Errors
/// The query failed.
pub async fn active(connection: &mut AsyncPgConnection) -> Result<Vec<Endpoint>, DbError> {
    let endpoints = sql_query(
        "SELECT id, url, types, secret, created_at FROM webhooks WHERE deleted_at IS NULL ORDER BY id",
    )
    .load(connection)
    .await?;
    Ok(endpoints)
}

/// Whether there is such a webhook.
///
/// # Errors
/// The query failed.
pub async fn exists(connection: &mut AsyncPgConnection, id: Uuid) -> Result<bool, DbError> {
    let found = sql_query("SELECT 1 FROM webhooks WHERE id = $1 AND deleted_at IS NULL")
        .bind::<SqlUuid, _>(id)
        .execute(connection)
        .await?;
    Ok(found > 0)
}

/// Deletes a webhook: nothing is sent any more, and its deliveries go with the next tidying. False if there is none.
///
/// # Errors
/// The query failed; nothing has changed.
pub async fn delete(connection: &mut AsyncPgConnection, actor: &UserId, id: Uuid) -> Result<bool, DbError> {
    connection
        .transaction(async |connection| {
            let deleted: Option<Endpoint> = sql_query(
                "UPDATE webhooks SET deleted_at = now(), secret = '' WHERE id = $1 AND deleted_at IS NULL
                 RETURNING id, url, types, secret, created_at",
            )
            .bind::<SqlUuid, _>(id)
            .get_result(connection)
            .await
            .optional()?;
            let Some(endpoint) = deleted else { return Ok(false) };
            let entry =
                Entry { action: "webhook.delete", subject: id, before: Some(shown(&endpoint)), after: None };
            record(connection, actor, entry).await?;
            Ok(true)
        })
        .await
}

async fn count(connection: &mut AsyncPgConnection) -> Result<i64, DbError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let row: Count = sql_query("SELECT count(*) AS count FROM webhooks WHERE deleted_at IS NULL")
        .get_result(connection)
        .await?;
    Ok(row.count)
}

/// What the audit log keeps of a webhook: not the secret.
fn shown(endpoint: &Endpoint) -> Value {
    json!({ "url": endpoint.url, "types": endpoint.types })
}
