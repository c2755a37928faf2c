//! Whether the database answers, and how much waits in it: readiness and metrics.

use std::time::Duration;

use common::health::HealthCheck;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::db::{Db, DbError, deliveries};

/// How often the database is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How often deliveries are counted, which costs more.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

/// Watches the database until `stop`.
///
/// # Errors
/// None: it goes on whatever happens.
pub async fn database(db: Db, health: HealthCheck, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = async {
        let mut counted: Option<Instant> = None;
        loop {
            ticks.tick().await;
            db.count_connections();
            let due = counted.is_none_or(|at| at.elapsed() >= COUNT_INTERVAL);
            let looked = if due { count(&db).await } else { db.ping().await };
            match looked {
                Ok(()) => {
                    health.ready();
                    counted = if due { Some(Instant::now()) } else { counted };
                }
                Err(error) => health.not_ready(error.to_string()),
            }
        }
    };
    stop.run_until_cancelled(watching).await;
    Ok(())
}

async fn count(db: &Db) -> Result<(), DbError> {
    let backlog = deliveries::backlog(&mut *db.get().await?).await?;
    metrics::gauge!("webhook_deliveries", "state" => "pending").set(as_f64(backlog.pending));
    metrics::gauge!("webhook_deliveries", "state" => "parked").set(as_f64(backlog.parked));
    metrics::gauge!("webhook_overdue_seconds").set(backlog.overdue_s.max(0.0));
    Ok(())
}

fn as_f64(count: i64) -> f64 {
    count as f64
}
