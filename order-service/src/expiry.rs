//! Ends orders that nobody paid in time. Timers are rows, the clock is the database's, and several instances share
//! the work: each takes the rows that no other one has locked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::failpoint;
use common::ids::OrderId;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::settings::ExpirySettings;
use crate::transitions::transition;
use crate::{crash_points, planted};

const DUE: &str = "
SELECT id, expires_at, now() AS now FROM orders
 WHERE status = 'pending_payment' AND expires_at <= now()
 ORDER BY expires_at LIMIT $1
   FOR NO KEY UPDATE SKIP LOCKED";

/// For [`planted::EXPIRY_IGNORES_STATUS`].
const EXPIRE_PAID: &str = "
UPDATE orders SET status = 'expired', version = version + 1 WHERE status = 'paid' AND expires_at <= now()";

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    expires_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

/// Looks for due orders until stopped. After an outage they are ended at a bounded rate.
///
/// # Errors
/// None: a database that is away is waited for.
pub async fn run(db: Db, settings: ExpirySettings, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = expire_some(&db, &settings, &stop).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "orders were not expired, will be retried"
            );
        }
    }
    Ok(())
}

async fn expire_some(db: &Db, settings: &ExpirySettings, stop: &CancellationToken) -> Result<(), DbError> {
    for _ in 0..settings.batches_per_interval {
        let batch_max = settings.batch_max;
        let due = db.transaction(move |conn| Box::pin(expire_batch(conn, batch_max))).await?;
        failpoint::reach(crash_points::EXPIRY_COMMIT_AFTER).await?;
        if due < batch_max || stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Ends up to `batch_max` due orders and says how many were due.
async fn expire_batch(conn: &mut AsyncPgConnection, batch_max: i64) -> Result<i64, DbError> {
    failpoint::reach(crash_points::EXPIRY_SELECT_BEFORE).await?;
    if failpoint::planted(planted::EXPIRY_IGNORES_STATUS) {
        diesel::sql_query(EXPIRE_PAID).execute(conn).await?;
    }
    let due: Vec<Due> = Kept(diesel::sql_query(DUE).bind::<BigInt, _>(batch_max)).load(conn).await?;
    let late = due
        .as_slice()
        .first()
        .and_then(|first| (first.now - first.expires_at).to_std().ok())
        .unwrap_or_default();
    metrics::gauge!("expiry_lag_seconds").set(late.as_secs_f64());
    if due.is_empty() {
        return Ok(0);
    }
    failpoint::reach(crash_points::EXPIRY_SELECT_AFTER).await?;
    let ids: Vec<OrderId> = due.iter().map(|due| OrderId(due.id)).collect();
    transition(conn, &ids, OrderStatus::Expired, None).await?;
    failpoint::reach(crash_points::EXPIRY_COMMIT_BEFORE).await?;
    Ok(i64::try_from(ids.len()).unwrap_or(i64::MAX))
}
