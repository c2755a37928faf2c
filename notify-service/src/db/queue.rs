//! Deliveries as work: adding, taking, recording.

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::ids::EventId;
use diesel::sql_types::{Array, BigInt, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use uuid::Uuid;

use super::DbError;

/// What is sent about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event.
    pub event_id: EventId,
    /// Its type.
    pub kind: String,
    /// The body, sent byte for byte by every attempt.
    pub body: String,
    /// The webhooks that want it.
    pub webhooks: Vec<Uuid>,
}

/// Makes a delivery of each message for each of its webhooks, once.
///
/// # Errors
/// The query failed; nothing is added.
pub async fn add(connection: &mut AsyncPgConnection, messages: &[Message]) -> Result<(), DbError> {
    let ids: Vec<Uuid> = messages.iter().map(|message| message.event_id.0).collect();
    let kinds: Vec<&str> = messages.iter().map(|message| message.kind.as_str()).collect();
    let bodies: Vec<&str> = messages.iter().map(|message| message.body.as_str()).collect();
    sql_query(
        "INSERT INTO webhook_messages (event_id, kind, body)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<Text>, _>(kinds)
    .bind::<Array<Text>, _>(bodies)
    .execute(connection)
    .await?;

    let (mut deliveries, mut webhooks, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for message in messages {
        for webhook in &message.webhooks {
            deliveries.push(Uuid::now_v7());
            webhooks.push(*webhook);
            events.push(message.event_id.0);
        }
    }
    sql_query(
        "INSERT INTO deliveries (id, webhook_id, event_id)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) ON CONFLICT DO NOTHING",
    )
    .bind::<Array<SqlUuid>, _>(deliveries)
    .bind::<Array<SqlUuid>, _>(webhooks)
    .bind::<Array<SqlUuid>, _>(events)
    .execute(connection)
    .await?;
    Ok(())
}

/// A delivery that was taken to be attempted.
#[derive(Debug, Clone, QueryableByName)]
pub struct Taken {
    /// The delivery.
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    /// Where it goes.
    #[diesel(sql_type = SqlUuid)]
    pub webhook_id: Uuid,
    /// What it tells of.
    #[diesel(sql_type = SqlUuid)]
    pub event_id: Uuid,
    /// What is sent.
    #[diesel(sql_type = Text)]
    pub body: String,
    /// Attempts on this run of the retry ladder, before this one.
    #[diesel(sql_type = Integer)]
    pub step: i32,
    /// Proves the taking when the result is recorded.
    #[diesel(sql_type = BigInt)]
    pub claims: i64,
    /// When it was taken, by the database's clock.
    #[diesel(sql_type = Timestamptz)]
    pub taken_at: DateTime<Utc>,
}

/// Room for deliveries to one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The webhook.
    pub webhook_id: Uuid,
    /// Most deliveries to take.
    pub free: i32,
}

/// Takes due deliveries for a time: nobody else takes them until `lease` has passed, or their result is recorded.
///
/// # Errors
/// The query failed; nothing is taken, or the lease will run out.
pub async fn take(
    connection: &mut AsyncPgConnection,
    rooms: &[Room],
    lease: Duration,
) -> Result<Vec<Taken>, DbError> {
    let webhooks: Vec<Uuid> = rooms.iter().map(|room| room.webhook_id).collect();
    let free: Vec<i32> = rooms.iter().map(|room| room.free).collect();
    let taken = sql_query(
        "WITH due AS MATERIALIZED (
             SELECT d.id
               FROM unnest($1::uuid[], $2::integer[]) AS room (webhook_id, free)
              CROSS JOIN LATERAL (
                    SELECT id FROM deliveries
                     WHERE deliveries.webhook_id = room.webhook_id
                       AND state = 'pending' AND due_at <= now()
                       AND (leased_until IS NULL OR leased_until <= now())
                     ORDER BY due_at LIMIT room.free
                       FOR UPDATE SKIP LOCKED
              ) AS d
         )
         UPDATE deliveries AS d
            SET leased_until = now() + make_interval(secs => $3), claims = claims + 1
           FROM due, webhook_messages AS m
          WHERE d.id = due.id AND m.event_id = d.event_id
         RETURNING d.id, d.webhook_id, d.event_id, m.body, d.step, d.claims, now() AS taken_at",
    )
    .bind::<Array<SqlUuid>, _>(webhooks)
    .bind::<Array<Integer>, _>(free)
    .bind::<Double, _>(lease.as_secs_f64())
    .load(connection)
    .await?;
    Ok(taken)
}

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempted {
    /// The delivery.
    pub id: Uuid,
    /// The taking that it was made under; see [`Taken::claims`].
    pub claims: i64,
    /// The status of the answer, if there was one.
    pub status: Option<i32>,
    /// What went wrong; `None`: delivered.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// When it began, by the database's clock.
    pub at: DateTime<Utc>,
    /// After a failure: seconds until the next attempt; `None`: given up.
    pub retry_after_s: Option<f64>,
}

