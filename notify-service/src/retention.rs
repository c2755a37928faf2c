//! Tidying: what is older than the setting goes, in small batches.

use std::time::Duration;

use diesel_async::AsyncConnection as _;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::db::{Db, DbError, Lock, retention, try_lock};
use crate::settings::RetentionSettings;

/// How long a deleted webhook is remembered: longer than any transaction that may still add deliveries to it.
const DELETED_WEBHOOK_AGE_S: f64 = 3_600.0;
const SECONDS_PER_HOUR: f64 = 3_600.0;

/// One kind of what is deleted.
#[derive(Debug, Clone, Copy)]
enum Old {
    Events,
    Delivered,
    Parked,
    Dropped,
    Webhooks,
}

/// Tidies at intervals, until `stop`. Of several replicas one does it at a time.
///
/// # Errors
/// None: it goes on whatever happens.
pub async fn run(db: Db, settings: RetentionSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_secs(settings.interval_s));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let tidying = async {
        loop {
            ticks.tick().await;
            if let Err(error) = tidy(&db, settings).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "tidying failed, will be tried again"
                );
            }
        }
    };
    stop.run_until_cancelled(tidying).await;
    Ok(())
}

/// Deletes everything that is old now.
///
/// # Errors
/// A query failed; what was deleted before stays deleted.
pub async fn tidy(db: &Db, settings: RetentionSettings) -> Result<(), DbError> {
    for old in [Old::Events, Old::Delivered, Old::Parked, Old::Dropped, Old::Webhooks] {
        let mut deleted = 0;
        loop {
            let batch = delete(db, settings, old).await?;
            deleted += batch;
            if batch < usize::try_from(settings.batch_max).unwrap_or(usize::MAX) {
                break;
            }
        }
        if deleted > 0 {
            tracing::info!(what = ?old, deleted, "tidied");
            if matches!(old, Old::Parked) {
                tracing::warn!(deleted, "parked deliveries that nobody had sent again are gone");
            }
        }
    }
    Ok(())
}

async fn delete(db: &Db, settings: RetentionSettings, old: Old) -> Result<usize, DbError> {
    let age_s = f64::from(settings.keep_hours) * SECONDS_PER_HOUR;
    let parked_age_s = f64::from(settings.keep_parked_hours) * SECONDS_PER_HOUR;
    let most = i64::from(settings.batch_max);
    let mut connection = db.get().await?;
    connection
        .transaction(async |connection| {
            if !try_lock(connection, Lock::Retention).await? {
                return Ok(0);
            }
            match old {
                Old::Events => retention::delete_events(connection, age_s, most).await,
                Old::Delivered => retention::delete_finished(connection, "delivered", age_s, most).await,
                Old::Parked => retention::delete_finished(connection, "parked", parked_age_s, most).await,
                Old::Dropped => retention::delete_dropped(connection, most).await,
                Old::Webhooks => retention::delete_webhooks(connection, DELETED_WEBHOOK_AGE_S).await,
            }
        })
        .await
}
