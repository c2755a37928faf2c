//! Ends orders that nobody paid in time. Timers are rows, the clock is the database's, and several instances share
//! the work: each takes the rows that no other one has locked.
//!
//! An order with a payment under way waits until the provider has said that nothing was captured; see
//! [`crate::payments::asking`].

pub mod brake;

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::failpoint;
use common::ids::OrderId;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::brake::Brake;
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::settings::ExpirySettings;
use crate::transitions::transition;
use crate::{crash_points, planted};

const DUE: &str = "
SELECT id, expires_at, now() AS now FROM orders
 WHERE status = 'pending_payment' AND expires_at <= now()
   AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.order_id = orders.id AND p.status = 'started')
 ORDER BY expires_at LIMIT $1
   FOR NO KEY UPDATE SKIP LOCKED";

/// Asked again once the orders are locked, since whoever begins a payment locks its order: a payment that was begun in
/// the last moment may not have been visible before.
const UNDER_WAY: &str = "SELECT order_id FROM payments WHERE status = 'started' AND order_id = ANY($1)";

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

#[derive(QueryableByName)]
struct UnderWay {
    #[diesel(sql_type = SqlUuid)]
    order_id: Uuid,
}

/// How much ends in one transaction.
#[derive(Clone, Copy)]
struct Pace {
    batch_max: i64,
    braked: bool,
}

/// Looks for due orders until stopped. After an outage they are ended at a bounded rate.
///
/// # Errors
/// None: a database that is away is waited for.
pub async fn run(db: Db, settings: ExpirySettings, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut brake = Brake::default();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = expire_some(&db, &mut brake, &settings, &stop).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "orders were not expired, will be retried"
            );
        }
    }
    Ok(())
}

async fn expire_some(
    db: &Db,
    brake: &mut Brake,
    settings: &ExpirySettings,
    stop: &CancellationToken,
) -> Result<(), DbError> {
    let braked = brake.is_on(db, settings).await?;
    let (batches, batch_max) = match braked {
        true => (1, settings.brake_batch_max),
        false => (settings.batches_per_interval, settings.batch_max),
    };
    for _ in 0..batches {
        let pace = Pace { batch_max, braked };
        let due = db.transaction(move |conn| Box::pin(expire_batch(conn, pace))).await?;
        failpoint::reach(crash_points::EXPIRY_COMMIT_AFTER).await?;
        if due < batch_max || stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Ends up to `batch_max` due orders and says how many were due.
async fn expire_batch(conn: &mut AsyncPgConnection, pace: Pace) -> Result<i64, DbError> {
    failpoint::reach(crash_points::EXPIRY_SELECT_BEFORE).await?;
    if failpoint::planted(planted::EXPIRY_IGNORES_STATUS) {
        diesel::sql_query(EXPIRE_PAID).execute(conn).await?;
    }
    if pace.braked && !brake::has_turn(conn).await? {
        return Ok(0);
    }
    let due: Vec<Due> = Kept(diesel::sql_query(DUE).bind::<BigInt, _>(pace.batch_max)).load(conn).await?;
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
    let ids: Vec<Uuid> = due.iter().map(|due| due.id).collect();
    let statement = diesel::sql_query(UNDER_WAY).bind::<Array<SqlUuid>, _>(&ids);
    let under_way: Vec<UnderWay> = Kept(statement).load(conn).await?;
    let unpaid = ids.iter().filter(|id| under_way.iter().all(|payment| payment.order_id != **id));
    let unpaid: Vec<OrderId> = unpaid.map(|id| OrderId(*id)).collect();
    transition(conn, &unpaid, OrderStatus::Expired, None).await?;
    failpoint::reach(crash_points::EXPIRY_COMMIT_BEFORE).await?;
    Ok(i64::try_from(ids.len()).unwrap_or(i64::MAX))
}
