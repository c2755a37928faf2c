//! Ends orders that nobody paid in time. Timers are rows, the clock is the database's, and several instances share
//! the work: each takes the rows that no other one has locked.
//!
//! An order with a payment under way waits until the provider has said that nothing was captured; see
//! [`crate::payments::asking`].

mod brake;

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

use self::brake::{Brake, Standing};
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::settings::ExpirySettings;
use crate::transitions::transition;
use crate::{crash_points, planted};

const DUE: &str = "
SELECT id, expires_at, now() AS now
  FROM orders
 WHERE status = 'pending_payment' AND expires_at <= now()
   AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.order_id = orders.id AND p.status = 'started')
 ORDER BY expires_at LIMIT $1
   FOR NO KEY UPDATE OF orders SKIP LOCKED";

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

/// What one transaction found.
struct Batch {
    due: i64,
    standing: Standing,
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
    for _ in 0..settings.batches_per_interval {
        let (kept, was_braked) = (settings.clone(), brake.was_on());
        let batch = db.transaction(move |conn| Box::pin(expire_batch(conn, kept, was_braked))).await?;
        let Some(batch) = batch else { break };
        brake.note(batch.standing);
        failpoint::reach(crash_points::EXPIRY_COMMIT_AFTER).await?;
        if batch.standing.on || batch.due < settings.batch_max || stop.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Ends up to `batch_max` due orders, or few if the brake is on: looked at here, because the clock and what is late may
/// change from one transaction to the next. `None`: the brake was on, and it is another instance's turn.
async fn expire_batch(
    conn: &mut AsyncPgConnection,
    settings: ExpirySettings,
    was_braked: bool,
) -> Result<Option<Batch>, DbError> {
    // Before any order is locked: the instance whose turn it is would take younger ones instead.
    if was_braked && !brake::has_turn(conn).await? {
        return Ok(None);
    }
    failpoint::reach(crash_points::EXPIRY_SELECT_BEFORE).await?;
    if failpoint::planted(planted::EXPIRY_IGNORES_STATUS) {
        diesel::sql_query(EXPIRE_PAID).execute(conn).await?;
    }
    let mut due: Vec<Due> =
        Kept(diesel::sql_query(DUE).bind::<BigInt, _>(settings.batch_max)).load(conn).await?;
    let count = i64::try_from(due.len()).unwrap_or(i64::MAX);
    let late = due
        .as_slice()
        .first()
        .and_then(|first| (first.now - first.expires_at).to_std().ok())
        .unwrap_or_default();
    metrics::gauge!("expiry_lag_seconds").set(late.as_secs_f64());

    let is_late = late >= Duration::from_millis(settings.brake_late_ms.into());
    let standing = match is_late || was_braked {
        true => brake::standing(conn, &settings).await?,
        false => Standing::default(),
    };
    if standing.on {
        // Only the first time; from then on the turn comes first.
        if !was_braked && !brake::has_turn(conn).await? {
            return Ok(Some(Batch { due: 0, standing }));
        }
        brake::hold(conn).await?;
        due.truncate(usize::try_from(settings.brake_batch_max).unwrap_or(usize::MAX));
    }
    if due.is_empty() {
        return Ok(Some(Batch { due: 0, standing }));
    }
    failpoint::reach(crash_points::EXPIRY_SELECT_AFTER).await?;
    let ids: Vec<Uuid> = due.iter().map(|due| due.id).collect();
    let statement = diesel::sql_query(UNDER_WAY).bind::<Array<SqlUuid>, _>(&ids);
    let under_way: Vec<UnderWay> = Kept(statement).load(conn).await?;
    let unpaid = ids.iter().filter(|id| under_way.iter().all(|payment| payment.order_id != **id));
    let unpaid: Vec<OrderId> = unpaid.map(|id| OrderId(*id)).collect();
    transition(conn, &unpaid, OrderStatus::Expired, None).await?;
    failpoint::reach(crash_points::EXPIRY_COMMIT_BEFORE).await?;
    Ok(Some(Batch { due: count, standing }))
}
