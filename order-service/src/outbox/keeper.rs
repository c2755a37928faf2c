//! Looks after published messages: a broker that lost its data is told again, and what is old is deleted.
//!
//! A generation id, kept here and as the name of a durable queue there, tells that the broker is still the one that
//! was told. Consumers deduplicate, so telling again does no harm.

use std::time::Duration;

use common::amqp::{PublishError, Publisher};
use common::failpoint;
use diesel::OptionalExtension as _;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Int4, Nullable, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::crash_points;
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::planted::GENERATION_IGNORED;

/// How often the broker is asked whether it is still the one it was.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often old messages are deleted, in checks.
const CHECKS_PER_CLEANING: u32 = 30;
/// Most time for an answer of the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Most rows that one statement changes.
const BATCH_MAX: i64 = 2_000;
/// Most of those statements in one cleaning.
const BATCHES_PER_CLEANING: u32 = 50;

const GENERATION: &str = "SELECT generation FROM broker_generation";
const CLAIM_GENERATION: &str = "SELECT generation FROM broker_generation FOR UPDATE SKIP LOCKED";
const SET_GENERATION: &str = "UPDATE broker_generation SET generation = $1";

/// It may be a day's worth of messages: in steps of ids, so that no statement takes long, and none wades through what
/// the ones before left behind.
const FORGET_CONFIRMS: &str =
    "UPDATE outbox SET published_at = NULL WHERE id >= $1 AND id < $2 AND published_at IS NOT NULL";
const FORGET_STEP: i64 = 20_000;
const SPAN: &str = "SELECT coalesce(min(id), 0) AS first, coalesce(max(id), -1) AS last FROM outbox";

const DELETE_OLD: &str = "
DELETE FROM outbox
 WHERE id IN (SELECT id FROM outbox WHERE published_at < now() - make_interval(hours => $1)
               ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

#[derive(QueryableByName)]
struct Span {
    #[diesel(sql_type = BigInt)]
    first: i64,
    #[diesel(sql_type = BigInt)]
    last: i64,
}

#[derive(QueryableByName)]
struct Generation {
    #[diesel(sql_type = Nullable<SqlUuid>)]
    generation: Option<Uuid>,
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

async fn check_generation(db: &Db, publisher: &Publisher) -> anyhow::Result<()> {
    if !publisher.is_ready() || failpoint::planted(GENERATION_IGNORED) {
        return Ok(());
    }
    let mut conn = db.get().await?;
    let row: Generation = Kept(diesel::sql_query(GENERATION)).get_result(&mut conn).await?;
    if is_marked(publisher, row.generation).await? {
        return Ok(());
    }
    drop(conn);
    let publisher = publisher.clone();
    let again = db.transaction(move |conn| Box::pin(async move { mark(conn, &publisher).await })).await?;
    if let Some(messages) = again.filter(|messages| *messages > 0) {
        tracing::warn!(messages, "the broker is a new one and is told again what is kept");
        metrics::counter!("outbox_told_again_total").increment(u64::try_from(messages).unwrap_or(u64::MAX));
    }
    Ok(())
}

async fn is_marked(publisher: &Publisher, generation: Option<Uuid>) -> Result<bool, PublishError> {
    let Some(generation) = generation else { return Ok(false) };
    let length = publisher.queue_length(&marker(generation), Instant::now() + ASK_TIMEOUT).await?;
    Ok(length.is_some())
}

/// Forgets every confirm of the broker that is gone, then marks the new one, and says how many messages will be told
/// again. The mark is made last, so that an interrupted round begins anew. `None`: another instance is at it, or has
/// just done it.
async fn mark(conn: &mut AsyncPgConnection, publisher: &Publisher) -> Result<Option<usize>, DbError> {
    let row: Option<Generation> =
        Kept(diesel::sql_query(CLAIM_GENERATION)).get_result(conn).await.optional()?;
    let Some(Generation { generation }) = row else { return Ok(None) };
    // Asked again, now that nobody else changes it; if the broker does not say, the next check will ask.
    if is_marked(publisher, generation).await.unwrap_or(true) {
        return Ok(None);
    }
    failpoint::reach(crash_points::GENERATION_FORGET_BEFORE).await?;
    let mut again = 0;
    // Also of a broker that never was marked: it may have confirmed messages, and lost them, before its first mark.
    let Span { mut first, last } = Kept(diesel::sql_query(SPAN)).get_result(conn).await?;
    while first <= last {
        let next = first + FORGET_STEP;
        let step = diesel::sql_query(FORGET_CONFIRMS).bind::<BigInt, _>(first).bind::<BigInt, _>(next);
        again += Kept(step).execute(conn).await?;
        first = next;
    }
    let next = Uuid::new_v4();
    if publisher.create_marker(&marker(next), Instant::now() + ASK_TIMEOUT).await.is_err() {
        return Err(DbError::Raced);
    }
    failpoint::reach(crash_points::GENERATION_MARK_AFTER).await?;
    Kept(diesel::sql_query(SET_GENERATION).bind::<SqlUuid, _>(next)).execute(conn).await?;
    Ok(Some(again))
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
    Ok(())
}
