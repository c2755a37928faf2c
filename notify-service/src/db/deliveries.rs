//! Deliveries as admins see them.

use chrono::{DateTime, Utc};
use common::api::admin::{DeliveryState, WebhookDelivery};
use common::ids::UserId;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension as _, QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use serde_json::json;
use uuid::Uuid;

use super::DbError;
use super::audit_log::{Entry, record};
use crate::webhook::message_id;

const COLUMNS: &str = "d.id, d.webhook_id, d.event_id, m.kind, d.state, d.attempts, d.due_at, d.last_status, \
                       d.last_error, d.created_at";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    webhook_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Timestamptz)]
    due_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Integer>)]
    last_status: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    last_error: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
}

impl From<Row> for WebhookDelivery {
    fn from(row: Row) -> Self {
        // A CHECK of the table allows no fourth state.
        let state = match row.state.as_str() {
            "delivered" => DeliveryState::Delivered,
            "parked" => DeliveryState::Parked,
            _ => DeliveryState::Pending,
        };
        Self {
            id: row.id,
            webhook_id: row.webhook_id,
            message_id: message_id(row.event_id),
            kind: row.kind,
            state,
            attempts: row.attempts,
            next_attempt_at: (state == DeliveryState::Pending).then_some(row.due_at),
            last_status: row.last_status,
            last_error: row.last_error,
            created_at: row.created_at,
        }
    }
}

/// The name of a state in the database.
pub fn state_name(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => "pending",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Parked => "parked",
    }
}

/// Which deliveries to list.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// Of this webhook.
    pub webhook_id: Uuid,
    /// In this state; `None`: any.
    pub state: Option<DeliveryState>,
    /// Older than this one; `None`: from the newest.
    pub before: Option<Uuid>,
    /// Most to list.
    pub limit: i64,
}

/// Deliveries, newest first.
///
/// # Errors
/// The query failed.
pub async fn list(
    connection: &mut AsyncPgConnection,
    filter: Filter,
) -> Result<Vec<WebhookDelivery>, DbError> {
    let rows: Vec<Row> = sql_query(format!(
        "SELECT {COLUMNS} FROM deliveries AS d JOIN webhook_messages AS m USING (event_id)
          WHERE d.webhook_id = $1 AND ($2::text IS NULL OR d.state = $2) AND ($3::uuid IS NULL OR d.id < $3)
          ORDER BY d.id DESC LIMIT $4"
    ))
    .bind::<SqlUuid, _>(filter.webhook_id)
    .bind::<Nullable<Text>, _>(filter.state.map(state_name))
    .bind::<Nullable<SqlUuid>, _>(filter.before)
    .bind::<BigInt, _>(filter.limit)
    .load(connection)
    .await?;
    Ok(rows.into_iter().map(WebhookDelivery::from).collect())
}

/// Which delivery to send again, and who asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Redelivery<'a> {
    /// The admin.
    pub actor: &'a UserId,
    /// The webhook.
    pub webhook_id: Uuid,
    /// The delivery.
    pub id: Uuid,
}

/// Makes a delivery due now, with the whole retry ladder before it, whatever its state; `None` if there is none.
///
/// # Errors
/// The query failed; nothing has changed.
pub async fn redeliver(
    connection: &mut AsyncPgConnection,
    asked: Redelivery<'_>,
) -> Result<Option<WebhookDelivery>, DbError> {
    connection
        .transaction(async |connection| {
            let row: Option<Row> = sql_query(format!(
                "UPDATE deliveries AS d SET state = 'pending', step = 0, due_at = now(), finished_at = NULL
                   FROM webhook_messages AS m, webhooks AS w
                  WHERE d.id = $1 AND d.webhook_id = $2 AND m.event_id = d.event_id
                    AND w.id = d.webhook_id AND w.deleted_at IS NULL
                 RETURNING {COLUMNS}"
            ))
            .bind::<SqlUuid, _>(asked.id)
            .bind::<SqlUuid, _>(asked.webhook_id)
            .get_result(connection)
            .await
            .optional()?;
            let Some(row) = row else { return Ok(None) };
            let after =
                json!({ "webhook_id": asked.webhook_id, "event_id": row.event_id, "attempts": row.attempts });
            let entry =
                Entry { action: "delivery.redeliver", subject: asked.id, before: None, after: Some(after) };
            record(connection, asked.actor, entry).await?;
            Ok(Some(row.into()))
        })
        .await
}

/// How many deliveries are in each state that asks for attention: waiting and parked ones, of webhooks that exist.
///
/// # Errors
/// The query failed.
pub async fn backlog(connection: &mut AsyncPgConnection) -> Result<Backlog, DbError> {
    let backlog = sql_query(
        "SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
                count(*) FILTER (WHERE state = 'parked') AS parked,
                coalesce(extract(epoch FROM max(now() - due_at) FILTER (WHERE state = 'pending')), 0)
                    ::double precision AS overdue_s
           FROM deliveries JOIN webhooks ON webhooks.id = webhook_id
          WHERE state IN ('pending', 'parked') AND deleted_at IS NULL",
    )
    .get_result(connection)
    .await?;
    Ok(backlog)
}

/// Deliveries that are not done.
#[derive(Debug, Clone, Copy, PartialEq, QueryableByName)]
pub struct Backlog {
    /// Those that wait for an attempt.
    #[diesel(sql_type = BigInt)]
    pub pending: i64,
    /// Those that were given up.
    #[diesel(sql_type = BigInt)]
    pub parked: i64,
    /// How long the most overdue one has been due, in seconds; below 0: until it is.
    #[diesel(sql_type = diesel::sql_types::Double)]
    pub overdue_s: f64,
}
