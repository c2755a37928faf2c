//! Events of users, numbered per user.

use std::collections::{HashMap, HashSet};

use common::ids::{EventId, UserId};
use diesel::sql_types::{Array, BigInt, Integer, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use uuid::Uuid;

use super::DbError;

/// An event to be stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What it is known by when it comes again.
    pub event_id: EventId,
    /// Whose it is.
    pub user_id: UserId,
    /// The order as its owner sees it, as JSON.
    pub data: String,
}

/// An event as a stream tells it.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct StoredEvent {
    /// Whose it is.
    #[diesel(sql_type = Text)]
    pub user_id: String,
    /// The user's own sequence number.
    #[diesel(sql_type = BigInt)]
    pub seq: i64,
    /// The order as its owner sees it, as JSON.
    #[diesel(sql_type = Text)]
    pub data: String,
}

/// How far a user's numbers have come.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Head {
    /// Whose.
    #[diesel(sql_type = Text)]
    pub user_id: String,
    /// The last number given out.
    #[diesel(sql_type = BigInt)]
    pub last_seq: i64,
}

/// Where one reader of a user's events is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Whose events.
    pub user_id: UserId,
    /// The number of the last one read.
    pub after: i64,
    /// Most events to read.
    pub limit: i32,
}

/// Numbers what is new among incoming events and stores it. The numbers of one user follow the order of arrival
/// and become visible in that order, because the user's counter stays locked until the commit.
const STORE: &str = "
WITH incoming AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS t (event_id, user_id, data, place)
), fresh AS (
    SELECT event_id, user_id, data,
           row_number() OVER (PARTITION BY user_id ORDER BY place) AS nth,
           count(*) OVER (PARTITION BY user_id) AS of
      FROM incoming
     WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.event_id = incoming.event_id)
), counted AS (
    INSERT INTO user_sequences AS counter (user_id, last_seq)
    SELECT user_id, count(*) FROM fresh GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET last_seq = counter.last_seq + excluded.last_seq
    RETURNING user_id, last_seq
)
INSERT INTO events (user_id, seq, event_id, data)
SELECT user_id, last_seq - of + nth, event_id, data FROM fresh JOIN counted USING (user_id)
RETURNING event_id";

/// Stores those of `events` that are not known, in their order; answers the ids of these.
///
/// Must run under [`super::Lock::Ingest`].
///
/// # Errors
/// The query failed; nothing is stored.
pub async fn store(
    connection: &mut AsyncPgConnection,
    events: &[NewEvent],
) -> Result<HashSet<EventId>, DbError> {
    #[derive(QueryableByName)]
    struct Stored {
        #[diesel(sql_type = diesel::sql_types::Uuid)]
        event_id: Uuid,
    }
    // The same event twice in one batch would be new both times.
    let mut first = HashSet::with_capacity(events.len());
    let events: Vec<&NewEvent> = events.iter().filter(|event| first.insert(event.event_id)).collect();
    let ids: Vec<Uuid> = events.iter().map(|event| event.event_id.0).collect();
    let users: Vec<&str> = events.iter().map(|event| event.user_id.as_str()).collect();
    let data: Vec<&str> = events.iter().map(|event| event.data.as_str()).collect();

    let stored: Vec<Stored> = sql_query(STORE)
        .bind::<Array<diesel::sql_types::Uuid>, _>(ids)
        .bind::<Array<Text>, _>(users)
        .bind::<Array<Text>, _>(data)
        .load(connection)
        .await?;
    Ok(stored.into_iter().map(|row| EventId(row.event_id)).collect())
}

/// The last numbers of those of `users` that have any.
///
/// # Errors
/// The query failed.
pub async fn heads(
    connection: &mut AsyncPgConnection,
    users: &[UserId],
) -> Result<HashMap<String, i64>, DbError> {
    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    let heads: Vec<Head> = sql_query("SELECT user_id, last_seq FROM user_sequences WHERE user_id = ANY ($1)")
        .bind::<Array<Text>, _>(users)
        .load(connection)
        .await?;
    Ok(heads.into_iter().map(|head| (head.user_id, head.last_seq)).collect())
}

/// What comes after each position, in order per user.
///
/// # Errors
/// The query failed.
pub async fn after(
    connection: &mut AsyncPgConnection,
    positions: &[Position],
) -> Result<Vec<StoredEvent>, DbError> {
    let users: Vec<&str> = positions.iter().map(|position| position.user_id.as_str()).collect();
    let after: Vec<i64> = positions.iter().map(|position| position.after).collect();
    let limits: Vec<i32> = positions.iter().map(|position| position.limit).collect();
    let events = sql_query(
        "SELECT e.user_id, e.seq, e.data
           FROM unnest($1::text[], $2::bigint[], $3::integer[]) AS p (user_id, after, most)
          CROSS JOIN LATERAL (
                SELECT user_id, seq, data FROM events
                 WHERE events.user_id = p.user_id AND events.seq > p.after
                 ORDER BY seq LIMIT p.most
          ) AS e
          ORDER BY e.user_id, e.seq",
    )
    .bind::<Array<Text>, _>(users)
    .bind::<Array<BigInt>, _>(after)
    .bind::<Array<Integer>, _>(limits)
    .load(connection)
    .await?;
    Ok(events)
}
