//! Publishes what transactions left in the outbox, and marks it.
//!
//! Rows are found by being unpublished, never by an id above the last one seen: ids become visible out of
//! order. Instances share the work; consumers are aware of versions, so a message of another instance may overtake.

use std::time::Duration;

use common::amqp::{Outgoing, PublishError, Publisher};
use common::telemetry::remote_context;
use common::topology::Exchange;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bytea, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::settings::OutboxSettings;

const UNPUBLISHED: &str = "
SELECT id, message_id, exchange, routing_key, kind, body, traceparent FROM outbox
 WHERE published_at IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED";

const PUBLISHED: &str = "UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY($1)";

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
}

/// How a batch went.
struct Outcome {
    /// Rows that were tried.
    tried: i64,
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
        more = match publish_batch(&db, &publisher, &settings).await {
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
    settings: &OutboxSettings,
) -> Result<Outcome, DbError> {
    if !publisher.is_ready() {
        return Ok(Outcome { tried: 0, confirmed: false });
    }
    let (publisher, batch_max) = (publisher.clone(), settings.batch_max);
    let timeout = Duration::from_millis(settings.publish_timeout_ms);
    db.quiet_transaction(move |conn| Box::pin(publish_rows(conn, publisher, batch_max, timeout))).await
}

async fn publish_rows(
    conn: &mut AsyncPgConnection,
    publisher: Publisher,
    batch_max: i64,
    timeout: Duration,
) -> Result<Outcome, DbError> {
    let rows: Vec<Row> = Kept(diesel::sql_query(UNPUBLISHED).bind::<BigInt, _>(batch_max)).load(conn).await?;
    let tried = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    if rows.is_empty() {
        return Ok(Outcome { tried, confirmed: true });
    }
    metrics::histogram!("outbox_batch_size").record(u32::try_from(tried).unwrap_or(u32::MAX));
    let deadline = Instant::now() + timeout;
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let sent = join_all(rows.into_iter().map(|row| publish(&publisher, row, deadline))).await;
    let confirmed: Vec<i64> =
        ids.into_iter().zip(sent).filter_map(|(id, sent)| sent.is_ok().then_some(id)).collect();
    let all = i64::try_from(confirmed.len()) == Ok(tried);
    if !confirmed.is_empty() {
        Kept(diesel::sql_query(PUBLISHED).bind::<Array<BigInt>, _>(confirmed)).execute(conn).await?;
    }
    Ok(Outcome { tried, confirmed: all })
}

async fn publish(publisher: &Publisher, row: Row, deadline: Instant) -> Result<(), PublishError> {
    let span = tracing::info_span!("publish", kind = row.kind, otel.kind = "producer");
    if let Some(traceparent) = &row.traceparent {
        // Fails only where tracing is off.
        let _not_traced = span.set_parent(remote_context(traceparent));
    }
    let outgoing = Outgoing {
        exchange: exchange(&row.exchange),
        routing_key: row.routing_key,
        message_id: row.message_id,
        kind: row.kind,
        body: row.body,
    };
    let published = publisher.publish(outgoing, deadline).instrument(span).await;
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
