//! Publishes what transactions left in the outbox, and marks it.
//!
//! Rows are found by being unpublished, never by an id above the last one seen: ids become visible out of
//! order. Instances share the work; consumers are aware of versions, so a message of another instance may overtake.

use std::task::Poll;
use std::time::Duration;

use common::amqp::{Outgoing, PublishError, Publisher};
use common::failpoint;
use common::telemetry::trace::{Origin, within};
use common::topology::Exchange;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bytea, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::future::join_all;
use futures_util::poll;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::settings::OutboxSettings;
use crate::{crash_points, planted};

const UNPUBLISHED: &str = "
SELECT id, message_id, exchange, routing_key, kind, body, traceparent,
       (SELECT generation FROM broker_generation) AS generation
  FROM outbox
 WHERE published_at IS NULL AND id > $2 ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";

/// A confirm counts only for the broker that gave it. If that one has lost its data since, the keeper has made all forget
/// their confirms, and cannot have seen these. The lock keeps it from doing so between this statement and the commit.
const PUBLISHED: &str = "
UPDATE outbox SET published_at = clock_timestamp()
  FROM (SELECT generation FROM broker_generation FOR SHARE) AS broker
 WHERE outbox.id = ANY($1) AND broker.generation IS NOT DISTINCT FROM $2";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = SqlUuid)]
    message_id: Uuid,
    #[diesel(sql_type = Text)]
    exchange: String,
    #[diesel(sql_type = Text)]
    routing_key: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Bytea)]
    body: Vec<u8>,
    #[diesel(sql_type = Nullable<Text>)]
    traceparent: Option<String>,
    /// The broker's, when the batch began.
    #[diesel(sql_type = Nullable<SqlUuid>)]
    generation: Option<Uuid>,
}

/// How a batch went.
struct Outcome {
    /// Rows that were tried.
    tried: i64,
    /// The highest id among them.
    last: i64,
    /// Whether all of them were confirmed.
    confirmed: bool,
}

/// Publishes until stopped; woken by commits of this process, and by time for those of others.
///
/// # Errors
/// None: a store that is away is waited for.
pub async fn run(
    db: Db,
    publisher: Publisher,
    settings: OutboxSettings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let poll = Duration::from_millis(settings.poll_interval_ms);
    let mut not_before = Instant::now();
    let mut more = false;
    // For a planted mistake; else it stays.
    let mut above = 0;
    while !stop.is_cancelled() {
        if !more {
            tokio::select! {
                () = db.committed() => {}
                () = sleep(poll) => {}
                () = stop.cancelled() => break,
            }
        }
        sleep_until(not_before).await;
        not_before = Instant::now() + Duration::from_millis(settings.min_interval_ms);
        more = match publish_batch(&db, &publisher, (&settings, above)).await {
            Ok(outcome) if failpoint::planted(planted::OUTBOX_ABOVE_LAST_SEEN) => {
                above = above.max(outcome.last);
                outcome.tried == settings.batch_max
            }
            Ok(outcome) if outcome.confirmed => outcome.tried == settings.batch_max,
            Ok(_) => {
                not_before = Instant::now() + poll;
                false
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "outbox not read, will be retried");
                not_before = Instant::now() + poll;
                false
            }
        };
    }
    Ok(())
}

async fn publish_batch(
    db: &Db,
    publisher: &Publisher,
    (settings, above): (&OutboxSettings, i64),
) -> Result<Outcome, DbError> {
    if !publisher.is_ready() {
        return Ok(Outcome { tried: 0, last: 0, confirmed: false });
    }
    let (publisher, batch_max) = (publisher.clone(), settings.batch_max);
    let timeout = Duration::from_millis(settings.publish_timeout_ms);
    db.quiet_transaction(move |conn| Box::pin(publish_rows(conn, publisher, (batch_max, above), timeout)))
        .await
}

async fn publish_rows(
    conn: &mut AsyncPgConnection,
    publisher: Publisher,
    (batch_max, above): (i64, i64),
    timeout: Duration,
) -> Result<Outcome, DbError> {
    failpoint::reach(crash_points::OUTBOX_SELECT_BEFORE).await?;
    let statement = diesel::sql_query(UNPUBLISHED).bind::<BigInt, _>(batch_max).bind::<BigInt, _>(above);
    let rows: Vec<Row> = Kept(statement).load(conn).await?;
    let last = rows.iter().map(|row| row.id).max().unwrap_or(0);
    let tried = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    if rows.is_empty() {
        return Ok(Outcome { tried, last, confirmed: true });
    }
    failpoint::reach(crash_points::OUTBOX_SELECT_AFTER).await?;
    metrics::histogram!("outbox_batch_size").record(u32::try_from(tried).unwrap_or(u32::MAX));
    let deadline = Instant::now() + timeout;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let generation = rows.as_slice().first().and_then(|row| row.generation);
    failpoint::reach(crash_points::OUTBOX_PUBLISH_BEFORE).await?;
    let mut sending = join_all(rows.into_iter().map(|row| publish(&publisher, row, deadline)));
    let sent = match poll!(&mut sending) {
        Poll::Ready(sent) => sent,
        Poll::Pending => {
            failpoint::reach(crash_points::OUTBOX_CONFIRM_BEFORE).await?;
            sending.await
        }
    };
    failpoint::reach(crash_points::OUTBOX_CONFIRM_AFTER).await?;
    let unconfirmed_too = failpoint::planted(planted::OUTBOX_MARKED_UNCONFIRMED);
    let confirmed: Vec<i64> = ids
        .into_iter()
        .zip(sent)
        .filter_map(|(id, sent)| (sent.is_ok() || unconfirmed_too).then_some(id))
        .collect();
    failpoint::reach(crash_points::OUTBOX_MARK_BEFORE).await?;
    let mut marked = 0;
    if !confirmed.is_empty() {
        let statement = diesel::sql_query(PUBLISHED)
            .bind::<Array<BigInt>, _>(confirmed)
            .bind::<Nullable<SqlUuid>, _>(generation);
        marked = Kept(statement).execute(conn).await?;
    }
    failpoint::reach(crash_points::OUTBOX_MARK_AFTER).await?;
    Ok(Outcome { tried, last, confirmed: i64::try_from(marked) == Ok(tried) })
}

async fn publish(publisher: &Publisher, row: Row, deadline: Instant) -> Result<(), PublishError> {
    // In the name of those who wrote it.
    let origin = row.traceparent.as_deref().map_or(Origin::NONE, Origin::parse);
    let outgoing = Outgoing {
        exchange: exchange(&row.exchange),
        routing_key: row.routing_key,
        message_id: row.message_id,
        kind: row.kind,
        body: row.body,
    };
    let published = within(origin.context(), publisher.publish(outgoing, deadline)).await;
    if let Err(error) = published {
        tracing::warn!(outbox_id = row.id, %error, "not published, will be retried");
    }
    published
}

/// The exchange that a row names; this service publishes to no other than these.
fn exchange(name: &str) -> &'static str {
    let known = [Exchange::Order, Exchange::Sale].map(Exchange::name);
    known.into_iter().find(|known| *known == name).unwrap_or(Exchange::Order.name())
}
