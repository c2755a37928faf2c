//! Reads events for all connected users together.

use std::time::Duration;

use common::telemetry::trace::{self, Describe, SpanKind};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use crate::db::events::{self, Position};
use crate::db::{Db, DbError};
use crate::settings::SseSettings;

/// Users read for by one query; with the buffers of their clients this bounds its result.
const USERS_PER_READ: usize = 200;
/// Users looked up by one query of the sweep.
const USERS_PER_SWEEP: usize = 1_000;
/// Pause after a failure of the database.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Reads whenever somebody was woken, until `stop`.
///
/// # Errors
/// None: it goes on whatever happens.
pub async fn read(db: Db, hub: Hub, settings: SseSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let pause = Duration::from_millis(settings.min_interval_ms);
    let reading = async {
        loop {
            hub.work().await;
            if let Err(error) = read_due(&db, &hub).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "streams have to wait");
                sleep(RETRY_PAUSE).await;
            }
            // Also what keeps a look-up that is due again at once from spinning.
            sleep(pause).await;
        }
    };
    stop.run_until_cancelled(reading).await;
    Ok(())
}

async fn read_due(db: &Db, hub: &Hub) -> Result<(), DbError> {
    for looks in hub.looks().chunks(USERS_PER_READ) {
        let work = trace::batch(looks.iter().map(|look| look.origin), || {
            Describe::new("notify streams", SpanKind::Producer)
                .with("stampede.channel", "sse")
                .with("stampede.batch.size", i64::try_from(looks.len()).unwrap_or(i64::MAX))
        });
        let telling = async {
            let positions: Vec<Position> = looks.iter().map(|look| look.position.clone()).collect();
            let read = events::after(&mut *db.get().await?, &positions).await?;
            hub.deliver(looks, &read);
            Ok::<(), DbError>(())
        };
        trace::within(work, telling).await?;
    }
    Ok(())
}

/// Looks up every connected user at intervals, in case a wake-up was lost, until `stop`.
///
/// # Errors
/// None: it goes on whatever happens.
pub async fn sweep(db: Db, hub: Hub, settings: SseSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_millis(settings.sweep_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sweeping = async {
        loop {
            ticks.tick().await;
            if let Err(error) = sweep_once(&db, &hub).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the sweep of streams failed");
            }
        }
    };
    stop.run_until_cancelled(sweeping).await;
    Ok(())
}

async fn sweep_once(db: &Db, hub: &Hub) -> Result<(), DbError> {
    for users in hub.connected().chunks(USERS_PER_SWEEP) {
        let heads = events::heads(&mut *db.get().await?, users).await?;
        hub.catch_up(users, &heads);
    }
    Ok(())
}
