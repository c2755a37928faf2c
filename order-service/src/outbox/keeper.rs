//! Looks after published messages: a broker that lost its data is told again, and what is old is deleted.
//!
//! A generation id, kept here and as the name of a durable queue there, tells that the broker is still the one that
//! was told (design 4.9). Consumers deduplicate, so telling again does no harm.

use std::time::Duration;

use common::amqp::Publisher;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Double, Int4, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::transitions::now;

/// How often the broker is asked whether it is still the one it was.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often old messages are deleted and the outbox is counted, in checks.
const CHECKS_PER_CLEANING: u32 = 30;
/// Most time for an answer of the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Most rows that one statement changes.
const BATCH_MAX: i64 = 2_000;
/// Most of those statements in one cleaning.
const BATCHES_PER_CLEANING: u32 = 50;

const GENERATION: &str = "SELECT generation FROM broker_generation";
const NEXT_GENERATION: &str = "UPDATE broker_generation SET generation = $1 WHERE generation = $2";

const FORGET_CONFIRMS: &str = "
UPDATE outbox SET published_at = NULL
 WHERE id IN (SELECT id FROM outbox WHERE published_at < $1 ORDER BY published_at LIMIT $2
                 FOR UPDATE SKIP LOCKED)";

const DELETE_OLD: &str = "
DELETE FROM outbox
 WHERE id IN (SELECT id FROM outbox WHERE published_at < now() - make_interval(hours => $1)
               ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const DEPTH: &str = "
SELECT count(*) AS rows, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS seconds
  FROM outbox WHERE published_at IS NULL";

#[derive(QueryableByName)]
struct Generation {
    #[diesel(sql_type = SqlUuid)]
    generation: Uuid,
}

#[derive(QueryableByName)]
struct Depth {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = Double)]
    seconds: f64,
}

/// Looks after the outbox until stopped.
///
/// # Errors
/// None: a store that is away is waited for.
pub async fn run(
    db: Db,
    publisher: Publisher,
    keep_hours: i32,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checks = 0_u32;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = check_generation(&db, &publisher).await {
            tracing::warn!(error = format!("{error:#}"), "the broker's generation is not known");
        }
        if checks.is_multiple_of(CHECKS_PER_CLEANING)
            && let Err(error) = clean(&db, keep_hours).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "old messages were not deleted");
        }
        checks = checks.wrapping_add(1);
    }
    Ok(())
}

fn marker(generation: Uuid) -> String {
    format!("order-service.generation.{generation}")
}

/// Tells everything that is kept again if the broker does not know its generation. The new mark is made last, so
/// that an interrupted round begins anew.
async fn check_generation(db: &Db, publisher: &Publisher) -> anyhow::Result<()> {
    if !publisher.is_ready() {
        return Ok(());
    }
    let mut conn = db.get().await?;
    let Generation { generation } = Kept(diesel::sql_query(GENERATION)).get_result(&mut conn).await?;
    let deadline = Instant::now() + ASK_TIMEOUT;
    if publisher.queue_length(&marker(generation), deadline).await?.is_some() {
        return Ok(());
    }
    let seen_at = now(&mut conn).await?;
    let mut again = 0;
    loop {
        let statement =
            diesel::sql_query(FORGET_CONFIRMS).bind::<Timestamptz, _>(seen_at).bind::<BigInt, _>(BATCH_MAX);
        let rows = Kept(statement).execute(&mut conn).await?;
        again += rows;
        if rows == 0 {
            break;
        }
    }
    let next = Uuid::new_v4();
    publisher.create_marker(&marker(next), Instant::now() + ASK_TIMEOUT).await?;
    set_generation(&mut conn, generation, next).await?;
    tracing::warn!(messages = again, "the broker is a new one and is told again what is kept");
    metrics::counter!("outbox_told_again_total").increment(u64::try_from(again).unwrap_or(u64::MAX));
    Ok(())
}

/// Of instances that notice at the same time, the first one's generation counts.
async fn set_generation(conn: &mut AsyncPgConnection, from: Uuid, to: Uuid) -> Result<(), DbError> {
    let statement = diesel::sql_query(NEXT_GENERATION).bind::<SqlUuid, _>(to).bind::<SqlUuid, _>(from);
    Kept(statement).execute(conn).await?;
    Ok(())
}

async fn clean(db: &Db, keep_hours: i32) -> Result<(), DbError> {
    let mut conn = db.get().await?;
    for _ in 0..BATCHES_PER_CLEANING {
        let statement =
            diesel::sql_query(DELETE_OLD).bind::<Int4, _>(keep_hours).bind::<BigInt, _>(BATCH_MAX);
        if Kept(statement).execute(&mut conn).await? == 0 {
            break;
        }
    }
    let depth: Depth = Kept(diesel::sql_query(DEPTH)).get_result(&mut conn).await?;
    metrics::gauge!("outbox_depth").set(u32::try_from(depth.rows).unwrap_or(u32::MAX));
    metrics::gauge!("outbox_oldest_seconds").set(depth.seconds);
    Ok(())
}