const RECORD: &str = "
WITH result AS (
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::text[], $5::integer[], $6::timestamptz[], $7::double precision[])
        AS t (id, claims, status, error, duration_ms, at, retry_after_s)
), recorded AS (
    UPDATE deliveries AS d
       SET attempts = d.attempts + 1, step = d.step + 1, leased_until = NULL,
           last_status = r.status, last_error = r.error,
           state = CASE WHEN r.error IS NULL THEN 'delivered'
                        WHEN r.retry_after_s IS NULL THEN 'parked' ELSE 'pending' END,
           due_at = CASE WHEN r.retry_after_s IS NULL THEN d.due_at
                         ELSE now() + make_interval(secs => r.retry_after_s) END,
           finished_at = CASE WHEN r.error IS NULL OR r.retry_after_s IS NULL THEN now() END
      FROM result AS r
     WHERE d.id = r.id AND d.claims = r.claims AND d.state = 'pending'
    RETURNING d.id, d.attempts
)
INSERT INTO delivery_attempts (delivery_id, number, at, status, error, duration_ms)
SELECT recorded.id, recorded.attempts, r.at, r.status, r.error, r.duration_ms
  FROM recorded JOIN result AS r USING (id)";

/// Records results, all or none; answers how many counted. Those whose taking has been superseded do not: the
/// delivery was taken again, or deleted.
///
/// # Errors
/// The query failed; nothing is recorded.
pub async fn record(connection: &mut AsyncPgConnection, results: &[Attempted]) -> Result<usize, DbError> {
    let ids: Vec<Uuid> = results.iter().map(|result| result.id).collect();
    let claims: Vec<i64> = results.iter().map(|result| result.claims).collect();
    let statuses: Vec<Option<i32>> = results.iter().map(|result| result.status).collect();
    let errors: Vec<Option<&str>> = results.iter().map(|result| result.error.as_deref()).collect();
    let durations: Vec<i32> = results.iter().map(|result| result.duration_ms).collect();
    let times: Vec<DateTime<Utc>> = results.iter().map(|result| result.at).collect();
    let retries: Vec<Option<f64>> = results.iter().map(|result| result.retry_after_s).collect();
    let recorded = sql_query(RECORD)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<BigInt>, _>(claims)
        .bind::<Array<Nullable<Integer>>, _>(statuses)
        .bind::<Array<Nullable<Text>>, _>(errors)
        .bind::<Array<Integer>, _>(durations)
        .bind::<Array<Timestamptz>, _>(times)
        .bind::<Array<Nullable<Double>>, _>(retries)
        .execute(connection)
        .await?;
    Ok(recorded)
}

/// Gives back what was taken and not attempted, so that it need not wait for its lease.
///
/// # Errors
/// The query failed; the lease will run out.
pub async fn give_back(connection: &mut AsyncPgConnection, taken: &[(Uuid, i64)]) -> Result<(), DbError> {
    let (ids, claims): (Vec<Uuid>, Vec<i64>) = taken.iter().copied().unzip();
    sql_query(
        "UPDATE deliveries AS d SET leased_until = NULL
           FROM unnest($1::uuid[], $2::bigint[]) AS t (id, claims)
          WHERE d.id = t.id AND d.claims = t.claims AND d.state = 'pending'",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<BigInt>, _>(claims)
    .execute(connection)
    .await?;
    Ok(())
}
